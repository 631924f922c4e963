"""Reads requests that are one message: bounds their size, refuses what is no message."""

from collections.abc import Callable
from typing import TypeVar

from google.protobuf.message import DecodeError

from hubbub_server.domain.errors import InvalidField
from hubbub_server.domain.limits import FRAME_MAX_BYTES

T = TypeVar("T")


def read_request(parse: Callable[[bytes], T], message: bytes) -> T:
    """Parses a request. Raises InvalidField when it is larger than 256 KiB or not such a message."""
    if len(message) > FRAME_MAX_BYTES:
        raise InvalidField("request", f"at most {FRAME_MAX_BYTES} bytes")
    try:
        return parse(message)
    except DecodeError as exc:
        raise InvalidField("request", "a message of the type that this method takes") from exc


def required(field: str, text: str) -> str:
    """Returns `text`. Raises InvalidField when it is empty."""
    if not text:
        raise InvalidField(field, "required")
    return text
