"""Moves markers, and tells what is read and unread: the use cases of MarkerService, and its commands on streams.

A marker is an event of the user's own topic. What a user says within a window of 2 s becomes one (marker_windows.py):
reading is committed at once, what follows when the window ends; receiving when the window ends, so that what is read
within it costs nothing. Others hear of a marker when it is durable.
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Protocol, Self

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.as_member import member_at_head, members_at_head
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import ReadUpTo, ReceivedUpTo
from hubbub_server.app.marker_windows import WINDOW_S, MarkerWindows
from hubbub_server.app.page_tokens import size_of_page
from hubbub_server.app.read_floors import ReadFloors
from hubbub_server.app.read_states import ReadState, ReadStates
from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.commands import Answer, Delivered, MarkDelivered, Marked, MarkRead, MarkUnread
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import (
    ConversationNotFound,
    InvalidField,
    MessageNotFound,
    WrongState,
)
from hubbub_server.domain.events import DeliveredMarker, ReadMarker
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.limits import (
    PAGE_MAX_BYTES,
    READERS_MAX,
)
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.message_store import StoredMessage

_AT_ONCE: Final = 16
_COUNTERS_MAX: Final = 5_000


class MarkerNews(Protocol):
    """Hears of markers that others may know of, when they are durable. Must not block."""

    def tell_read(self, conversation_id: ConversationId, user_id: UserId, message_number: int) -> None:
        """A user has read up to a message."""

    def tell_delivered(self, conversation_id: ConversationId, user_id: UserId, message_number: int) -> None:
        """A user's devices have received up to a message."""

    def tell_floor(self, conversation_id: ConversationId, message_number: int) -> None:
        """All members have read up to a message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMarker:
    """How far a member has read and received; receiving is never behind."""

    user_id: UserId
    read_number: int
    delivered_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who has read a message; `user_ids` is empty when only the number is told."""

    user_ids: Sequence[UserId]
    count: int
    mode: ReceiptsMode
    floor_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCounters:
    """What is unread in one conversation, as of `position` of its log."""

    conversation_id: ConversationId
    read_state: ReadState
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What is unread, in all conversations with something unread; the badge leaves muted ones out."""

    conversations: Sequence[ConversationCounters]
    badge_count: int
    mention_count: int
    cursor: Cursor


class Markers:
    """Use cases of MarkerService. Use as `async with`; the block owns the windows."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        reader: TopicReader,
        read_states: ReadStates,
        effects: MembershipEffects,
        clock: Clock,
        news: MarkerNews,
        window_s: float = WINDOW_S,
        command_timeout_s: float = 8.0,
    ) -> None:
        """Takes the topics and their reader. `window_s` is for tests."""
        self._hub = hub
        self._reader = reader
        self._read_states = read_states
        self._effects = effects
        self._clock = clock
        self._news = news
        self._timeout_s = command_timeout_s
        times = {"window_s": window_s, "command_timeout_s": command_timeout_s}
        self._reads = MarkerWindows[MarkRead, Marked](self._commit, commits_first=True, **times)
        self._deliveries = MarkerWindows[MarkDelivered, Delivered](self._deliver, commits_first=False, **times)
        self._floors = ReadFloors(hub=hub, reader=reader, tell=news.tell_floor)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Takes marks from now on."""
        await self._stack.enter_async_context(self._floors)
        await self._stack.enter_async_context(self._reads)
        await self._stack.enter_async_context(self._deliveries)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what waits."""
        self.drain()
        await self._stack.__aexit__(kind, error, trace)

    def drain(self) -> None:
        """Commits at once what waits, and what still comes."""
        self._reads.drain()
        self._deliveries.drain()

    # ---- marking

    async def mark(self, caller_id: UserId, mark: ReadUpTo | ReceivedUpTo) -> Marked | Delivered:
        """Does what a command of a stream says. Raises as `mark_read` and `mark_delivered`."""
        if isinstance(mark, ReadUpTo):
            return await self.mark_read(caller_id, mark)
        return await self.mark_delivered(caller_id, mark)

    async def mark_read(self, caller_id: UserId, read: ReadUpTo) -> Marked:
        """Moves the caller's marker up to a message; one that is behind the stored marker is answered with that.

        Raises:
            ConversationNotFound, MessageNotFound: as they say.
            Unavailable: it is not durable, or that is unknown.
        """
        marker = await self._marker_at(caller_id, read)
        command = MarkRead(
            conversation_id=read.conversation_id, marker=marker, unread_mark_position=read.unread_mark_position
        )
        return await self._reads.take(caller_id, command)

    async def mark_delivered(self, caller_id: UserId, received: ReceivedUpTo) -> Delivered:
        """Moves the caller's delivered marker up to a message, where members are told of each other's.

        Raises:
            ConversationNotFound, MessageNotFound: as they say.
            Unavailable: it is not durable, or that is unknown.
        """
        _, state = await self._with_message(caller_id, received.conversation_id, received.message_number)
        marker = DeliveredMarker(epoch=state.epoch, message_number=received.message_number)
        if state.receipts_mode is not ReceiptsMode.FULL:
            marker = DeliveredMarker()  # nothing is kept: as if it were behind
        return await self._deliveries.take(
            caller_id, MarkDelivered(conversation_id=received.conversation_id, marker=marker)
        )

    async def _deliver(self, user_id: UserId, command: MarkDelivered) -> Delivered:
        answer = await self._submit(user_id, command)
        assert isinstance(answer, Delivered)  # noqa: S101  # by the kind of the command
        topic = self._hub.loaded(command.conversation_id)
        state = topic.state if topic is not None else None
        if answer.is_news and isinstance(state, ConversationState) and state.receipts_mode is ReceiptsMode.FULL:
            self._news.tell_delivered(command.conversation_id, user_id, answer.message_number)
        return answer

    async def _commit(self, user_id: UserId, command: MarkRead | MarkUnread) -> Marked:
        is_moving = isinstance(command, MarkRead) and self._is_moving(user_id, command)
        answer = await self._submit(user_id, command)
        assert isinstance(answer, Marked)  # noqa: S101  # by the kind of the command
        if isinstance(command, MarkRead) and is_moving and answer.marker == command.marker:
            self._tell(user_id, command.conversation_id, command.marker)
        return answer

    def _is_moving(self, user_id: UserId, command: MarkRead) -> bool:
        """Tells whether a marker may be news, as far as this node knows."""
        own = self._hub.loaded(user_id)
        if own is None or not isinstance(own.state, UserTopicState):
            return True
        return own.state.kept_of(command.conversation_id).marker.is_behind(command.marker)

    async def _submit(self, user_id: UserId, command: MarkRead | MarkDelivered | MarkUnread) -> Answer:
        """Commits a mark. A user's own topic may not know yet of a conversation that they were just added to."""
        try:
            return await self._hub.submit(user_id, command, timeout_s=self._timeout_s)
        except ConversationNotFound:
            _, state = await member_at_head(self._hub, user_id, command.conversation_id)
            await self._effects.spread(state, [user_id])
            return await self._hub.submit(user_id, command, timeout_s=self._timeout_s)

    def _tell(self, user_id: UserId, conversation_id: ConversationId, marker: ReadMarker) -> None:
        """Tells others, where they may know: each other's reading, and this user's."""
        topic, own = self._hub.loaded(conversation_id), self._hub.loaded(user_id)
        if topic is None or own is None:
            return
        is_shown = isinstance(own.state, UserTopicState) and own.state.preferences.shows_reading(self._clock.now_ms())
        mode = topic.state.receipts_mode if isinstance(topic.state, ConversationState) else ReceiptsMode.OFF
        if is_shown and mode is ReceiptsMode.FULL:
            self._news.tell_read(conversation_id, user_id, marker.message_number)
        elif is_shown and mode is ReceiptsMode.COUNT_ONLY:
            self._floors.moved(conversation_id, user_id, marker.message_number)

    async def _marker_at(self, caller_id: UserId, read: ReadUpTo) -> ReadMarker:
        """Returns the marker at a message that the caller may see."""
        number = read.message_number
        topic, state = await self._with_message(caller_id, read.conversation_id, number)
        counted_number = state.last_counted_number
        if number < state.last_message_number:
            (message,) = await self._reader.messages(topic, number, number)
            counted_number = message.counted_number
        return ReadMarker(epoch=state.epoch, message_number=number, counted_number=counted_number)

    async def _with_message(
        self, caller_id: UserId, conversation_id: ConversationId, number: int
    ) -> tuple[ActiveTopic, ConversationState]:
        """Returns a conversation of the caller that has a message; costs nothing where a stream is open.

        Raises:
            ConversationNotFound, MessageNotFound, Unavailable: as they say.
        """
        topic = self._hub.loaded(conversation_id)
        state = topic.state if topic is not None else None
        if (
            topic is None
            or not isinstance(state, ConversationState)
            or caller_id not in state.members
            or number > state.last_message_number
        ):
            topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        if number > state.last_message_number:
            raise MessageNotFound
        return topic, state

    async def mark_unread(self, caller_id: UserId, conversation_id: str) -> Marked:
        """Marks a conversation as unread. Raises ConversationNotFound, Unavailable."""
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        # Else what was read before would end the mark afterwards.
        await self._reads.settle(caller_id, state.conversation_id)
        return await self._commit(caller_id, MarkUnread(conversation_id=state.conversation_id))

    # ---- others' markers

    async def list_markers(self, caller_id: UserId, conversation_id: str) -> Sequence[MemberMarker]:
        """Lists how far the other members have read and received, as far as they show it, in the order of the members.

        Raises:
            ConversationNotFound, Unavailable: as they say.
            WrongState: receipts_mode is not FULL.
        """
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        if state.receipts_mode is not ReceiptsMode.FULL:
            raise WrongState("this conversation does not tell who has read what")
        if state.has_block:
            return ()
        read = await self._reader.readers(state.conversation_id)
        delivered = await self._reader.deliveries(state.conversation_id)
        others = [member.user_id for member in state.members_in_order() if member.user_id != caller_id]
        return [
            MemberMarker(
                user_id=user_id,
                read_number=read.get(user_id, 0),
                delivered_number=max(read.get(user_id, 0), delivered.get(user_id, 0)),
            )
            for user_id in others
            if user_id in read or user_id in delivered
        ]

    async def list_readers(self, caller_id: UserId, conversation_id: str, message_number: int) -> Readers:
        """Tells which other members have read a message, as far as they show it.

        Raises:
            InvalidField, ConversationNotFound, MessageNotFound, Unavailable: as they say.
            WrongState: receipts_mode is OFF.
        """
        if message_number < 1:
            raise InvalidField("message_number", "1 or more")
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        mode = state.receipts_mode
        if mode is ReceiptsMode.OFF:
            raise WrongState("this conversation does not tell how many have read what")
        if message_number > state.last_message_number:
            raise MessageNotFound
        (message,) = await self._reader.messages(topic, message_number, message_number)
        numbers = {} if state.has_block else await self._reader.readers(state.conversation_id)
        silent = {caller_id, message.sender_id}
        readers = [
            member.user_id
            for member in state.members_in_order()
            if member.user_id not in silent and numbers.get(member.user_id, 0) >= message_number
        ]
        named = readers[:READERS_MAX] if mode is ReceiptsMode.FULL else ()
        return Readers(user_ids=named, count=len(readers), mode=mode, floor_number=state.read_floor(numbers))

    # ---- counters and mentions

    async def counters(self, caller_id: UserId) -> Counters:
        """Derives what is unread in all conversations of the caller. Raises Unavailable."""
        own = await self._read_states.own(caller_id)
        now_ms = self._clock.now_ms()
        joined = [membership.conversation_id for membership in own.joined()]
        rooms = [room for room in await members_at_head(self._hub, caller_id, joined) if room is not None]

        async def count(room: tuple[ActiveTopic, ConversationState]) -> ConversationCounters:
            topic, state = room
            read_state = await self._read_states.of(topic, state, own)
            return ConversationCounters(
                conversation_id=state.conversation_id, read_state=read_state, position=state.position
            )

        counted = await side_by_side(count, rooms, at_once=_AT_ONCE)
        unread = [each for each in counted if each.read_state.badge_count or each.read_state.mention_count]
        loud = [
            each.read_state for each in unread if not own.kept_of(each.conversation_id).preferences.is_muted(now_ms)
        ]
        return Counters(
            conversations=unread[:_COUNTERS_MAX],
            badge_count=sum(each.badge_count for each in loud),
            mention_count=sum(each.mention_count for each in loud),
            cursor=own.head.cursor,
        )

    async def list_mentions(
        self, caller_id: UserId, conversation_id: str, *, page_size: int, before_number: int
    ) -> tuple[Sequence[StoredMessage], int]:
        """Lists messages that mention the caller, newest first, and `before_number` of the next page, 0: no more.

        Raises:
            InvalidField, ConversationNotFound, Unavailable: as they say.
        """
        size = size_of_page(page_size, default=50, maximum=200)
        if before_number < 0:
            raise InvalidField("before_number", "0 or more")
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        own = await self._read_states.own(caller_id)
        end = state.last_message_number + 1
        before_number = min(before_number, end) if before_number else end
        found = await self._reader.mentions(topic, caller_id, after_number=0, before_number=before_number, limit=size)
        messages: list[StoredMessage] = []
        size_bytes = 0
        for mention in found:
            if mention.sender_id != caller_id and mention.sender_id not in own.blocked:
                number = mention.message_number
                messages += await self._reader.messages(topic, number, number)
                size_bytes += len(messages[-1].body)
                if size_bytes > PAGE_MAX_BYTES and len(messages) > 1:
                    return messages[:-1], number + 1
        return messages, found[-1].message_number if len(found) == size else 0
