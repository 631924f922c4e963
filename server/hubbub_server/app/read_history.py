"""Reads pages of messages. Exact at the head: what was acknowledged before the call is in the answer, on any node."""

from dataclasses import dataclass
from enum import Enum

from hubbub_server.app.conversations import member_at_head
from hubbub_server.app.page_tokens import size_of_page
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.errors import InvalidField, MessageNotFound
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import PAGE_MAX_BYTES
from hubbub_server.ports.message_store import StoredMessage


class PageSide(Enum):
    """On which side of the anchor to read."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """Messages ascending by number without holes, as of `head`."""

    messages: tuple[StoredMessage, ...]
    older_available: bool
    newer_available: bool
    head: TopicHead


class ReadHistory:
    """Use cases of HistoryService that are no streams."""

    def __init__(self, *, hub: TopicHub, reader: TopicReader) -> None:
        """Takes the topics and their reader."""
        self._hub = hub
        self._reader = reader

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
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        last = state.last_message_number
        first_number, last_number = _range(anchor_number, side, size, last)
        messages = await self._reader.messages(topic, first_number, last_number)
        messages = _cut(messages, side, anchor_number)
        return MessagePage(
            messages=tuple(messages),
            older_available=(messages[0].message_number if messages else min(first_number, last + 1)) > 1,
            newer_available=(messages[-1].message_number if messages else last_number) < last,
            head=state.head,
        )

    async def get_message(
        self, caller_id: UserId, conversation_id: str, message_number: int
    ) -> tuple[StoredMessage, TopicHead]:
        """Reads one message.

        Raises:
            InvalidField, ConversationNotFound, MessageNotFound, LogUnavailable, StoreUnavailable: as they say.
        """
        if message_number < 1:
            raise InvalidField("message_number", "1 or more")
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        if message_number > state.last_message_number:
            raise MessageNotFound
        (message,) = await self._reader.messages(topic, message_number, message_number)
        return message, state.head


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
