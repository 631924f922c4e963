"""Who works on which shard: one table that all workers read, with a beat of each worker and a claim of each unit.

A *unit* is one role on one shard. A claim has no time of its own: it is good as long as its holder *beats*, so a worker
with many units writes no more often than one with a single one. Claims change by compare-and-set; the revision that a
claim got is its *fence*: a later claim of the same unit has a larger one. Nothing here says when a worker is dead, each
observer judges that by its own monotonic clock (workers/share.py): no two clocks are ever compared.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, order=True)
class Unit:
    """One role on one shard."""

    role: str
    shard: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """Who has a unit; `worker_id` is "" after a release. `fence` is the claim's revision."""

    worker_id: str
    fence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTable:
    """The whole table. `beats` has a number for each worker that did not leave; it is another one after each beat."""

    beats: Mapping[str, int]
    claims: Mapping[Unit, Claim]


class ShardLeases(Protocol):
    """The table. Every method is bounded in time and raises LogUnavailable; then it may or may not have happened."""

    async def beat(self, worker_id: str) -> None:
        """Says that a worker lives. A beat that is never repeated is forgotten after some minutes."""

    async def leave(self, worker_id: str) -> None:
        """Takes the beat back: the worker is gone from the table when this returns, its claims are good for nobody."""

    async def read(self) -> LeaseTable:
        """Reads the table. It has everything that was acknowledged before the call."""

    async def claim(self, unit: Unit, worker_id: str, *, fence: int) -> int | None:
        """Claims a unit whose claim still has this `fence` (0: it has none); returns the new one, None if it moved."""

    async def release(self, unit: Unit, *, fence: int) -> None:
        """Gives a unit to nobody, if its claim still has this `fence`."""
