"""gRPC over HTTP/2, without I/O: heads of requests, length-prefixed messages, and how a call ends."""

import base64
import binascii
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

import grpc

METADATA_FIELD_BYTES: Final = 32
"""What each field is counted as besides its name and value."""
RESPONSE_HEADERS: Final = ((b":status", b"200"), (b"content-type", b"application/grpc"))

_PREFIX_BYTES: Final = 5
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_UNITS_S: Final[Mapping[bytes, float]] = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
# What belongs to HTTP or to the transport of gRPC is no metadata of the call.
_RESERVED: Final = frozenset(
    (b"content-type", b"te", b"grpc-timeout", b"grpc-encoding", b"grpc-accept-encoding", b"grpc-message-type")
)
_PRINTABLE: Final = frozenset(range(0x20, 0x7F)) - {ord("%")}
_MESSAGE_MAX_BYTES: Final = 2 * 1024  # of text in trailers: some peers take 8 KiB of them in all


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestHead:
    """What the headers of a call say; `timeout_s` is None without a deadline."""

    path: str
    metadata: tuple[tuple[str, str | bytes], ...]
    timeout_s: float | None


class Refusal(Exception):
    """A call that cannot be served at all: with a status of HTTP for what is no gRPC, else with one of gRPC."""

    def __init__(
        self,
        code: grpc.StatusCode,
        text: str,
        *,
        http_status: int = 200,
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        """`headers` go with the answer."""
        super().__init__(text)
        self.code = code
        self.text = text
        self.http_status = http_status
        self.headers = headers


def read_head(headers: Iterable[tuple[bytes, bytes]], *, metadata_max_bytes: int) -> RequestHead:
    """Reads the headers of a request.

    Raises:
        Refusal: it is no call of gRPC, or one that we do not take.
    """
    fields = tuple(headers)
    first = dict(reversed(fields))
    _refuse_others_than_grpc(first)
    encoding = first.get(b"grpc-encoding", b"identity")
    if encoding != b"identity":
        raise Refusal(
            grpc.StatusCode.UNIMPLEMENTED,
            "messages must not be compressed",
            headers=((b"grpc-accept-encoding", b"identity"),),
        )
    metadata = [field for field in fields if not field[0].startswith(b":") and field[0] not in _RESERVED]
    if sum(len(name) + len(value) + METADATA_FIELD_BYTES for name, value in metadata) > metadata_max_bytes:
        text = f"metadata has at most {metadata_max_bytes} bytes"
        raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
    return RequestHead(
        path=first.get(b":path", b"").decode("latin-1"),
        metadata=tuple(_read_field(name, value) for name, value in metadata),
        timeout_s=_read_timeout(first.get(b"grpc-timeout")),
    )


def _refuse_others_than_grpc(first: Mapping[bytes, bytes]) -> None:
    content_type = first.get(b"content-type", b"")
    kind, rest = content_type[:16], content_type[16:17]
    if first.get(b":method") != b"POST" or kind != b"application/grpc" or rest not in (b"", b"+", b";"):
        raise Refusal(grpc.StatusCode.UNKNOWN, "this port speaks gRPC", http_status=415)


def _read_timeout(value: bytes | None) -> float | None:
    if value is None:
        return None
    match = _TIMEOUT.match(value)
    if match is None:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "grpc-timeout is malformed")
    return int(match[1]) * _UNITS_S[match[2]]


def _read_field(name: bytes, value: bytes) -> tuple[str, str | bytes]:
    try:
        if name.endswith(b"-bin"):
            return name.decode("ascii"), decode_binary(value)
        return name.decode("ascii"), value.decode("latin-1")
    except (ValueError, binascii.Error) as exc:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "metadata is malformed") from exc


def decode_binary(value: bytes) -> bytes:
    """Decodes the value of a "-bin" key, with padding or without. Raises ValueError."""
    return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)


def encode_binary(value: bytes) -> bytes:
    """Encodes the value of a "-bin" key: without padding, as the protocol recommends."""
    return base64.b64encode(value).rstrip(b"=")


def percent_encode(text: str) -> bytes:
    """Encodes a grpc-message: what is not printable ASCII as %XX of its UTF-8. Too long a text is cut."""
    raw = text.encode("utf-8", "replace")[:_MESSAGE_MAX_BYTES]
    return "".join(chr(byte) if byte in _PRINTABLE else f"%{byte:02X}" for byte in raw).encode("ascii")


def trailers_of(
    code: grpc.StatusCode, text: str, metadata: Iterable[tuple[str, str | bytes]] = ()
) -> list[tuple[bytes, bytes]]:
    """Returns the trailers that end a call."""
    trailers = [(b"grpc-status", str(code.value[0]).encode())]
    if text:
        trailers.append((b"grpc-message", percent_encode(text)))
    for key, value in metadata:
        encoded = encode_binary(value) if isinstance(value, bytes) else value.encode("latin-1", "replace")
        trailers.append((key.encode("ascii"), encoded))
    return trailers


def prefixed(message: bytes) -> bytes:
    """Returns a message as it is sent: uncompressed, with its length before it."""
    return b"\0" + len(message).to_bytes(4) + message


class BadMessages(Exception):
    """Bytes that are no messages, or messages that are not taken; the call ends with `code`."""

    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        """Says what is wrong, in words for the client."""
        super().__init__(text)
        self.code = code


class MessageReader:
    """Finds messages in the bytes of a stream, however they were cut."""

    __slots__ = ("_buffer", "_max_bytes")

    def __init__(self, max_bytes: int) -> None:
        """`max_bytes` bounds a message, inclusive, and so what is kept of one that is not complete."""
        self._max_bytes = max_bytes
        self._buffer = bytearray()

    @property
    def is_inside(self) -> bool:
        """Tells whether a message has begun and is not complete."""
        return bool(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Takes bytes, returns the messages that they complete.

        Raises:
            BadMessages: a message is compressed or too large; nothing may be fed after that.
        """
        self._buffer += data
        messages: list[bytes] = []
        start = 0
        while len(self._buffer) - start >= _PREFIX_BYTES:
            size = self._size_at(start)
            end = start + _PREFIX_BYTES + size
            if end > len(self._buffer):
                break
            messages.append(bytes(self._buffer[start + _PREFIX_BYTES : end]))
            start = end
        del self._buffer[:start]
        return messages

    def _size_at(self, start: int) -> int:
        if self._buffer[start]:
            raise BadMessages(grpc.StatusCode.INTERNAL, "a message is compressed without a grpc-encoding")
        size = int.from_bytes(self._buffer[start + 1 : start + _PREFIX_BYTES])
        if size > self._max_bytes:
            raise BadMessages(grpc.StatusCode.RESOURCE_EXHAUSTED, f"a message has at most {self._max_bytes} bytes")
        return size
