"""What callers ask of a topic, and how a decision comes out."""

from collections.abc import Collection

from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import DeliveredMarker, Event, ReadMarker, SourcePlace
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.id_window import IdKey
from hubbub_server.domain.ids import ClientMessageId, ConversationId, UserId
from hubbub_server.domain.limits import GROUP_MAX_MEMBERS
from hubbub_server.domain.message import Content
from hubbub_server.domain.preferences import ConversationPreferences, Preferences
from hubbub_server.domain.receipts import ReceiptsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    """Sends a message. Answered by Sent."""

    sender_id: UserId
    client_message_id: ClientMessageId
    content: Content
    client_time_ms: int | None = None
    previous_client_message_id: ClientMessageId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDirect:
    """Creates the direct conversation of a pair, or finds it. Answered by Changed."""

    creator_id: UserId
    other_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroup:
    """Creates a group, or finds it. `user_ids` are the members besides the creator. Answered by Changed."""

    creator_id: UserId
    title: str
    user_ids: tuple[UserId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMembers:
    """Adds users to a group, up to `max_members`; those already there stay as they are. Answered by Changed."""

    actor_id: UserId
    user_ids: tuple[UserId, ...]
    max_members: int = GROUP_MAX_MEMBERS


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMember:
    """Removes a user from a group; oneself = leave. Answered by Changed."""

    actor_id: UserId
    user_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitReceipts:
    """Sets the most that members of a group learn of each other's reading. Answered by Changed."""

    actor_id: UserId
    limit: ReceiptsMode


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMembership:
    """Writes on a user's topic what happened to them in a conversation at (`epoch`, `position`) of its log.

    The effect of a membership event; idempotent, and an older one never undoes a newer one. Answered by Changed.
    """

    conversation_id: ConversationId
    epoch: int
    position: int
    joined: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordBlock:
    """Writes in a direct conversation that one side refuses what the other sends, or takes it again.

    The effect of an event at `source` of the blocker's own topic; idempotent, and an older one never undoes a newer
    one. Answered by Changed.
    """

    blocker_id: UserId
    user_id: UserId
    blocked: bool
    source: SourcePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkRead:
    """Moves the read marker of a conversation forward; a marker behind the stored one changes nothing.

    A mark-as-unread ends when the marker moves, or when it is not after `unread_mark_position`. Answered by Marked.
    """

    conversation_id: ConversationId
    marker: ReadMarker
    unread_mark_position: int = 0

    def merged(self, later: "MarkRead") -> "MarkRead":
        """Returns the command that stands for this one and another of the same conversation, whatever their order."""
        return MarkRead(
            conversation_id=self.conversation_id,
            marker=later.marker if self.marker.is_behind(later.marker) else self.marker,
            unread_mark_position=max(self.unread_mark_position, later.unread_mark_position),
        )

    def covers(self, other: "MarkRead") -> bool:
        """Tells whether another command asks for nothing that this one does not ask for."""
        return self.merged(other) == self


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkDelivered:
    """Moves the delivered marker of a conversation forward.

    Nothing changes where that, or the read marker, is as far, or where the user does not let others know. Answered by
    Delivered.
    """

    conversation_id: ConversationId
    marker: DeliveredMarker

    def merged(self, later: "MarkDelivered") -> "MarkDelivered":
        """As of MarkRead."""
        return later if self.marker.is_behind(later.marker) else self

    def covers(self, other: "MarkDelivered") -> bool:
        """As of MarkRead."""
        return not self.marker.is_behind(other.marker)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarkUnread:
    """Marks a conversation as unread. Answered by Marked."""

    conversation_id: ConversationId


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeConversationPreferences:
    """Takes the named fields over. Answered by Changed."""

    conversation_id: ConversationId
    preferences: ConversationPreferences
    names: Collection[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class SetDraft:
    """Keeps a draft; an empty one is forgotten. Answered by Changed."""

    conversation_id: ConversationId
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetBlock:
    """Blocks a user, or does no longer. `conversation_id` is that of the direct conversation. Answered by Changed."""

    user_id: UserId
    conversation_id: ConversationId
    blocked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangePreferences:
    """Takes the named fields over. Answered by Changed."""

    preferences: Preferences
    names: Collection[str]


ConversationCommand = SendMessage | CreateDirect | CreateGroup | AddMembers | RemoveMember | LimitReceipts | RecordBlock
UserTopicCommand = (
    RecordMembership
    | MarkRead
    | MarkDelivered
    | MarkUnread
    | ChangeConversationPreferences
    | SetDraft
    | SetBlock
    | ChangePreferences
)
Command = ConversationCommand | UserTopicCommand


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that is durable, now or since the first use of its id."""

    message_number: int
    cursor: Cursor
    commit_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Where a change stands in the log; the head when there was nothing to do."""

    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Marked:
    """What is read of a conversation now; `unread_mark_position` is 0 when no mark-as-unread stands."""

    marker: ReadMarker
    unread_mark_position: int
    cursor: Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """Up to where a conversation is received or read now; `is_news`: an event says so."""

    message_number: int
    is_news: bool
    cursor: Cursor


Answer = Sent | Changed | Marked | Delivered


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The command becomes these events, once they are committed.

    `request_hashes` has one entry an event, "" for none.
    """

    events: tuple[Event, ...]
    request_hashes: tuple[str, ...]
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """There is nothing to write: it was done before."""

    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The command is refused on this state."""

    error: HubbubError


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupNeeded:
    """These ids must be looked up in the store first."""

    keys: frozenset[IdKey]


Decision = Accepted | Done | Refused | LookupNeeded
