"""Reads what conversations' read states need of the store: mentions, and how far others have read and received."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hubbub_server.domain.ids import ConversationId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Mention:
    """A message that mentions a user, or everybody."""

    message_number: int
    sender_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TimedMention:
    """A mention by its time, then by its conversation: newer ones are larger."""

    commit_time_ms: int
    conversation_id: ConversationId
    message_number: int
    sender_id: UserId = field(compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class MentionPage:
    """Mentions of a user, newest first. Of messages up to `applied_number` none is missing."""

    applied_number: int
    mentions: Sequence[Mention]


class MarkerStore(Protocol):
    """Reads markers and mentions. Every method raises StoreUnavailable when the store cannot answer."""

    async def read_mentions(
        self, conversation_id: ConversationId, user_id: UserId, *, after_number: int, before_number: int, limit: int
    ) -> MentionPage:
        """Reads the newest mentions of a user, or of everybody, between two numbers, both exclusive.

        `limit` is 1 to 1,000. `applied_number` is read before the rows, so a later one is never denied.
        """

    async def read_mentions_by_time(
        self, target: UserId | ConversationId, *, before: TimedMention | None, limit: int
    ) -> Sequence[TimedMention]:
        """Reads the newest mentions before one, newest first: of a user by id, or of all members of a conversation.

        `limit` is 1 to 1,000. As of what is applied; conversations that the user left are among them.
        """

    async def read_readers(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads the number up to which each user has read, as others may know it; who hides it is missing.

        As of what is applied of the users' own topics. Ex-members are among them.
        """

    async def read_deliveries(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads the number up to which each user's devices have received, as `read_readers` does."""
