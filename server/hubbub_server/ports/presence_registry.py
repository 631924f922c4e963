"""Which users have sessions on which nodes, beside the registry of nodes, whose leases say which of that counts.

A node tells what it has of its users (`put`), again and again, under its life; what it told counts as long as the life
is good, and nothing is taken under a life that is over. So a registry that lost its data is whole again when every node
has told everything once more: within one lease. Until then nobody can say that a user has no session (`born_ms`).

All times are the registry's own, in Unix milliseconds. At most BATCH_MAX users a call.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import Share, UserSessions

BATCH_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryLook:
    """The registry as it is now: which lives are good, and since when it has kept what it was told."""

    now_ms: int
    born_ms: int
    alive: frozenset[str]


class PresenceRegistry(Protocol):
    """The table. Every method is bounded in time and raises RegistryUnavailable; then it may or may not have happened.

    All of them may be repeated.
    """

    async def put(self, life_id: str, shares: Mapping[UserId, Share | None]) -> Sequence[UserId] | None:
        """Notes what a life has of these users; None: nothing any more, what was noted counts for the grace from now.

        Returns the users of whom that is news; None, and nothing is noted, if the life is over or unknown.
        """

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, UserSessions]:
        """Reads what counts now, for each of the users."""

    async def look(self) -> RegistryLook:
        """Looks at the lives."""

    async def forget(self, life_id: str) -> Sequence[UserId]:
        """Removes what is noted of some users under a life that is over, and returns them; empty: nothing is left.

        What users left behind there still counts for its grace. Does nothing for a life that is good.
        """
