"""Fetches what the live stream did not bring: one Sync request after the other, only when something is behind."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from grpc import aio
from hubbub.history.v1 import history_service_pb2 as history_pb

from hubbub_client import wire
from hubbub_client.backoff import Backoff
from hubbub_client.calls import bearer
from hubbub_client.cancellation import is_task_cancelled
from hubbub_client.errors import HubbubError, InvalidCredentials, TokenExpired, error_of_call
from hubbub_client.model import Cursor
from hubbub_client.sync_engine import SyncEngine
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport

SILENCE_S: Final = 30.0


class CatchUp:
    """Runs the requests that the engine wants. What a request did not move is asked for again after a pause.

    Args:
        transport: where to.
        tokens: access tokens.
        engine: says what to ask for and takes the answers.
        list_starts: lists the place before the join of every conversation.
        news: called after each frame.
    """

    def __init__(
        self,
        transport: Transport,
        tokens: Tokens,
        engine: SyncEngine,
        list_starts: Callable[[], Awaitable[Sequence[Cursor]]],
        news: Callable[[], None],
    ) -> None:
        self._transport, self._tokens, self._engine = transport, tokens, engine
        self._list_starts, self._news = list_starts, news
        self._wake = asyncio.Event()
        self._backoff = Backoff(0.2, 5.0)
        self._retry_at_s: float | None = None

    def wake(self) -> None:
        """Tells that something may be behind, or that there is room again."""
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            self._wake.clear()
            if self._engine.relist_needed:
                await self._relist()
            elif (request := self._engine.next_request()) is not None:
                await self._sync(request)
            else:
                await self._rest()

    async def _rest(self) -> None:
        """Waits until woken, or until what is stalled may be tried again."""
        if not self._engine.has_stalled:
            self._backoff.reset()
            self._retry_at_s = None
        elif self._retry_at_s is None:
            self._retry_at_s = time.monotonic() + self._backoff.next_s()
        try:
            async with asyncio.timeout(None if self._retry_at_s is None else self._retry_at_s - time.monotonic()):
                await self._wake.wait()
        except TimeoutError:
            self._retry_at_s = None
            self._engine.retry_stalled()

    async def _relist(self) -> None:
        try:
            self._engine.relist(await self._list_starts())
            self._news()
        except HubbubError:
            await asyncio.sleep(self._backoff.next_s())

    async def _sync(self, cursors: list[Cursor]) -> None:
        try:
            token = await self._tokens.current()
            try:
                await self._read_answer(cursors, token)
            except (TokenExpired, InvalidCredentials):
                await self._tokens.replace(token)
        except HubbubError:
            pass  # what did not come is behind still; the live stream tells the application about the connection
        finally:
            self._engine.finish_request()
            self._news()

    async def _read_answer(self, cursors: list[Cursor], token: str) -> None:
        request = history_pb.SyncRequest(cursors=map(wire.write_cursor, cursors))
        call = self._transport.stubs.history.SyncOnce(
            history_pb.SyncOnceRequest(request=request), metadata=bearer(token)
        )
        loop = asyncio.get_running_loop()
        try:
            while True:
                silence = loop.call_later(SILENCE_S, call.cancel)
                try:
                    response = await call.read()
                finally:
                    silence.cancel()
                if not isinstance(response, history_pb.SyncOnceResponse):
                    return
                self._engine.receive_sync(response.frame)
                self._news()
                while not self._engine.has_room:
                    self._wake.clear()
                    await self._wake.wait()
        except aio.AioRpcError as error:
            raise error_of_call(error) from error
        except asyncio.CancelledError:
            if is_task_cancelled():
                raise
            # Cancelled here, by the silence or because the channel was replaced.
        finally:
            call.cancel()
