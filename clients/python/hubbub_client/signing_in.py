"""Who the user is: the first tokens, and newer ones when they end."""

from hubbub.auth.v1 import auth_service_pb2 as auth_pb

from hubbub_client import model, wire
from hubbub_client.calls import ATTEMPT_TIMEOUT_S, Calls
from hubbub_client.errors import InvalidCredentials, SignedOut


class SigningIn:
    """Gets tokens.

    Args:
        calls: how calls are made, without a token.
        sign_in: who.
    """

    def __init__(self, calls: Calls, sign_in: model.SignIn) -> None:
        self._calls, self._sign_in = calls, sign_in

    async def first(self) -> model.Credentials:
        """Returns the tokens to begin with. Registering is tried once: it may not be repeated.

        Raises:
            CallFailed: refused, or the server could not be reached in time.
        """
        match self._sign_in:
            case model.Credentials():
                return self._sign_in
            case model.Login():
                return await self._log_in(self._sign_in)
            case model.Registration(login_name, password, display_name):
                request = auth_pb.RegisterRequest(login_name=login_name, password=password, display_name=display_name)
                answer = await self._calls.once(lambda stubs: stubs.auth.Register, request, timeout_s=ATTEMPT_TIMEOUT_S)
                return wire.read_credentials(answer.credentials)

    async def renew(self, credentials: model.Credentials) -> model.Credentials:
        """Returns newer tokens, by the refresh token or else by the password.

        Raises:
            SignedOut: there is no way to new ones.
            CallFailed: the server cannot renew them now.
        """
        request = auth_pb.RefreshTokenRequest(refresh_token=credentials.refresh_token)
        try:
            answer = await self._calls.repeatedly(lambda stubs: stubs.auth.RefreshToken, request)
            return wire.read_credentials(answer.credentials)
        except InvalidCredentials as error:
            if isinstance(self._sign_in, model.Credentials):
                raise SignedOut("the refresh token is spent or revoked") from error
        try:
            return await self._log_in(model.Login(self._sign_in.login_name, self._sign_in.password))
        except InvalidCredentials as error:
            raise SignedOut("the password is no longer right") from error

    async def _log_in(self, login: model.Login) -> model.Credentials:
        request = auth_pb.LoginRequest(login_name=login.login_name, password=login.password)
        answer = await self._calls.repeatedly(lambda stubs: stubs.auth.Login, request)
        return wire.read_credentials(answer.credentials)
