"""gRPC over HTTP/2 without grpcio, for clients that must cost less than what they measure: ngh2 under asyncio.

Trusts the server: windows are large and open by themselves, nothing is bounded. For benchmarks only.
"""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, cast

from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    ResponseReceived,
    Role,
    Setting,
    StreamClosed,
    StreamReset,
    TrailersReceived,
)

_STREAM_WINDOW_BYTES: Final = 1 << 20
_CONNECTION_WINDOW_BYTES: Final = 1 << 24
_PREFIX_BYTES: Final = 5
_HEAD: Final = (
    (b":method", b"POST"),
    (b":scheme", b"http"),
    (b":authority", b"bench"),
    (b"content-type", b"application/grpc"),
    (b"te", b"trailers"),
)

Metadata = Iterable[tuple[str, str]]


class CallFailed(Exception):
    """A call ended otherwise than with OK."""


class GrpcCall:
    """One call: gives whole messages to a callback as they come; `end` is empty until it is over."""

    __slots__ = ("_buffer", "_on_end", "_on_messages", "end", "stream_id")

    def __init__(
        self, stream_id: int, on_messages: Callable[[bytes], None], on_end: Callable[[], None] | None = None
    ) -> None:
        """`on_messages` gets bytes that hold one or more whole messages with their prefixes."""
        self.stream_id = stream_id
        self.end = ""
        self._buffer = b""
        self._on_messages = on_messages
        self._on_end = on_end

    def take(self, data: bytes) -> None:
        """Takes bytes of the body, however they were cut."""
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        whole = 0
        while len(data) - whole >= _PREFIX_BYTES:
            end = whole + _PREFIX_BYTES + int.from_bytes(data[whole + 1 : whole + _PREFIX_BYTES])
            if end > len(data):
                break
            whole = end
        if whole == len(data):
            self._on_messages(data)
            return
        self._buffer = data[whole:]
        if whole:
            self._on_messages(data[:whole])

    def finish(self, end: str) -> None:
        """The call is over; the first end counts."""
        if not self.end:
            self.end = end
            if self._on_end is not None:
                self._on_end()


class GrpcConnection(asyncio.Protocol):
    """One connection with any number of calls; what one turn of the loop sends leaves in one write."""

    def __init__(self) -> None:
        """Made by `open`."""
        self._http2 = Connection(Role.CLIENT, Configuration(auto_window_update=True))
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, GrpcCall] = {}
        self._is_scheduled = False
        self._transport: asyncio.Transport | None = None

    @classmethod
    async def open(cls, port: int, host: str = "127.0.0.1") -> "GrpcConnection":
        """Connects."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, host, port)
        return connection

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast("asyncio.Transport", transport)
        self._http2.initiate_connection(
            {Setting.INITIAL_WINDOW_SIZE: _STREAM_WINDOW_BYTES, Setting.ENABLE_PUSH: 0}  # one dict for all of them
        )
        self._http2.set_local_window_size(_CONNECTION_WINDOW_BYTES)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol."""
        self._transport = None
        for call in tuple(self._calls.values()):
            call.finish("connection lost")
        self._calls.clear()

    def data_received(self, data: bytes) -> None:
        """See asyncio.Protocol."""
        if self._transport is None or self._transport.is_closing():
            return
        self._http2.receive_data(data)
        calls = self._calls
        for event in self._http2.events():
            if type(event) is DataReceived:
                if (call := calls.get(event.stream_id)) is not None and event.data:
                    call.take(event.data)
            else:
                self._follow(event)
        self._flush()

    def _follow(self, event: Any) -> None:
        match event:
            case (
                ResponseReceived(stream_id=stream_id, headers=headers)
                | TrailersReceived(stream_id=stream_id, headers=headers)
            ):
                fields = {bytes(name): bytes(value) for name, value in headers}
                status = fields.get(b"grpc-status")
                if status is not None and stream_id in self._calls:
                    text = fields.get(b"grpc-message", b"").decode("latin-1")
                    self._calls[stream_id].finish("OK" if status == b"0" else f"{status.decode()} {text}")
            case StreamReset(stream_id=stream_id) | StreamClosed(stream_id=stream_id):
                if (call := self._calls.pop(stream_id, None)) is not None:
                    call.finish("reset")
            case ConnectionClosed() if self._transport is not None:
                self._transport.close()

    def start(
        self,
        path: str,
        metadata: Metadata,
        on_messages: Callable[[bytes], None],
        on_end: Callable[[], None] | None = None,
    ) -> GrpcCall:
        """Opens a call."""
        fields = [*_HEAD, (b":path", path.encode()), *((name.encode(), value.encode()) for name, value in metadata)]
        fields.sort(key=lambda field: not field[0].startswith(b":"))
        call = GrpcCall(self._http2.send_request(fields), on_messages, on_end)
        self._calls[call.stream_id] = call
        self._schedule()
        return call

    def send(self, call: GrpcCall, message: bytes, *, is_last: bool = False) -> None:
        """Sends a message."""
        self._http2.send_data(call.stream_id, prefixed(message), end_stream=is_last)
        self._schedule()

    async def ask(self, path: str, metadata: Metadata, message: bytes) -> bytes:
        """Makes a unary call. Raises CallFailed."""
        done: asyncio.Future[None] = self._loop.create_future()
        answers: list[bytes] = []
        call = self.start(path, metadata, answers.append, lambda: None if done.done() else done.set_result(None))
        self.send(call, message, is_last=True)
        await done
        if call.end != "OK":
            raise CallFailed(call.end)
        return b"".join(answers)[_PREFIX_BYTES:]

    def close(self) -> None:
        """Ends the connection and its calls."""
        if self._transport is not None:
            self._transport.close()

    def _schedule(self) -> None:
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        if self._transport is not None and (output := self._http2.data_to_send()):
            self._transport.write(output)


def prefixed(message: bytes) -> bytes:
    """Returns a message with its length before it."""
    return b"\0" + len(message).to_bytes(4) + message


def split(data: bytes) -> list[bytes]:
    """Returns the messages of bytes that `GrpcCall` gave."""
    messages = []
    start = 0
    while start < len(data):
        end = start + _PREFIX_BYTES + int.from_bytes(data[start + 1 : start + _PREFIX_BYTES])
        messages.append(data[start + _PREFIX_BYTES : end])
        start = end
    return messages
