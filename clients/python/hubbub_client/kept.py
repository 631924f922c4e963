"""What a user keeps about conversations and wants everywhere: markers, counters, preferences. Plain data."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum


class NotificationLevel(Enum):
    """Which messages notify; DEFAULT, in a conversation, as the user's Preferences say. Newer ones read as ALL."""

    DEFAULT = "default"
    ALL = "all"
    MENTIONS = "mentions"
    NONE = "none"


class ReceiptsMode(Enum):
    """What members learn of each other's reading; modes newer than this client read as OFF."""

    FULL = "full"
    COUNT_ONLY = "count_only"
    OFF = "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationSettings:
    """What owners and admins of a group decide for all; a direct conversation has those of a new group.

    `receipts_limit`: the most that members learn of each other's reading, however few they are.
    """

    receipts_limit: ReceiptsMode = ReceiptsMode.FULL


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadMarker:
    """How far a user has read: (epoch, number) of that message, and its counted number."""

    epoch: int
    message_number: int
    counted_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadState:
    """What is unread in one conversation, as of a read.

    `mention_count` ends at 1,000. `unread_mark_position` is the mark-as-unread that stands; 0: none.
    """

    marker: ReadMarker
    unread_count: int
    mention_count: int
    unread_mark_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationCounters:
    """What is unread in one conversation now."""

    unread_count: int
    mention_count: int
    is_marked_unread: bool
    is_muted: bool

    @property
    def badge_count(self) -> int:
        """What it adds to the badge: one that is only marked unread counts 1, a muted one nothing."""
        return 0 if self.is_muted else self.unread_count or int(self.is_marked_unread)


NOTHING_UNREAD = ConversationCounters(unread_count=0, mention_count=0, is_marked_unread=False, is_muted=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counters:
    """What is unread, over all conversations; `of_conversations` has those with anything unread.

    `is_exact`: everything that this client heard of is counted; False while it starts or catches up.
    """

    badge_count: int = 0
    mention_count: int = 0
    of_conversations: Mapping[str, ConversationCounters] = field(default_factory=dict)
    is_exact: bool = False

    def of(self, conversation_id: str) -> ConversationCounters:
        """Returns the numbers of one conversation."""
        return self.of_conversations.get(conversation_id, NOTHING_UNREAD)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationPreferences:
    """How the user wants to hear of a conversation. `mute_end_time` None or past: not muted; FOR_EVER: for good."""

    mute_end_time: datetime | None = None
    notification_level: NotificationLevel = NotificationLevel.DEFAULT
    is_pinned: bool = False
    is_archived: bool = False


class PresenceVisibility(Enum):
    """Who may know whether the user is there; newer ones read as NOBODY."""

    EVERYONE = "everyone"
    CONTACTS = "contacts"
    NOBODY = "nobody"


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """A span of a week without notifications: begins on `weekdays` (1 = Monday) at a minute of the day."""

    weekdays: tuple[int, ...]
    start_minute: int
    duration_minutes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DoNotDisturbSchedule:
    """When nothing notifies, at the wall clock of an IANA time zone."""

    time_zone: str = ""
    hours: tuple[QuietHours, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Preferences:
    """What a user wants everywhere. What they state of themselves is `client.presence.get_own`."""

    notification_level: NotificationLevel
    do_not_disturb: DoNotDisturbSchedule
    sends_read_receipts: bool
    sends_typing: bool
    presence_visibility: PresenceVisibility


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """What the user has begun to write in a conversation."""

    conversation_id: str
    text: str
    change_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MemberMarker:
    """How far another member has read; `delivered_number`: and received, never less."""

    user_id: str
    message_number: int
    delivered_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Readers:
    """Who has read a message: at most 100 of them, in large conversations the number alone.

    `read_floor_number`: every member has read up to there, as far as they show it; 0: nothing.
    """

    user_ids: tuple[str, ...]
    reader_count: int
    receipts_mode: ReceiptsMode
    read_floor_number: int
