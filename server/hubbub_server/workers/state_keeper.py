"""Keeps the snapshots of topics fresh, so that nodes have little to read when they open one.

This does what it can: a topic that cannot be read now is left for its next occasion. Nothing may be trimmed on the
strength of it; the trimmer looks for itself (workers/trimmer.py). The states of busy topics move along with the records
that pass here anyway: reading them again for each snapshot was a third of a worker.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from hubbub_server.app.take_snapshots import RECENT_IDS, TakeSnapshots, UnknownEvents
from hubbub_server.app.topic_fold import TopicDamaged, TopicFold
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.events import MemberRemoved, MembersAdded
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord, RecordFacts
from hubbub_server.ports.topic_states import SnapshotTooLarge
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import Batch, RequireLease
from hubbub_server.workers.side_by_side import side_by_side

_EVERY_POSITIONS: Final = 256
_FOLLOWED_TOPICS: Final = 64
"""Of a shard. Each keeps up to twice 256 recent ids, about 100 KB."""
_ACCESS_KINDS: Final = frozenset({MembersAdded.__name__, MemberRemoved.__name__})

log = structlog.get_logger()


class StateKeeper:
    """Implements ShardRole for one shard."""

    role = "state"

    def __init__(self, shard: int, *, snapshots: TakeSnapshots, codec: RecordCodec, backoff: Backoff) -> None:
        self._shard = shard
        self._snapshots = snapshots
        self._codec = codec
        self._backoff = backoff
        self._followed: OrderedDict[TopicId, TopicFold] = OrderedDict()
        """States as of the last record of their topic that passed here; those used last are at the end."""

    async def start(self, acknowledged: int) -> None:
        """Follows no topic yet."""
        self._followed.clear()

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Takes one snapshot of each topic that is new, changed who may read, or passed a multiple of 256 positions."""
        for record in batch.records:
            self._follow(record)
        await self._take_all([record for record in batch.records if _is_occasion(record.facts)], require_lease)

    def _follow(self, record: LogRecord) -> None:
        """Moves the state that is kept, if there is one; one that the record does not continue is let go."""
        topic_id = record.facts.topic_id
        followed = self._followed.get(topic_id)
        if followed is None or record.sequence <= followed.read.sequence:
            return
        try:
            if record.facts.epoch != followed.state.epoch:
                raise TopicDamaged("another log")
            followed.take(record)
        except (TopicDamaged, ValueError):
            del self._followed[topic_id]  # read from the log at the next occasion: that knows what is wrong
        else:
            self._followed.move_to_end(topic_id)

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Takes one snapshot of each topic of `records`, which were put aside: what is followed has not seen them."""
        for record in records:
            self._followed.pop(record.facts.topic_id, None)
        await self._take_all(records, require_lease)

    async def _take_all(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        topics = list(dict.fromkeys(record.facts.topic_id for record in records))
        await side_by_side(partial(self._take, require_lease), topics, require_lease)

    async def _take(self, require_lease: RequireLease, topic_id: TopicId) -> None:
        while True:
            try:
                await self._take_once(topic_id)
            except (TopicDamaged, StoreUnavailable, UnknownEvents, SnapshotTooLarge, ValueError) as error:
                log.warning("no snapshot", shard=self._shard, topic_id=topic_id, reason=repr(error))
                return
            except LogUnavailable as error:
                log.warning("log unavailable", role=self.role, shard=self._shard, reason=str(error))
                require_lease()
                await self._backoff.wait()
            else:
                self._backoff.reset()
                return

    async def _take_once(self, topic_id: TopicId) -> None:
        followed = self._followed.get(topic_id)
        if followed is not None:
            followed.trim(RECENT_IDS)
            await self._snapshots.write(topic_id, followed.loaded())
            return
        loaded = await self._snapshots.take(topic_id)
        if loaded.sequence > 0:
            self._followed[topic_id] = TopicFold(loaded.state, loaded.places, self._codec, kept=0)
            if len(self._followed) > _FOLLOWED_TOPICS:
                self._followed.popitem(last=False)


def _is_occasion(facts: RecordFacts) -> bool:
    is_new = facts.first_position == 1
    passed = facts.last_position // _EVERY_POSITIONS > (facts.first_position - 1) // _EVERY_POSITIONS
    return is_new or passed or not facts.kinds.isdisjoint(_ACCESS_KINDS)
