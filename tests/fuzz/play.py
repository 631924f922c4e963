"""Plays bytes to one connection of the edge, and looks whether everything is as it must be afterwards."""

import asyncio
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import hpack
from hyperframe.frame import DataFrame, GoAwayFrame, HeadersFrame, PingFrame, RstStreamFrame, WindowUpdateFrame

from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.limits import EdgeLimits
from tests.fuzz.conversations import PREFACE
from tests.fuzz.house import ECHO, MUCH_BYTES, House
from tests.fuzz.transcript import Transcript

WITNESS: Final = 2**21 + 1
"""The stream of a call that must be served whatever went on before it, if the connection lives."""
_PING: Final = b"a witnes"
_FLOW_CONTROL_ERROR: Final = 3
_LARGE_WINDOW: Final = 2**22
_SENT_MAX_BYTES: Final = 64 * 1024 + MUCH_BYTES + 5
_SLACK_BYTES: Final = 64 * 1024


class Wire(asyncio.Transport):
    """A transport without a socket. A write after the end is a fault."""

    def __init__(self, faults: list[str], transcript: Transcript, *, can_half_close: bool) -> None:
        """`can_half_close`: as TCP; else as TLS."""
        super().__init__()
        self.is_half_closed = False
        self._is_reading = True
        self.protocol: EdgeConnection
        self._faults = faults
        self._transcript = transcript
        self._can_half_close = can_half_close
        self._is_closing = False

    def is_over(self) -> bool:
        """The edge has ended the connection."""
        return self._is_closing or self.is_half_closed

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """See Transport."""
        if self.is_over():
            self._faults.append("wrote after the end")
        self._transcript.take(bytes(data))

    def can_write_eof(self) -> bool:
        """See Transport."""
        return self._can_half_close

    def write_eof(self) -> None:
        """See Transport."""
        self.is_half_closed = True

    def is_closing(self) -> bool:
        """See Transport."""
        return self._is_closing

    def close(self) -> None:
        """See Transport."""
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        """See Transport."""
        self.close()

    def pause_reading(self) -> None:
        """See Transport."""
        self._is_reading = False

    def is_reading(self) -> bool:
        """See Transport."""
        return self._is_reading

    def resume_reading(self) -> None:
        """See Transport."""
        self._is_reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See Transport."""


@dataclass(frozen=True)
class Outcome:
    """How it ended: the connection, and the calls that their peer did not reset, by stream: status, reset and body.

    Only calls of Echo and Much have a body: two sessions never say the same.
    """

    is_over: bool
    goaway: int | None
    has_left: bool
    """The peer has said GOAWAY."""
    calls: Mapping[int, tuple[str | None, int | None, bytes]]

    def tell_apart(self, other: "Outcome") -> str:
        """Says what is not the same in another outcome, though the same was said.

        Of a connection that is over, calls got as far as they got; of two reasons to end it either may be the first.
        Who sends more than its window takes is found out unless the window was opened between two reads. Who leaves,
        and opens streams all the same, is let go once it has none: a call that is reset in the same read never was one.
        """
        if _FLOW_CONTROL_ERROR in (self.goaway, other.goaway) or self.has_left:
            return ""
        if self.is_over != other.is_over:
            return f"it is over in one case only: {self.goaway} {other.goaway}"
        if self.is_over or self.calls == other.calls:
            return ""
        return "".join(
            f"stream {stream_id}: {self.calls.get(stream_id)} {other.calls.get(stream_id)}"[:500]
            for stream_id in {*self.calls, *other.calls}
            if self.calls.get(stream_id) != other.calls.get(stream_id)
        )


class Play:
    """One connection from its begin to its end."""

    def __init__(self, house: House, limits: EdgeLimits, *, can_half_close: bool) -> None:
        """Connects."""
        house.begin()
        self._house = house
        self._limits = limits
        self._transcript = Transcript()
        self._wire = Wire(house.faults, self._transcript, can_half_close=can_half_close)
        self._connection = self._wire.protocol = EdgeConnection(house, limits, needs_alpn=False)
        self._connection.connection_made(self._wire)
        self._heard = bytearray()

    async def hear(self, reads: Sequence[bytes], torment: "Torment | None" = None) -> None:
        """Gives it bytes, read by read; a torment lets the loop turn between them, and does more than that."""
        for data in reads:
            if self._house.faults:
                return
            if torment is not None:
                await torment.strike(self._connection, self._wire)
            self._say(data)
            self._look_at_memory()
            if torment is not None:
                await self._house.settle()
        await self._house.settle()
        self._look_at_memory()

    def _say(self, data: bytes) -> None:
        if not self._wire.is_reading():
            self._connection.resume_writing()
        if not self._wire.is_closing():
            self._heard += data
            self._connection.data_received(data)

    async def witness(self) -> None:
        """Asks whether the connection still serves, if what was said so far is whole frames."""
        if self._connection._paused_at_s is not None:
            self._connection.resume_writing()
            await self._house.settle()
        if self._wire.is_over() or self._transcript.goaway is not None or not _are_whole(self._heard):
            return
        full = len(self._connection) >= self._limits.max_streams
        for piece in _call_of_witness():
            self._say(piece)
        await self._house.settle()
        answer = self._transcript.answers.get(WITNESS)
        is_served = answer is not None and answer.status == "0" and answer.messages() == [b"alive"]
        if not (self._wire.is_over() or full or (is_served and _PING in self._transcript.pongs)):
            self._house.faults.append(f"another stream was not served: {answer}")
        await self._open_windows()

    async def _open_windows(self) -> None:
        """Lets all streams speak: an Echo whose client has ended has nothing to wait for any more."""
        if self._wire.is_over():
            return
        streams = {0: self._connection._http2._connection.remote_window_size}
        streams |= {
            stream_id: self._connection._http2.window_bytes(stream_id) for stream_id in self._connection._streams
        }
        for stream_id, window_bytes in streams.items():
            if window_bytes < 2**30:
                self._say(WindowUpdateFrame(stream_id, window_increment=_LARGE_WINDOW).serialize())
        await self._house.settle()
        if self._wire.is_over() or self._connection._http2._connection.remote_window_size <= 0:
            return
        for stream in self._connection._streams.values():
            if stream.is_peer_done and self._house.own.get(stream.stream_id) == ECHO:
                self._house.faults.append(f"stream {stream.stream_id} waits for nothing")

    async def end(self) -> Outcome:
        """Loses the connection; nothing may be left of it."""
        is_over, goaway = self._wire.is_over(), self._transcript.goaway
        if not self._wire.is_closing():
            self._connection.eof_received()
            self._wire.close()
        await self._house.settle()
        self._house.look_for_leftovers()
        connection = self._connection
        kept = {
            "open": len(connection._streams),
            "marked": len(connection._marked),
            "parked": len(connection._parked),
            "ended": len(connection._ended),
        }
        self._house.faults += [f"the connection keeps {count} {name} streams" for name, count in kept.items() if count]
        self._transcript.finish()
        self._house.faults += self._transcript.faults
        has_left = any(kind == GoAwayFrame.type for kind, _ in self._said())
        return Outcome(is_over, goaway, has_left, self._calls())

    def _said(self) -> list[tuple[int, int]]:
        return _frames(self._heard)[0]

    def _calls(self) -> Mapping[int, tuple[str | None, int | None, bytes]]:
        reset = {stream_id for kind, stream_id in self._said() if kind == RstStreamFrame.type}
        return {
            stream_id: (answer.status, answer.reset, bytes(answer.body) if stream_id in self._house.own else b"")
            for stream_id, answer in self._transcript.answers.items()
            if stream_id not in reset
        }

    def _look_at_memory(self) -> None:
        faults, limits = self._house.faults, self._limits
        if len(self._connection) > limits.max_streams:
            faults.append(f"{len(self._connection)} streams")
        for stream in self._connection._streams.values():
            unread = len(stream._reader._buffer) + sum(map(len, stream._inbox))
            if unread > limits.message_max_bytes + limits.window_bytes + _SLACK_BYTES:
                faults.append(f"{unread} bytes wait to be read")
            unsent = self._connection._http2.queued_bytes(stream.stream_id) + sum(map(len, stream._unsent))
            if unsent > _SENT_MAX_BYTES + _SLACK_BYTES:
                faults.append(f"{unsent} bytes wait to be sent")


class Torment:
    """What else may happen to a connection: time, a full socket, a node that leaves, a line that breaks."""

    def __init__(self, chance: random.Random) -> None:
        """The chance decides what, and when."""
        self._chance = chance
        self._often = chance.choice((0.0, 0.0, 0.05, 0.3))

    async def strike(self, connection: EdgeConnection, wire: Wire) -> None:
        """Does one thing now and then."""
        chance = self._chance
        if chance.random() >= self._often or wire.is_closing():
            return
        match chance.randrange(6):
            case 0:
                connection.pause_writing()
            case 1:
                connection.resume_writing()
            case 2:
                await asyncio.sleep(chance.choice((0.001, 0.5, 2.0)))
            case 3:
                now_s = asyncio.get_running_loop().time()
                connection.tick(now_s + chance.choice((0.0, 1.5, 6.0, 11.0, 31.0, 61.0, 100.0, 1_000.0)))
            case 4 if chance.random() < 0.3:
                connection.leave()
            case 5 if chance.random() < 0.1:
                wire.abort()


def _call_of_witness() -> list[bytes]:
    fields = [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", ECHO),
        (":authority", "edge"),
        ("content-type", "application/grpc"),
    ]
    block = hpack.Encoder().encode([hpack.NeverIndexedHeaderTuple(*each) for each in fields])
    frames = (
        PingFrame(0, _PING),
        HeadersFrame(WITNESS, block, flags=["END_HEADERS"]),
        WindowUpdateFrame(0, window_increment=2**20),
        WindowUpdateFrame(WITNESS, window_increment=2**16),
        DataFrame(WITNESS, prefixed(b"alive"), flags=["END_STREAM"]),
    )
    return [frame.serialize() for frame in frames]


def _frames(data: bytes | bytearray) -> tuple[list[tuple[int, int]], int]:
    """Returns type and stream of each frame behind the preface, and where the last one ends."""
    frames, at = [], len(PREFACE)
    while at + 9 <= len(data):
        frames.append((data[at + 3], int.from_bytes(data[at + 5 : at + 9]) & 0x7FFFFFFF))
        at += 9 + int.from_bytes(data[at : at + 3])
    return frames, at


def _are_whole(data: bytes | bytearray) -> bool:
    return _frames(data)[1] == len(data)
