"""Reads pages of messages. Exact at the head: what was acknowledged before the call is in the answer, on any node.

While the log cannot be read the promise cannot be kept, and is not pretended: the page is as of the newer of what this
node has in memory and what the store has, its `head` says which, and `is_head_confirmed` is False. It is authorised on
the state as of that head, so nobody sees what they could not have read then; who is no member there, perhaps not yet,
hears UNAVAILABLE like everybody for a conversation that the store does not know.
"""

from dataclasses import dataclass
from enum import Enum

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.page_tokens import size_of_page
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.errors import (
    ConversationNotFound,
    InvalidField,
    LogUnavailable,
    MessageNotFound,
    StoreUnavailable,
)
from hubbub_server.domain.ids import ConversationId, UserId, is_conversation_id
from hubbub_server.domain.limits import PAGE_MAX_BYTES
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.topic_directory import StoredTopic, TopicDirectory
from hubbub_server.ports.topic_log import LogRecord


class PageSide(Enum):
    """On which side of the anchor to read."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """Messages ascending by number without holes, as of `head`; newer ones may exist if that is not confirmed."""

    messages: tuple[StoredMessage, ...]
    older_available: bool
    newer_available: bool
    head: TopicHead
    is_head_confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class OneMessage:
    """A message as of `head`, as in MessagePage."""

    message: StoredMessage
    head: TopicHead
    is_head_confirmed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _View:
    """A conversation as of `state`, and how its messages are read: from `topic` at its head, else without the log."""

    state: ConversationState
    topic: ActiveTopic | None
    tail: tuple[LogRecord, ...] = ()


class ReadHistory:
    """Use cases of HistoryService that are no streams."""

    def __init__(self, *, hub: TopicHub, reader: TopicReader, directory: TopicDirectory) -> None:
        """Takes the topics, their reader, and the store's states for when the log cannot be read."""
        self._hub = hub
        self._reader = reader
        self._directory = directory

    async def list_messages(
        self, caller_id: UserId, conversation_id: str, *, anchor_number: int, side: PageSide, page_size: int
    ) -> MessagePage:
        """Reads a page: 0 = 50 messages, at most 200 and 256 KiB.

        `anchor_number` is exclusive but for AROUND; 0 means the newest for BEFORE and the first for AFTER.

        Raises:
            InvalidField, ConversationNotFound, LogUnavailable, StoreUnavailable: as they say.
        """
        size = size_of_page(page_size, default=50, maximum=200)
        if anchor_number < 0 or (anchor_number == 0 and side is PageSide.AROUND):
            raise InvalidField("anchor_number", "0 or more; for AROUND 1 or more")
        view = await self._view(caller_id, conversation_id)
        last = view.state.last_message_number
        first_number, last_number = _range(anchor_number, side, size, last)
        messages = await self._messages(view, first_number, last_number)
        messages = _cut(messages, side, anchor_number)
        return MessagePage(
            messages=tuple(messages),
            older_available=(messages[0].message_number if messages else min(first_number, last + 1)) > 1,
            newer_available=(messages[-1].message_number if messages else last_number) < last,
            head=view.state.head,
            is_head_confirmed=view.topic is not None,
        )

    async def get_message(self, caller_id: UserId, conversation_id: str, message_number: int) -> OneMessage:
        """Reads one message.

        Raises:
            InvalidField, ConversationNotFound, MessageNotFound, LogUnavailable, StoreUnavailable: as they say.
        """
        if message_number < 1:
            raise InvalidField("message_number", "1 or more")
        view = await self._view(caller_id, conversation_id)
        if message_number > view.state.last_message_number:
            if view.topic is None:
                raise LogUnavailable("the log cannot be read, and there may be such a message")
            raise MessageNotFound
        (message,) = await self._messages(view, message_number, message_number)
        return OneMessage(message=message, head=view.state.head, is_head_confirmed=view.topic is not None)

    async def _view(self, caller_id: UserId, conversation_id: str) -> _View:
        if not is_conversation_id(conversation_id):
            raise ConversationNotFound
        error = LogUnavailable("this node has lost the log")
        if self._hub.is_live():  # else the log's own time-out would only be waited for
            try:
                topic, state = await member_at_head(self._hub, caller_id, conversation_id)
            except LogUnavailable as unavailable:
                error = unavailable
            else:
                return _View(state=state, topic=topic)
        view = await self._view_without_log(conversation_id)
        if view is None or caller_id not in view.state.members:
            raise error
        return view

    async def _view_without_log(self, conversation_id: ConversationId) -> _View | None:
        """Returns the newer of what is in memory and what is in the store."""
        topic = self._hub.loaded(conversation_id)
        stored: StoredTopic | None = None
        try:
            stored = await self._directory.load(conversation_id)
        except StoreUnavailable:
            if topic is None:
                raise
        views: list[_View] = []
        if topic is not None and isinstance(topic.state, ConversationState):
            views.append(_View(state=topic.state, topic=None, tail=tuple(topic.tail())))
        if stored is not None and isinstance(stored.state, ConversationState):
            views.append(_View(state=stored.state, topic=None))
        return max(views, key=lambda view: (view.state.epoch, view.state.position), default=None)

    async def _messages(self, view: _View, first_number: int, last_number: int) -> list[StoredMessage]:
        if view.topic is not None:
            return await self._reader.messages(view.topic, first_number, last_number)
        return await self._reader.messages_without_log(view.state.conversation_id, view.tail, first_number, last_number)


def _range(anchor: int, side: PageSide, size: int, last: int) -> tuple[int, int]:
    """Returns first and last number of a page, both inclusive; empty when first > last."""
    match side:
        case PageSide.BEFORE:
            end = min(anchor - 1, last) if anchor else last
            return max(1, end - size + 1), end
        case PageSide.AFTER:
            return anchor + 1, min(anchor + size, last)
        case PageSide.AROUND:
            first = max(1, anchor - size // 2)
            end = min(first + size - 1, last)
            return max(1, end - size + 1), end


def _cut(messages: list[StoredMessage], side: PageSide, anchor: int) -> list[StoredMessage]:
    """Keeps what fits into 256 KiB, dropping from the end that is farthest from the anchor; at least one message."""
    size_bytes = sum(len(m.body) for m in messages)
    kept = list(messages)
    while size_bytes > PAGE_MAX_BYTES and len(kept) > 1:
        is_oldest_farther = side is PageSide.BEFORE or (
            side is PageSide.AROUND and anchor - kept[0].message_number > kept[-1].message_number - anchor
        )
        size_bytes -= len(kept.pop(0 if is_oldest_farther else -1).body)
    return kept
