"""How workers read the log: durable, in order, one shard and role at a time."""

from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

from hubbub_server.ports.topic_log import LogRecord


class PoisonRecord(Exception):
    """A record without valid facts or body, never to be read. It stops its shard, it is never skipped silently."""

    def __init__(self, *, shard: int, sequence: int, reason: str) -> None:
        """Says where it lies."""
        super().__init__(f"shard {shard}, sequence {sequence}: {reason}")
        self.shard = shard
        self.sequence = sequence
        self.reason = reason


class RecordConsumer(Protocol):
    """Reads one shard for one role and remembers, durably, how far it came. Raises LogUnavailable."""

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[LogRecord]:
        """Returns the next records in order of sequence, without holes; empty when none came within `wait_s`.

        What was fetched and not acknowledged comes again after a restart, from the first unacknowledged record on.

        Raises:
            PoisonRecord: the next record cannot be read.
        """

    async def ack(self, record: LogRecord) -> None:
        """Remembers that everything up to this record is done. Confirmed by the server when it returns."""

    async def keep_alive(self) -> None:
        """Says that the fetched records are still worked on, so that they are not delivered again meanwhile."""

    async def acknowledged(self) -> int:
        """Returns the sequence of the last acknowledged record; less than that of the first record when none is."""

    async def lag(self) -> int:
        """Returns how many records of the shard are not acknowledged."""


class RecordConsumers(Protocol):
    """Opens consumers."""

    def open(self, *, role: str, shard: int) -> AbstractAsyncContextManager[RecordConsumer]:
        """Opens the durable consumer of a role on a shard, creating it at the first record there is if it is new."""

    async def acknowledged(self, *, role: str, shard: int) -> int:
        """Returns the sequence of the last record that a role acknowledged on a shard, open or not, as above.

        Raises LogUnavailable.
        """

    async def forget(self, *, role: str, shard: int) -> None:
        """Forgets how far a role came on a shard: opened next, it begins at the first record. Not while it is open.

        Raises LogUnavailable.
        """
