"""What can happen in a topic. Events are facts: past form, complete, never changed.

Field numbers and bytes of events are decided in `wire/`; here they are values.
"""

from enum import Enum

from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.message import Message
from hubbub_server.domain.preferences import ConversationPreferences, Preferences
from hubbub_server.domain.receipts import ReceiptsMode


class ConversationKind(Enum):
    """The sorts of conversation."""

    DIRECT = "direct"
    GROUP = "group"


class MemberRole(Enum):
    """What a member may do, the strongest first."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user's part in a conversation; `join_position` is that of the event that added them."""

    user_id: UserId
    role: MemberRole
    join_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSent:
    """A message was sent."""

    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCreated:
    """A conversation was created; the first event of its topic. Its members follow in the same record."""

    conversation_kind: ConversationKind
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSettingsChanged:
    """The settings of a group are others: all of them, as they are now."""

    receipts_limit: ReceiptsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersAdded:
    """Users became members, at most 500."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoved:
    """A user ceased to be a member: nothing after this position is theirs."""

    user_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockChanged:
    """Direct conversation: one side, the actor, refuses what `user_id` sends, or takes it again.

    The effect of an event of the actor's own topic. Its place there is nobody's business, so it is in the facts alone,
    as the request's hash (`SourcePlace.text`).
    """

    user_id: UserId
    blocked: bool


@dataclass(frozen=True, slots=True, order=True)
class SourcePlace:
    """Where in another topic the cause of an event is; a later one counts."""

    epoch: int
    position: int

    @property
    def text(self) -> str:
        """The place as the hash of a request."""
        return f"{self.epoch}.{self.position}"

    @classmethod
    def of(cls, text: str) -> "SourcePlace":
        """Reads `text`. Raises ValueError when it is none."""
        epoch, _, position = text.partition(".")
        return cls(int(epoch), int(position))


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationJoined:
    """User topic: the user belongs to a conversation since (`epoch`, `join_position`) of its log."""

    conversation_id: ConversationId
    epoch: int
    join_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationLeft:
    """User topic: the user belongs to a conversation no longer, since (`epoch`, `leave_position`) of its log."""

    conversation_id: ConversationId
    epoch: int
    leave_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMarker:
    """How far a user has read a conversation: later is a later epoch, then a larger number."""

    epoch: int = 0
    message_number: int = 0
    counted_number: int = 0

    def is_behind(self, other: "ReadMarker") -> bool:
        """Tells whether `other` is later."""
        return (self.epoch, self.message_number) < (other.epoch, other.message_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredMarker:
    """How far a user's devices have received a conversation. Order as of ReadMarker."""

    epoch: int = 0
    message_number: int = 0

    def is_behind(self, other: "DeliveredMarker") -> bool:
        """Tells whether `other` is later."""
        return (self.epoch, self.message_number) < (other.epoch, other.message_number)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMarkerMoved:
    """User topic: the user has read further, or again, which ends a mark-as-unread. `hidden`: nobody else learns it."""

    conversation_id: ConversationId
    marker: ReadMarker
    hidden: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationMarkedUnread:
    """User topic: the user wants to see a conversation as unread, until the next ReadMarkerMoved of it."""

    conversation_id: ConversationId


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPreferencesChanged:
    """User topic: how the user wants to hear of a conversation, all of it."""

    conversation_id: ConversationId
    preferences: ConversationPreferences


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftChanged:
    """User topic: what the user has begun to write; empty: nothing."""

    conversation_id: ConversationId
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserBlocked:
    """User topic: the user blocked somebody. `conversation_id` is that of the direct conversation, there or not."""

    user_id: UserId
    conversation_id: ConversationId


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUnblocked:
    """User topic: the user blocks somebody no longer. `conversation_id` as in UserBlocked."""

    user_id: UserId
    conversation_id: ConversationId


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencesChanged:
    """User topic: what the user wants everywhere, all of it."""

    preferences: Preferences


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredMarkerMoved:
    """User topic: the user's devices have received more; others may know of it."""

    conversation_id: ConversationId
    marker: DeliveredMarker


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownKind:
    """An event of a newer version: its bytes travel on, its topic takes no commands until this node is upgraded."""


EventKind = (
    MessageSent
    | ConversationCreated
    | ConversationSettingsChanged
    | MembersAdded
    | MemberRemoved
    | BlockChanged
    | ConversationJoined
    | ConversationLeft
    | ReadMarkerMoved
    | ConversationMarkedUnread
    | ConversationPreferencesChanged
    | DraftChanged
    | UserBlocked
    | UserUnblocked
    | PreferencesChanged
    | DeliveredMarkerMoved
    | UnknownKind
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One durable event at its place. `message_number` is that of the message it creates or changes, else 0."""

    topic_id: TopicId
    epoch: int
    position: int
    commit_time_ms: int
    actor_id: UserId | None
    message_number: int
    kind: EventKind


def changes_access(event: Event) -> bool:
    """Tells whether an event changes who may read; such an event is alone in its record (G5)."""
    return isinstance(event.kind, MembersAdded | MemberRemoved)
