"""What can happen in a topic. Events are facts: past form, complete, never changed.

Field numbers and bytes of events are decided in `wire/`; here they are values.
"""

from enum import Enum

from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.message import Message


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
class MembersAdded:
    """Users became members, at most 500."""

    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoved:
    """A user ceased to be a member: nothing after this position is theirs."""

    user_id: UserId


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
class UnknownKind:
    """An event of a newer version: its bytes travel on, its topic takes no commands until this node is upgraded."""


EventKind = (
    MessageSent
    | ConversationCreated
    | MembersAdded
    | MemberRemoved
    | ConversationJoined
    | ConversationLeft
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
