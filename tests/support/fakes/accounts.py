"""Accounts and device sessions in memory."""

from collections.abc import Collection, Mapping

from hubbub_server.domain.errors import LogUnavailable, NameTaken
from hubbub_server.domain.ids import DeviceSessionId, UserId
from hubbub_server.ports.accounts import Account, DeviceSession, Profile


class FakeAccountStore:
    """An AccountStore in memory; `is_down` makes every call fail."""

    def __init__(self) -> None:
        self.is_down = False
        self._accounts: dict[str, Account] = {}

    async def create(self, account: Account) -> None:
        """Creates an account unless the name belongs to another."""
        self._check()
        if self._accounts.setdefault(account.login_name, account).user_id != account.user_id:
            raise NameTaken

    async def find(self, login_name: str) -> Account | None:
        """Finds an account."""
        self._check()
        return self._accounts.get(login_name)

    async def read_profiles(self, user_ids: Collection[UserId]) -> Mapping[UserId, Profile]:
        """Reads profiles."""
        self._check()
        return {
            account.user_id: Profile(
                user_id=account.user_id, login_name=account.login_name, display_name=account.display_name
            )
            for account in self._accounts.values()
            if account.user_id in user_ids
        }

    def _check(self) -> None:
        if self.is_down:
            raise LogUnavailable("the accounts cannot be reached")


class FakeDeviceSessionStore:
    """A DeviceSessionStore in memory; `is_down` makes every call fail."""

    def __init__(self) -> None:
        self.is_down = False
        self._sessions: dict[DeviceSessionId, tuple[DeviceSession, int]] = {}

    async def create(self, session: DeviceSession) -> None:
        """Stores a session."""
        self._check()
        self._sessions[session.device_session_id] = (session, 1)

    async def read(self, device_session_id: DeviceSessionId) -> tuple[DeviceSession, int] | None:
        """Reads a session and its revision."""
        self._check()
        return self._sessions.get(device_session_id)

    async def update(self, session: DeviceSession, *, revision: int) -> bool:
        """Replaces a session if its revision is still `revision`."""
        self._check()
        if self._sessions[session.device_session_id][1] != revision:
            return False
        self._sessions[session.device_session_id] = (session, revision + 1)
        return True

    def _check(self) -> None:
        if self.is_down:
            raise LogUnavailable("the sessions cannot be reached")
