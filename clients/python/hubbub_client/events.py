"""What `HubbubClient.events()` yields.

For each topic the events come once and in the order of their positions, whatever the network does; GapSkipped and
TopicReset say where that order jumps. Between topics no order is promised.
"""

from dataclasses import dataclass

from hubbub_client.echoes import Echo
from hubbub_client.kept import ConversationPreferences, ConversationSettings, Counters, Preferences, ReadMarker
from hubbub_client.model import ConversationKind, Cursor, Member, Message, TopicHead, TypingKind
from hubbub_client.presences import Presence


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
class ConversationSettingsChanged:
    """The settings of a group are others; all of them, as they are now. `get_conversation` has the receipts_mode."""

    cursor: Cursor
    actor_id: str
    settings: ConversationSettings


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
class BlockChanged:
    """Direct conversation: `actor_id` refuses what `user_id` sends, or takes it again."""

    cursor: Cursor
    actor_id: str
    user_id: str
    is_blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMarkerMoved:
    """The signed-in user has read further, on any device; a mark-as-unread from before is over."""

    cursor: Cursor
    conversation_id: str
    marker: ReadMarker


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveredMarkerMoved:
    """A device of the signed-in user has received further. What was read is received without such an event."""

    cursor: Cursor
    conversation_id: str
    epoch: int
    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationMarkedUnread:
    """The signed-in user wants to see a conversation as unread, until the next ReadMarkerMoved of it."""

    cursor: Cursor
    conversation_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPreferencesChanged:
    """The signed-in user changed how they want to hear of a conversation; all of it, as it is now."""

    cursor: Cursor
    conversation_id: str
    preferences: ConversationPreferences


@dataclass(frozen=True, slots=True, kw_only=True)
class DraftChanged:
    """What the signed-in user has begun to write; empty: nothing."""

    cursor: Cursor
    conversation_id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserBlocked:
    """The signed-in user blocked somebody: hide what they write."""

    cursor: Cursor
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserUnblocked:
    """The signed-in user blocks somebody no longer."""

    cursor: Cursor
    user_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PreferencesChanged:
    """The signed-in user changed what they want everywhere; all of it, as it is now."""

    cursor: Cursor
    preferences: Preferences


KeptEvent = (
    ReadMarkerMoved
    | DeliveredMarkerMoved
    | ConversationMarkedUnread
    | ConversationPreferencesChanged
    | DraftChanged
    | UserBlocked
    | UserUnblocked
    | PreferencesChanged
)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownEvent:
    """An event newer than this client. When `message_number` is not 0, read that message again before showing it."""

    cursor: Cursor
    message_number: int


TopicEvent = (
    MessageReceived
    | ConversationCreated
    | ConversationSettingsChanged
    | MembersAdded
    | MemberRemoved
    | ConversationJoined
    | ConversationLeft
    | BlockChanged
    | KeptEvent
    | UnknownEvent
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GapSkipped:
    """More was missed than the server sends again: events after `start` up to `head` are left out.

    What the application holds of the topic is stale; `newest_messages` are current, older ones come by
    `list_messages`. On the user's own topic: read `list_conversations` again; memberships that began and ended in what
    was skipped are not told. Its `start` may lie before the newest cursor that was handed over, right after a restart.
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


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiptChanged:
    """Another member has received or read further than this client was told before. Their markers only grow.

    May be lost: after Connected `client.markers.list_markers` tells how far others are.
    """

    conversation_id: str
    user_id: str
    delivered_number: int
    read_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadFloorChanged:
    """All members have read up to this message, where receipts_mode is COUNT_ONLY and nobody is named. It only grows.

    May be lost: after Connected `client.markers.list_readers` tells it.
    """

    conversation_id: str
    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceChanged:
    """A watched user is there, or is not; the first news of each one comes as a change from UNKNOWN."""

    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class CountersChanged:
    """What is unread changed, in the conversations named; only with `keeps_counters`. Changes at once are joined."""

    counters: Counters
    conversation_ids: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class EchoChanged:
    """A message that was posted here is pending, sent or failed."""

    echo: Echo


Signal = TypingChanged | ReceiptChanged | ReadFloorChanged | PresenceChanged | CountersChanged | EchoChanged
Event = TopicEvent | GapSkipped | TopicReset | TopicEnded | Connected | CaughtUp | Disconnected | Signal
