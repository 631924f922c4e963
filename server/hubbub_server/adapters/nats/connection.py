"""The one place that opens a connection to NATS, with options under which nothing is buffered, kept back or given up.

Theory of operation. nats-py reconnects for ever, to any of the servers, after a random pause. While it is disconnected
nothing can be sent: `NotSent` is raised at once, no publish waits in a buffer to come out later. A request that was
sent is never taken back by cancelling its caller: nats-py hands it to the socket's buffer without a suspension point.

An *echo* is a message to ourselves. The server handles one connection's messages in order, so when an echo has come
back everything sent before it, subscriptions included, was processed. (nats-py's own `flush` writes its PING past the
commands that wait in its buffer, so a PONG proves less; and a PONG that comes after `flush` gave up ends its read
loop.) Every two seconds an echo is sent; `is_live` tells whether one came back within the last ten.

A server that slept for as long as others need to elect leaders (4 s) believes, when it wakes, that it still leads what
it led, and answers reads with what it last knew, for some milliseconds. Its first echo comes late, before any such
answer: then, for a moment, answers of JetStream's API are not believed.
"""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Self, TypeVar

import nats.errors
import structlog
from nats.aio.client import Server
from nats.aio.msg import Msg

from hubbub_server.adapters.nats.client import LastingClient, Subscription
from hubbub_server.adapters.nats.errors import DRIVER_ERRORS, ApiRefusal, NotSent, map_errors, mapped
from hubbub_server.domain.errors import LogUnavailable

T = TypeVar("T")

CONNECT_TIMEOUT_S = 2.0
REQUEST_TIMEOUT_S = 0.5
BATCH_TIMEOUT_S = 2.0
RETRY_FOR_S = 5.0
"""A call that is repeated gives up after this time."""
PING_INTERVAL_S = 2.0
LIVE_FOR_S = 10.0
SLEPT_S = 3.9
DOUBT_FOR_S = 0.25
_CLOSE_TIMEOUT_S = 2.0
_FIRST_PAUSE_S = 0.2
_RECONNECT_PAUSE_S = (0.05, 0.5)
_RETRY_PAUSE_S = (0.02, 0.06)
_NO_RESPONDERS = "503"

log = structlog.get_logger()


