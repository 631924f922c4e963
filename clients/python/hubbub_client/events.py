"""What `HubbubClient.events()` yields.

For each topic the events come once and in the order of their positions, whatever the network does; GapSkipped and
TopicReset say where that order jumps. Between topics no order is promised.
"""

from dataclasses import dataclass

from hubbub_client.model import ConversationKind, Cursor, Member, Message, TopicHead, TypingKind


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageReceived:
    """A message was sent; also the client's own ones, before or after `send` returns."""

    cursor: Cursor
    message: Message


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCreated:
    """A conversation was created: the first event of its topic."""

    cursor: Cursor
    actor_id: str
    kind: ConversationKind
    title: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MembersAdded:
    """Users became members."""

    cursor: Cursor
    actor_id: str
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberRemoved:
    """A user ceased to be a member; by themselves when `user_id` is `actor_id`."""

    cursor: Cursor
    actor_id: str
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationJoined:
    """The signed-in user belongs to a conversation now; its own events follow."""

    cursor: Cursor
    conversation_id: str
    join_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationLeft:
    """The signed-in user belongs to a conversation no longer."""

    cursor: Cursor
    conversation_id: str
    leave_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent:
    """An event newer than this client. When `message_number` is not 0, read that message again before showing it."""

    cursor: Cursor
    message_number: int


TopicEvent = (
    MessageReceived
    | ConversationCreated
    | MembersAdded
    | MemberRemoved
    | ConversationJoined
    | ConversationLeft
    | UnknownEvent
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSkipped:
    """More was missed than the server sends again: events after `start` up to `head` are left out.

    What the application holds of the topic is stale; `newest_messages` are current, older ones come by
    `list_messages`. On the user's own topic: read `list_conversations` again.
    """

    start: Cursor
    head: TopicHead
    newest_messages: tuple[Message, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicReset:
    """The log of a topic began a new life: drop everything held of it and read it again."""

    head: TopicHead


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEnded:
    """Nothing of this topic follows: the user is no member any more. A later ConversationJoined begins it again."""

    topic_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """The live stream covers every topic from here on; what was missed follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """Everything missed before the last Connected was yielded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected:
    """The stream ended; the client connects again in `retry_in_s`. Nothing is lost."""

    reason: str
    retry_in_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingChanged:
    """Another member makes a message, or (None) stopped. Always ended: by word, by their message, or by time."""

    conversation_id: str
    user_id: str
    kind: TypingKind | None


Event = TopicEvent | GapSkipped | TopicReset | TopicEnded | Connected | CaughtUp | Disconnected | TypingChanged
