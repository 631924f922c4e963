"""The errors of the SDK, and the one place where statuses of the server become errors.

HubbubError
├── CallFailed                 a call or a send was refused; `reason`, `code`, `metadata`
│   ├── InvalidField           a field breaks its rule; `fields` names each
│   ├── InvalidCredentials     unknown name, wrong password, forged or spent token
│   ├── TokenExpired           the access token ended (the client refreshes by itself)
│   ├── NotPermitted           a member without the right to do this
│   ├── ConversationNotFound   none of that id, or the caller is no member
│   ├── MessageNotFound        none of that number, or not visible
│   ├── UserNotFound           none of that name or id
│   ├── IdReused               the id was used with other content; `first_number`
│   ├── NameTaken              the login name belongs to another account
│   ├── SendOrder              the message before this one is not committed (the client repeats by itself)
│   ├── ConversationState      full, direct, or the last owner would leave
│   ├── LimitReached           more of this kind is not kept: drafts, pins, blocks
│   ├── StreamProtocol         this client broke the protocol
│   ├── ServerFault            a fault of the server; metadata has its request_id
│   └── Unavailable            try again after `retry_delay_s`; a repeat is never done twice
├── SendTimedOut               no answer within the time given; the message may be committed all the same
├── OutboxFull                 1,000 posted messages are pending or failed
├── Displaced                  another client said Hello with this instance_id; this one stays away
├── SignedOut                  the device session is over; sign in again
└── ClientClosed               the client was closed, or not opened yet
"""

from collections.abc import Mapping
from typing import Final

import grpc
from google.rpc import error_details_pb2, status_pb2
from grpc import aio

_DOMAIN: Final = "hubbub"
_REASON_PREFIX: Final = "ERROR_REASON_"
_DETAILS_KEY: Final = "grpc-status-details-bin"


class HubbubError(Exception):
    """Every error that the SDK raises by itself."""


class CallFailed(HubbubError):
    """The server, or something on the way to it, refused.

    Attributes:
        code: the gRPC status.
        reason: name of the ErrorReason without its prefix; empty when the status was made on the way (a proxy, a
            library).
        metadata: what varies in the message, by name.
        retry_delay_s: how long the server asks to wait before a repeat; None when it says nothing.
        fields: rule by name of each field that breaks one.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        retry_delay_s: float | None = None,
        fields: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(f"{reason or code.name}: {message}")
        self.code = code
        self.reason = reason
        self.metadata = dict(metadata or {})
        self.retry_delay_s = retry_delay_s
        self.fields = dict(fields or {})


class InvalidField(CallFailed):
    """A field breaks its rule; `fields` names each."""


class InvalidCredentials(CallFailed):
    """Unknown name, wrong password, forged or spent token: one answer for all."""


class TokenExpired(CallFailed):
    """The access token ended. The client refreshes it by itself; seen only when that fails."""


class NotPermitted(CallFailed):
    """A member without the right to do this, or somebody whom another user blocks."""

    @property
    def user_ids(self) -> tuple[str, ...]:
        """Who of those who were to become members of a group blocks the caller, at most 50: leave them out."""
        return tuple(filter(None, self.metadata.get("user_ids", "").split(",")))


class ConversationNotFound(CallFailed):
    """No such conversation, or the caller is no member (any more)."""


class MessageNotFound(CallFailed):
    """No message of that number, or the caller may not see it."""


class UserNotFound(CallFailed):
    """No user of that name or id."""


class IdReused(CallFailed):
    """The client_message_id or request_id was used before with other content."""

    @property
    def first_number(self) -> int:
        """Number of the message that has the id; 0 for groups."""
        return int(self.metadata.get("first_number", "0"))


class NameTaken(CallFailed):
    """The login name belongs to another account."""


class SendOrder(CallFailed):
    """The message before this one is not committed."""


class ConversationState(CallFailed):
    """The conversation is full, direct, or would lose its last owner."""


class LimitReached(CallFailed):
    """More of this kind is not kept: drafts, pinned conversations, blocked users."""


class StreamProtocol(CallFailed):
    """This client broke the protocol: a bug."""


class ServerFault(CallFailed):
    """A fault of the server; metadata has the request_id of its log line."""


class Unavailable(CallFailed):
    """Cannot be served now, or the outcome is unknown. A repeat with the same ids is never done twice."""


class SendTimedOut(HubbubError):
    """No answer came in the time given, yet the message may be committed: send it again with the same id to learn."""

    def __init__(self, client_message_id: str) -> None:
        super().__init__(f"no answer for message {client_message_id} in time")
        self.client_message_id = client_message_id


class OutboxFull(HubbubError):
    """1,000 messages that were posted here are pending or failed."""


class Displaced(HubbubError):
    """Another running client said Hello with the same instance_id; this one does not come back by itself."""


class SignedOut(HubbubError):
    """The device session is over: revoked, or its refresh token was spent elsewhere. Sign in again."""


class ClientClosed(HubbubError):
    """The client was closed, or not opened yet."""


def first_error(error: HubbubError | BaseExceptionGroup[HubbubError]) -> HubbubError:
    """Returns the error, or the first one in a group of them, as a TaskGroup raises it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


