"""Turns every exception of nats-py into an error of the ports. No driver type leaves this folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import nats.errors
import nats.js.errors

from hubbub_server.domain.errors import LogUnavailable

_NO_MESSAGE = 10037
_STREAM_NOT_FOUND = 10059
_CONSUMER_NOT_FOUND = 10014
_NAME_IN_USE = 10058
_WRONG_LAST_SEQUENCE = 10071
_APPEND_IN_FLIGHT = 10164
_RESOURCES_EXHAUSTED = frozenset({10023, 10028, 10047})
_STORE_FAILED = 10077

DRIVER_ERRORS = (nats.errors.Error, OSError)
"""What nats-py and the network raise; nats.js.errors.Error and TimeoutError are among them."""


class NotSent(LogUnavailable):
    """There is no connection: nothing was sent."""


class ApiRefusal(LogUnavailable):
    """JetStream answered a request with an error; `code` is its err_code, 0 when it gave none."""

    def __init__(self, code: int, text: str) -> None:
        """Keeps the code for those who know what it means."""
        super().__init__(f"the log refuses: {text} ({code})")
        self.code = code

    @classmethod
    def of(cls, error: dict[str, Any]) -> "ApiRefusal":
        """Reads the `error` object of an answer."""
        return cls(int(error.get("err_code", 0)), str(error.get("description", "")))

    @property
    def is_no_message(self) -> bool:
        """There is no such message; never said of a stream that is not there."""
        return self.code == _NO_MESSAGE

    @property
    def is_no_stream(self) -> bool:
        """There is no such stream."""
        return self.code == _STREAM_NOT_FOUND

    @property
    def is_no_consumer(self) -> bool:
        """There is no such consumer."""
        return self.code == _CONSUMER_NOT_FOUND

    @property
    def is_other_stream(self) -> bool:
        """There is a stream of that name, with another configuration."""
        return self.code == _NAME_IN_USE

    @property
    def is_conflict(self) -> bool:
        """The expected sequence is not that of the newest message, or another publish of the subject is in flight."""
        return self.code in (_WRONG_LAST_SEQUENCE, _APPEND_IN_FLIGHT)

    @property
    def is_full(self) -> bool:
        """A limit was reached. Limits are checked first; other failures to store may be those of some replicas."""
        return self.code in _RESOURCES_EXHAUSTED or (self.code == _STORE_FAILED and "maximum" in str(self))


@contextmanager
def map_errors() -> Iterator[None]:
    """Turns what nats-py and the network raise into LogUnavailable."""
    try:
        yield
    except DRIVER_ERRORS as error:
        raise mapped(error) from error


def mapped(error: Exception) -> LogUnavailable:
    """Returns what one of DRIVER_ERRORS is for the ports."""
    match error:
        case nats.errors.NoRespondersError():
            return LogUnavailable("nobody answers for the log")
        case TimeoutError():  # nats.errors.TimeoutError is one of them
            return LogUnavailable("the log did not answer in time")
        case nats.errors.OutboundBufferLimitError():
            return NotSent("not connected to the log")
        case _:
            return LogUnavailable(f"the log failed: {error}")
