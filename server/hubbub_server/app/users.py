"""Finds people: what every signed-in user may know of every other one."""

from collections.abc import Sequence

from hubbub_server.domain.errors import InvalidField, UserNotFound
from hubbub_server.domain.ids import is_user_id
from hubbub_server.domain.limits import USERS_PER_GET, clean_login_name
from hubbub_server.ports.accounts import AccountStore, Profile


class Users:
    """Looks up users. Every method raises LogUnavailable when the accounts cannot be read."""

    def __init__(self, *, accounts: AccountStore) -> None:
        self._accounts = accounts

    async def lookup(self, login_name: str) -> Profile:
        """Looks up one user by the exact login name, upper case folded.

        Raises:
            InvalidField: it is no login name.
            UserNotFound: nobody has it.
        """
        account = await self._accounts.find(clean_login_name("login_name", login_name))
        if account is None:
            raise UserNotFound
        return Profile(user_id=account.user_id, login_name=account.login_name, display_name=account.display_name)

    async def batch_get(self, user_ids: Sequence[str]) -> list[Profile]:
        """Gets users in the order asked; one named twice is there once, ids of nobody are left out.

        Raises:
            InvalidField: not 1 to 200 ids.
        """
        if not 1 <= len(user_ids) <= USERS_PER_GET:
            raise InvalidField("user_ids", f"1 to {USERS_PER_GET} ids")
        wanted = [user_id for user_id in dict.fromkeys(user_ids) if is_user_id(user_id)]
        profiles = await self._accounts.read_profiles(wanted) if wanted else {}
        return [profiles[user_id] for user_id in wanted if user_id in profiles]