_BY_REASON: Final[Mapping[str, type[CallFailed]]] = {
    "INVALID_FIELD": InvalidField,
    "STREAM_PROTOCOL": StreamProtocol,
    "INVALID_CREDENTIALS": InvalidCredentials,
    "TOKEN_EXPIRED": TokenExpired,
    "NOT_PERMITTED": NotPermitted,
    "CONVERSATION_NOT_FOUND": ConversationNotFound,
    "MESSAGE_NOT_FOUND": MessageNotFound,
    "USER_NOT_FOUND": UserNotFound,
    "ID_REUSED": IdReused,
    "NAME_TAKEN": NameTaken,
    "SEND_ORDER": SendOrder,
    "CONVERSATION_STATE": ConversationState,
    "LIMIT_REACHED": LimitReached,
    "RATE_LIMITED": Unavailable,
    "BACKEND_UNAVAILABLE": Unavailable,
    "NODE_DRAINING": Unavailable,
    "INTERNAL": ServerFault,
}
# A status without a reason was made on the way; INTERNAL, UNKNOWN and CANCELLED are then how a library tells a cut
# connection.
_WITHOUT_REASON: Final[Mapping[grpc.StatusCode, type[CallFailed]]] = {
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: Unavailable,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Unavailable,
    grpc.StatusCode.ABORTED: Unavailable,
    grpc.StatusCode.INTERNAL: Unavailable,
    grpc.StatusCode.UNKNOWN: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.UNAUTHENTICATED: InvalidCredentials,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
}
# A reason newer than this client is treated by its code.
_UNKNOWN_REASON: Final[Mapping[grpc.StatusCode, type[CallFailed]]] = {
    **_WITHOUT_REASON,
    grpc.StatusCode.INTERNAL: ServerFault,
    grpc.StatusCode.UNKNOWN: ServerFault,
}
_CODES: Final[Mapping[int, grpc.StatusCode]] = {code.value[0]: code for code in grpc.StatusCode}


def error_of_status(status: status_pb2.Status) -> CallFailed:
    """Returns the error for a google.rpc.Status as it comes in Rejected and in trailing metadata."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    reason, metadata, fields = "", dict[str, str](), dict[str, str]()
    retry_delay_s: float | None = None
    for detail in status.details:
        if detail.TypeName() == "google.rpc.ErrorInfo":
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == _DOMAIN:
                reason, metadata = info.reason.removeprefix(_REASON_PREFIX), dict(info.metadata)
        elif detail.TypeName() == "google.rpc.RetryInfo":
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_delay_s = delay.seconds + delay.nanos / 1e9
        elif detail.TypeName() == "google.rpc.BadRequest":
            violations = error_details_pb2.BadRequest.FromString(detail.value).field_violations
            fields.update((violation.field, violation.description) for violation in violations)
    by_code = _UNKNOWN_REASON if reason else _WITHOUT_REASON
    kind = _BY_REASON.get(reason) or by_code.get(code, CallFailed)
    return kind(code, status.message, reason=reason, metadata=metadata, retry_delay_s=retry_delay_s, fields=fields)


def error_of_call(error: aio.AioRpcError) -> CallFailed:
    """Returns the error for a call that grpc ended with another status than OK."""
    for key, value in error.trailing_metadata() or ():
        if key == _DETAILS_KEY and isinstance(value, bytes):
            return error_of_status(status_pb2.Status.FromString(value))
    number = error.code().value[0]
    return error_of_status(status_pb2.Status(code=number, message=error.details() or ""))
