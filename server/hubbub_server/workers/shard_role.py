"""What a role does with the records of one shard: the interface between the loop and the roles."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.ports.topic_log import LogRecord

RequireLease = Callable[[], None]
"""Ends the work, by an exception of its own, when the lease of the unit is lost."""


class ShardHalted(Exception):
    """This shard cannot go on without a person."""


class StartOver(Exception):
    """What was acknowledged is not done after all: the shard is to be handled again from its first record."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What lies from one sequence of a shard to another, both inclusive.

    `records` are those to handle, in order; the others are in the dead letters, perhaps all of them.
    """

    first_sequence: int
    last_sequence: int
    records: Sequence[LogRecord]


class ShardRole(Protocol):
    """A role on one shard. What it does can be done again, and in parallel with itself: see shard_loop.py."""

    @property
    def role(self) -> str:
        """Names the role, its lease and its floor."""

    async def start(self, acknowledged: int) -> None:
        """Prepares for what comes after the record with sequence `acknowledged`, 0: for the first one.

        Raises:
            StartOver: it cannot go on from there, but from the first record.
        """

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        """Handles a batch for good before it returns, however long that takes; after each wait calls `require_lease`.

        Raises:
            PoisonRecord: at the first record that can never be handled; none, some or all before it are handled.
            ShardHalted: it cannot go on.
            StartOver: as `start`.
        """

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Handles records of one topic, in order, out of dead letters: `handle` has passed over them long ago.

        Raises:
            PoisonRecord: as `handle`.
        """
