"""One Connect stream, from Hello to its end.

Three tasks: the reader feeds the engine and the outbox and never waits for the application; the writer alone writes;
the watchdog ends a stream that is silent for 2.5 heartbeats, and a fourth one hands over each new access token.
Whoever ends the stream cancels the call; the reader then returns how it ended.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from grpc import aio
from hubbub.chat.v1 import chat_service_pb2 as chat_pb
from hubbub.chat.v1 import frame_pb2

from hubbub_client.calls import bearer
from hubbub_client.cancellation import is_task_cancelled
from hubbub_client.errors import ClientClosed, HubbubError, SignedOut, error_of_call, error_of_status
from hubbub_client.outbox import Outbox
from hubbub_client.sync_engine import SyncEngine
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport

Call = aio.StreamStreamCall[chat_pb.ConnectRequest, chat_pb.ConnectResponse]

WELCOME_TIMEOUT_S: Final = 10.0
SILENT_HEARTBEATS: Final = 2.5
# More than the engine lets wait for the application, what is acknowledged late, and a record: a slow application does
# not close the window (what it has no room for is left to Sync), a program that stands still does.
ACK_WINDOW_EVENTS: Final = 2_048
_ACK_AFTER_EVENTS: Final = 512
_STATUS_TIMEOUT_S: Final = 1.0  # between Goodbye and the status that ends the stream
_REAUTHENTICATE: Final = "reauthenticate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a stream ended: by Goodbye, with an error, silently, or with nothing said."""

    goodbye: frame_pb2.Goodbye | None = None
    error: HubbubError | None = None
    is_silent: bool = False
    was_welcome: bool = False


class LiveStream:
    """Runs one stream.

    Args:
        transport: where it goes.
        tokens: the access token it opens with, and the newer ones it hands over.
        engine: takes events and heads.
        outbox: gives commands and takes their answers.
        news: called after each frame.
    """

    def __init__(
        self, transport: Transport, tokens: Tokens, engine: SyncEngine, outbox: Outbox, news: Callable[[], None]
    ) -> None:
        self._transport, self._tokens, self._engine, self._outbox, self._news = transport, tokens, engine, outbox, news
        self._wake = asyncio.Event()
        self._is_welcome = False
        self._silence_s = WELCOME_TIMEOUT_S
        self._silence_changed = asyncio.Event()
        self._is_silent = False
        self._goodbye: frame_pb2.Goodbye | None = None
        self._error: HubbubError | None = None
        self._token = self._offered_token = ""
        self._acked_events = 0
        self._is_ack_due = False

    def wake(self) -> None:
        """Tells the writer that the outbox has something."""
        self._wake.set()

    def note_processed(self) -> None:
        """Acknowledges now and then what the application has processed, before the window closes."""
        if self._engine.progress.processed_events - self._acked_events >= _ACK_AFTER_EVENTS and not self._is_ack_due:
            self._is_ack_due = True
            self._wake.set()

    async def run(self, instance_id: str, token: str) -> Ending:
        """Opens the stream, stays until its end and tells how it ended."""
        self._token = self._offered_token = token
        self._last_frame_s = time.monotonic()
        call: Call = self._transport.stubs.chat.Connect(metadata=bearer(token))
        hello = chat_pb.Hello(
            instance_id=instance_id,
            resume_token=self._engine.resume_token,
            ack_window_events=ACK_WINDOW_EVENTS,
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                others = (
                    tasks.create_task(self._write(call, hello)),
                    tasks.create_task(self._watch(call)),
                    tasks.create_task(self._hand_over_tokens(call)),
                )
                error = await self._read(call)
                for task in others:
                    task.cancel()
        finally:
            call.cancel()
        return Ending(
            goodbye=self._goodbye,
            error=self._error or error,
            is_silent=self._is_silent,
            was_welcome=self._is_welcome,
        )

    async def _read(self, call: Call) -> HubbubError | None:
        try:
            while True:
                response = await call.read()
                if not isinstance(response, chat_pb.ConnectResponse):
                    return None  # the end, with OK
                self._last_frame_s = time.monotonic()
                self._receive(response.frame)
        except aio.AioRpcError as error:
            return error_of_call(error)
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            return None  # the call was cancelled here, by the watchdog or for its token

    def _receive(self, frame: frame_pb2.ServerFrame) -> None:
        for signal in frame.signals:
            self._engine.boards.receive_signal(signal, time.monotonic())
        match frame.WhichOneof("control"):
            case "welcome":
                interval = frame.welcome.heartbeat_interval
                self._is_welcome = True
                self._limit_silence(SILENT_HEARTBEATS * (interval.seconds + interval.nanos / 1e9))
                self._wake.set()
            case "reply":
                if frame.reply.request_id == _REAUTHENTICATE:
                    self._token = self._offered_token
                else:
                    self._outbox.receive_reply(frame.reply)
                self._wake.set()
            case "rejected":
                if frame.rejected.request_id == _REAUTHENTICATE:
                    # The next stream opens with the newer token anyway.
                    self._error = error_of_status(frame.rejected.status)
                else:
                    self._outbox.receive_rejected(frame.rejected, time.monotonic())
                self._wake.set()
            case "heartbeat":
                self._is_ack_due = True
                self._wake.set()
            case "goodbye":
                self._goodbye = frame.goodbye
                self._limit_silence(_STATUS_TIMEOUT_S)
            case _:
                pass
        self._engine.receive_live(frame)
        self.note_processed()
        self._news()

    def _limit_silence(self, silence_s: float) -> None:
        self._silence_s = silence_s
        self._silence_changed.set()

    async def _write(self, call: Call, hello: chat_pb.Hello) -> None:
        try:
            await call.write(chat_pb.ConnectRequest(hello=hello))
            while True:
                self._wake.clear()
                if self._is_ack_due:  # also the sign of life of a client that only reads
                    self._is_ack_due = False
                    self._acked_events = self._engine.progress.processed_events
                    await call.write(chat_pb.ConnectRequest(ack=chat_pb.Ack(processed_events=self._acked_events)))
                while (command := self._next_command()) is not None:
                    await call.write(chat_pb.ConnectRequest(command=command))
                now_s = time.monotonic()
                wake_s = self._outbox.next_wake_s(now_s)
                try:
                    async with asyncio.timeout(None if wake_s is None else wake_s - now_s):
                        await self._wake.wait()
                except TimeoutError:
                    pass  # a paused conversation goes on
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; the reader learns how

    def _next_command(self) -> frame_pb2.Command | None:
        if not self._is_welcome or self._goodbye is not None:
            return None
        newest = self._tokens.credentials.access_token
        if newest != self._offered_token and self._offered_token == self._token:
            self._offered_token = newest
            request = frame_pb2.ReauthenticateRequest(access_token=newest)
            return frame_pb2.Command(request_id=_REAUTHENTICATE, reauthenticate=request)
        return self._outbox.next_command(time.monotonic())

    async def _watch(self, call: Call) -> None:
        while (left_s := self._last_frame_s + self._silence_s - time.monotonic()) > 0:
            self._silence_changed.clear()
            try:
                async with asyncio.timeout(left_s):
                    await self._silence_changed.wait()
            except TimeoutError:
                pass  # look again: frames may have come
        self._is_silent = self._goodbye is None
        call.cancel()

    async def _hand_over_tokens(self, call: Call) -> None:
        while self._error is None:
            await asyncio.sleep(max(0.1, self._tokens.renew_at_s - time.monotonic()))
            try:
                await self._tokens.current()
            except (SignedOut, ClientClosed) as error:
                self._error = error
            self._wake.set()
        call.cancel()
