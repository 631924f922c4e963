"""Serves hubbub.auth.v1.AuthService."""

from hubbub.auth.v1 import auth_service_pb2 as pb
from hubbub.auth.v1 import auth_service_pb2_grpc

from hubbub_server.app.authenticate import Authenticate
from hubbub_server.wire.values import credentials_to_pb


class AuthServicer(auth_service_pb2_grpc.AuthServiceServicer):
    """Registers users and hands out tokens."""

    def __init__(self, authenticate: Authenticate) -> None:
        """Takes the use cases."""
        self._authenticate = authenticate

    async def Register(self, request: pb.RegisterRequest, context: object) -> pb.RegisterResponse:
        """Registers an account and signs it in."""
        credentials = await self._authenticate.register(request.login_name, request.password, request.display_name)
        return pb.RegisterResponse(credentials=credentials_to_pb(credentials))

    async def Login(self, request: pb.LoginRequest, context: object) -> pb.LoginResponse:
        """Starts a device session."""
        credentials = await self._authenticate.login(request.login_name, request.password)
        return pb.LoginResponse(credentials=credentials_to_pb(credentials))

    async def RefreshToken(self, request: pb.RefreshTokenRequest, context: object) -> pb.RefreshTokenResponse:
        """Exchanges a refresh token for a new pair."""
        credentials = await self._authenticate.refresh(request.refresh_token)
        return pb.RefreshTokenResponse(credentials=credentials_to_pb(credentials))
