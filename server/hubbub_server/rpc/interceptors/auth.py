"""Finds out who is calling."""

import re
from collections.abc import Callable, Collection
from typing import Final

from hubbub_server.app.authenticate import Caller
from hubbub_server.domain.errors import BadCredentials, InvalidField
from hubbub_server.rpc.call import Call

OPEN_SERVICES: Final = ("/hubbub.auth.v1.AuthService/", "/grpc.health.v1.Health/", "/grpc.reflection.")
SESSION_ID_KEY: Final = "hubbub-session-id"
_SESSION_ID = re.compile(r"[a-z0-9]{1,64}\Z")


class Authentication:
    """Lets a call pass with a good access token ("authorization: Bearer …"), or to an open service without any.

    A client may name the stream that a unary call belongs to ("hubbub-session-id"); it goes into the record.
    """

    def __init__(
        self, authenticate: Callable[[str], Caller], *, open_services: Collection[str] = OPEN_SERVICES
    ) -> None:
        """`authenticate` raises BadCredentials or CredentialsExpired."""
        self._authenticate = authenticate
        self._open_services = tuple(open_services)

    def enter(self, call: Call) -> None:
        """Implements Layer. Raises BadCredentials, CredentialsExpired, and InvalidField for a malformed session id."""
        if not call.method.startswith(self._open_services):
            scheme, _, token = call.metadata.get("authorization", "").partition(" ")
            if scheme.lower() != "bearer" or not token:
                raise BadCredentials
            call.caller = self._authenticate(token)
            call.session_id = call.metadata.get(SESSION_ID_KEY, "")
            if call.session_id and not _SESSION_ID.match(call.session_id):
                raise InvalidField(SESSION_ID_KEY, "the session_id of a Welcome")

    def leave(self, call: Call) -> None:
        """Implements Layer."""
