"""The client: what an application uses."""

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, Self

import grpc
import uuid_utils
from google.protobuf import field_mask_pb2
from hubbub.auth.v1 import auth_service_pb2 as auth_pb
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb
from hubbub.history.v1 import history_service_pb2 as history_pb
from hubbub.user.v1 import user_service_pb2 as users_pb

from hubbub_client import kept, model, wire, wire_kept
from hubbub_client.backoff import Backoff
from hubbub_client.boards import Boards
from hubbub_client.calls import ATTEMPT_TIMEOUT_S, Calls
from hubbub_client.catch_up import CatchUp
from hubbub_client.connection import Connection
from hubbub_client.counting import Counting
from hubbub_client.cursor_store import CursorStore
from hubbub_client.delivered_board import DeliveredBoard
from hubbub_client.delivering import Delivering
from hubbub_client.echoes import Echo, EchoState
from hubbub_client.entities import TextEntity
from hubbub_client.errors import (
    CallFailed,
    ClientClosed,
    HubbubError,
    InvalidCredentials,
    OutboxFull,
    SendTimedOut,
    SignedOut,
)
from hubbub_client.events import Event
from hubbub_client.live_progress import Delivery
from hubbub_client.markers import Markers
from hubbub_client.outbox import Outbox
from hubbub_client.presence import Presence
from hubbub_client.presence_watch import PresenceWatch
from hubbub_client.settings import Settings
from hubbub_client.sync_engine import SyncEngine
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport
from hubbub_client.unary import Unary

OUTBOX_MAX_MESSAGES: Final = 1_000
_SAVE_INTERVAL_S: Final = 1.0
_SIDES: Final = {
    model.PageSide.BEFORE: history_pb.PAGE_SIDE_BEFORE,
    model.PageSide.AFTER: history_pb.PAGE_SIDE_AFTER,
    model.PageSide.AROUND: history_pb.PAGE_SIDE_AROUND,
}


class _Events:
    """Nothing but a place in the one sequence of events, so a reader may stop anywhere and another one go on."""

    def __init__(self, next_event: Callable[[], Awaitable[Event]]) -> None:
        self._next_event = next_event

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        return await self._next_event()


