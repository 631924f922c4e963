"""A hostile peer on a socket: writes whatever bytes it likes, keeps no rule of HTTP/2, answers nothing by itself."""

import asyncio
import socket
import struct
from collections.abc import Callable
from types import TracebackType
from typing import Self

from hpack import Encoder
from hyperframe.frame import Frame, GoAwayFrame, RstStreamFrame

from tests.support.h2_peer import Header, grpc_headers
from tests.support.node import WITHIN_S
from tests.support.waiting import until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 2, 3, 4, 6, 7, 8, 9
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
INITIAL_WINDOW_SIZE = 4
CANCEL = struct.pack(">I", 8)
_FRAME_HEAD_BYTES = 9
_PART_BYTES = 16 * 1024


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """Returns a frame, whether it is allowed or not."""
    return len(payload).to_bytes(3) + bytes([kind, flags]) + stream_id.to_bytes(4) + payload


def greeting(**initial_window: int) -> bytes:
    """Returns the preface and SETTINGS; `window_bytes` is that of streams."""
    settings = [struct.pack(">HI", INITIAL_WINDOW_SIZE, value) for value in initial_window.values()]
    return PREFACE + frame(SETTINGS, payload=b"".join(settings))


def header_block(path: str, *more: Header, token: str | None = None) -> bytes:
    """Returns the headers of a call, encoded without a table: the block is right on any stream."""
    encoder = Encoder()
    encoder.header_table_size = 0
    return encoder.encode(grpc_headers(path, *more, token=token))[1:]  # without the change of the table's size


def call(stream_id: int, block: bytes, *, flags: int = END_HEADERS) -> bytes:
    """Returns the frame that begins a call."""
    return frame(HEADERS, flags, stream_id, block)


class RawPeer:
    """Use as `async with`. With `reads=False` it takes nothing from its socket."""

    def __init__(self, address: str, *, reads: bool = True) -> None:
        """Takes "host:port"."""
        self._host, port = address.split(":")
        self._port = int(port)
        self._reads = reads
        self._group = asyncio.TaskGroup()
        self._heard = bytearray()
        self.frames: list[Frame] = []
        """What the edge has sent."""
        self.is_closed = False
        """Whether the edge has closed the connection."""

    async def __aenter__(self) -> Self:
        """Connects, and says nothing."""
        sock = socket.socket()
        sock.setblocking(False)
        if not self._reads:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
        await asyncio.get_running_loop().sock_connect(sock, (self._host, self._port))
        limit = 2**16 if self._reads else 1
        self._reader, self._writer = await asyncio.open_connection(sock=sock, limit=limit)
        await self._group.__aenter__()
        self._reading = self._group.create_task(self._read()) if self._reads else None
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the socket."""
        if self._reading is not None:
            self._reading.cancel()
        self._writer.transport.abort()
        await self._group.__aexit__(kind, error, trace)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self._heard += data
                self._parse()
        except ConnectionError:
            pass  # as good as closed
        self.is_closed = True

    def _parse(self) -> None:
        while len(self._heard) >= _FRAME_HEAD_BYTES:
            found, size = Frame.parse_frame_header(memoryview(bytes(self._heard[:_FRAME_HEAD_BYTES])))
            if len(self._heard) < _FRAME_HEAD_BYTES + size:
                return
            found.parse_body(memoryview(bytes(self._heard[_FRAME_HEAD_BYTES : _FRAME_HEAD_BYTES + size])))
            del self._heard[: _FRAME_HEAD_BYTES + size]
            self.frames.append(found)

    @property
    def goaways(self) -> list[int]:
        """The codes of the GOAWAYs that came."""
        return [each.error_code for each in self.frames if isinstance(each, GoAwayFrame)]

    @property
    def resets(self) -> dict[int, int]:
        """The codes of the streams that were reset."""
        return {each.stream_id: each.error_code for each in self.frames if isinstance(each, RstStreamFrame)}

    async def say(self, data: bytes) -> bool:
        """Writes bytes; False: the connection is closed, or takes no more for now."""
        try:
            self._writer.write(data)
            async with asyncio.timeout(0.5):
                await self._writer.drain()
        except (ConnectionError, TimeoutError):
            return False
        return not self._writer.is_closing()

    async def flood(self, frames: Callable[[int], bytes], *, most: int) -> None:
        """Writes frames 0, 1, … until the edge takes no more, or there were so many."""
        part = bytearray()
        for number in range(most):
            part += frames(number)
            if len(part) >= _PART_BYTES or number == most - 1:
                if self.is_closed or not await self.say(bytes(part)):
                    return
                part.clear()
                await asyncio.sleep(0)  # the edge runs in this loop too

    async def until(self, condition: Callable[[], bool]) -> None:
        """Waits until the edge has said so."""
        async with asyncio.timeout(WITHIN_S):
            await until(condition)

    async def until_closed(self) -> None:
        """Waits until the edge has closed the connection."""
        await self.until(lambda: self.is_closed)
