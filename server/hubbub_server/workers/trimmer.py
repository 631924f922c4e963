"""Removes the oldest records of a shard, once nobody needs them any more.

Law: what is removed is below all of these: what every role has handled and put nothing of aside, and the store says it
has applied (handled_records.py); the first record that is younger than the time for which records are kept. And of each
topic that loses a record there is a snapshot that has it. The last can be looked up only record by record, so every
record is read once more before it goes.

What was prepared is removed an interval later: by then every node reads the snapshots that were written for it.
Removing is by sequence, never by topic: a topic whose head is gone could be told from one that never was no more.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from hubbub_server.app.take_snapshots import TakeSnapshots, UnknownEvents
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.obs import metrics
from hubbub_server.ports.log_shards import LogShards, ShardBounds
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.ports.topic_states import SnapshotTooLarge
from hubbub_server.workers.handled_records import HandledRecords
from hubbub_server.workers.side_by_side import side_by_side

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """Records below `below_sequence` of the log of `epoch` may go."""

    epoch: int
    below_sequence: int


class Trimmer:
    """Trims one shard."""

    def __init__(  # the ports, and what tests make small
        self,
        shard: int,
        *,
        log_shards: LogShards,
        handled: HandledRecords,
        snapshots: TakeSnapshots,
        is_held: Callable[[], bool],
        kept_s: float,
        interval_s: float,
    ) -> None:
        """Takes the ports.

        Args:
            shard: The shard.
            log_shards: What trims.
            handled: What nobody has to read again.
            snapshots: What writes states that are missing.
            is_held: Tells whether this worker may trim the shard.
            kept_s: How long every record is kept at least; more than a day (the law on head 0 needs an hour).
            interval_s: Pause between two passes.
        """
        self._shard = shard
        self._log_shards = log_shards
        self._handled = handled
        self._snapshots = snapshots
        self._is_held = is_held
        self._kept_s = kept_s
        self._interval_s = interval_s
        self._trimmed = metrics.trimmed_records.labels(shard)

    async def run(self, _tasks: asyncio.TaskGroup) -> None:
        """Runs until it is cancelled or the lease is lost."""
        prepared: Prepared | None = None
        while True:
            await asyncio.sleep(self._interval_s)
            if not self._is_held():
                return
            try:
                if prepared is not None:
                    await self.trim(prepared)
                prepared = await self.prepare()
            except (LogUnavailable, StoreUnavailable) as error:
                log.warning("shard not trimmed", shard=self._shard, reason=str(error))

    async def prepare(self) -> Prepared:
        """Finds what may go, and writes the snapshots that are missing for it.

        Raises:
            LogUnavailable, StoreUnavailable: that cannot be found now.
        """
        bounds = await self._log_shards.read_bounds(self._shard)
        below = await self._find_end(bounds)
        after = bounds.first_sequence - 1
        while after < below - 1:
            records = await self._log_shards.read_records(self._shard, after_sequence=after, up_to_sequence=below - 1)
            if not records:  # the rest of them were deleted one by one
                break
            kept = await self._cover(bounds.epoch, records)
            if kept is not None:
                return Prepared(epoch=bounds.epoch, below_sequence=kept)
            after = records[-1].sequence
        return Prepared(epoch=bounds.epoch, below_sequence=below)

    async def trim(self, prepared: Prepared) -> None:
        """Removes what was prepared, if that is still the law: log and store may be others by now.

        Raises:
            LogUnavailable, StoreUnavailable: that cannot be known now; or (the first) whether it was removed.
        """
        bounds = await self._log_shards.read_bounds(self._shard)
        below = min(prepared.below_sequence, await self._find_end(bounds))
        if bounds.lost_sequence is not None:
            return  # trimming would hide it
        if bounds.epoch == prepared.epoch and bounds.first_sequence < below and self._is_held():
            await self._log_shards.trim(self._shard, below_sequence=below)
            self._trimmed.inc(below - bounds.first_sequence)

    async def _find_end(self, bounds: ShardBounds) -> int:
        """Returns the first sequence that must stay."""
        done = await self._handled.up_to(self._shard, epoch=bounds.epoch)
        young = await self._log_shards.find_younger(self._shard, age_s=self._kept_s)
        return min(done + 1, young, bounds.last_sequence + 1)

    async def _cover(self, epoch: int, records: Sequence[LogRecord]) -> int | None:
        """Makes sure of the snapshots of all topics in `records`; returns the first record that must stay."""
        first = {record.facts.topic_id: record.sequence for record in reversed(records)}
        last = {record.facts.topic_id: record.sequence for record in records}
        kept: list[int] = []

        async def cover(topic_id: TopicId) -> None:
            try:
                await self._snapshots.cover(topic_id, epoch=epoch, sequence=last[topic_id])
            except (LogUnavailable, StoreUnavailable, UnknownEvents, SnapshotTooLarge, ValueError) as error:
                log.warning("topic not trimmed", shard=self._shard, topic_id=topic_id, reason=repr(error))
                kept.append(first[topic_id])

        await side_by_side(cover, list(last))
        return min(kept, default=None)