class HubbubClient:
    """A signed-in user on one server address. `async with` signs in and connects; leaving it stops everything.

    It stays connected by itself: it renews tokens, connects again with jitter, fetches what it missed, and repeats
    what was not answered. What it cannot mend ends `events()` and `send()` with an error: Displaced, SignedOut. Calls
    are repeated while that helps, for `call_timeout_s` in all. For one event loop, not for several threads.

    Args:
        target: "host:port".
        sign_in: who: Login, Registration, or Credentials kept from before.
        channel_credentials: for TLS; None speaks plain text.
        instance_id: UUID of this running client; made when not given. Never share it: the newer client displaces the
            other.
        cursor_store: keeps cursors between runs; None starts at the present each time.
        credentials_changed: called with each new pair of tokens before it is used, to be kept for the next run.
        call_timeout_s: how long one call may take with all its repeats.
        keeps_counters: follow what is unread, see `counters`. Costs a list of all conversations at the start.
        marks_delivered: tell the senders, where receipts_mode is FULL, that this user's device has their messages, once
            the application has processed them (see `events`). What waits to be told is told when the client is closed,
            in half a second at most. False: only `markers.mark_delivered` tells.

    Attributes:
        markers: what is read and unread.
        presence: who is there.
        settings: mutes, blocks, drafts and other preferences.
    """

    markers: Markers
    presence: Presence
    settings: Settings

    def __init__(  # noqa: PLR0913  # options, by name
        self,
        target: str,
        sign_in: model.SignIn,
        *,
        channel_credentials: grpc.ChannelCredentials | None = None,
        instance_id: str | None = None,
        cursor_store: CursorStore | None = None,
        credentials_changed: Callable[[model.Credentials], None] | None = None,
        call_timeout_s: float = 30.0,
        keeps_counters: bool = False,
        marks_delivered: bool = True,
    ) -> None:
        self._sign_in, self._credentials_changed = sign_in, credentials_changed
        self._instance_id = instance_id or str(uuid.uuid4())
        self._cursor_store, self._saved_cursors = cursor_store, list[model.Cursor]()
        self._transport = Transport(target, channel_credentials)
        self._calls = Calls(self._transport, timeout_s=call_timeout_s)
        self._keeps_counters, self._marks_delivered = keeps_counters, marks_delivered
        self._outbox = Outbox(lambda: Backoff(0.2, 10.0))
        self._outbox_room = asyncio.Semaphore(OUTBOX_MAX_MESSAGES)
        self._news = asyncio.Event()
        self._stack = AsyncExitStack()
        self._stopped: HubbubError | None = ClientClosed("the client is not open")
        self._is_read = False
        self._unprocessed: Delivery | None = None  # given to the application, which has not asked for the next one

    # ---- life

    async def __aenter__(self) -> Self:
        """Signs in and starts to connect; does not wait for the stream (see Connected).

        Raises:
            CallFailed: signing in was refused, or the server could not be reached in time.
        """
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._transport)
            credentials = await self._first_credentials()
            cursors = await self._cursor_store.load(credentials.user_id) if self._cursor_store else ()
            self._boards = Boards(credentials.user_id, keeps_counters=self._keeps_counters)
            self._engine = SyncEngine(credentials.user_id, cursors, boards=self._boards)
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            self._tokens = Tokens(credentials, self._renew_credentials, tasks, self._credentials_changed)
            self._catch_up = CatchUp(self._transport, self._tokens, self._engine, self._list_starts, self._notice)
            self._connection = Connection(
                self._transport, self._tokens, self._engine, self._outbox, self._instance_id, self._notice
            )
            self._open_services()
            background = tasks.create_task(self._run())
            stack.push_async_callback(self._stop, background)
            self._stopped = None
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stops. What was not answered ends with ClientClosed; it may be committed all the same."""
        await self._stack.aclose()

    def _open_services(self) -> None:
        self._unary = Unary(self._calls, self._tokens, lambda: self._stopped)
        self.markers = Markers(self._unary, self._boards)
        self.settings = Settings(self._unary)
        self._presence_watch = PresenceWatch(self._transport, self._tokens, self._boards.presence, self._news.set)
        self.presence = Presence(self._unary, self._boards.presence, self._presence_watch.wake)
        self._counting: Counting | None = None
        if self._boards.counters is not None:
            self._counting = Counting(self._boards.counters, self._unary, self._list_views, self._notice)
        self._delivering: Delivering | None = None
        if self._marks_delivered:
            self._delivering = Delivering(DeliveredBoard(self.user_id), self._unary)

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            others = [tasks.create_task(self._catch_up.run()), tasks.create_task(self._presence_watch.run())]
            if self._counting is not None:
                others.append(tasks.create_task(self._counting.run()))
            if self._delivering is not None:
                others.append(tasks.create_task(self._delivering.run()))
            if self._cursor_store is not None:
                others.append(tasks.create_task(self._keep_cursors(self._cursor_store)))
            error = await self._connection.run(tasks)
            for task in others:
                task.cancel()
        self._end(error)

    async def _stop(self, background: asyncio.Task[None]) -> None:
        try:
            if self._delivering is not None and self._stopped is None:
                await self._delivering.close()
        finally:
            self._end(ClientClosed("the client was closed"))
            background.cancel()
        self._tokens.close()
        if self._cursor_store is not None:
            await self._save_cursors(self._cursor_store)

    def _end(self, error: HubbubError) -> None:
        self._stopped = self._stopped or error
        self._outbox.fail_all(error)
        self._news.set()

    def _notice(self) -> None:
        self._news.set()
        if self._engine.is_behind or self._engine.relist_needed:
            self._catch_up.wake()
        if self._counting is not None:
            self._counting.wake()

    async def _keep_cursors(self, store: CursorStore) -> None:
        while True:
            await asyncio.sleep(_SAVE_INTERVAL_S)
            await self._save_cursors(store)

    async def _save_cursors(self, store: CursorStore) -> None:
        cursors = self._engine.processed_cursors()
        if cursors and cursors != self._saved_cursors:
            await store.save(self.user_id, cursors)
            self._saved_cursors = cursors

    # ---- signing in

    @property
    def user_id(self) -> str:
        """The signed-in user."""
        return self._tokens.credentials.user_id

    @property
    def credentials(self) -> model.Credentials:
        """The newest tokens."""
        return self._tokens.credentials

    async def _first_credentials(self) -> model.Credentials:
        match self._sign_in:
            case model.Credentials():
                return self._sign_in
            case model.Login():
                return await self._log_in(self._sign_in)
            case model.Registration(login_name, password, display_name):
                request = auth_pb.RegisterRequest(login_name=login_name, password=password, display_name=display_name)
                answer = await self._calls.once(lambda stubs: stubs.auth.Register, request, timeout_s=ATTEMPT_TIMEOUT_S)
                return wire.read_credentials(answer.credentials)

    async def _log_in(self, login: model.Login) -> model.Credentials:
        request = auth_pb.LoginRequest(login_name=login.login_name, password=login.password)
        answer = await self._calls.repeatedly(lambda stubs: stubs.auth.Login, request)
        return wire.read_credentials(answer.credentials)

    async def _renew_credentials(self, credentials: model.Credentials) -> model.Credentials:
        request = auth_pb.RefreshTokenRequest(refresh_token=credentials.refresh_token)
        try:
            answer = await self._calls.repeatedly(lambda stubs: stubs.auth.RefreshToken, request)
            return wire.read_credentials(answer.credentials)
        except InvalidCredentials as error:
            if isinstance(self._sign_in, model.Credentials):
                raise SignedOut("the refresh token is spent or revoked") from error
        try:
            return await self._log_in(model.Login(self._sign_in.login_name, self._sign_in.password))
        except InvalidCredentials as error:
            raise SignedOut("the password is no longer right") from error

    # ---- events and messages

    def events(self) -> AsyncIterator[Event]:
        """Iterates over what happens, until the client is closed. For one reader at a time.

        There is one sequence of events: a reader that comes after another goes on where that one stopped. An item
        counts as processed when the next one is asked for. A slow reader costs nobody anything: the client fetches
        later what it had no room for.

        Raises, while iterating:
            Displaced: another client said Hello with this instance_id.
            SignedOut: the device session is over.
            RuntimeError: somebody else is waiting for the next item.
        """
        return _Events(self._next_event)

    async def _next_event(self) -> Event:
        if self._is_read:
            raise RuntimeError("somebody else is waiting for the next event")
        self._is_read = True
        try:
            if self._unprocessed is not None:
                self._engine.mark_processed(self._unprocessed)
                self._connection.note_processed()
                if self._delivering is not None:
                    self._delivering.receive(self._unprocessed.item)
            while (delivery := self._take()) is None:
                if isinstance(self._stopped, ClientClosed):
                    raise StopAsyncIteration
                if self._stopped is not None:
                    raise self._stopped
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
            self._catch_up.wake()  # also when nothing is handed over: what the application has already made room too
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

    @property
    def counters(self) -> kept.Counters:
        """What is unread now, as this client knows; `is_exact` tells whether that is all that was heard of.

        Raises:
            RuntimeError: the client was made without `keeps_counters`.
        """
        if self._boards.counters is None:
            raise RuntimeError("make the client with keeps_counters=True")
        return self._boards.counters.counters(datetime.now(UTC))

    def start_typing(
        self, conversation_id: str, kind: model.TypingKind = model.TypingKind.TEXT, *, for_s: float = 5.0
    ) -> None:
        """Shows to the other members that the user types: call it at each keystroke, it is told every 3 s at most.

        It ends `for_s` after the last call, with `stop_typing`, with `send` into the conversation, or with the client.
        While the client is not connected, nobody is told. Refusals are ignored: members alone are heard, and in large
        conversations nobody is.

        Args:
            conversation_id: where.
            kind: what is made.
            for_s: how long it goes on without another call; as long as it takes, for an upload.
        """
        self._outbox.typing.start(conversation_id, kind, for_s, time.monotonic())
        self._connection.wake()

    def stop_typing(self, conversation_id: str) -> None:
        """Shows to the other members that the user stopped, if they were shown anything."""
        self._outbox.typing.stop(conversation_id)
        self._connection.wake()

    def post(
        self,
        conversation_id: str,
        text: str,
        *,
        entities: Sequence[TextEntity] = (),
        client_message_id: str | None = None,
    ) -> Echo:
        """Sends a message without waiting, and returns its echo, to be shown at once.

        EchoChanged tells what becomes of it: SENT, once, before or after its MessageReceived with the same
        `client_message_id`, which takes its place; or FAILED, when it is refused for good: `retry` or `discard` it.
        Else as `send` without end: what is pending when the client closes may be committed all the same.

        Raises:
            OutboxFull: 1,000 are pending or failed.
            ValueError: one with this id is pending.
            ClientClosed, Displaced, SignedOut: the client is not open.
        """
        if self._stopped is not None:
            raise self._stopped
        if len(self._boards.echoes) >= OUTBOX_MAX_MESSAGES:
            raise OutboxFull(f"{OUTBOX_MAX_MESSAGES} messages wait already")
        echo = Echo(
            conversation_id=conversation_id,
            client_message_id=client_message_id or str(uuid_utils.uuid7()),
            text=text,
            entities=tuple(entities),
            post_time=datetime.now(UTC),
        )
        self._post(echo)
        return echo

    def retry(self, client_message_id: str) -> Echo:
        """Sends a message that failed once more, under the same id: it is committed once at most.

        Raises:
            KeyError: no message of that id failed here.
        """
        failed = self._boards.echoes.get(client_message_id)
        if failed is None or failed.state is not EchoState.FAILED:
            raise KeyError(client_message_id)
        echo = replace(failed, state=EchoState.PENDING, error=None)
        self._post(echo)
        return echo

    def discard(self, client_message_id: str) -> None:
        """Forgets a message that failed, or withdraws one that is pending: that may be committed all the same."""
        if (echo := self._boards.echoes.discard(client_message_id)) is not None:
            self._outbox.withdraw(echo.conversation_id, client_message_id)

    def echoes(self, conversation_id: str) -> Sequence[Echo]:
        """Returns what was posted into a conversation and is pending or failed, in the order of posting."""
        return self._boards.echoes.of(conversation_id)

    def _post(self, echo: Echo) -> None:
        def settle(outcome: model.Sent | HubbubError) -> None:
            if isinstance(outcome, (model.Sent, CallFailed)):
                self._boards.echoes.settle(echo.client_message_id, outcome)
                self._news.set()

        conversation_id, message_id = echo.conversation_id, echo.client_message_id
        self._outbox.add(conversation_id, message_id, echo.text, echo.post_time, settle, entities=echo.entities)
        self._boards.echoes.post(echo)
        self._connection.wake()
        self._news.set()

    async def send(
        self,
        conversation_id: str,
        text: str,
        *,
        entities: Sequence[TextEntity] = (),
        client_message_id: str | None = None,
        timeout_s: float | None = 60.0,
    ) -> model.Sent:
        """Sends a message and returns when it is durable and numbered.

        Calls keep their order within a conversation: start as many as you like (`asyncio.TaskGroup`), they travel
        together. Cuts and overload are waited out, with the same id; a failed one does not hold up those after it.
        Beyond 1,000 unanswered ones a call waits before it is queued. Cancelling withdraws the message; it may be
        committed when it was on its way.

        Args:
            conversation_id: where to.
            text: 1 to 8,000 code points, at most 32 KiB, something visible.
            entities: what parts of it are: mentions (see `mentions_of`), code, links.
            client_message_id: UUID of the message, to repeat a send of an earlier run; made when not given.
            timeout_s: how long to try; None tries until the client closes.

        Raises:
            CallFailed: it was refused for good.
            SendTimedOut: the outcome is not known yet.
            ClientClosed: the client was closed; the outcome is not known.
            Displaced: another client said Hello with this instance_id.
            SignedOut: the device session is over.
        """
        message_id = client_message_id or str(uuid_utils.uuid7())
        answer: asyncio.Future[model.Sent] = asyncio.get_running_loop().create_future()

        def settle(outcome: model.Sent | HubbubError) -> None:
            if answer.done():
                return
            if isinstance(outcome, HubbubError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)

        try:
            async with asyncio.timeout(timeout_s), self._outbox_room:
                if self._stopped is not None:
                    raise self._stopped
                self._outbox.add(conversation_id, message_id, text, datetime.now(UTC), settle, entities=entities)
                try:
                    self._connection.wake()
                    return await answer
                finally:
                    self._outbox.withdraw(conversation_id, message_id)
        except TimeoutError as error:
            raise SendTimedOut(message_id) from error

    async def list_messages(
        self,
        conversation_id: str,
        *,
        anchor_number: int = 0,
        side: model.PageSide = model.PageSide.BEFORE,
        page_size: int = 0,
    ) -> model.MessagePage:
        """Lists messages around a number, or the newest.

        Exact: contains whatever was acknowledged before the call, unless the page says `head_unconfirmed`.

        Args:
            conversation_id: of which conversation.
            anchor_number: exclusive but for AROUND; 0 is the newest (BEFORE) or the first (AFTER).
            side: on which side of the anchor.
            page_size: 0 = 50, at most 200; a page also ends at 256 KiB.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = history_pb.ListMessagesRequest(
            conversation_id=conversation_id, anchor_number=anchor_number, side=_SIDES[side], page_size=page_size
        )
        return wire.read_page(
            conversation_id, await self._unary.call(lambda stubs: stubs.history.ListMessages, request)
        )

    async def get_message(self, conversation_id: str, message_number: int) -> model.Message:
        """Gets one message.

        Raises:
            ConversationNotFound: the caller is not a member.
            MessageNotFound: there is none of that number.
        """
        request = history_pb.GetMessageRequest(conversation_id=conversation_id, message_number=message_number)
        answer = await self._unary.call(lambda stubs: stubs.history.GetMessage, request)
        return wire.read_message(conversation_id, answer.message)

    # ---- conversations and users

    async def create_direct(self, user_id: str) -> model.Conversation:
        """Returns the conversation with one other user; there is one per pair, whoever starts.

        Raises:
            UserNotFound: nobody has that id.
        """
        request = conversations_pb.CreateConversationRequest(direct=conversations_pb.DirectSpec(user_id=user_id))
        answer = await self._unary.call(lambda stubs: stubs.conversations.CreateConversation, request)
        return wire.read_conversation(answer.view)

    async def create_group(
        self, title: str, user_ids: Iterable[str] = (), *, request_id: str | None = None
    ) -> model.Conversation:
        """Creates a group owned by the caller, with at most 500 others.

        Args:
            title: 1 to 100 characters.
            user_ids: the first members, besides the caller.
            request_id: UUID of this creation; give your own to repeat it after a restart without a second group.

        Raises:
            UserNotFound: one of them is nobody.
            NotPermitted: some of them block the caller; its `user_ids` are theirs.
            IdReused: the request_id made a group of another title or other users.
        """
        request = conversations_pb.CreateConversationRequest(
            request_id=request_id or str(uuid_utils.uuid7()),
            group=conversations_pb.GroupSpec(title=title, user_ids=user_ids),
        )
        answer = await self._unary.call(lambda stubs: stubs.conversations.CreateConversation, request)
        return wire.read_conversation(answer.view)

    async def get_conversation(self, conversation_id: str) -> model.Conversation:
        """Gets a conversation as the caller sees it now.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = conversations_pb.GetConversationRequest(conversation_id=conversation_id)
        answer = await self._unary.call(lambda stubs: stubs.conversations.GetConversation, request)
        return wire.read_conversation(answer.view)

    async def update_conversation(
        self, conversation_id: str, *, receipts_limit: kept.ReceiptsMode
    ) -> kept.ConversationSettings:
        """Changes the settings of a group; returns all of them. Members hear it as ConversationSettingsChanged.

        Args:
            conversation_id: which group.
            receipts_limit: the most that members learn of each other's reading, however few they are.

        Raises:
            ConversationNotFound: the caller is not a member.
            NotPermitted: the caller is neither owner nor admin.
            ConversationState: the conversation is direct.
        """
        request = conversations_pb.UpdateConversationRequest(
            conversation_id=conversation_id,
            settings=conversation_pb2.ConversationSettings(receipts_limit=wire_kept.write_mode(receipts_limit)),
            update_mask=field_mask_pb2.FieldMask(paths=["receipts_limit"]),
        )
        answer = await self._unary.call(lambda stubs: stubs.conversations.UpdateConversation, request)
        return wire_kept.read_conversation_settings(answer.settings)

    async def list_conversations(self) -> list[model.Conversation]:
        """Lists all conversations of the caller, the one joined last first."""
        return list(map(wire.read_conversation, await self._list_views()))

    async def _list_views(self) -> list[conversations_pb.ConversationView]:
        request = conversations_pb.ListConversationsRequest(page_size=200)
        pages = self._unary.pages(lambda stubs: stubs.conversations.ListConversations, request)
        return [view async for page in pages for view in page.views]

    async def list_members(self, conversation_id: str) -> list[model.Member]:
        """Lists all members, owners first, then in the order of joining.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = conversations_pb.ListMembersRequest(conversation_id=conversation_id, page_size=500)
        pages = self._unary.pages(lambda stubs: stubs.conversations.ListMembers, request)
        return [wire.read_member(member) async for page in pages for member in page.members]

    async def add_members(self, conversation_id: str, user_ids: Sequence[str]) -> model.Cursor:
        """Adds users to a group, all or none; returns the place of the addition. Members already there stay.

        Raises:
            ConversationNotFound: the caller is not a member.
            NotPermitted: the caller is neither owner nor admin, or some of them, its `user_ids`, block the caller.
            UserNotFound: one of them is nobody.
            ConversationState: the group would be too large, or the conversation is direct.
        """
        request = conversations_pb.AddMembersRequest(conversation_id=conversation_id, user_ids=user_ids)
        return wire.read_cursor((await self._unary.call(lambda stubs: stubs.conversations.AddMembers, request)).cursor)

    async def remove_member(self, conversation_id: str, user_id: str = "me") -> model.Cursor:
        """Removes a user from a group, or leaves it; returns the place of the removal. The user reads nothing after it.

        Raises:
            ConversationNotFound: the caller is not a member, for example because the first try of leaving was done.
            NotPermitted: the caller is neither owner nor admin, nor leaving.
            ConversationState: the last owner would leave, or the conversation is direct.
        """
        request = conversations_pb.RemoveMemberRequest(conversation_id=conversation_id, user_id=user_id)
        return wire.read_cursor(
            (await self._unary.call(lambda stubs: stubs.conversations.RemoveMember, request)).cursor
        )

    async def lookup_user(self, login_name: str) -> model.User:
        """Finds a user by the exact login name.

        Raises:
            UserNotFound: nobody has it.
        """
        request = users_pb.LookupUserRequest(login_name=login_name)
        return wire.read_user((await self._unary.call(lambda stubs: stubs.users.LookupUser, request)).user)

    async def get_users(self, user_ids: Sequence[str]) -> list[model.User]:
        """Gets up to 200 users in the order asked; ids of nobody are left out."""
        request = users_pb.BatchGetUsersRequest(user_ids=user_ids)
        answer = await self._unary.call(lambda stubs: stubs.users.BatchGetUsers, request)
        return [wire.read_user(user) for user in answer.users]

    async def _list_starts(self) -> list[model.Cursor]:
        return [
            model.Cursor(
                conversation.conversation_id,
                conversation.head.cursor.epoch,
                conversation.membership.join_position - 1,
            )
            for conversation in await self.list_conversations()
        ]
