"""What the worker writes into the store, and how far it has come. Rows are values; writes commute.

Law: every cell has one source topic and is ordered by (epoch, position) of the event that caused it. Applying any batch
again, or batches in any order, ends in the same rows. Only the worker writes.
"""

from collections.abc import Sequence
from typing import Final, Protocol

from hubbub_server.domain.events import ConversationKind, MemberRole
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.receipts import ReceiptsMode

EVERYBODY: Final = UserId(TopicId("*"))
"""In the place of a user: all members of a conversation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EventRow:
    """One event as clients get it. `framed` as in RecordCodec."""

    topic_id: TopicId
    epoch: int
    position: int
    framed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageRow:
    """The current state of one message. `position` is that of the last event that changed it (change_position).

    `body` are the bytes of hubbub.conversation.v1.Message without the "state" fields.
    """

    conversation_id: ConversationId
    epoch: int
    position: int
    message_number: int
    counted_number: int
    sender_id: UserId
    client_message_id: ClientMessageId
    content_hash: str
    commit_time_ms: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationRow:
    """What a conversation was created as."""

    conversation_id: ConversationId
    epoch: int
    position: int
    kind: ConversationKind
    title: str
    creator_id: UserId
    creation_hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SettingsRow:
    """What owners and admins of a conversation decided, all of it."""

    conversation_id: ConversationId
    epoch: int
    position: int
    receipts_limit: ReceiptsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRow:
    """A user's part in a conversation. `role` is None after they left; then `position` is where they left."""

    conversation_id: ConversationId
    user_id: UserId
    epoch: int
    position: int
    role: MemberRole | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipRow:
    """The newest news of a user in a conversation, from the user's own topic (domain/user_topic.py)."""

    user_id: UserId
    conversation_id: ConversationId
    epoch: int
    """Epoch of the user's topic."""
    position: int
    """Position in the user's topic."""
    joined: bool
    source_epoch: int
    source_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMarkRow:
    """What a member need not read, and their newest mention (domain/member_marks.py). Each number is merged by maximum.

    `user_id` is EVERYBODY for the newest message that mentions all members.
    """

    conversation_id: ConversationId
    user_id: UserId
    message_number: int = 0
    counted_number: int = 0
    mention_number: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockRow:
    """Whether one side of a direct conversation, `user_id`, refuses what the other sends. Place as in MembershipRow."""

    conversation_id: ConversationId
    user_id: UserId
    epoch: int
    position: int
    blocked: bool
    source_epoch: int
    source_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MentionRow:
    """A message that mentions a user, or EVERYBODY."""

    conversation_id: ConversationId
    user_id: UserId
    epoch: int
    position: int
    message_number: int
    sender_id: UserId
    commit_time_ms: int

    @property
    def target(self) -> TopicId:
        """Under what mentions are found by time: the user, or the conversation whose members all are meant."""
        return self.conversation_id if self.user_id == EVERYBODY else self.user_id


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryRow:
    """The newest event of a user's topic that sets an entry (`app.project.entry_of`). `framed` as in RecordCodec."""

    user_id: UserId
    entry: str
    epoch: int
    position: int
    framed: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ReaderRow:
    """How far a user has read a conversation, or received it, as others may know it. Place in the user's own topic."""

    conversation_id: ConversationId
    user_id: UserId
    epoch: int
    position: int
    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRow:
    """How far a topic is applied: everything up to `position` is in the store. Written last.

    `sequence` is that of the last applied record in the log of `epoch`; `id_floor_ms` the largest
    `id_window.entry_time_ms` of all its applied messages.
    """

    topic_id: TopicId
    epoch: int
    position: int
    sequence: int
    commit_time_ms: int
    last_message_number: int
    last_counted_number: int
    id_floor_ms: int
    has_unknown_event: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardRow:
    """How far a shard of the log is applied: everything up to `sequence` of `epoch` is in the store."""

    shard: int
    epoch: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProjectionBatch:
    """Rows of one batch of records of one shard."""

    events: Sequence[EventRow] = ()
    messages: Sequence[MessageRow] = ()
    conversations: Sequence[ConversationRow] = ()
    settings: Sequence[SettingsRow] = ()
    members: Sequence[MemberRow] = ()
    memberships: Sequence[MembershipRow] = ()
    marks: Sequence[MemberMarkRow] = ()
    blocks: Sequence[BlockRow] = ()
    mentions: Sequence[MentionRow] = ()
    entries: Sequence[EntryRow] = ()
    readers: Sequence[ReaderRow] = ()
    deliveries: Sequence[ReaderRow] = ()
    applied: Sequence[AppliedRow] = ()
    shard: ShardRow


PROJECTOR_ROLE: Final = "projector"
"""Of the workers that write here; what is dead for it is in the log and not in the store."""


class StoreSetBack(Exception):
    """The store has less of a shard than it had: it is an older copy, and what it lacks must not be hidden."""


def require_not_set_back(found: ShardRow | None, known: ShardRow | None) -> None:
    """Raises StoreSetBack when what was found is before what is known; None: nothing."""
    here = (found.epoch, found.sequence) if found else (0, 0)
    if known is not None and here < (known.epoch, known.sequence):
        raise StoreSetBack(f"the store has the shard up to {here}, it had {known.sequence}")


class Projection(Protocol):
    """Writes read models. Raises StoreUnavailable: nothing or a part was written, and writing it again is right."""

    async def apply(self, batch: ProjectionBatch, *, known: ShardRow | None = None) -> None:
        """Writes a batch: rows first, then `applied`, then `shard`. Idempotent; older rows never overwrite newer ones.

        `id_floor_ms` is merged by maximum, `has_unknown_event` by or. `known` is what the store had of the shard.

        Raises:
            StoreSetBack: the store has less of the shard than `known`; nothing was written.
        """

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied; None when it never was."""
