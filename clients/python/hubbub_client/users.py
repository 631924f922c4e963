"""Calls about users."""

from collections.abc import Sequence

from hubbub.user.v1 import user_service_pb2 as users_pb

from hubbub_client import model, wire
from hubbub_client.unary import Unary


class Users:
    """Makes the calls. What its methods promise is said where the client offers them."""

    def __init__(self, unary: Unary) -> None:
        self._unary = unary

    async def lookup(self, login_name: str) -> model.User:
        """Finds a user by the exact login name."""
        request = users_pb.LookupUserRequest(login_name=login_name)
        return wire.read_user((await self._unary.call(lambda stubs: stubs.users.LookupUser, request)).user)

    async def get(self, user_ids: Sequence[str]) -> list[model.User]:
        """Gets users; ids of nobody are left out."""
        request = users_pb.BatchGetUsersRequest(user_ids=user_ids)
        answer = await self._unary.call(lambda stubs: stubs.users.BatchGetUsers, request)
        return [wire.read_user(user) for user in answer.users]
