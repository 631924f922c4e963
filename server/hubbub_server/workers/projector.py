"""Projects the log into the store (G8: the store may be down; then this waits, and nothing is lost)."""

from collections.abc import Sequence

import structlog

from hubbub_server.app.project import project
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.ports.projection import Projection, ProjectionBatch, ShardRow
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_loop import KeepAlive, ShardHalted

log = structlog.get_logger()


class Projector:
    """Implements ShardRole for one shard.

    The store says how far the shard is applied. Records that come again are applied again, which changes nothing.
    Records beyond the next one mean that the store lost what was acknowledged for it (it is another or an older file):
    the shard halts.
    """

    role = "projector"

    def __init__(self, shard: int, *, projection: Projection, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._projection = projection
        self._codec = codec
        self._backoff = backoff
        self._stored: ShardRow | None = None

    async def handle(self, records: Sequence[LogRecord], keep_alive: KeepAlive) -> None:
        """Applies records, as one batch, until the store has them."""
        if self._stored is None:
            self._stored = await self._read_shard(keep_alive)
        self._check_continues(records[0])
        batch = project(self._codec, self._shard, records)
        await self._apply(batch, keep_alive)
        self._stored = batch.shard

    def _check_continues(self, first: LogRecord) -> None:
        stored = self._stored.sequence if self._stored else 0
        if first.sequence > stored + 1:
            raise ShardHalted(
                f"the store has the shard up to {stored}, the log goes on at {first.sequence}: "
                "restore the store, or remove the durable consumer to project everything again"
            )

    async def _read_shard(self, keep_alive: KeepAlive) -> ShardRow | None:
        while True:
            try:
                return await self._projection.read_shard(self._shard)
            except StoreUnavailable as error:
                await self._wait_for_store(error, keep_alive)

    async def _apply(self, batch: ProjectionBatch, keep_alive: KeepAlive) -> None:
        while True:
            try:
                await self._projection.apply(batch)
            except StoreUnavailable as error:
                await self._wait_for_store(error, keep_alive)
            else:
                self._backoff.reset()
                return

    async def _wait_for_store(self, error: StoreUnavailable, keep_alive: KeepAlive) -> None:
        log.warning("store unavailable", shard=self._shard, reason=str(error))
        await keep_alive()
        await self._backoff.wait()
