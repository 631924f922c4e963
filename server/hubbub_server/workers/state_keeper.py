"""Keeps the snapshots of topics fresh, so that nodes have little to read when they open one.

This does what it can: a topic that cannot be read now is left for its next occasion. Nothing may be trimmed on the
strength of it; the trimmer looks for itself (workers/trimmer.py).
"""

from collections.abc import Sequence
from functools import partial
from typing import Final

import structlog

from hubbub_server.app.take_snapshots import TakeSnapshots, UnknownEvents
from hubbub_server.app.topic_loader import TopicDamaged
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.events import MemberRemoved, MembersAdded
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import LogRecord, RecordFacts
from hubbub_server.ports.topic_states import SnapshotTooLarge
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import Batch, RequireLease
from hubbub_server.workers.side_by_side import side_by_side

_EVERY_POSITIONS: Final = 256
"""A snapshot costs its worker the reading of as many records as there are recent ids (256), and of these."""
_ACCESS_KINDS: Final = frozenset({MembersAdded.__name__, MemberRemoved.__name__})

log = structlog.get_logger()


class StateKeeper:
    """Implements ShardRole for one shard."""

    role = "state"

    def __init__(self, shard: int, *, snapshots: TakeSnapshots, backoff: Backoff) -> None:
        self._shard = shard
        self._snapshots = snapshots
        self._backoff = backoff

    async def start(self, acknowledged: int) -> None:
        """Needs no preparation."""

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Takes one snapshot of each topic that is new, changed who may read, or passed a multiple of 256 positions."""
        await self.replay([record for record in batch.records if _is_occasion(record.facts)], require_lease)

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Takes one snapshot of each topic of `records`."""
        topics = list(dict.fromkeys(record.facts.topic_id for record in records))
        await side_by_side(partial(self._take, require_lease), topics, require_lease)

    async def _take(self, require_lease: RequireLease, topic_id: TopicId) -> None:
        while True:
            try:
                await self._snapshots.take(topic_id)
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


def _is_occasion(facts: RecordFacts) -> bool:
    is_new = facts.first_position == 1
    passed = facts.last_position // _EVERY_POSITIONS > (facts.first_position - 1) // _EVERY_POSITIONS
    return is_new or passed or not facts.kinds.isdisjoint(_ACCESS_KINDS)
