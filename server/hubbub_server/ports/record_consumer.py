"""How workers read the log: durable, in order, one shard and role at a time."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import LogRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class UnreadableRecord:
    """What lies in the log without the facts of a record. `topic_id` is only where it lies, perhaps of no form."""

    topic_id: TopicId
    sequence: int
    headers: Mapping[str, str]
    body: bytes
    reason: str


AnyRecord = LogRecord | UnreadableRecord


def topic_of(record: AnyRecord) -> TopicId:
    """Returns the topic that a record lies in."""
    return record.facts.topic_id if isinstance(record, LogRecord) else record.topic_id


class RecordLost(Exception):
    """A record that was in the log is not there any more: nobody knows of which topic. The shard stops."""

    def __init__(self, *, shard: int, sequence: int) -> None:
        """Says where it was."""
        super().__init__(f"shard {shard}: the record with sequence {sequence} is missing")
        self.shard = shard
        self.sequence = sequence


class PoisonRecord(Exception):
    """A record that a role can never handle, for what it is: never decided by how often it failed."""

    def __init__(self, *, shard: int, sequence: int, reason: str) -> None:
        """Says where it lies."""
        super().__init__(f"shard {shard}, sequence {sequence}: {reason}")
        self.shard = shard
        self.sequence = sequence
        self.reason = reason


class RecordConsumer(Protocol):
    """Reads one shard for one role and remembers, durably, how far it came. Raises LogUnavailable."""

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[AnyRecord]:
        """Returns the next records in order of sequence, without holes; empty when none came within `wait_s`.

        What was fetched and not acknowledged comes again after a restart, from the first unacknowledged record on.

        Raises:
            RecordLost: the next record is missing.
        """

    async def ack(self, record: AnyRecord) -> None:
        """Takes everything up to this record for done.

        That is durable within a second while `fetch` is called, and when the consumer is closed: what was acknowledged
        after that comes again if the process dies. Raises LogUnavailable when the record does not wait for it, or is of
        a log that is gone.
        """

    async def acknowledged(self) -> int:
        """Returns the sequence of the last acknowledged record, or of the last one that was trimmed; 0: neither."""

    async def lag(self) -> int:
        """Returns how many records of the shard are not acknowledged."""


class RecordConsumers(Protocol):
    """Opens consumers."""

    def open(self, *, role: str, shard: int) -> AbstractAsyncContextManager[RecordConsumer]:
        """Opens the consumer of a role on a shard after what it acknowledged, or at the first record there is."""

    async def acknowledged(self, *, role: str, shard: int) -> int:
        """Returns the sequence of the last record that a role acknowledged on a shard, up to a second late.

        Less than that of the first record when it acknowledged none that is there. Raises LogUnavailable.
        """

    async def forget(self, *, role: str, shard: int) -> None:
        """Forgets how far a role came on a shard: opened next, it begins at the first record. Not while it is open.

        Raises LogUnavailable.
        """
