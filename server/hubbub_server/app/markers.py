"""Moves markers, and tells what is read and unread: the use cases of MarkerService, and mark_read on streams.

Theory of operation. A marker is an event of the user's own topic. The first call for a conversation commits at once and
opens a *window* of 2 s; what comes within it is merged into one marker, which is committed when the window ends, and
opens the next one. So a user who reads on costs one event per 2 s and conversation on a node. Each caller hears when a
marker at or past theirs is durable. Windows are tasks of this object, not of callers: a caller that goes away takes no
marker along. `drain` ends all windows at once, and none opens any more.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.conversations import member_at_head
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import ReadUpTo
from hubbub_server.app.page_tokens import size_of_page
from hubbub_server.app.read_states import ReadState, ReadStates
from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.commands import Marked, MarkRead, MarkUnread
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import (
    ConversationNotFound,
    HubbubError,
    InvalidField,
    MessageNotFound,
    OutcomeUnknown,
    WrongState,
)
from hubbub_server.domain.events import ReadMarker
from hubbub_server.domain.ids import ConversationId, UserId, is_conversation_id
from hubbub_server.domain.limits import (
    PAGE_MAX_BYTES,
    READERS_MAX,
    RECEIPTS_COUNT_MEMBERS,
    RECEIPTS_FULL_MEMBERS,
)
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.message_store import StoredMessage

WINDOW_S: Final = 2.0
_WINDOWS_MAX: Final = 10_000
"""Beyond that many open windows markers are committed as they come."""
_AT_ONCE: Final = 16
_COUNTERS_MAX: Final = 5_000

log = structlog.get_logger()

TellRead = Callable[[ConversationId, UserId, int], None]
"""Hears that others may know that a user has read up to a message; must not block."""


class ReceiptsMode(Enum):
    """What members learn of each other's reading."""

    FULL = "full"
    COUNT_ONLY = "count_only"
    OFF = "off"


