"""One connection of the stream edge: bytes of a socket to calls, and what calls send to as few writes as can be.

Theory of operation. Everything happens in callbacks of the loop. `data_received` gives the bytes to HTTP/2 and follows
its events; closed streams come first, so that nothing is begun for a call that is over already. Streams that have
something to send mark themselves; once in a turn of the loop `_flush` lets them hand over what they have, in the order
in which they were marked, and writes all of it at once. A stream whose window is closed is parked until the peer opens
a window; no other one waits for it. When the socket takes no more, nothing is handed over at all until it does, and
nothing is read either: what a peer says asks for answers, and they would pile up. A peer that takes nothing for long is
cut. A connection that ends in order says so and closes its own side; what still comes is read and thrown away until the
peer closes, too: closing with bytes unread would reset the socket, and the peer would lose the last words. Every bound
is in `limits.py`; time passes by `tick`, once a second.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, Final, Protocol, cast

import structlog

from hubbub_server.edge.frame_watch import FrameWatch
from hubbub_server.edge.grpc_messages import RESPONSE_HEADERS, Refusal, read_head, trailers_of
from hubbub_server.edge.http2 import (
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    Event,
    GoAwayReceived,
    Http2,
    PeerBreach,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from hubbub_server.edge.limits import Allowance, EdgeLimits
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.obs import metrics
from hubbub_server.rpc.call import Call, Proceed

_FILL_BYTES: Final = 256 * 1024
"""So much is handed over in one turn of the loop, and a little more; the next turn goes on."""
_WRITE_BYTES: Final = 1024 * 1024
_SOCKET_HIGH_BYTES: Final = 256 * 1024
_ANNOUNCED_S: Final = 1.0
_REFUSED_S: Final = 1.0
"""How long a client may go on after the answer to what was no call; mostly it ends by itself."""
# What a peer may say about what it reads: a window of the stream, one of the connection, a ping to measure the way.
_ANSWERS_A_STREAM: Final = 4
_ANSWERED_BYTES: Final = 4 * 1024

log = structlog.get_logger()


class Host(Protocol):
    """What a connection needs of the edge that it belongs to."""

    def serve(self, stream: EdgeStream, path: str) -> bool:
        """Starts the task of a call; False: there is no such method."""

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        """Starts the task of the end of a call that went on without one."""

    def admit(self, connection: "EdgeConnection") -> bool:
        """Counts a new connection; False: there are too many."""

    def forget(self, connection: "EdgeConnection") -> None:
        """The connection is over."""


class EdgeConnection(asyncio.Protocol):
    """A connection of a client, or of a proxy with many."""

    __slots__ = (
        "_began_s",
        "_calls",
        "_controls",
        "_ended",
        "_finished_at_s",
        "_handed",
        "_has_left",
        "_has_peer_left",
        "_heard_s",
        "_host",
        "_http2",
        "_idle_frames",
        "_is_greeted",
        "_is_quiet",
        "_is_scheduled",
        "_leaving_since_s",
        "_limits",
        "_loop",
        "_marked",
        "_needs_alpn",
        "_parked",
        "_paused_at_s",
        "_pinged_at_s",
        "_refused_at_s",
        "_streams",
        "_transport",
        "_unused_since_s",
        "_watch",
        "room_bytes",
    )

    def __init__(self, host: Host, limits: EdgeLimits, *, needs_alpn: bool) -> None:
        """`needs_alpn`: under TLS, only a peer that has chosen "h2" is served."""
        self._host = host
        self._limits = limits
        self._needs_alpn = needs_alpn
        self._loop = asyncio.get_running_loop()
        now_s = self._loop.time()
        self._http2 = Http2(limits)
        self._watch = FrameWatch()
        self._streams: dict[int, EdgeStream] = {}
        self._marked: dict[EdgeStream, None] = {}
        self._parked: dict[EdgeStream, None] = {}
        self._ended: dict[EdgeStream, None] = {}  # an empty set takes 216 bytes
        self._refused_at_s: dict[int, float] = {}
        self._is_quiet = True
        self._is_scheduled = False
        self.room_bytes = 0
        self._handed = 0
        self._transport: asyncio.Transport | None = None
        self._is_greeted = False
        self._paused_at_s: float | None = None
        self._began_s = self._heard_s = self._unused_since_s = now_s
        self._pinged_at_s: float | None = None
        self._leaving_since_s: float | None = None
        self._finished_at_s: float | None = None
        self._has_left = False
        self._has_peer_left = False
        self._calls = Allowance(limits.calls, now_s)
        self._controls = Allowance(limits.controls, now_s)
        self._idle_frames = Allowance(limits.idle_frames, now_s)

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def _open_transport(self) -> asyncio.Transport | None:
        """Returns the transport as long as anything may be said or heard."""
        transport = self._transport
        return None if transport is None or self._finished_at_s is not None or transport.is_closing() else transport

    # ---- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Greets, if there is room."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's have no base class
        transport.set_write_buffer_limits(high=_SOCKET_HIGH_BYTES)
        if not self._host.admit(self):
            self._cut("too many")
        elif self._needs_alpn and transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            self._cut("no h2")
        else:
            self.schedule()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends all calls."""
        self._transport = None
        self._host.forget(self)
        self._end_calls()

    def _end_calls(self) -> None:
        for stream in tuple(self._streams.values()):
            stream.take_gone()
        self._streams.clear()
        self._marked.clear()
        self._parked.clear()
        self._ended.clear()

    def pause_writing(self) -> None:
        """The peer does not take what we send; it is not listened to until it does."""
        self._paused_at_s = self._loop.time()
        self.room_bytes = 0
        self._pinged_at_s = None  # the answer would not be heard
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._paused_at_s = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.schedule()

    def eof_received(self) -> bool:
        """The peer sends no more: whatever it still wants, it cannot open a window for it."""
        return False

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the peer."""
        if self._open_transport() is None:
            return
        self._heard_s = self._loop.time()
        breach = self._watch.find_breach(data)
        try:
            events = self._http2.receive(data if breach is None else data[: max(0, breach.at)])
        except PeerBreach as error:
            self._cut("breach", error=str(error))
            return
        self._follow(events)
        if breach is not None:
            self._http2.terminate(breach.code)
            self._finish("breach")
        self.schedule()

    # ---- events of HTTP/2

    def _follow(self, events: list[Event]) -> None:
        closed = {event.stream_id for event in events if isinstance(event, StreamReset | StreamClosed)}
        for event in events:
            if closed and isinstance(event, RequestReceived) and event.stream_id in closed:
                continue
            taker = _TAKERS.get(type(event))
            if taker is not None:
                taker(self, event)

    def _take_request(self, event: RequestReceived) -> None:
        self._count(self._calls, "calls")
        if self._open_transport() is None:
            return
        try:
            head = read_head(event.headers, metadata_max_bytes=self._limits.metadata_max_bytes)
        except Refusal as refusal:
            self._refuse(event, refusal)
            return
        stream = EdgeStream(self, self._http2, event.stream_id, head, self._limits)
        self._streams[event.stream_id] = stream
        if event.end_stream:
            stream.take_end()
        if not self._host.serve(stream, head.path):
            stream.fail_unknown()

    def _refuse(self, event: RequestReceived, refusal: Refusal) -> None:
        """Answers what is no call: with a body for people, or with a status of gRPC."""
        if refusal.http_status != 200:
            head = [(b":status", str(refusal.http_status).encode()), (b"content-type", b"text/plain")]
            self._http2.send_headers(event.stream_id, head)
            self._http2.send_body(event.stream_id, refusal.text.encode() + b"\n")
            self._http2.end_body(event.stream_id)
        else:
            answer = [*RESPONSE_HEADERS, *refusal.headers, *trailers_of(refusal.code, refusal.text)]
            self._http2.send_headers(event.stream_id, answer, end_stream=True)
        if not event.end_stream:
            self._refused_at_s[event.stream_id] = self._heard_s

    def _take_data(self, event: DataReceived) -> None:
        stream = self._streams.get(event.stream_id)
        if not event.data and not event.end_stream:
            self._count(self._idle_frames, "idle frames")
        if stream is None:
            self._http2.consume(event.stream_id, len(event.data))
            return
        stream.take_data(event.data)
        if event.end_stream:
            stream.take_end()

    def _take_trailers(self, event: TrailersReceived) -> None:
        if (stream := self._streams.get(event.stream_id)) is not None:
            stream.take_end()

    def _take_closed(self, event: StreamClosed | StreamReset) -> None:
        stream = self._streams.pop(event.stream_id, None)
        if stream is None:
            self._refused_at_s.pop(event.stream_id, None)
            return
        self._marked.pop(stream, None)
        self._parked.pop(stream, None)
        self._ended.pop(stream, None)
        stream.take_gone()
        if not self._streams:
            self._unused_since_s = self._loop.time()
            self._finish_if_left()

    def _take_window(self, event: WindowUpdated) -> None:
        self._count(self._idle_frames, "idle frames")
        if event.stream_id == 0:
            self._mark_parked()
        elif (stream := self._streams.get(event.stream_id)) in self._parked and stream is not None:
            del self._parked[stream]
            self._marked[stream] = None

    def _take_settings(self, event: SettingsReceived) -> None:
        """Another initial window changes the windows of all streams."""
        self._is_greeted = True
        self._count(self._controls, "controls")
        for stream in self._streams.values():
            stream.take_other_window()
        self._mark_parked()

    def _mark_parked(self) -> None:
        self._marked |= self._parked
        self._parked.clear()

    def _take_ping(self, event: PingReceived) -> None:
        """As in gRPC, a ping after something was sent is no strike: so clients measure the bandwidth."""
        allowance = self._controls if self._is_quiet else self._idle_frames
        self._is_quiet = True
        self._count(allowance, "controls", text=b"too_many_pings")  # the text makes gRPC's clients slow down

    def _take_pong(self, event: PingAcknowledged) -> None:
        if self._pinged_at_s is None and self._leaving_since_s is None:
            self._count(self._controls, "controls")
        self._pinged_at_s = None
        if self._leaving_since_s is not None:
            self._leave()

    def _take_goaway(self, event: GoAwayReceived) -> None:
        """The peer opens no more streams; those that run go on, and the connection ends with the last of them."""
        self._count(self._controls, "controls")
        self._has_peer_left = True
        self._finish_if_left()

    def _take_connection_closed(self, event: ConnectionClosed) -> None:
        self._finish("closed")

    def _count(self, allowance: Allowance, reason: str, *, text: bytes = b"") -> None:
        if self._open_transport() is not None and not allowance.takes(1, self._heard_s):
            self._http2.terminate(ErrorCode.ENHANCE_YOUR_CALM, text=text)
            self._finish(reason)

    # ---- writing

    def handed(self, size_bytes: int) -> None:
        """See Carrier."""
        self.room_bytes -= size_bytes
        self._handed += 1
        if not self._is_scheduled:
            self.schedule()

    def mark(self, stream: EdgeStream) -> None:
        """See Carrier."""
        self._marked[stream] = None
        if not self._is_scheduled:
            self.schedule()

    def stream_ended(self, stream: EdgeStream) -> None:
        """See Carrier."""
        self._ended[stream] = None
        self.schedule()

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        """See Carrier."""
        self._host.finish(stream, call, behave)

    def schedule(self) -> None:
        """See Carrier."""
        if not self._is_scheduled:
            self._is_scheduled = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        transport = self._open_transport()
        if transport is None:
            self._marked.clear()  # calls mark their streams once more when they end
            return
        if self._paused_at_s is not None:
            return
        try:
            filled = self._fill()
            served, self._handed = len(filled) + self._handed, 0
            self._is_quiet = self._is_quiet and not served
            output = self._http2.output(_WRITE_BYTES)
            is_all_written = len(output) < _WRITE_BYTES
            self.room_bytes = _FILL_BYTES if is_all_written else 0
            if output:
                transport.write(output)
                metrics.edge_writes.inc()
                self._idle_frames.gives(_ANSWERS_A_STREAM * served + len(output) // _ANSWERED_BYTES)
            if events := self._http2.events():
                self._follow(events)
                if self._open_transport() is None:
                    return
            self._sort(filled, is_all_written=is_all_written)
            if self._close_ended() or self._marked or not is_all_written:
                self.schedule()
        except PeerBreach as error:
            self._cut("breach", error=str(error))
        except Exception:
            log.exception("connection failed", streams=len(self._streams))
            self._cut("failed")

    def _fill(self) -> list[EdgeStream]:
        """Lets streams hand over what they have, as far as one turn of the loop goes."""
        filled = []
        handed_bytes = 0
        marked, self._marked = self._marked, {}
        for stream in marked:
            filled.append(stream)
            handed_bytes += stream.fill()
            if handed_bytes >= _FILL_BYTES:
                for each in filled:
                    del marked[each]
                self._marked = marked | self._marked
                break
        return filled

    def _sort(self, filled: list[EdgeStream], *, is_all_written: bool) -> None:
        """Says what becomes of streams that were filled: until all is written, waiting for a window may be no more."""
        for stream in filled:
            if not (stream.is_blocked or stream.has_more) or stream.stream_id not in self._streams:
                continue
            if stream.is_blocked and is_all_written and stream.waits_for_client():
                self._parked[stream] = None
            else:
                self._marked[stream] = None

    def _close_ended(self) -> bool:
        """Resets streams that are over for us and open for their clients; True: there is something to write."""
        if not self._ended:
            return False
        done = [stream for stream in self._ended if stream.is_sent()]
        for stream in done:
            del self._ended[stream]
            if not stream.is_peer_done:
                self._http2.reset(stream.stream_id, ErrorCode.NO_ERROR)
        return bool(done)

    # ---- ends

    def leave(self) -> None:
        """Begins to leave: the peer hears it, opens no more streams, and the connection ends with the last of them."""
        if self._leaving_since_s is None and self._transport is not None:
            self._leaving_since_s = self._loop.time()
            self._http2.announce_leaving()
            self._http2.ping()  # its answer comes after whatever the peer sent before it heard
            self.schedule()

    def _leave(self) -> None:
        if not self._has_left:
            self._has_left = True
            self._http2.leave()
            self.schedule()
            self._finish_if_left()

    def _finish_if_left(self) -> None:
        if (self._has_left or self._has_peer_left) and not self._streams:
            self._finish("left")

    def cut(self) -> None:
        """Ends the connection at once."""
        self._cut("stopped")

    def _finish(self, reason: str) -> None:
        """Ends the connection when what is to be said is written, and the peer has closed its side."""
        transport = self._open_transport()
        if transport is None:
            return
        with suppress(PeerBreach):  # then there is nothing that could be said
            transport.write(self._http2.output(_WRITE_BYTES))
        metrics.edge_ended_connections.labels(reason=reason).inc()
        self._finished_at_s = self._loop.time()
        self._end_calls()
        try:
            is_half_closed = transport.can_write_eof()
            if is_half_closed:
                transport.write_eof()
        except OSError:  # the peer is gone
            is_half_closed = False
        if not is_half_closed:  # TLS closes in order by itself
            transport.close()

    def _cut(self, reason: str, *, error: str = "") -> None:
        if self._transport is None:
            return
        metrics.edge_ended_connections.labels(reason=reason).inc()
        log.info("connection cut", reason=reason, error=error, streams=len(self._streams))
        self._transport.abort()

    def tick(self, now_s: float) -> None:
        """Lets time pass."""
        limits = self._limits
        if self._transport is None:
            return
        if self._finished_at_s is not None:
            if now_s - self._finished_at_s > limits.finish_within_s:
                self._cut("closing")
        elif not self._is_greeted and now_s - self._began_s > limits.preface_within_s:
            self._cut("no preface")
        elif self._paused_at_s is not None and now_s - self._paused_at_s > limits.blocked_s:
            self._cut("blocked")
        elif self._pinged_at_s is not None and now_s - self._pinged_at_s > limits.pong_within_s:
            self._cut("dead")
        elif not self._streams and now_s - self._unused_since_s > limits.unused_s:
            self._http2.terminate(ErrorCode.NO_ERROR)
            self._finish("unused")
        else:
            self._tick_open(now_s)

    def _tick_open(self, now_s: float) -> None:
        is_asked = self._pinged_at_s is not None or self._paused_at_s is not None
        if not is_asked and now_s - self._heard_s > self._limits.ping_after_s:
            self._pinged_at_s = now_s
            self._http2.ping()
        if self._leaving_since_s is not None and now_s - self._leaving_since_s > _ANNOUNCED_S:
            self._leave()
        for stream in tuple(self._streams.values()):
            stream.tick(now_s)
        for stream_id, refused_at_s in tuple(self._refused_at_s.items()):
            if now_s - refused_at_s > _REFUSED_S:
                del self._refused_at_s[stream_id]
                self._http2.reset(stream_id, ErrorCode.NO_ERROR)
        self.schedule()


_TAKERS: Final[Mapping[type[Event], Callable[[EdgeConnection, Any], None]]] = {
    RequestReceived: EdgeConnection._take_request,
    DataReceived: EdgeConnection._take_data,
    TrailersReceived: EdgeConnection._take_trailers,
    StreamClosed: EdgeConnection._take_closed,
    StreamReset: EdgeConnection._take_closed,
    WindowUpdated: EdgeConnection._take_window,
    SettingsReceived: EdgeConnection._take_settings,
    PingReceived: EdgeConnection._take_ping,
    PingAcknowledged: EdgeConnection._take_pong,
    GoAwayReceived: EdgeConnection._take_goaway,
    ConnectionClosed: EdgeConnection._take_connection_closed,
}
