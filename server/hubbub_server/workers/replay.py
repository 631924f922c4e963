"""Brings dead topics back to life: handles their letters in order, with the program as it is now, and removes them.

Workers may run meanwhile. What they add while this reads is found by reading again, and what they would add after the
last letter was removed is refused to them (dead_topics.py): then they handle it themselves, after everything before.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Final

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.dead_letters import DeadLetters, Letter
from hubbub_server.ports.record_consumer import PoisonRecord, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.roles import NewRole
from hubbub_server.workers.shard_role import ShardRole

_LETTERS_AT_ONCE: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What became of a dead topic: `records` were handled; `reason` says why it is still dead, "" when it lives."""

    role: str
    shard: int
    topic_id: TopicId
    records: int
    reason: str


class Replay:
    """Replays the letters of all roles and shards."""

    def __init__(self, letters: DeadLetters, *, roles: Mapping[str, NewRole], shards: int) -> None:
        """Takes the roles as a worker does."""
        self._letters = letters
        self._roles = roles
        self._shards = shards

    async def run(self, only: TopicId | None = None) -> AsyncIterator[Replayed]:
        """Replays every dead topic, or one, and yields what became of each. Raises LogUnavailable.

        A store that is down is waited for. Stopped at any moment, it can be run again.
        """
        for name, new_role in self._roles.items():
            for shard in range(self._shards):
                for topic_id in await self._letters.topics(role=name, shard=shard):
                    if only in (None, topic_id):
                        yield await self._replay(new_role(shard, Backoff()), shard, topic_id)

    async def _replay(self, role: ShardRole, shard: int, topic_id: TopicId) -> Replayed:
        handled = 0
        reason = ""
        while not reason:
            letters = await self._letters.read(topic_id, role=role.role, shard=shard, max_letters=_LETTERS_AT_ONCE)
            if not letters:
                break
            records, reason = _readable(letters)
            try:
                await role.replay(records, _no_lease)
            except PoisonRecord as poison:
                records, reason = _before(records, poison.sequence), poison.reason
                await role.replay(records, _no_lease)
            if records:
                last = letters[len(records) - 1].number
                await self._letters.remove(topic_id, role=role.role, shard=shard, up_to=last)
            handled += len(records)
        return Replayed(role=role.role, shard=shard, topic_id=topic_id, records=handled, reason=reason)


def _readable(letters: Sequence[Letter]) -> tuple[list[LogRecord], str]:
    """Returns the records before the first one without facts, and why that one has none."""
    records: list[LogRecord] = []
    for letter in letters:
        if isinstance(letter.record, UnreadableRecord):
            return records, letter.record.reason
        records.append(letter.record)
    return records, ""


def _before(records: Sequence[LogRecord], sequence: int) -> list[LogRecord]:
    """Returns the records before the first one with this sequence: over a crash one may have come twice."""
    return list(takewhile(lambda record: record.sequence != sequence, records))


def _no_lease() -> None:
    """Has no lease to lose: a replay works beside the workers."""
