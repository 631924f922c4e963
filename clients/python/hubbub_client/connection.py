"""Keeps a live stream open: connects again with jitter, obeys Goodbye, renews tokens and dead channels."""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from grpc import aio
from hubbub.chat.v1 import frame_pb2

from hubbub_client.backoff import Backoff
from hubbub_client.errors import (
    CallFailed,
    ClientClosed,
    Displaced,
    HubbubError,
    InvalidCredentials,
    InvalidField,
    SignedOut,
    StreamProtocol,
    TokenExpired,
)
from hubbub_client.events import Disconnected
from hubbub_client.live_stream import Ending, LiveStream
from hubbub_client.outbox import Outbox
from hubbub_client.sync_engine import SyncEngine
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport

_SETTLED_S: Final = 5.0  # a stream that lived this long lets the pauses start small again
_WELCOME_TRIES: Final = 2  # one that only began well lets them grow no further than 2 s
_SLOW_S: Final = 10.0  # after a breach of the protocol
_DRAIN_S: Final = 30.0  # longer than any call on a replaced channel takes


class Connection:
    """Opens one stream after the other until something forbids it.

    Args:
        transport: where to; its channel is renewed when a stream went silent.
        tokens: access tokens.
        engine: takes events and heads.
        outbox: gives commands and takes their answers.
        instance_id: UUID of this running client.
        news: called when something changed.
    """

    def __init__(
        self,
        transport: Transport,
        tokens: Tokens,
        engine: SyncEngine,
        outbox: Outbox,
        instance_id: str,
        news: Callable[[], None],
    ) -> None:
        self._transport, self._tokens, self._engine, self._outbox = transport, tokens, engine, outbox
        self._instance_id, self._news = instance_id, news
        self._backoff = Backoff(0.5, 30.0)
        self._stream: LiveStream | None = None

    def wake(self) -> None:
        """Tells the open stream, if there is one, that the outbox has something."""
        if self._stream is not None:
            self._stream.wake()

    def note_processed(self) -> None:
        """Tells the open stream, if there is one, that the application has processed an event."""
        if self._stream is not None:
            self._stream.note_processed()

    async def run(self, tasks: asyncio.TaskGroup) -> HubbubError:
        """Stays connected; returns why the client may not come back by itself. `tasks` owns the closing of channels."""
        while True:
            opened_s = time.monotonic()
            token, ending = await self._run_stream()
            self._outbox.close_stream()
            self._engine.close_stream()
            if (forbidding := _forbidding(ending)) is not None:
                return forbidding
            if time.monotonic() - opened_s >= _SETTLED_S:
                self._backoff.reset()
            elif ending.was_welcome:
                self._backoff.ease(_WELCOME_TRIES)
            try:
                if _is_about_token(ending):
                    await self._tokens.replace(token)
            except SignedOut as error:
                return error
            except CallFailed:
                pass  # the next stream tries again
            if ending.is_silent and (channel := self._transport.renew()) is not None:
                tasks.create_task(_close(channel))
            delay_s = self._delay_s(ending)
            self._engine.announce(Disconnected(reason=_describe(ending), retry_in_s=delay_s))
            self._news()
            await asyncio.sleep(delay_s)

    async def _run_stream(self) -> tuple[str, Ending]:
        try:
            token = await self._tokens.current()
        except HubbubError as error:
            return "", Ending(error=error)
        self._stream = LiveStream(self._transport, self._tokens, self._engine, self._outbox, self._news)
        try:
            return token, await self._stream.run(self._instance_id, token)
        finally:
            self._stream = None

    def _delay_s(self, ending: Ending) -> float:
        goodbye = ending.goodbye
        asked_s = goodbye.retry_delay.seconds + goodbye.retry_delay.nanos / 1e9 if goodbye is not None else 0.0
        if asked_s > 0:
            return asked_s
        delay_s = self._backoff.next_s()
        if isinstance(ending.error, StreamProtocol):
            return delay_s + _SLOW_S
        asked_by_error_s = (isinstance(ending.error, CallFailed) and ending.error.retry_delay_s) or 0.0
        return max(delay_s, asked_by_error_s)


async def _close(channel: aio.Channel) -> None:
    await channel.close(grace=_DRAIN_S)


def _forbidding(ending: Ending) -> HubbubError | None:
    """Returns why the client may not come back by itself, if so."""
    goodbye, error = ending.goodbye, ending.error
    if goodbye is not None and goodbye.reason == frame_pb2.GOODBYE_REASON_DISPLACED:
        return Displaced("another client said Hello with the same instance_id")
    if goodbye is not None and goodbye.reason == frame_pb2.GOODBYE_REASON_REVOKED:
        return SignedOut("the device session was revoked")
    if isinstance(error, (SignedOut, ClientClosed, InvalidField)):
        return error
    if goodbye is not None and not goodbye.reconnect:
        return error or HubbubError(f"the server asked not to come back: {_describe(ending)}")
    return None


def _is_about_token(ending: Ending) -> bool:
    if ending.goodbye is not None and ending.goodbye.reason == frame_pb2.GOODBYE_REASON_TOKEN_EXPIRED:
        return True
    return isinstance(ending.error, (TokenExpired, InvalidCredentials))


def _describe(ending: Ending) -> str:
    if ending.goodbye is not None:
        try:
            name = frame_pb2.GoodbyeReason.Name(ending.goodbye.reason)
        except ValueError:  # newer than this client
            return "DRAINING"
        return name.removeprefix("GOODBYE_REASON_")
    if ending.is_silent:
        return "SILENT"
    return str(ending.error) if ending.error else "ENDED"
