"""One run of a client, from signing in to the close: its parts, who tells whom, and their tasks."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hubbub_client.backoff import Backoff
from hubbub_client.boards import Boards
from hubbub_client.calls import Calls
from hubbub_client.catch_up import CatchUp
from hubbub_client.connection import Connection
from hubbub_client.conversations import Conversations
from hubbub_client.counting import Counting
from hubbub_client.cursor_keeper import CursorKeeper
from hubbub_client.cursor_store import CursorStore
from hubbub_client.delivered_board import DeliveredBoard
from hubbub_client.delivering import Delivering
from hubbub_client.errors import ClientClosed, HubbubError
from hubbub_client.event_reader import EventReader
from hubbub_client.live_progress import Delivery
from hubbub_client.markers import Markers
from hubbub_client.model import Credentials, Cursor
from hubbub_client.outbox import Outbox
from hubbub_client.presence import Presence
from hubbub_client.presence_watch import PresenceWatch
from hubbub_client.sending import Sending
from hubbub_client.settings import Settings
from hubbub_client.sync_engine import SyncEngine
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport
from hubbub_client.unary import Unary
from hubbub_client.users import Users


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What an application chose; HubbubClient says what each means."""

    instance_id: str
    cursor_store: CursorStore | None
    credentials_changed: Callable[[Credentials], None] | None
    keeps_counters: bool
    marks_delivered: bool


class Run:
    """Makes the parts, and works until the client may not go on or `stop` is called.

    Everything that happens sets `_news`, which wakes the reader of events. `stopped` tells why the run is over; `_end`
    alone sets it, and the first reason stays.

    Args:
        transport: where to; it is open.
        calls: how calls are made.
        tokens: of the signed-in user.
        cursors: where to go on.
        options: what the application chose.
    """

    def __init__(
        self, transport: Transport, calls: Calls, tokens: Tokens, cursors: Sequence[Cursor], options: Options
    ) -> None:
        user_id = tokens.credentials.user_id
        self.stopped: HubbubError | None = None
        self._news = asyncio.Event()
        self.tokens = tokens
        self.boards = Boards(user_id, keeps_counters=options.keeps_counters)
        self.engine = SyncEngine(user_id, cursors, boards=self.boards)
        unary = Unary(calls, tokens, self._why_stopped)
        self.conversations = Conversations(unary)
        self.users = Users(unary)
        self.markers = Markers(unary, self.boards)
        self.settings = Settings(unary)
        self._outbox = Outbox(lambda: Backoff(0.2, 10.0))
        self._connection = Connection(
            transport, tokens, self.engine, self._outbox, options.instance_id, news=self._notice
        )
        self._catch_up = CatchUp(transport, tokens, self.engine, self.conversations.list_starts, self._notice)
        self._presence_watch = PresenceWatch(transport, tokens, self.boards.presence, self._news.set)
        self.presence = Presence(unary, self.boards.presence, self._presence_watch.wake)
        self._counting: Counting | None = None
        if self.boards.counters is not None:
            self._counting = Counting(self.boards.counters, unary, self.conversations, self.settings, self._notice)
        self._delivering: Delivering | None = None
        if options.marks_delivered:
            self._delivering = Delivering(DeliveredBoard(user_id), unary, self.conversations)
        self._cursor_keeper: CursorKeeper | None = None
        if options.cursor_store is not None:
            self._cursor_keeper = CursorKeeper(options.cursor_store, self.engine, user_id)
        self.events = EventReader(
            self.engine,
            self.boards,
            news=self._news,
            processed=self._note_processed,
            made_room=self._catch_up.wake,
            stopped=self._why_stopped,
        )
        self.sending = Sending(
            self._outbox,
            self.boards.echoes,
            wake=self._connection.wake,
            news=self._news.set,
            stopped=self._why_stopped,
        )

    async def run(self) -> None:
        """Works until it is cancelled, or something forbids to go on."""
        beside = (self._catch_up, self._presence_watch, self._counting, self._delivering, self._cursor_keeper)
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(part.run()) for part in beside if part is not None]
            error = await self._connection.run(tasks)
            for task in others:
                task.cancel()
        self._end(error)

    async def stop(self, running: asyncio.Task[None]) -> None:
        """Tells and saves what waits for it, and ends everything; `running` is the task of `run`."""
        try:
            if self._delivering is not None and self.stopped is None:
                await self._delivering.close()
        finally:
            self._end(ClientClosed("the client was closed"))
            running.cancel()
        self.tokens.close()
        if self._cursor_keeper is not None:
            await self._cursor_keeper.save()

    def _end(self, error: HubbubError) -> None:
        self.stopped = self.stopped or error
        self._outbox.fail_all(error)
        self._news.set()

    def _why_stopped(self) -> HubbubError | None:
        return self.stopped

    def _notice(self) -> None:
        """Something came, from the server or the engine: wakes whoever may have to do with it."""
        self._news.set()
        if self.engine.is_behind or self.engine.relist_needed:
            self._catch_up.wake()
        if self._counting is not None:
            self._counting.wake()

    def _note_processed(self, delivery: Delivery) -> None:
        self.engine.mark_processed(delivery)
        self._connection.note_processed()
        if self._delivering is not None:
            self._delivering.receive(delivery.item)
