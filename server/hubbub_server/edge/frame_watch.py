"""Looks at the headers of inbound frames for what nghttp2 lets pass: a peer that speaks on streams that it has ended.

Such frames mean nothing, and nghttp2 drops them, so they would be work that nobody counts. RFC 9113 lets a server end
the connection for each: 5.1 (frames on a closed stream), 5.1.1 (numbers of streams), 6.3 (PRIORITY on stream 0).
Streams that we reset are another matter: their peer may not have heard of it yet. Payloads are not looked at.
"""

from struct import Struct
from typing import Final, NamedTuple

from hubbub_server.edge.http2 import ErrorCode

_PREFACE_BYTES: Final = 24
_HEADER: Final = Struct(">HBBBI")
"""Length (16 bits and 8), type, flags, stream."""
_HEADER_BYTES: Final = _HEADER.size
_DATA, _HEADERS, _PRIORITY, _RST_STREAM = range(4)
_END_STREAM: Final = 0x1
_REMEMBERED: Final = 512


class Breach(NamedTuple):
    """What a peer must not do, in the frame whose header begins at `at`; negative: in an earlier read."""

    at: int
    code: ErrorCode


class FrameWatch:
    """Watches one connection; its memory is bounded: of streams long ago it knows nothing and says nothing."""

    __slots__ = ("_forgotten", "_header", "_last", "_older", "_skip", "_streams")

    def __init__(self) -> None:
        """Waits for the preface."""
        self._skip = _PREFACE_BYTES
        self._header = b""
        self._last = 0
        self._forgotten = 0
        # Streams that the peer has opened, and whether it has ended them; the younger half and the older one.
        self._streams: dict[int, bool] = {}
        self._older: dict[int, bool] = {}

    def find_breach(self, data: bytes) -> Breach | None:
        """Follows bytes of the peer to the first breach, after which nothing may be asked."""
        kept = len(self._header)
        if kept:
            data = self._header + data
        at, end = self._skip, len(data)
        while at + _HEADER_BYTES <= end:
            high, low, kind, flags, stream_id = _HEADER.unpack_from(data, at)
            if kind <= _RST_STREAM and (code := self._take(kind, flags, stream_id & 0x7FFFFFFF)) is not None:
                return Breach(at - kept, code)
            at += _HEADER_BYTES + (high << 8) + low
        self._skip = max(0, at - end)
        self._header = data[at:]
        return None

    def _take(self, kind: int, flags: int, stream_id: int) -> ErrorCode | None:
        if kind == _PRIORITY:
            return None if stream_id else ErrorCode.PROTOCOL_ERROR
        if kind == _HEADERS and stream_id > self._last and stream_id % 2 == 1:
            self._open(stream_id)
        streams = self._streams if stream_id in self._streams else self._older
        is_ended = streams.get(stream_id)
        if is_ended is None:
            return self._judge_unknown(kind, stream_id)
        if is_ended and kind != _RST_STREAM:
            return ErrorCode.STREAM_CLOSED
        if kind == _RST_STREAM or flags & _END_STREAM:
            streams[stream_id] = True
        return None

    def _open(self, stream_id: int) -> None:
        self._last = stream_id
        if len(self._streams) >= _REMEMBERED:
            self._forgotten = next(reversed(self._older), 0)
            self._older, self._streams = self._streams, {}
        self._streams[stream_id] = False

    def _judge_unknown(self, kind: int, stream_id: int) -> ErrorCode | None:
        """A number that the peer passed over is closed for ever; one of which nothing is known any more is not judged.

        What is no number of a request at all is nghttp2's to judge.
        """
        is_passed_over = kind == _HEADERS and stream_id % 2 == 1 and self._forgotten < stream_id < self._last
        return ErrorCode.PROTOCOL_ERROR if is_passed_over else None
