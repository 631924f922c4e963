"""Serves hubbub.user.v1.UserService."""

from hubbub.user.v1 import user_service_pb2 as pb
from hubbub.user.v1 import user_service_pb2_grpc

from hubbub_server.app.users import Users
from hubbub_server.wire.values import user_to_pb


class UserServicer(user_service_pb2_grpc.UserServiceServicer):
    """Tells who users are."""

    def __init__(self, users: Users) -> None:
        """Takes the use cases."""
        self._users = users

    async def LookupUser(self, request: pb.LookupUserRequest, context: object) -> pb.LookupUserResponse:
        """Looks up one user by login name."""
        profile = await self._users.lookup(request.login_name)
        return pb.LookupUserResponse(user=user_to_pb(profile))

    async def BatchGetUsers(self, request: pb.BatchGetUsersRequest, context: object) -> pb.BatchGetUsersResponse:
        """Gets several users by id."""
        profiles = await self._users.batch_get(request.user_ids)
        return pb.BatchGetUsersResponse(users=map(user_to_pb, profiles))
