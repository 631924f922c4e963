"""The client: what an application uses."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from typing import Self

import grpc

from hubbub_client import kept, model
from hubbub_client.calls import Calls
from hubbub_client.cursor_store import CursorStore
from hubbub_client.echoes import Echo
from hubbub_client.entities import TextEntity
from hubbub_client.errors import ClientClosed
from hubbub_client.events import Event
from hubbub_client.markers import Markers
from hubbub_client.presence import Presence
from hubbub_client.run import Options, Run
from hubbub_client.settings import Settings
from hubbub_client.signing_in import SigningIn
from hubbub_client.tokens import Tokens
from hubbub_client.transport import Transport


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
        self._transport = Transport(target, channel_credentials)
        self._calls = Calls(self._transport, timeout_s=call_timeout_s)
        self._signing_in = SigningIn(self._calls, sign_in)
        self._options = Options(
            instance_id=instance_id or str(uuid.uuid4()),
            cursor_store=cursor_store,
            credentials_changed=credentials_changed,
            keeps_counters=keeps_counters,
            marks_delivered=marks_delivered,
        )
        self._last_run: Run | None = None
        self._stack = AsyncExitStack()

    # ---- life

    async def __aenter__(self) -> Self:
        """Signs in and starts to connect; does not wait for the stream (see Connected).

        Raises:
            CallFailed: signing in was refused, or the server could not be reached in time.
        """
        store = self._options.cursor_store
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._transport)
            credentials = await self._signing_in.first()
            cursors = await store.load(credentials.user_id) if store is not None else ()
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            tokens = Tokens(credentials, self._signing_in.renew, tasks, self._options.credentials_changed)
            run = Run(self._transport, self._calls, tokens, cursors, self._options)
            self.markers, self.presence, self.settings = run.markers, run.presence, run.settings
            stack.push_async_callback(run.stop, tasks.create_task(run.run()))
            self._last_run = run
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *exception: object) -> None:
        """Stops. What was not answered ends with ClientClosed; it may be committed all the same."""
        await self._stack.aclose()

    @property
    def _run(self) -> Run:
        if self._last_run is None:
            raise ClientClosed("the client is not open")
        return self._last_run

    @property
    def user_id(self) -> str:
        """The signed-in user."""
        return self._run.tokens.credentials.user_id

    @property
    def credentials(self) -> model.Credentials:
        """The newest tokens."""
        return self._run.tokens.credentials

    # ---- events

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
        return self._run.events

    @property
    def counters(self) -> kept.Counters:
        """What is unread now, as this client knows; `is_exact` tells whether that is all that was heard of.

        Raises:
            RuntimeError: the client was made without `keeps_counters`.
        """
        board = self._run.boards.counters
        if board is None:
            raise RuntimeError("make the client with keeps_counters=True")
        return board.counters(datetime.now(UTC))

    # ---- messages and typing

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
        self._run.sending.start_typing(conversation_id, kind, for_s)

    def stop_typing(self, conversation_id: str) -> None:
        """Shows to the other members that the user stopped, if they were shown anything."""
        self._run.sending.stop_typing(conversation_id)

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
        return self._run.sending.post(conversation_id, text, entities, client_message_id)

    def retry(self, client_message_id: str) -> Echo:
        """Sends a message that failed once more, under the same id: it is committed once at most.

        Raises:
            KeyError: no message of that id failed here.
        """
        return self._run.sending.retry(client_message_id)

    def discard(self, client_message_id: str) -> None:
        """Forgets a message that failed, or withdraws one that is pending: that may be committed all the same."""
        self._run.sending.discard(client_message_id)

    def echoes(self, conversation_id: str) -> Sequence[Echo]:
        """Returns what was posted into a conversation and is pending or failed, in the order of posting."""
        return self._run.boards.echoes.of(conversation_id)

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
        return await self._run.sending.send(conversation_id, text, entities, client_message_id, timeout_s)

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
        return await self._run.conversations.list_messages(conversation_id, anchor_number, side, page_size)

    async def get_message(self, conversation_id: str, message_number: int) -> model.Message:
        """Gets one message.

        Raises:
            ConversationNotFound: the caller is not a member.
            MessageNotFound: there is none of that number.
        """
        return await self._run.conversations.get_message(conversation_id, message_number)

    # ---- conversations and users

    async def create_direct(self, user_id: str) -> model.Conversation:
        """Returns the conversation with one other user; there is one per pair, whoever starts.

        Raises:
            UserNotFound: nobody has that id.
        """
        return await self._run.conversations.create_direct(user_id)

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
        return await self._run.conversations.create_group(title, user_ids, request_id)

    async def get_conversation(self, conversation_id: str) -> model.Conversation:
        """Gets a conversation as the caller sees it now.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        return await self._run.conversations.get(conversation_id)

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
        return await self._run.conversations.set_receipts_limit(conversation_id, receipts_limit)

    async def list_conversations(self) -> list[model.Conversation]:
        """Lists all conversations of the caller, the one joined last first."""
        return await self._run.conversations.list_all()

    async def list_members(self, conversation_id: str) -> list[model.Member]:
        """Lists all members, owners first, then in the order of joining.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        return await self._run.conversations.list_members(conversation_id)

    async def add_members(self, conversation_id: str, user_ids: Sequence[str]) -> model.Cursor:
        """Adds users to a group, all or none; returns the place of the addition. Members already there stay.

        Raises:
            ConversationNotFound: the caller is not a member.
            NotPermitted: the caller is neither owner nor admin, or some of them, its `user_ids`, block the caller.
            UserNotFound: one of them is nobody.
            ConversationState: the group would be too large, or the conversation is direct.
        """
        return await self._run.conversations.add_members(conversation_id, user_ids)

    async def remove_member(self, conversation_id: str, user_id: str = "me") -> model.Cursor:
        """Removes a user from a group, or leaves it; returns the place of the removal. The user reads nothing after it.

        Raises:
            ConversationNotFound: the caller is not a member, for example because the first try of leaving was done.
            NotPermitted: the caller is neither owner nor admin, nor leaving.
            ConversationState: the last owner would leave, or the conversation is direct.
        """
        return await self._run.conversations.remove_member(conversation_id, user_id)

    async def lookup_user(self, login_name: str) -> model.User:
        """Finds a user by the exact login name.

        Raises:
            UserNotFound: nobody has it.
        """
        return await self._run.users.lookup(login_name)

    async def get_users(self, user_ids: Sequence[str]) -> list[model.User]:
        """Gets up to 200 users in the order asked; ids of nobody are left out."""
        return await self._run.users.get(user_ids)
