"""The dead topics of one role on one shard: what is not handled but put aside, in order, until a replay.

Theory of operation. The letters in the log are the truth, this is a copy of their ends. A letter is added only after
the one that we think is the last, so when a replay has removed letters meanwhile, or a worker before us added some, the
next addition is refused: we read the ends again and decide anew. A replay removes letters only after it handled them,
so a topic that lives again is complete up to the record at hand.

Records may come again. One from before the first letter was handled before that letter was written, and is handled
again like any other (a store that was lost needs it); one up to the last letter is in the letters already.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import structlog

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.dead_letters import DeadLetters, DeadTopic, LettersMoved, place_of
from hubbub_server.ports.record_consumer import AnyRecord, UnreadableRecord, topic_of
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_role import RequireLease

if TYPE_CHECKING:
    from hubbub_server.domain.ids import TopicId

MAX_DEAD_TOPICS: Final = 100

log = structlog.get_logger()


class TooManyDeadTopics(Exception):
    """So many topics cannot all be broken: it is the program. Their letters would be a second log."""


class DeadTopics:
    """Knows which topics of a shard are dead for a role. `load` first."""

    def __init__(self, letters: DeadLetters, *, role: str, shard: int, backoff: Backoff) -> None:
        """Trouble of the log is waited out with `backoff`."""
        self._letters = letters
        self._role = role
        self._shard = shard
        self._backoff = backoff
        self._topics: dict[TopicId, DeadTopic] = {}
        self._gauge = metrics.worker_dead_topics.labels(role, shard)
        self._counter = metrics.worker_dead_letters.labels(role)

    async def load(self) -> None:
        """Reads the ends of the letters. Raises LogUnavailable."""
        self._topics = dict(await self._letters.topics(role=self._role, shard=self._shard))
        self._gauge.set(len(self._topics))

    async def put_aside(self, records: Sequence[AnyRecord], require_lease: RequireLease) -> list[LogRecord]:
        """Puts aside what is of dead topics or has no facts; returns the others, in order.

        Raises:
            LetterTooLarge, TooManyDeadTopics: a person is needed.
        """
        living: list[LogRecord] = []
        for record in records:
            if isinstance(record, UnreadableRecord):
                await self.kill(record, record.reason, require_lease)
            elif not await self._follow(record, require_lease):
                living.append(record)
        return living

    async def kill(self, record: AnyRecord, reason: str, require_lease: RequireLease) -> None:
        """Puts a record aside that can never be handled; its topic is dead from here on. Raises as `put_aside`."""
        topic_id = topic_of(record)
        while not await self._add(record, reason, self._topics.get(topic_id), require_lease):
            pass
        log.error(
            "record put into the dead letters",
            role=self._role,
            shard=self._shard,
            topic_id=topic_id,
            sequence=record.sequence,
            reason=reason,
        )

    async def _follow(self, record: LogRecord, require_lease: RequireLease) -> bool:
        """Puts a record of a dead topic aside; tells whether it did, now or before."""
        epoch, sequence = place_of(record)
        while (topic := self._topics.get(record.facts.topic_id)) is not None:
            if topic.first_place[0] == epoch and sequence < topic.first_place[1]:
                return False
            if topic.last_place[0] == epoch and sequence <= topic.last_place[1]:
                return True
            if await self._add(record, f"comes after letter {topic.last_number}", topic, require_lease):
                return True
        return False

    async def _add(self, record: AnyRecord, reason: str, topic: DeadTopic | None, require_lease: RequireLease) -> bool:
        """Adds a letter; False when the letters were others and have been read again."""
        if topic is None and len(self._topics) >= MAX_DEAD_TOPICS:
            raise TooManyDeadTopics(f"{MAX_DEAD_TOPICS} topics are dead; record {record.sequence}: {reason}")
        while True:
            try:
                number = await self._letters.add(
                    record,
                    role=self._role,
                    shard=self._shard,
                    reason=reason,
                    after=topic.last_number if topic else 0,
                )
            except LettersMoved:
                if await self._loaded():
                    return False
            except LogUnavailable as error:
                log.warning("log unavailable", role=self._role, shard=self._shard, reason=str(error))
            else:
                self._backoff.reset()
                place = place_of(record)
                first_place = topic.first_place if topic else place
                self._topics[topic_of(record)] = DeadTopic(
                    first_place=first_place, last_place=place, last_number=number
                )
                self._gauge.set(len(self._topics))
                self._counter.inc()
                return True
            await self._backoff.wait()
            require_lease()

    async def _loaded(self) -> bool:
        try:
            await self.load()
        except LogUnavailable:
            return False
        return True