class NatsConnection:
    """A connection that `async with` opens and closes. `client` is for those who know what they do."""

    def __init__(
        self,
        servers: Sequence[str],
        *,
        name: str,
        on_closed: Callable[[], None],
        open_timeout_s: float = 10.0,
    ) -> None:
        """Names the servers.

        Args:
            servers: Addresses, `nats://host:port`; all of one cluster.
            name: Shown by the server's monitoring.
            on_closed: Called when nats-py gave the connection up for good, unasked: the process must end.
            open_timeout_s: How long `async with` tries before it raises LogUnavailable.
        """
        self._servers = list(servers)
        self._name = name
        self._on_closed = on_closed
        self._open_timeout_s = open_timeout_s
        self._on_reconnect: list[Callable[[], None]] = []
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._answers_prefix = ""
        self._request_count = 0
        self._echoes: dict[bytes, asyncio.Future[None]] = {}
        self._next_echo: asyncio.Task[LogUnavailable | None] | None = None
        self._echo_subject = ""
        self._echo_count = 0
        self._heard_s = 0.0
        self._doubt_until_s = 0.0
        self._is_closing = False
        self.client = LastingClient()
        self.errors = 0
        """What nats-py reported: failed attempts to connect, and so on."""

    async def __aenter__(self) -> Self:
        """Connects; raises LogUnavailable when no server accepts within `open_timeout_s`."""
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        try:
            async with asyncio.timeout(self._open_timeout_s):
                await self._open()
        except BaseException as error:
            await self._close()
            if isinstance(error, TimeoutError | nats.errors.Error | OSError):
                raise LogUnavailable("no NATS server accepts the connection") from error
            raise
        self._heartbeat = self._tasks.create_task(self._beat())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the connection; what was published and not confirmed may or may not be sent."""
        self._heartbeat.cancel()
        await self._close()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Registers a callback for "connected again; messages may have been missed". It must not block."""
        self._on_reconnect.append(callback)

    def is_live(self) -> bool:
        """Tells whether the server was heard within the last ten seconds."""
        return self.silent_for_s() < LIVE_FOR_S

    def silent_for_s(self) -> float:
        """Tells how long ago the server was heard."""
        return asyncio.get_running_loop().time() - self._heard_s

    @property
    def max_payload_bytes(self) -> int:
        """What the server takes as one message, headers included. One byte more and it ends the connection."""
        return self.client.max_payload

    async def request(
        self, subject: str, body: bytes, *, headers: dict[str, str] | None = None, timeout_s: float = REQUEST_TIMEOUT_S
    ) -> Msg:
        """Sends a request once and returns the answer.

        Cancelling the caller does not unsend it.

        Raises:
            NotSent: not connected.
            LogUnavailable: it was sent, and no answer came or nobody was there to answer.
        """
        self._require_connected()
        loop = asyncio.get_running_loop()
        answered: asyncio.Future[Msg] = loop.create_future()
        self._request_count += 1
        token = str(self._request_count)
        self._answers[token] = answered
        timer = loop.call_later(timeout_s, _give_up, answered)
        try:
            await self.client.publish(subject, body, reply=f"{self._answers_prefix}{token}", headers=headers)
            return await answered
        except DRIVER_ERRORS as error:
            raise mapped(error) from error
        finally:
            timer.cancel()
            del self._answers[token]

    def _take_answer(self, message: Msg) -> None:
        answered = self._answers.get(message.subject.rpartition(".")[2])
        if answered is None or answered.done():
            return
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            answered.set_exception(nats.errors.NoRespondersError())
        else:
            answered.set_result(message)

    async def call(self, subject: str, query: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Calls JetStream's API once. Raises ApiRefusal when it answers with an error, else as `request`."""
        answer = await self.request(f"$JS.API.{subject}", json.dumps(query).encode() if query else b"")
        self._require_trust()
        content: dict[str, Any] = json.loads(answer.data)
        if "error" in content:
            raise ApiRefusal.of(content["error"])
        return content

    async def collect(self, subject: str, query: Mapping[str, Any]) -> tuple[list[Msg], Mapping[str, str]]:
        """Calls JetStream's API once for many messages; returns them and the headers of the status that ended them."""
        messages: list[Msg] = []
        end: asyncio.Future[Mapping[str, str]] = asyncio.get_running_loop().create_future()

        def take(message: Msg) -> None:
            if message.headers and "Status" in message.headers:
                if not end.done():
                    end.set_result(message.headers)
            else:
                messages.append(message)

        inbox = self.new_inbox()
        subscription = await self.subscribe(inbox, take)
        try:
            with map_errors():
                async with asyncio.timeout(BATCH_TIMEOUT_S):
                    await self.client.publish(f"$JS.API.{subject}", json.dumps(query).encode(), reply=inbox)
                    status = await end
            self._require_trust()
            return messages, status
        finally:
            await self.unsubscribe(subscription)

    async def publish(
        self, subject: str, body: bytes = b"", *, reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        """Sends a message without waiting for anything. Raises NotSent."""
        self._require_connected()
        with map_errors():
            await self.client.publish(subject, body, reply=reply, headers=headers)

    def new_inbox(self) -> str:
        """Returns a subject that nobody else has."""
        return self.client.new_inbox()

    async def subscribe(self, subject: str, take: Callable[[Msg], None]) -> Subscription:
        """Subscribes; `echo` tells when the server knows. `take` must not wait. Raises NotSent."""
        self._require_connected()
        with map_errors():
            return await self.client.hear(subject, take)

    async def unsubscribe(self, subscription: Subscription) -> None:
        """Ends a subscription: nothing is taken any more. The server may hear of it later."""
        await self.client.hear_no_more(subscription)

    async def echo(self) -> None:
        """Waits until the server has processed everything that was sent before. Raises LogUnavailable.

        Callers of one turn of the event loop share an echo: after a reconnect thousands of topics are followed at once.
        """
        self._require_connected()
        if self._next_echo is None:
            self._next_echo = self._tasks.create_task(self._send_echo())
        if (error := await asyncio.shield(self._next_echo)) is not None:
            raise LogUnavailable(str(error)) from error

    async def _send_echo(self) -> LogUnavailable | None:
        await asyncio.sleep(0)  # whoever asks in this turn has sent its commands before us
        self._next_echo = None
        self._echo_count += 1
        token = str(self._echo_count).encode()
        heard: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._echoes[token] = heard
        try:
            self._require_connected()
            with map_errors():
                async with asyncio.timeout(BATCH_TIMEOUT_S):
                    await self.client.publish(self._echo_subject, token)
                    await heard
        except LogUnavailable as error:
            return error
        finally:
            del self._echoes[token]
        return None

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Repeats an idempotent call for up to five seconds."""
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + RETRY_FOR_S
        while True:
            pause_s = random.uniform(*_RETRY_PAUSE_S)
            try:
                return await attempt()
            except LogUnavailable:
                if loop.time() + pause_s > give_up_s:
                    raise
            await asyncio.sleep(pause_s)

    def _require_connected(self) -> None:
        # nats-py would refuse too, but a request that it refuses leaks its future.
        if not self.client.is_connected:
            raise NotSent("not connected to the log")

    def _require_trust(self) -> None:
        if asyncio.get_running_loop().time() < self._doubt_until_s:
            raise LogUnavailable("the server slept; what it says may be old")

    async def _open(self) -> None:
        await self.client.connect(
            self._servers,
            name=self._name,
            connect_timeout=CONNECT_TIMEOUT_S,  # type: ignore[arg-type]  # declared int, used as seconds
            max_reconnect_attempts=-1,
            reconnect_time_wait=_FIRST_PAUSE_S,  # type: ignore[arg-type]  # declared int, used as seconds
            reconnect_to_server_handler=_choose_server,
            ping_interval=PING_INTERVAL_S,  # type: ignore[arg-type]  # declared int, used as seconds
            max_outstanding_pings=2,
            pending_size=0,
            error_cb=self._on_error,
            closed_cb=self._on_client_closed,
            disconnected_cb=self._on_client_disconnected,
            reconnected_cb=self._on_client_reconnected,
        )
        self._echo_subject = self.new_inbox()
        await self.subscribe(self._echo_subject, self._take_echo)
        self._answers_prefix = f"{self.new_inbox()}."
        await self.subscribe(f"{self._answers_prefix}*", self._take_answer)
        await self.echo()

    async def _close(self) -> None:
        # In a task, because nats-py may swallow a cancellation while it closes.
        self._is_closing = True
        for heard in self._echoes.values():
            if not heard.done():
                heard.set_exception(LogUnavailable("the connection is closing"))
        closing = self._tasks.create_task(self._close_client())
        await asyncio.wait([closing], timeout=_CLOSE_TIMEOUT_S)
        if not closing.done():
            self._abort_transport()
            closing.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def _close_client(self) -> None:
        with suppress(OSError, nats.errors.Error):
            await self.client.close()

    async def _beat(self) -> None:
        while True:
            with suppress(LogUnavailable):
                await self.echo()
            self._drop_stuck_transport()
            await asyncio.sleep(PING_INTERVAL_S)

    def _drop_stuck_transport(self) -> None:
        # To reconnect, nats-py closes the old transport and waits until it is closed. With a peer that is frozen and
        # bytes that wait to be sent that never happens, so it is helped along.
        writer = getattr(self.client._transport, "_io_writer", None)
        if self.client.is_reconnecting and writer is not None and writer.transport.is_closing():
            writer.transport.abort()

    def _abort_transport(self) -> None:
        writer = getattr(self.client._transport, "_io_writer", None)
        if writer is not None:
            writer.transport.abort()

    def _take_echo(self, message: Msg) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._heard_s > 0 and now_s - self._heard_s > SLEPT_S:
            self._doubt_until_s = now_s + DOUBT_FOR_S
        self._heard_s = now_s
        heard = self._echoes.get(message.data)
        if heard is not None and not heard.done():
            heard.set_result(None)

    async def _on_error(self, error: Exception) -> None:
        # nats-py awaits this inside its read loop: count, and nothing else.
        self.errors += 1

    async def _on_client_disconnected(self) -> None:
        if not self._is_closing:
            log.warning("nats disconnected")

    async def _on_client_reconnected(self) -> None:
        log.info("nats connected again", errors=self.errors)
        for callback in self._on_reconnect:
            callback()

    async def _on_client_closed(self) -> None:
        if not self._is_closing:
            self._on_closed()


def _give_up(answered: "asyncio.Future[Msg]") -> None:
    if not answered.done():
        answered.set_exception(nats.errors.TimeoutError())


def _choose_server(servers: list[Server], _info: dict[str, Any]) -> tuple[Server | None, float]:
    """Chooses where to reconnect and after which pause, so that many clients do not come back at once."""
    return random.choice(servers), random.uniform(*_RECONNECT_PAUSE_S)
