"""Keeps a stream of presence open while the application watches somebody or states its activity.

The first frame of a stream says the activity and the whole watched set, later ones what changed. When the stream ends
it is opened again, at once if a node is leaving; after 15 s without one nothing is known any more, so nobody haunts.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from grpc import aio
from hubbub.presence.v1 import presence_service_pb2 as presence_pb

from hubbub_client.backoff import Backoff
from hubbub_client.calls import bearer
from hubbub_client.cancellation import is_task_cancelled
from hubbub_client.errors import ClientClosed, HubbubError, InvalidCredentials, TokenExpired, error_of_call
from hubbub_client.presence_board import PresenceBoard
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport
from hubbub_client.wire_presence import write_activity

if TYPE_CHECKING:
    from hubbub_client.presences import Activity

Call = aio.StreamStreamCall[presence_pb.WatchRequest, presence_pb.WatchResponse]

LOST_S: Final = 15.0
SILENCE_S: Final = 50.0  # 2.5 times what the server may be silent
_SETTLED_S: Final = 5.0


class PresenceWatch:
    """Runs one stream after the other.

    Args:
        transport: where they go.
        tokens: access tokens.
        board: says whom to watch, and takes what comes.
        news: called when something came.
    """

    def __init__(self, transport: Transport, tokens: Tokens, board: PresenceBoard, news: Callable[[], None]) -> None:
        self._transport, self._tokens, self._board, self._news = transport, tokens, board, news
        self._wake = asyncio.Event()
        self._backoff = Backoff(0.2, 30.0)
        self._losing: asyncio.TimerHandle | None = None

    def wake(self) -> None:
        """Tells that the watched set or the activity changed."""
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        try:
            while True:
                self._wake.clear()
                if not self._board.is_needed:
                    await self._wake.wait()
                    continue
                opened_s = time.monotonic()
                with suppress(HubbubError):  # the live stream tells the application about the connection
                    await self._stay_on_a_stream()
                if time.monotonic() - opened_s >= _SETTLED_S:
                    self._backoff.reset()
                if self._board.is_needed:
                    await asyncio.sleep(self._backoff.next_s())
        finally:
            self._stay()

    async def _stay_on_a_stream(self) -> None:
        token = await self._tokens.current()
        try:
            await self._run_stream(token)
        except (TokenExpired, InvalidCredentials):
            await self._tokens.replace(token)

    async def _run_stream(self, token: str) -> None:
        """Stays on one stream until its end.

        Raises:
            CallFailed: it was refused, or ended with an error.
            ClientClosed: the client is closed.
        """
        call: Call = self._transport.stubs.presence.Watch(metadata=bearer(token))
        try:
            async with asyncio.TaskGroup() as tasks:
                writing = tasks.create_task(self._write(call))
                error = await self._read(call)
                writing.cancel()
        finally:
            call.cancel()
            self._leave()
        if error is not None:
            raise error

    async def _write(self, call: Call) -> None:
        said: set[str] = set()
        activity: Activity | None = None
        is_first = True
        try:
            while self._board.is_needed:
                self._wake.clear()
                watched = self._board.watched
                request = presence_pb.WatchRequest(
                    added_user_ids=[each for each in watched if each not in said],
                    removed_user_ids=sorted(said.difference(watched)),
                    own_activity=write_activity(self._board.activity if self._board.activity != activity else None),
                )
                said, activity = set(watched), self._board.activity
                if is_first or request.ByteSize():
                    await call.write(request)
                is_first = False
                await self._wake.wait()
            await call.done_writing()
        except (aio.AioRpcError, asyncio.InvalidStateError):
            return  # the stream is over; the reader learns how

    async def _read(self, call: Call) -> HubbubError | None:
        loop = asyncio.get_running_loop()
        while True:
            silence = loop.call_later(SILENCE_S, call.cancel)
            try:
                response = await call.read()
            except aio.AioRpcError as error:
                return error_of_call(error)
            except asyncio.CancelledError:
                if is_task_cancelled():
                    raise
                return ClientClosed("the presence stream was cancelled")  # by the silence, or with its channel
            finally:
                silence.cancel()
            if not isinstance(response, presence_pb.WatchResponse):
                return None  # the end, with OK
            self._stay()
            self._board.receive(response.update)
            self._news()

    def _leave(self) -> None:
        if self._losing is None:
            self._losing = asyncio.get_running_loop().call_later(LOST_S, self._lose)

    def _lose(self) -> None:
        self._board.lose()
        self._news()

    def _stay(self) -> None:
        if self._losing is not None:
            self._losing.cancel()
            self._losing = None