def receipts_mode(member_count: int) -> ReceiptsMode:
    """Returns the mode of a conversation of that many members (C33, C34)."""
    if member_count <= RECEIPTS_FULL_MEMBERS:
        return ReceiptsMode.FULL
    return ReceiptsMode.COUNT_ONLY if member_count <= RECEIPTS_COUNT_MEMBERS else ReceiptsMode.OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who has read a message; `user_ids` is empty when only the number is told."""

    user_ids: Sequence[UserId]
    count: int
    mode: ReceiptsMode


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


@dataclass(slots=True)
class _Window:
    """What waits for the next commit, and what the last one was; None: nothing."""

    pending: MarkRead | None = None
    answer: "asyncio.Future[Marked]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    last: MarkRead | None = None
    last_answer: "asyncio.Future[Marked] | None" = None

    def take(self) -> "tuple[MarkRead, asyncio.Future[Marked]] | None":
        """Takes what waits."""
        if self.pending is None:
            return None
        self.last, self.last_answer = self.pending, self.answer
        self.pending, self.answer = None, asyncio.get_running_loop().create_future()
        return self.last, self.last_answer

    def covers(self, command: MarkRead) -> bool:
        """Tells whether a command asks for nothing that the last one did not ask for, and nothing else waits."""
        return (
            self.pending is None
            and self.last is not None
            and not self.last.marker.is_behind(command.marker)
            and self.last.unread_mark_position >= command.unread_mark_position
        )


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
        tell_read: TellRead = lambda conversation_id, user_id, message_number: None,
        window_s: float = WINDOW_S,
        command_timeout_s: float = 8.0,
    ) -> None:
        """`tell_read` hears of markers that others may know of, when they are durable."""
        self._hub = hub
        self._reader = reader
        self._read_states = read_states
        self._effects = effects
        self._clock = clock
        self._tell_read = tell_read
        self._window_s = window_s
        self._timeout_s = command_timeout_s
        self._windows: dict[tuple[UserId, ConversationId], _Window] = {}
        self._draining = asyncio.Event()
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Takes marks from now on."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Commits what waits."""
        self._draining.set()
        await self._group.__aexit__(kind, error, trace)

    def drain(self) -> None:
        """Ends all windows now: what waits in them is committed at once, and so is what still comes."""
        self._draining.set()

    # ---- marking

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
        key = caller_id, read.conversation_id
        window = self._windows.get(key)
        if window is None:
            if len(self._windows) >= _WINDOWS_MAX or self._draining.is_set():
                return await self._commit(caller_id, command)
            window = self._windows[key] = _Window()
            self._group.create_task(self._run_window(key, window))
        if window.covers(command) and window.last_answer is not None:
            if window.last_answer.done():
                return await self._commit(caller_id, command)  # costs no event
            answer = window.last_answer
        else:
            window.pending, answer = _merged(window.pending, command), window.answer
        try:
            async with asyncio.timeout(self._window_s + self._timeout_s):
                return await asyncio.shield(answer)
        except TimeoutError:
            raise OutcomeUnknown("the marker is not known to be durable yet") from None

    async def _run_window(self, key: tuple[UserId, ConversationId], window: _Window) -> None:
        """Commits what waits, then lets others gather for a while; ends when nobody did."""
        try:
            while (taken := window.take()) is not None:
                await self._answer(key[0], *taken)
                try:
                    async with asyncio.timeout(self._window_s):
                        await self._draining.wait()
                except TimeoutError:
                    pass
        finally:
            del self._windows[key]

    async def _answer(self, user_id: UserId, command: MarkRead, answer: "asyncio.Future[Marked]") -> None:
        try:
            answer.set_result(await self._commit(user_id, command))
        except Exception as error:  # who waits hears it; nobody may any more, which is no mistake
            if not isinstance(error, HubbubError):
                log.exception("marker not committed", user_id=user_id, conversation_id=command.conversation_id)
            answer.set_exception(error)
            answer.exception()

    async def _commit(self, user_id: UserId, command: MarkRead | MarkUnread) -> Marked:
        is_moving = isinstance(command, MarkRead) and self._is_moving(user_id, command)
        answer = await self._submit(user_id, command)
        if isinstance(command, MarkRead) and is_moving and answer.marker == command.marker:
            self._tell(user_id, command.conversation_id, command.marker)
        return answer

    def _is_moving(self, user_id: UserId, command: MarkRead) -> bool:
        """Tells whether a marker may be news, as far as this node knows."""
        own = self._hub.loaded(user_id)
        if own is None or not isinstance(own.state, UserTopicState):
            return True
        return own.state.kept_of(command.conversation_id).marker.is_behind(command.marker)

    async def _submit(self, user_id: UserId, command: MarkRead | MarkUnread) -> Marked:
        """Commits a mark. A user's own topic may not know yet of a conversation that they were just added to."""
        try:
            answer = await self._hub.submit(user_id, command, timeout_s=self._timeout_s)
        except ConversationNotFound:
            _, state = await member_at_head(self._hub, user_id, command.conversation_id)
            await self._effects.spread(state, [user_id])
            answer = await self._hub.submit(user_id, command, timeout_s=self._timeout_s)
        assert isinstance(answer, Marked)  # noqa: S101  # by the kind of the command
        return answer

    def _tell(self, user_id: UserId, conversation_id: ConversationId, marker: ReadMarker) -> None:
        """Tells others, where they may know: each other's reading, and this user's."""
        topic, own = self._hub.loaded(conversation_id), self._hub.loaded(user_id)
        if topic is None or own is None:
            return
        is_shown = isinstance(own.state, UserTopicState) and own.state.preferences.shows_reading(self._clock.now_ms())
        state = topic.state
        if is_shown and isinstance(state, ConversationState) and _mode_of(state) is ReceiptsMode.FULL:
            self._tell_read(conversation_id, user_id, marker.message_number)

    async def _marker_at(self, caller_id: UserId, read: ReadUpTo) -> ReadMarker:
        """Returns the marker at a message that the caller may see; costs nothing where a stream is open."""
        number = read.message_number
        topic = self._hub.loaded(read.conversation_id)
        state = topic.state if topic is not None else None
        if (
            topic is None
            or not isinstance(state, ConversationState)
            or caller_id not in state.members
            or number > state.last_message_number
        ):
            topic, state = await member_at_head(self._hub, caller_id, read.conversation_id)
        if number > state.last_message_number:
            raise MessageNotFound
        counted_number = state.last_counted_number
        if number < state.last_message_number:
            (message,) = await self._reader.messages(topic, number, number)
            counted_number = message.counted_number
        return ReadMarker(epoch=state.epoch, message_number=number, counted_number=counted_number)

    async def mark_unread(self, caller_id: UserId, conversation_id: str) -> Marked:
        """Marks a conversation as unread. Raises ConversationNotFound, Unavailable."""
        if not is_conversation_id(conversation_id):
            raise ConversationNotFound
        await member_at_head(self._hub, caller_id, conversation_id)
        return await self._commit(caller_id, MarkUnread(conversation_id=conversation_id))

    # ---- others' markers

    async def list_markers(self, caller_id: UserId, conversation_id: str) -> Sequence[tuple[UserId, int]]:
        """Lists how far the other members have read, as far as they show it, in the order of the members.

        Raises:
            ConversationNotFound, Unavailable: as they say.
            WrongState: receipts_mode is not FULL.
        """
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        if _mode_of(state) is not ReceiptsMode.FULL:
            raise WrongState("this conversation is too large to tell who has read what")
        numbers = await self._reader.readers(state.conversation_id)
        others = [member.user_id for member in state.members_in_order() if member.user_id != caller_id]
        return [(user_id, numbers[user_id]) for user_id in others if user_id in numbers]

    async def list_readers(self, caller_id: UserId, conversation_id: str, message_number: int) -> Readers:
        """Tells which other members have read a message, as far as they show it.

        Raises:
            InvalidField, ConversationNotFound, MessageNotFound, Unavailable: as they say.
            WrongState: receipts_mode is OFF.
        """
        if message_number < 1:
            raise InvalidField("message_number", "1 or more")
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        mode = _mode_of(state)
        if mode is ReceiptsMode.OFF:
            raise WrongState("this conversation is too large to tell how many have read what")
        if message_number > state.last_message_number:
            raise MessageNotFound
        (message,) = await self._reader.messages(topic, message_number, message_number)
        numbers = await self._reader.readers(state.conversation_id)
        silent = {caller_id, message.sender_id}
        readers = [
            member.user_id
            for member in state.members_in_order()
            if member.user_id not in silent and numbers.get(member.user_id, 0) >= message_number
        ]
        named = readers[:READERS_MAX] if mode is ReceiptsMode.FULL else ()
        return Readers(user_ids=named, count=len(readers), mode=mode)

    # ---- counters and mentions

    async def counters(self, caller_id: UserId) -> Counters:
        """Derives what is unread in all conversations of the caller. Raises Unavailable."""
        own = await self._read_states.own(caller_id)
        now_ms = self._clock.now_ms()
        joined = [membership.conversation_id for membership in own.joined()]

        async def count(topic: ActiveTopic) -> ConversationCounters | None:
            state = topic.state
            if not isinstance(state, ConversationState) or caller_id not in state.members:
                return None  # removed, and the user's own topic does not say so yet
            read_state = await self._read_states.of(topic, state, own)
            return ConversationCounters(
                conversation_id=state.conversation_id, read_state=read_state, position=state.position
            )

        counted = await side_by_side(count, await self._hub.all_at_head(joined), at_once=_AT_ONCE)
        unread = [each for each in counted if each and (each.read_state.badge_count or each.read_state.mention_count)]
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


def _mode_of(state: ConversationState) -> ReceiptsMode:
    return receipts_mode(len(state.members))


def _merged(waiting: MarkRead | None, command: MarkRead) -> MarkRead:
    if waiting is None:
        return command
    return replace(
        waiting,
        marker=command.marker if waiting.marker.is_behind(command.marker) else waiting.marker,
        unread_mark_position=max(waiting.unread_mark_position, command.unread_mark_position),
    )
