"""Milliseconds to protobuf's times and back."""

from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from hubbub_server.domain.errors import InvalidField

_SECONDS_MIN: Final = -62_135_596_800  # 0001-01-01, the bounds of a Timestamp
_SECONDS_MAX: Final = 253_402_300_799  # 9999-12-31


def timestamp(time_ms: int) -> Timestamp:
    """Returns Unix milliseconds as a Timestamp."""
    time = Timestamp()
    fill_timestamp(time, time_ms)
    return time


def fill_timestamp(time: Timestamp, time_ms: int) -> None:
    """Makes a field of a message say Unix milliseconds; also 0 is said then."""
    seconds, milliseconds = divmod(time_ms, 1000)
    time.SetInParent()
    time.seconds = seconds
    time.nanos = milliseconds * 1_000_000


def milliseconds(time: Timestamp) -> int:
    """Returns a Timestamp as Unix milliseconds, rounded down."""
    return time.seconds * 1000 + time.nanos // 1_000_000


def check_time(field: str, time: Timestamp) -> None:
    """Checks a time that a client gives. Raises InvalidField."""
    if not (_SECONDS_MIN <= time.seconds <= _SECONDS_MAX and 0 <= time.nanos < 1_000_000_000):
        raise InvalidField(field, "a time from year 1 to 9999")


def duration(span_s: float) -> Duration:
    """Returns seconds, at least 0, as a Duration of whole milliseconds, rounded up."""
    span_ms = -int(-span_s * 1000 // 1)
    return Duration(seconds=span_ms // 1000, nanos=span_ms % 1000 * 1_000_000)
