"""One call on the stream edge: the context that layers and servicers see, over one stream of HTTP/2.

Theory of operation. The connection tells what came (`take_data`, `take_end`, `take_gone`), all in one thread and
without awaits. A task of its own serves the call. When that is a live stream, the task is over as soon as it runs,
since a task that waits inside of all layers takes more memory than everything else here; a second one serves its end.
Between them, frames of the client go to the LiveStream where they arrive, and when that has something to send, the
stream is marked and the connection asks it to `fill` before it writes. Events that nothing waits before are handed over
in their delivery, without that detour.
What is handed to HTTP/2 is bounded by a credit, which is renewed only when nothing of this stream waits there, so that
a client which does not read fills the bounded queue of its session and nothing else.
How a call ends: `_status` is set once (the first one counts), then come the trailers behind everything that was handed
over; if the client has not closed its side by then, a reset without error tells it to stop sending.

A message is begun when the client's window takes all of it. So a client that stopped reading, and is given up, can
still be told why: trailers need no window (RFC 9113 6.9), but between the bytes of a message gRPC has no place for
them, and then only a reset is left. A message that is larger than a quarter of the window is begun in any: clients
open their window again when half of it is used, and would not do so for one that waits for more.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from functools import lru_cache, partial
from typing import Any, Final, NoReturn, Protocol

import grpc
import grpc.aio
import structlog

from hubbub_server.app.frames import Events
from hubbub_server.domain.errors import HubbubError, ProtocolBreach
from hubbub_server.edge.grpc_messages import (
    RESPONSE_HEADERS,
    BadMessages,
    MessageReader,
    RequestHead,
    prefixed,
    trailers_of,
)
from hubbub_server.edge.http2 import ErrorCode, Http2
from hubbub_server.edge.limits import EdgeLimits
from hubbub_server.rpc.call import Call, Proceed
from hubbub_server.rpc.pumped import PumpedStream, ReadFrame
from hubbub_server.rpc.stream_pump import raise_end_error
from hubbub_server.wire.frames import encode_frame, encode_messages, read_connect_request

_CREDIT_BYTES: Final = 64 * 1024
"""So much of a stream waits in HTTP/2 at most, or one message if that is larger."""
_AROUND_BYTES: Final = 64
"""More than what is around the frames of a message."""
_WHOLE_PART: Final = 4
"""A message of so small a part of the window waits until all of it may be sent."""
_NO_METADATA: Final[Mapping[str, str]] = {}

# A record goes to many streams one after the other: what is sent of it is made once.
_prefixed_record = lru_cache(maxsize=16)(lambda body: prefixed(encode_frame(body)))

log = structlog.get_logger()

Serve = Callable[["EdgeStream"], Awaitable[None]]
_Status = tuple[grpc.StatusCode, str, tuple[tuple[str, str | bytes], ...]]


class Carrier(Protocol):
    """What a stream needs of its connection."""

    room_bytes: int
    """So much may be handed over before the next write."""

    def handed(self, size_bytes: int) -> None:
        """A stream has handed over so much of the room."""

    def mark(self, stream: "EdgeStream") -> None:
        """The stream may have something to send."""

    def stream_ended(self, stream: "EdgeStream") -> None:
        """The stream's trailers are handed over; its client may not have closed its side yet."""

    def schedule(self) -> None:
        """Writes when this turn of the loop is over."""

    def finish(self, stream: "EdgeStream", call: Call, behave: Proceed) -> None:
        """Starts the task that serves the end of a call that went on without one."""


