"""Reads what the counters need, one read after the other, only when the board asks for it."""

import asyncio
from collections.abc import Callable

from hubbub.chat.v1 import marker_service_pb2 as markers_pb
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb

from hubbub_client.backoff import Backoff
from hubbub_client.conversations import Conversations
from hubbub_client.counter_board import CounterBoard, Read
from hubbub_client.errors import ConversationNotFound, HubbubError
from hubbub_client.settings import Settings
from hubbub_client.unary import Unary


class Counting:
    """Keeps a board supplied. What cannot be read is tried again after a pause.

    Args:
        board: says what to read and takes it.
        unary: makes calls.
        conversations: reads them.
        settings: know who is blocked.
        news: called after each read.
    """

    def __init__(
        self,
        board: CounterBoard,
        unary: Unary,
        conversations: Conversations,
        settings: Settings,
        news: Callable[[], None],
    ) -> None:
        self._board, self._unary, self._news = board, unary, news
        self._conversations, self._settings = conversations, settings
        self._wake = asyncio.Event()
        self._backoff = Backoff(0.2, 10.0)

    def wake(self) -> None:
        """Tells that the board may want something."""
        self._wake.set()

    async def run(self) -> None:
        """Works until it is cancelled."""
        while True:
            self._wake.clear()
            read = self._board.next_read()
            if read is None:
                await self._wake.wait()
                continue
            try:
                await self._read(read)
                self._backoff.reset()
            except HubbubError:
                self._board.give_up()
                await asyncio.sleep(self._backoff.next_s())
            self._news()

    async def _read(self, read: Read | str) -> None:
        match read:
            case Read.ALL:
                views, blocked = await self._conversations.list_views(), await self._settings.list_blocked_users()
                self._board.receive_all(views, blocked)
            case Read.COUNTERS:
                request = markers_pb.GetCountersRequest()
                answer = await self._unary.call(lambda stubs: stubs.markers.GetCounters, request)
                self._board.receive_counters(answer)
            case conversation_id:
                self._board.receive_view(conversation_id, await self._view(conversation_id))

    async def _view(self, conversation_id: str) -> conversations_pb.ConversationView | None:
        try:
            return await self._conversations.get_view(conversation_id)
        except ConversationNotFound:
            return None
