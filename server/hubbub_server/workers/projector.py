"""Projects the log into the store (G8: the store may be down; then this waits, and nothing is lost)."""

from collections.abc import Sequence

import structlog

from hubbub_server.app.project import project
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.ports.projection import Projection, ProjectionBatch, ShardRow
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_loop import KeepAlive, ShardHalted, StartOver

log = structlog.get_logger()


class Projector:
    """Implements ShardRole for one shard.

    The store says how far the shard is applied. Records that come again are applied again, which changes nothing.
    When more was acknowledged than the store has (it is new, or an older copy), the shard is projected again from its
    first record; it halts if the log has not all of it any more.
    """

    role = "projector"

    def __init__(self, shard: int, *, projection: Projection, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._projection = projection
        self._codec = codec
        self._backoff = backoff
        self._stored = ShardRow(shard=shard, epoch=0, sequence=0)
        self._is_resumed = False

    async def start(self, acknowledged: int) -> None:
        """Waits for the store and compares it with what was acknowledged to the log."""
        self._stored = await self._read_shard()
        self._is_resumed = acknowledged > 0
        if acknowledged > self._stored.sequence:
            raise StartOver(f"{acknowledged} is acknowledged, the store has the shard up to {self._stored.sequence}")

    async def handle(self, records: Sequence[LogRecord], keep_alive: KeepAlive) -> None:
        """Applies records, as one batch, until the store has them."""
        self._check_continues(records[0])
        batch = project(self._codec, self._shard, records)
        await self._apply(batch, keep_alive)
        self._stored = batch.shard

    def _check_continues(self, first: LogRecord) -> None:
        if first.sequence > self._stored.sequence + 1:
            raise ShardHalted(f"the store has the shard up to {self._stored.sequence}, the log has {first.sequence}")
        if self._is_resumed and first.facts.epoch > self._stored.epoch:
            # Sequences may have begun anew, so they say nothing about what the store has of this epoch.
            raise StartOver(f"the store knows epoch {self._stored.epoch}, the log has {first.facts.epoch}")
        self._is_resumed = False

    async def _read_shard(self) -> ShardRow:
        while True:
            try:
                row = await self._projection.read_shard(self._shard)
            except StoreUnavailable as error:
                await self._wait_for_store(error)
            else:
                self._backoff.reset()
                return row or ShardRow(shard=self._shard, epoch=0, sequence=0)

    async def _apply(self, batch: ProjectionBatch, keep_alive: KeepAlive) -> None:
        while True:
            try:
                await self._projection.apply(batch)
            except StoreUnavailable as error:
                await keep_alive()
                await self._wait_for_store(error)
            else:
                self._backoff.reset()
                return

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        log.warning("store unavailable", shard=self._shard, reason=str(error))
        await self._backoff.wait()
