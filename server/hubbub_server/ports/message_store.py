"""Reads messages from the store."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.id_window import IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredMessage:
    """A message as of `change_position`. `body` as in projection.MessageRow."""

    message_number: int
    counted_number: int
    sender_id: UserId
    change_position: int
    commit_time_ms: int
    body: bytes


class MessageStore(Protocol):
    """Reads the current state of messages. All methods raise StoreUnavailable when the store cannot answer."""

    async def read_range(
        self, conversation_id: ConversationId, *, first_number: int, last_number: int
    ) -> Sequence[StoredMessage]:
        """Reads messages by number, both ends inclusive, ascending; at most 200. What is not applied yet is missing."""

    async def find_ids(self, conversation_id: ConversationId, keys: Collection[IdKey]) -> IdLookup:
        """Looks client ids up. `applied_position` is read before the rows, so a later message is never denied."""
