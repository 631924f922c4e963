"""Reads what an edge has sent, with other code than its own, and says what no server may send."""

from dataclasses import dataclass, field
from typing import Final

import hpack
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    RstStreamFrame,
    SettingsFrame,
)

_HEADER_BYTES: Final = 9
_LARGEST: Final = 2**32 - 1


@dataclass(slots=True)
class Answer:
    """What came for one stream."""

    blocks: list[dict[str, str]] = field(default_factory=list)
    body: bytearray = field(default_factory=bytearray)
    is_ended: bool = False
    reset: int | None = None

    @property
    def status(self) -> str | None:
        """The status of gRPC, when the answer is whole."""
        return self.blocks[-1].get("grpc-status") if self.is_ended and self.blocks else None

    def messages(self) -> list[bytes]:
        """The messages. Raises ValueError when the bytes are no whole ones."""
        found, at = [], 0
        while at < len(self.body):
            end = at + 5 + int.from_bytes(self.body[at + 1 : at + 5])
            if self.body[at] or end > len(self.body):
                raise ValueError("not whole messages")
            found.append(bytes(self.body[at + 5 : end]))
            at = end
        return found


class Transcript:
    """Everything that an edge has sent. `faults` names what is wrong with it."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.answers: dict[int, Answer] = {}
        self.faults: list[str] = []
        self.goaway: int | None = None
        self.pongs: list[bytes] = []
        self._buffer = bytearray()
        self._block: tuple[HeadersFrame, bytearray] | None = None
        self._hpack = hpack.Decoder(max_header_list_size=_LARGEST)
        self._hpack.max_allowed_table_size = _LARGEST
        self._is_greeted = False

    def take(self, data: bytes) -> None:
        """Takes more bytes."""
        self._buffer += data
        while len(self._buffer) >= _HEADER_BYTES:
            frame, size = Frame.parse_frame_header(memoryview(bytes(self._buffer[:_HEADER_BYTES])))
            if len(self._buffer) < _HEADER_BYTES + size:
                return
            frame.parse_body(memoryview(bytes(self._buffer[_HEADER_BYTES : _HEADER_BYTES + size])))
            del self._buffer[: _HEADER_BYTES + size]
            self._take_frame(frame)

    def finish(self) -> None:
        """No more comes."""
        if self._buffer or self._block:
            self.faults.append("sent half a frame")
        for stream_id, answer in self.answers.items():
            if answer.status is not None:
                try:
                    answer.messages()
                except ValueError:
                    self.faults.append(f"trailers inside of a message on stream {stream_id}")

    def _take_frame(self, frame: Frame) -> None:
        if not self._is_greeted and not isinstance(frame, SettingsFrame):
            self.faults.append("first sent no SETTINGS")
        self._is_greeted = True
        if self._block is not None and not isinstance(frame, ContinuationFrame):
            self.faults.append("a frame inside of a block of headers")
        match frame:
            case HeadersFrame() | ContinuationFrame():
                self._take_block(frame)
            case DataFrame():
                answer = self._open(frame.stream_id)
                if not answer.blocks:
                    self.faults.append("DATA before HEADERS")
                answer.body += frame.data
                answer.is_ended = "END_STREAM" in frame.flags
            case RstStreamFrame():
                answer = self.answers.setdefault(frame.stream_id, Answer())
                if answer.reset is not None:
                    self.faults.append("two resets of a stream")
                answer.reset = frame.error_code
            case GoAwayFrame():
                self.goaway = frame.error_code
            case PingFrame() if "ACK" in frame.flags:
                self.pongs.append(frame.opaque_data)

    def _open(self, stream_id: int) -> Answer:
        answer = self.answers.setdefault(stream_id, Answer())
        if answer.is_ended or answer.reset is not None:
            self.faults.append("spoke on after the end of a stream")
        return answer

    def _take_block(self, frame: HeadersFrame | ContinuationFrame) -> None:
        if isinstance(frame, HeadersFrame):
            self._block = (frame, bytearray())
        if self._block is None:
            self.faults.append("CONTINUATION of nothing")
            return
        head, data = self._block
        data += frame.data
        if "END_HEADERS" not in frame.flags:
            return
        self._block = None
        answer = self._open(head.stream_id)
        answer.blocks.append({str(name): str(value) for name, value in self._hpack.decode(bytes(data))})
        answer.is_ended = "END_STREAM" in head.flags
