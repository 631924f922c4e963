"""Tells members of larger groups how far all of them have read, when that has moved.

Theory of operation. Where receipts are counted only, nobody is told of one reader, so that a message to a thousand
members is not answered by a thousand signals. A reader opens a *window* of 5 s for the conversation; at its end the
floor is made once of what the store knows and of what this node has heard in the window, and is told if it is larger
than what was told before. Windows are tasks of this object; those that are open when it ends tell nothing. A floor that
moved while the store was behind is told with the next one: signals are rather lost than late.
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.receipts import ReceiptsMode

FLOOR_WINDOW_S: Final = 5.0
_WINDOWS_MAX: Final = 10_000
"""Beyond that many conversations no more of them are followed."""

log = structlog.get_logger()

TellFloor = Callable[[ConversationId, int], None]
"""Hears that all members have read up to a message; must not block."""


class ReadFloors:
    """The floors of conversations. Use as `async with`; the block owns the windows."""

    def __init__(
        self, *, hub: TopicHub, reader: TopicReader, tell: TellFloor, window_s: float = FLOOR_WINDOW_S
    ) -> None:
        """`window_s` is for tests."""
        self._hub = hub
        self._reader = reader
        self._tell = tell
        self._window_s = window_s
        self._read: dict[ConversationId, dict[UserId, int]] = {}
        """What was read in the open windows."""
        self._told: dict[ConversationId, int] = {}
        self._ending = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Hears of readers from now on."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells nothing any more."""
        self._ending.set()
        await self._group.__aexit__(kind, error, trace)

    def moved(self, conversation_id: ConversationId, user_id: UserId, message_number: int) -> None:
        """A member shows that they have read up to a message."""
        read = self._read.get(conversation_id)
        if read is None:
            if len(self._read) >= _WINDOWS_MAX or self._ending.is_set():
                return
            read = self._read[conversation_id] = {}
            self._group.create_task(self._run(conversation_id))
        read[user_id] = max(message_number, read.get(user_id, 0))

    async def _run(self, conversation_id: ConversationId) -> None:
        try:
            async with asyncio.timeout(self._window_s):
                await self._ending.wait()
        except TimeoutError:
            read = self._read.pop(conversation_id)
            try:
                await self._look(conversation_id, read)
            except HubbubError:
                pass  # the store is away: the next reader tries again
            except Exception:
                log.exception("read floor not told", conversation_id=conversation_id)

    async def _look(self, conversation_id: ConversationId, read: dict[UserId, int]) -> None:
        topic = self._hub.loaded(conversation_id)
        if topic is None or not isinstance(topic.state, ConversationState):
            return
        readers = {**await self._reader.readers(conversation_id)}
        for user_id, number in read.items():
            readers[user_id] = max(number, readers.get(user_id, 0))
        state = topic.state
        floor = state.read_floor(readers)
        if state.receipts_mode is ReceiptsMode.COUNT_ONLY and floor > self._told.get(conversation_id, 0):
            self._told.pop(conversation_id, None)  # so that the newest are last
            self._told[conversation_id] = floor
            if len(self._told) > _WINDOWS_MAX:
                del self._told[next(iter(self._told))]
            self._tell(conversation_id, floor)
