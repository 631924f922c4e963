"""Which nodes live, and who settles what a gone one left behind. Presence builds on it; delivery never asks it.

A *life* is one run of a node: from `begin` until its lease runs out or is given back. A life that is over stays over,
whoever renews it later: a node that was frozen or cut off, or whose registry lost its data, begins another one and
tells everything again. So what somebody noted of a life is good exactly as long as the life is.

A lease runs by the clock of the registry alone; nobody's clock is compared with it. While nobody at all could reach the
registry no lease runs: after an outage all that lived then have a whole lease to say that they still do.

A life that is gone stays in the table until it is *settled*. One node at a time has the *claim* to do that, as long as
the claimer's own life is good, so nothing stays unsettled and nothing is settled by two at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

LEASE_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLife:
    """One run of a node. `life_id` is never used again; `address` is where its gRPC port is, seen from other nodes."""

    life_id: str
    node_id: str
    address: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeTable:
    """The whole table: lives with a lease, and lives that are over and wait to be settled; both ordered by id."""

    alive: Sequence[NodeLife]
    gone: Sequence[NodeLife]


class NodeRegistry(Protocol):
    """The table. Every method is bounded in time and raises RegistryUnavailable; then it may or may not have happened.

    All of them may be repeated.
    """

    async def begin(self, life: NodeLife) -> None:
        """Begins a life with a whole lease; does nothing to one that is in the table, good or over."""

    async def renew(self, life_id: str) -> bool:
        """Gives a life a whole lease from now on; False if it is over or unknown, then nothing changes."""

    async def end(self, life_id: str) -> None:
        """Ends a life at once; it is gone like one whose lease ran out."""

    async def read(self) -> NodeTable:
        """Reads the table as it is now."""

    async def claim(self, life_id: str, *, by: str) -> bool:
        """Claims a life that is gone for the life `by`.

        False if it is good, unknown or settled, if another good life has the claim, or if `by` is over itself.
        """

    async def settle(self, life_id: str, *, by: str) -> None:
        """Removes a life that `by` has the claim to. Does nothing if the claim is another's by now."""
