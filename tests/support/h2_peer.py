"""A peer of the stream edge that says exactly what a test wants, by h2: another implementation than the edge's own.

It opens no window by itself, and keeps everything that came. `Pipe` joins it to a connection without a socket.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, Self

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import Frame, GoAwayFrame

from hubbub_server.edge.grpc_messages import MessageReader, prefixed
from tests.support.node import WITHIN_S
from tests.support.waiting import until

Header = tuple[str | bytes, str | bytes]
LARGE_WINDOW = 2**31 - 1
_MESSAGE_MAX_BYTES = 16 * 1024 * 1024


def grpc_headers(path: str, *more: Header, token: str | None = None) -> list[Header]:
    """Returns the headers of a call."""
    auth = [] if token is None else [("authorization", f"Bearer {token}")]
    return [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", path),
        (":authority", "edge"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
        *auth,
        *more,
    ]


def _hear_goaway(frame: GoAwayFrame) -> tuple[list[Frame], list[h2.events.Event]]:
    """Stands for what h2 does: it takes the connection for over, while streams of it go on."""
    event = h2.events.ConnectionTerminated()
    event.error_code, event.last_stream_id = frame.error_code, frame.last_stream_id
    event.additional_data = frame.additional_data
    return [], [event]


class H2Peer:
    """What a client of HTTP/2 has sent and heard. `heads`, `trailers` and `bodies` are by stream."""

    def __init__(self, *, window_bytes: int = LARGE_WINDOW, connection_window_bytes: int = LARGE_WINDOW) -> None:
        """The windows that the edge may use."""
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8", validate_outbound_headers=False)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True,
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window_bytes,
            },
        )
        self.h2._frame_dispatch_table[GoAwayFrame] = _hear_goaway
        self.h2.initiate_connection()
        if connection_window_bytes > 65_535:
            self.h2.increment_flow_control_window(connection_window_bytes - 65_535)
        self.heads: dict[int, dict[str, str]] = {}
        self.trailers: dict[int, dict[str, str]] = {}
        self.bodies: dict[int, bytearray] = defaultdict(bytearray)
        self.resets: dict[int, int] = {}
        self.events: list[h2.events.Event] = []
        self.goaways: list[tuple[int, int]] = []
        """Last stream and error code of each GOAWAY."""

    def take(self, data: bytes) -> None:
        """Takes bytes of the edge."""
        for event in self.h2.receive_data(data):
            self.events.append(event)
            match event:
                case h2.events.ResponseReceived():
                    self.heads[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]  # decoded
                    if event.stream_ended is not None:
                        self.trailers[event.stream_id] = self.heads[event.stream_id]
                case h2.events.TrailersReceived():
                    self.trailers[event.stream_id] = dict(event.headers)  # type: ignore[arg-type]  # decoded
                case h2.events.DataReceived():
                    self.bodies[event.stream_id] += event.data
                case h2.events.StreamReset():
                    self.resets[event.stream_id] = int(event.error_code)
                case h2.events.ConnectionTerminated():
                    self.goaways.append((event.last_stream_id or 0, int(event.error_code or 0)))

    @property
    def heard_pong(self) -> int:
        """How many answers to pings came."""
        return len(self.heard(h2.events.PingAckReceived))

    def call(self, headers: Iterable[Header], *messages: bytes, end_stream: bool = False) -> int:
        """Begins a call and returns its stream."""
        stream_id = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream_id, list(headers), end_stream=end_stream and not messages)
        for message in messages:
            self.h2.send_data(stream_id, prefixed(message))
        if end_stream and messages:
            self.h2.end_stream(stream_id)
        return stream_id

    def messages(self, stream_id: int) -> list[bytes]:
        """Returns the whole messages of a stream."""
        return MessageReader(_MESSAGE_MAX_BYTES).feed(bytes(self.bodies[stream_id]))

    def heard(self, kind: type[Any]) -> list[Any]:
        """Returns events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


class SocketPeer(H2Peer):
    """A peer on a socket. Use as `async with`."""

    def __init__(self, address: str, **windows: int) -> None:
        """Takes "host:port", and the windows of H2Peer."""
        super().__init__(**windows)
        self._address = address
        self._group = asyncio.TaskGroup()
        self.is_closed = False
        """Whether the edge has closed the connection."""

    async def __aenter__(self) -> Self:
        """Connects."""
        host, port = self._address.split(":")
        self._reader, self._writer = await asyncio.open_connection(host, int(port))
        await self._group.__aenter__()
        self._reading = self._group.create_task(self._read())
        self.flush()
        return self

    async def __aexit__(self, *error: Any) -> None:
        """Closes the socket."""
        self._reading.cancel()
        self._writer.transport.abort()
        await self._group.__aexit__(*error)

    async def _read(self) -> None:
        try:
            while data := await self._reader.read(65_536):
                self.take(data)
                self.flush()
        except ConnectionError:
            pass  # as good as closed
        self.is_closed = True

    def flush(self) -> None:
        """Writes what was said."""
        self._writer.write(self.h2.data_to_send())

    async def until(self, condition: Callable[[], bool]) -> None:
        """Writes what was said and waits until the edge has answered so."""
        self.flush()
        async with asyncio.timeout(WITHIN_S):
            await until(condition)


class Pipe(asyncio.Transport):
    """A transport that gives what is written to a peer, write by write, when it is told to `move`."""

    def __init__(self, protocol: asyncio.Protocol, peer: H2Peer) -> None:
        """Connects them."""
        super().__init__()
        self.protocol = protocol
        self.peer = peer
        self.writes: list[bytes] = []
        self.is_aborted = False
        self._is_closing = False
        self._is_reading = True
        self._given = 0
        protocol.connection_made(self)

    async def move(self, turns: int = 6) -> None:
        """Carries bytes both ways through some turns of the loop."""
        for _ in range(turns):
            if self._is_reading and (said := self.peer.h2.data_to_send()) and not self._is_closing:
                self.protocol.data_received(said)
            await asyncio.sleep(0)
            for data in self.writes[self._given :]:
                self.peer.take(data)
            self._given = len(self.writes)

    def write(self, data: "bytes | bytearray | memoryview[Any]") -> None:
        """See Transport."""
        assert not self._is_closing, "a write after the end"
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        """See Transport."""
        return self._is_closing

    def can_write_eof(self) -> bool:
        """See Transport: as under TLS, the end is one step."""
        return False

    def close(self) -> None:
        """See Transport."""
        if not self._is_closing:
            self._is_closing = True
            asyncio.get_running_loop().call_soon(self.protocol.connection_lost, None)

    def abort(self) -> None:
        """See Transport."""
        self.is_aborted = True
        self.close()

    def pause_reading(self) -> None:
        """See Transport."""
        self._is_reading = False

    def resume_reading(self) -> None:
        """See Transport."""
        self._is_reading = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """See Transport."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """See Transport."""
        return default
