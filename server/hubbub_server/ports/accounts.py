"""Accounts, names and device sessions. Not topics: single documents with compare-and-set."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import DeviceSessionId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A local account. `password_hash` is a PHC string; it never leaves the server."""

    user_id: UserId
    login_name: str
    display_name: str
    password_hash: str
    create_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """What other users may see of a user."""

    user_id: UserId
    login_name: str
    display_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSession:
    """A sign-in and its refresh family: one refresh token a generation, the newest is `generation`.

    The token of the generation before stays good until `previous_good_until_ms`, or until an access token of the newest
    generation is first used (`is_confirmed`), whichever is first.
    """

    device_session_id: DeviceSessionId
    user_id: UserId
    generation: int
    previous_good_until_ms: int
    is_confirmed: bool
    is_revoked: bool
    expire_time_ms: int


class AccountStore(Protocol):
    """Keeps accounts. Every method raises LogUnavailable when it cannot answer; after that the outcome is unknown."""

    async def create(self, account: Account) -> None:
        """Creates an account under its login name, and its profile. Raises NameTaken when the name is another's."""

    async def find(self, login_name: str) -> Account | None:
        """Finds an account by its folded login name."""

    async def read_profiles(self, user_ids: Collection[UserId]) -> Mapping[UserId, Profile]:
        """Reads profiles; unknown ids are left out. At most 500 ids."""


class DeviceSessionStore(Protocol):
    """Keeps device sessions. Raises LogUnavailable as AccountStore does."""

    async def create(self, session: DeviceSession) -> None:
        """Stores a new session."""

    async def read(self, device_session_id: DeviceSessionId) -> tuple[DeviceSession, int] | None:
        """Reads a session and its revision; None when there is none."""

    async def update(self, session: DeviceSession, *, revision: int) -> bool:
        """Replaces a session if its revision is still `revision`; tells whether it was."""
