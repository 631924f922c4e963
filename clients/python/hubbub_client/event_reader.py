"""The one sequence of events: `client.events()`."""

import asyncio
import time
from collections.abc import Callable
from typing import Self

from hubbub_client.boards import Boards
from hubbub_client.errors import ClientClosed, HubbubError
from hubbub_client.events import Event
from hubbub_client.live_progress import Delivery
from hubbub_client.sync_engine import SyncEngine


class EventReader:
    """Iterates over what engine and boards have to tell. It is no generator: who stops reading does not end it.

    Args:
        engine: has the events of topics.
        boards: have everything else.
        news: set when something may have come.
        processed: called with each item that the application has processed.
        made_room: called when an answer that is being fetched may have room to go on.
        stopped: returns why the client is not open, None when it is.
    """

    def __init__(
        self,
        engine: SyncEngine,
        boards: Boards,
        *,
        news: asyncio.Event,
        processed: Callable[[Delivery], None],
        made_room: Callable[[], None],
        stopped: Callable[[], HubbubError | None],
    ) -> None:
        self._engine, self._boards, self._news = engine, boards, news
        self._processed, self._made_room, self._stopped = processed, made_room, stopped
        self._is_read = False
        self._unprocessed: Delivery | None = None  # given to the application, which has not asked for the next one

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        if self._is_read:
            raise RuntimeError("somebody else is waiting for the next event")
        self._is_read = True
        try:
            if self._unprocessed is not None:
                self._processed(self._unprocessed)
            while (delivery := self._take()) is None:
                stopped = self._stopped()
                if isinstance(stopped, ClientClosed):
                    raise StopAsyncIteration
                if stopped is not None:
                    raise stopped
                self._news.clear()
                await self._wait_for_news()
        finally:
            self._is_read = False
        self._unprocessed = delivery
        return delivery.item

    def _take(self) -> Delivery | None:
        if (change := self._boards.take_before(time.monotonic())) is not None:
            return Delivery(change, {})
        delivery = self._engine.take()
        if self._engine.has_room and self._engine.is_fetching:
            self._made_room()  # also when nothing is handed over: what the application has already made room too
        if delivery is not None:
            return delivery
        return None if (change := self._boards.take_after()) is None else Delivery(change, {})

    async def _wait_for_news(self) -> None:
        """Waits until something comes, or time alone changes something: somebody's typing or a mute runs out."""
        now_s = time.monotonic()
        end_s = self._boards.next_end_s(now_s)
        try:
            async with asyncio.timeout(None if end_s is None else end_s - now_s):
                await self._news.wait()
        except TimeoutError:
            pass
