"""Projects the log into the store (G8: the store may be down; then this waits, and nothing is lost)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

import structlog

from hubbub_server.app.project import project
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.ports.projection import PROJECTOR_ROLE, Projection, ProjectionBatch, ShardRow, StoreSetBack
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import Batch, RequireLease, ShardHalted, StartOver

log = structlog.get_logger()


class Projector:
    """Implements ShardRole for one shard.

    The store says how far the shard is applied. Records that come again are applied again, which changes nothing.
    When more was acknowledged than the store has (it is new, or an older copy), the shard is projected again from its
    first record, once; it halts if the log has not all of it any more.
    """

    role = PROJECTOR_ROLE

    def __init__(self, shard: int, *, projection: Projection, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._projection = projection
        self._codec = codec
        self._backoff = backoff
        self._stored = ShardRow(shard=shard, epoch=0, sequence=0)
        self._is_resumed = False
        self._has_started_over = False

    async def start(self, acknowledged: int) -> None:
        """Waits for the store and compares it with what was acknowledged to the log.

        A log that was trimmed counts as acknowledged up to its first record, also for a consumer that is new.
        """
        self._stored = await self._read_shard()
        self._is_resumed = acknowledged > 0
        if acknowledged > self._stored.sequence:
            if self._has_started_over:
                self._halt(acknowledged + 1)
            self._start_over(f"{acknowledged} is acknowledged, the store has the shard up to {self._stored.sequence}")

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Applies a batch until the store has it, and with it how far the shard is done."""
        self._check_continues(batch)
        # A node that had not heard of a new epoch yet may append behind it: that takes nothing back.
        epoch = max(self._stored.epoch, *(record.facts.epoch for record in batch.records), 0)
        shard = ShardRow(shard=self._shard, epoch=epoch, sequence=batch.last_sequence)
        rows = project(self._codec, self._shard, batch.records) if batch.records else ProjectionBatch(shard=shard)
        await self._apply(replace(rows, shard=shard), require_lease)
        self._stored = shard
        self._has_started_over = False

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Applies records of one topic; how far the shard is done is farther already and stays."""
        if records:
            await self._apply(project(self._codec, self._shard, records), require_lease)

    def _check_continues(self, batch: Batch) -> None:
        if batch.first_sequence > self._stored.sequence + 1:
            self._halt(batch.first_sequence)
        if self._is_resumed and batch.records and batch.records[0].facts.epoch > self._stored.epoch:
            # Sequences may have begun anew, so they say nothing about what the store has of this epoch.
            if not self._has_started_over:
                self._start_over(f"the store knows epoch {self._stored.epoch}, the log has another one")
            if batch.first_sequence <= self._stored.sequence:
                self._halt(batch.first_sequence)
        self._is_resumed = False

    def _start_over(self, reason: str) -> NoReturn:
        self._has_started_over = True
        raise StartOver(reason)

    def _halt(self, first_sequence: int) -> NoReturn:
        raise ShardHalted(
            f"the store has the shard up to {self._stored.sequence} of epoch {self._stored.epoch}, "
            f"the log begins with {first_sequence}"
        )

    async def _read_shard(self) -> ShardRow:
        while True:
            try:
                row = await self._projection.read_shard(self._shard)
            except StoreUnavailable as error:
                await self._wait_for_store(error)
            else:
                self._backoff.reset()
                return row or ShardRow(shard=self._shard, epoch=0, sequence=0)

    async def _apply(self, batch: ProjectionBatch, require_lease: RequireLease) -> None:
        while True:
            try:
                await self._projection.apply(batch, known=self._stored)
            except StoreSetBack as error:
                self._start_over(str(error))
            except StoreUnavailable as error:
                await self._wait_for_store(error)
                require_lease()
            else:
                self._backoff.reset()
                return

    async def _wait_for_store(self, error: StoreUnavailable) -> None:
        log.warning("store unavailable", shard=self._shard, reason=str(error))
        await self._backoff.wait()
