"""Errors to google.rpc.Status: the only table of codes and reasons. Every status has exactly one ErrorInfo.

What is not in the table is INTERNAL and tells nothing but the request id under which the log has the rest.
"""

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hubbub.errors.v1 import error_reason_pb2 as reasons

from hubbub_server.domain import errors
from hubbub_server.ports.topic_log import LogFull
from hubbub_server.wire.times import duration

ERROR_DOMAIN: Final = "hubbub"
_RETRY_DELAY_MIN_S: Final = 0.001


@dataclass(frozen=True, slots=True)
class _Rule:
    code: code_pb2.Code
    reason: reasons.ErrorReason.ValueType


# By class; a subclass without a row of its own has its base's.
_RULES: Final[dict[type[errors.HubbubError], _Rule]] = {
    errors.InvalidField: _Rule(code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_INVALID_FIELD),
    errors.ProtocolBreach: _Rule(code_pb2.INVALID_ARGUMENT, reasons.ERROR_REASON_STREAM_PROTOCOL),
    errors.BadCredentials: _Rule(code_pb2.UNAUTHENTICATED, reasons.ERROR_REASON_INVALID_CREDENTIALS),
    errors.CredentialsExpired: _Rule(code_pb2.UNAUTHENTICATED, reasons.ERROR_REASON_TOKEN_EXPIRED),
    errors.NotPermitted: _Rule(code_pb2.PERMISSION_DENIED, reasons.ERROR_REASON_NOT_PERMITTED),
    errors.ConversationNotFound: _Rule(code_pb2.NOT_FOUND, reasons.ERROR_REASON_CONVERSATION_NOT_FOUND),
    errors.MessageNotFound: _Rule(code_pb2.NOT_FOUND, reasons.ERROR_REASON_MESSAGE_NOT_FOUND),
    errors.UserNotFound: _Rule(code_pb2.NOT_FOUND, reasons.ERROR_REASON_USER_NOT_FOUND),
    errors.IdReused: _Rule(code_pb2.ALREADY_EXISTS, reasons.ERROR_REASON_ID_REUSED),
    errors.NameTaken: _Rule(code_pb2.ALREADY_EXISTS, reasons.ERROR_REASON_NAME_TAKEN),
    errors.SendOrder: _Rule(code_pb2.FAILED_PRECONDITION, reasons.ERROR_REASON_SEND_ORDER),
    errors.WrongState: _Rule(code_pb2.FAILED_PRECONDITION, reasons.ERROR_REASON_CONVERSATION_STATE),
    errors.LimitReached: _Rule(code_pb2.FAILED_PRECONDITION, reasons.ERROR_REASON_LIMIT_REACHED),
    errors.RateLimited: _Rule(code_pb2.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_RATE_LIMITED),
    LogFull: _Rule(code_pb2.RESOURCE_EXHAUSTED, reasons.ERROR_REASON_RATE_LIMITED),
    errors.Unavailable: _Rule(code_pb2.UNAVAILABLE, reasons.ERROR_REASON_BACKEND_UNAVAILABLE),
    errors.DeadlinePassed: _Rule(code_pb2.DEADLINE_EXCEEDED, reasons.ERROR_REASON_BACKEND_UNAVAILABLE),
    errors.NodeDraining: _Rule(code_pb2.UNAVAILABLE, reasons.ERROR_REASON_NODE_DRAINING),
}


def is_told(error: BaseException) -> bool:
    """Tells whether callers may know of an error; every other one is a fault of ours, to be logged with its stack."""
    return _rule_of(error) is not None


def reason_of(error: BaseException) -> str:
    """Returns the name of the ErrorReason that an error has."""
    rule = _rule_of(error)
    return reasons.ErrorReason.Name(rule.reason if rule else reasons.ERROR_REASON_INTERNAL)


def status_of(error: BaseException, *, request_id: str = "") -> status_pb2.Status:
    """Returns the status of any error. `request_id` is told only with INTERNAL."""
    rule = _rule_of(error)
    if rule is None:
        status = status_pb2.Status(code=code_pb2.INTERNAL, message="internal error")
        _add(status, _error_info(reasons.ERROR_REASON_INTERNAL, {"request_id": request_id}))
        return status
    status = status_pb2.Status(code=rule.code, message=str(error))
    _add(status, _error_info(rule.reason, _metadata_of(error)))
    match error:
        case errors.InvalidField(field=field, rule=description):
            violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=description)
            _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
        case errors.RateLimited(retry_after_s=delay_s) | errors.Unavailable(retry_after_s=delay_s):
            _add(status, error_details_pb2.RetryInfo(retry_delay=duration(max(delay_s, _RETRY_DELAY_MIN_S))))
        case _:
            pass
    return status


def _metadata_of(error: BaseException) -> dict[str, str]:
    match error:
        case errors.IdReused(first_number=first_number):
            return {"first_number": str(first_number)}
        case errors.InvitationRefused(user_ids=user_ids):
            return {"user_ids": ",".join(user_ids)}
        case _:
            return {}


def _rule_of(error: BaseException) -> _Rule | None:
    for kind in type(error).__mro__:
        if kind in _RULES:
            return _RULES[kind]
    return None


def _error_info(reason: reasons.ErrorReason.ValueType, metadata: dict[str, str]) -> error_details_pb2.ErrorInfo:
    return error_details_pb2.ErrorInfo(reason=reasons.ErrorReason.Name(reason), domain=ERROR_DOMAIN, metadata=metadata)


def _add(status: status_pb2.Status, detail: Message) -> None:
    status.details.add().Pack(detail, deterministic=True)
