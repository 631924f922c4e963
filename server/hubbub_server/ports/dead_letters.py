"""Records that a role could not handle, and all later ones of their topics, kept until a program that can comes by.

A topic is *dead* for a role while there are letters of it: the letters are the mark, there is no other that could
disagree with them. So what the role makes of the topic ends before the first letter and never has a hole.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.record_consumer import AnyRecord
from hubbub_server.ports.topic_log import LogRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One record. `number` orders the letters of a topic; `reason` is of the record, or names the one before it."""

    number: int
    record: AnyRecord
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadTopic:
    """The letters of a topic, by their ends. A place is epoch and sequence of the record; epoch 0: it has no facts."""

    first_place: tuple[int, int]
    last_place: tuple[int, int]
    last_number: int


def place_of(record: AnyRecord) -> tuple[int, int]:
    """Returns the place of a record in its shard."""
    return (record.facts.epoch if isinstance(record, LogRecord) else 0, record.sequence)


class LettersMoved(Exception):
    """The letters of the topic are not what the caller thought: some were added, or removed by a replay."""


class LetterTooLarge(ValueError):
    """The record and its facts exceed what a letter carries. Nothing was written."""


class DeadLetters(Protocol):
    """The letters of all roles and shards. Every method is bounded in time and raises LogUnavailable."""

    async def topics(self, *, role: str, shard: int) -> Mapping[TopicId, DeadTopic]:
        """Returns the dead topics."""

    async def add(self, record: AnyRecord, *, role: str, shard: int, reason: str, after: int) -> int:
        """Adds a letter if the last one of its topic has the number `after` (0: there is none); returns its number.

        A letter whose answer was lost is recognised; over a crash a record may come twice.

        Raises:
            LettersMoved: the last letter is another one; read `topics` again.
            LetterTooLarge: it can never be added.
        """

    async def read(self, topic_id: TopicId, *, role: str, shard: int, max_letters: int) -> Sequence[Letter]:
        """Reads the first letters of a topic, in order."""

    async def remove(self, topic_id: TopicId, *, role: str, shard: int, up_to: int) -> None:
        """Removes the letters of a topic up to a number, inclusive. When none is left the topic lives."""

    async def first_sequence(self, *, role: str, shard: int) -> int | None:
        """Returns the sequence in the log of the oldest letter's record: a log must not be trimmed at or after it."""