class EdgeStream:
    """Implements CallContext and Pump."""

    __slots__ = (
        "_call",
        "_changed",
        "_connection",
        "_credit_bytes",
        "_deadline_s",
        "_has_headers",
        "_http2",
        "_inbox",
        "_is_behind",
        "_is_gone",
        "_limits",
        "_live",
        "_loop",
        "_message_began_s",
        "_metadata",
        "_path",
        "_read",
        "_reader",
        "_status",
        "_takes_frames",
        "_task",
        "_timer",
        "_unread_bytes",
        "_unsent",
        "_written_at_s",
        "ended_at_s",
        "has_more",
        "is_blocked",
        "is_peer_done",
        "stream_id",
    )

    def __init__(
        self, connection: Carrier, http2: Http2, stream_id: int, head: RequestHead, limits: EdgeLimits
    ) -> None:
        """Made by the connection when the headers have come."""
        self.stream_id = stream_id
        self.is_peer_done = False
        self.is_blocked = False
        self.has_more = False
        self._is_behind = False
        self.ended_at_s: float | None = None
        """When the trailers were handed over, on the loop's clock."""
        self._connection = connection
        self._http2 = http2
        self._path = head.path
        self._metadata = head.metadata
        self._limits = limits
        self._loop = asyncio.get_running_loop()
        self._reader = MessageReader(limits.message_max_bytes)
        self._message_began_s: float | None = None
        self._written_at_s: float | None = None
        self._inbox: list[bytes] = []
        self._unread_bytes = 0
        self._call: Call | None = None
        self._live: PumpedStream | None = None
        self._read: ReadFrame = read_connect_request
        self._takes_frames = False
        self._unsent: list[bytes] = []
        self._credit_bytes = 0
        self._changed: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None
        self._is_gone = False
        self._has_headers = False
        self._status: _Status | None = None
        self._deadline_s = None if head.timeout_s is None else self._loop.time() + head.timeout_s
        self._timer = None if head.timeout_s is None else self._loop.call_later(head.timeout_s, self._pass_deadline)

    # ---- from the connection

    async def serve(self, behaviour: Serve, *, is_rest: bool = False) -> None:
        """Serves the call to its end, or until it goes on without a task; `is_rest`: from there to the end.

        Never raises, but for a cancellation that is not the call's own.
        """
        self._task = asyncio.current_task()
        try:
            if is_rest or not (self._is_gone or self._status is not None):
                await behaviour(self)
            status: _Status = (grpc.StatusCode.OK, "", ())
        except grpc.aio.AbortError:
            status = (grpc.StatusCode.INTERNAL, "internal error", ())  # only when it was not raised by `abort`
        except asyncio.CancelledError:
            status = (grpc.StatusCode.UNAVAILABLE, "this node is leaving", ())
            if not self._is_gone and self._status is None:
                self._end(status)
                raise
        except Exception:
            log.exception("call failed outside of its layers", rpc=self._path)
            status = (grpc.StatusCode.INTERNAL, "internal error", ())
        self._task = None
        if self._live is None:
            self._end(status)

    def take_data(self, data: bytes) -> None:
        """Takes body bytes of the client."""
        self._unread_bytes += len(data)
        if self._is_gone or self._status is not None:
            self._open_window()
            return
        try:
            messages = self._reader.feed(data)
        except BadMessages as error:
            self.fail(error.code, str(error))
            self._open_window()
            return
        if not self._reader.is_inside:
            self._message_began_s = None
        elif messages or self._message_began_s is None:
            self._message_began_s = self._loop.time()
        self._inbox.extend(messages)
        if self._live is not None and self._call is not None and self._takes_frames:
            self._take_frames(self._call, self._live)
        if not self._inbox:
            self._open_window()
        self._note_change()

    def _open_window(self) -> None:
        if self._unread_bytes:
            self._http2.consume(self.stream_id, self._unread_bytes)
            self._unread_bytes = 0

    def take_end(self) -> None:
        """The client has closed its side."""
        self.is_peer_done = True
        if self._reader.is_inside:
            self.fail(grpc.StatusCode.INTERNAL, "the last message is incomplete")
        elif self._live is not None and self._takes_frames:
            self._live.half_close()
        self._note_change()

    def take_gone(self) -> None:
        """The stream is closed, by reset or with its connection; nothing can be sent any more. Idempotent."""
        if self._is_gone:
            return
        self._is_gone = True
        self._credit_bytes = 0
        self._stop_timer()
        self._open_window()
        self._cancel()

    def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
        self._finish_live()

    def fill(self) -> int:
        """Hands over what waits, as far as the window and the credit go; returns how many bytes.

        Afterwards `is_blocked` says that another try is of use only when the client has opened a window, and `has_more`
        that there may be something right after what was handed over is written.
        """
        self.has_more = False
        self.is_blocked = self._changed is not None  # somebody waits in `write`, and looks after what is written now
        self._note_change()
        live = self._live
        if live is None or self._is_gone:
            return 0
        if not self._unsent:
            if self._credit_bytes <= 0 and not self._renew_credit(1):
                return 0
            frames = live.take_frames(self._credit_bytes - _AROUND_BYTES)
            if not frames:
                if live.is_ended:
                    self._finish_live()
                return 0
            self._unsent.extend(map(prefixed, encode_messages(frames)))
        handed_bytes = self._hand_over()
        self.has_more = handed_bytes > 0 if self._unsent else live.has_output
        return handed_bytes

    def _hand_over_now(self, events: Events) -> bool:
        """Hands events over in the middle of a delivery, if `fill` would do just that: the way of nearly all."""
        message = _prefixed_record(events.body)
        size_bytes = len(message)
        carrier = self._connection
        if size_bytes >= self._credit_bytes or size_bytes > carrier.room_bytes or self._unsent:
            return False
        self._http2.send_body(self.stream_id, message)
        self._credit_bytes -= size_bytes
        carrier.handed(size_bytes)
        return True

    def _hand_over(self) -> int:
        handed_bytes = 0
        self._send_headers()
        while self._unsent:
            size_bytes = len(self._unsent[0])
            if size_bytes >= self._credit_bytes and (handed_bytes or not self._renew_credit(size_bytes)):
                break
            self._http2.send_body(self.stream_id, self._unsent.pop(0))
            self._credit_bytes -= size_bytes
            handed_bytes += size_bytes
        return handed_bytes

    def _renew_credit(self, size_bytes: int) -> bool:
        """Asks how much may be sent; False: a message of so many bytes may not be begun now."""
        self._credit_bytes = 0
        self._is_behind = self._http2.queued_bytes(self.stream_id) > 0
        window_bytes = 0 if self._is_behind else self._http2.window_bytes(self.stream_id)
        # One byte is left for the trailers: nghttp2 sends them in no window of 0.
        self.is_blocked = window_bytes <= size_bytes and not (
            window_bytes > 0 and _WHOLE_PART * size_bytes > self._http2.peer_window_bytes
        )
        if not self.is_blocked:
            self._credit_bytes = min(window_bytes, _CREDIT_BYTES)
        return not self.is_blocked

    def take_other_window(self) -> None:
        """The client has changed the size of its windows: what was known of this one does not count any more."""
        self._credit_bytes = 0

    def tick(self, now_s: float) -> None:
        """Ends what takes too long: a message that does not go on, or bytes that the client does not take."""
        if self.ended_at_s is not None:
            if now_s - self.ended_at_s > self._limits.finish_within_s:
                self._http2.reset(self.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
        elif self._written_at_s is not None and now_s - self._written_at_s > self._limits.taken_within_s:
            self._http2.reset(self.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
        elif self._message_began_s is not None and now_s - self._message_began_s > self._limits.message_within_s:
            self._message_began_s = None
            if self._live is not None:
                self._live.break_off(ProtocolBreach("a message takes too long"))
            else:
                self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "a message takes too long")

    def waits_for_client(self) -> bool:
        """Tells, after everything was written, whether a blocked stream is of use again only when its client acts.

        It is not when all that blocked it was what it had handed over before, and that has gone meanwhile.
        """
        return not (self._is_behind and not self._http2.queued_bytes(self.stream_id))

    def is_sent(self) -> bool:
        """Tells whether all that was handed over is written, and trailers go or went too: a reset loses nothing."""
        return not self._http2.queued_bytes(self.stream_id) and self._http2.is_window_open(self.stream_id)

    # ---- ends

    def fail(self, code: grpc.StatusCode, text: str) -> None:
        """Ends the call with a status that is the transport's own."""
        if self._status is None:
            self._end((code, text, ()))
            self._cancel()

    def fail_unknown(self) -> None:
        """Ends the call of a method that is not served here."""
        self.fail(grpc.StatusCode.UNIMPLEMENTED, "no such method here")

    def _pass_deadline(self) -> None:
        self.fail(grpc.StatusCode.DEADLINE_EXCEEDED, "the deadline of the call has passed")

    def _end(self, status: _Status) -> None:
        if self._status is not None:
            return
        self._status = status
        self._credit_bytes = 0
        self._stop_timer()
        self._inbox.clear()
        self._open_window()
        if self._is_gone:
            return
        trailers = trailers_of(*status)
        if self._has_headers:
            self._http2.send_trailers(self.stream_id, trailers)
        else:
            self._http2.send_headers(self.stream_id, [*RESPONSE_HEADERS, *trailers], end_stream=True)
        self.ended_at_s = self._loop.time()
        self._connection.stream_ended(self)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _send_headers(self) -> None:
        if not self._has_headers:
            self._has_headers = True
            self._http2.send_headers(self.stream_id, RESPONSE_HEADERS)

    # ---- CallContext

    def invocation_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """See CallContext."""
        return self._metadata

    def time_remaining(self) -> float | None:
        """See CallContext."""
        return None if self._deadline_s is None else max(0.0, self._deadline_s - self._loop.time())

    def code(self) -> grpc.StatusCode | None:
        """See CallContext."""
        return None if self._status is None else self._status[0]

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...]:
        """See CallContext."""
        return () if self._status is None else self._status[2]

    async def read(self) -> Any:
        """See CallContext. Who waits for a client says how long."""
        while not self._inbox and not self.is_peer_done:
            await self._wait_for_change()
        if not self._inbox:
            return grpc.aio.EOF
        message = self._inbox.pop(0)
        if not self._inbox:
            self._open_window()
            self._connection.schedule()
        return message

    async def write(self, message: bytes) -> None:
        """See CallContext. Waits while earlier messages wait for the client."""
        self._send_headers()
        self._http2.send_body(self.stream_id, prefixed(message))
        self._connection.mark(self)
        self._written_at_s = self._loop.time()
        while self._http2.queued_bytes(self.stream_id):
            await self._wait_for_change()
        self._written_at_s = None

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str | bytes], ...] = ()
    ) -> NoReturn:
        """See CallContext."""
        self._end((code, details, tuple(trailing_metadata)))
        raise grpc.aio.AbortError

    async def _wait_for_change(self) -> None:
        self._changed = self._loop.create_future()
        try:
            await self._changed
        finally:
            self._changed = None

    def _note_change(self) -> None:
        if self._changed is not None and not self._changed.done():
            self._changed.set_result(None)

    # ---- Pump

    async def pump(
        self, call: Call, live: PumpedStream, *, takes_frames: bool, read: ReadFrame = read_connect_request
    ) -> None:
        """See Pump. The call goes on without this task; what only its beginning needed is let go."""
        self._call, self._live = call, live
        self._metadata, self._path = (), call.method
        call.metadata = _NO_METADATA
        try:
            live.on_abort(self._give_up)
            if takes_frames:
                self._read, self._takes_frames = read, True
                self._take_frames(call, live)
                self._open_window()
                if self.is_peer_done:
                    live.half_close()
            live.on_output(self._note_output, self._hand_over_now)
            call.goes_on = True
        except BaseException:
            self._live = None
            await live.aclose()
            raise

    def _take_frames(self, call: Call, live: PumpedStream) -> None:
        messages, self._inbox = self._inbox, []
        for message in messages:
            try:
                frame = self._read(message, call.authenticated.user_id)
            except HubbubError as error:
                live.break_off(error)
            else:
                live.receive(frame)

    def _note_output(self) -> None:
        self._connection.mark(self)

    def _give_up(self) -> None:
        """Of a client that stopped reading: it gets the status or, inside of a message, a reset.

        gRPC reads that reset as RESOURCE_EXHAUSTED too, but there are no details with it.
        """
        self._unsent.clear()
        if not self.is_sent():
            self._http2.reset(self.stream_id, ErrorCode.ENHANCE_YOUR_CALM)
            self._connection.schedule()
        self._finish_live()

    def _finish_live(self) -> None:
        """Lets a task serve the end of a live stream, for whatever reason it came."""
        live, self._live = self._live, None
        call, self._call = self._call, None
        if live is not None and call is not None:
            self._connection.finish(self, call, partial(self._end_live, call, live))

    async def _end_live(self, call: Call, live: PumpedStream) -> None:
        await live.aclose()
        if self._is_gone or self._status is not None:
            call.error = asyncio.CancelledError()  # as of a task that waited
        else:
            raise_end_error(live)
