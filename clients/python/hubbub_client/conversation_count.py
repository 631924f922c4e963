"""What is unread in one conversation, from the numbers of its newest message and of the effective marker. Pure."""

from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final, Self

from hubbub.conversation.v1 import conversation_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb

from hubbub_client.kept import ConversationCounters
from hubbub_client.wire_kept import read_conversation_preferences

MENTION_COUNT_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Place:
    """How far a conversation is known, and its newest message there."""

    epoch: int
    position: int = 0
    last_number: int = 0
    last_counted: int = 0

    @classmethod
    def of(cls, pb: conversation_pb2.TopicHead) -> Self:
        """Returns the place of a head."""
        return cls(pb.cursor.epoch, pb.cursor.position, pb.last_message_number, pb.last_counted_number)

    def is_before(self, other: "Place") -> bool:
        """Tells whether the other one is further, or of another life of the log."""
        return self.epoch != other.epoch or self.position < other.position


@dataclass(slots=True)
class ConversationCount:
    """Mentions after the marker are known one by one, but for those that a read has summed up.

    `is_new`: only the join is known. `is_stale`: to be read again, if `needs_view` as a whole.
    """

    place: Place
    join_position: int = 0
    marker_number: int = 0
    marker_counted: int = 0
    summed_mentions: int = 0  # after the marker, up to the message with this counted number
    summed_counted: int = 0
    mentions: dict[int, str] = field(default_factory=dict)  # the later ones: number -> sender
    unread_mark_position: int = 0
    mute_end_time: datetime | None = None
    is_new: bool = False
    is_stale: bool = False
    needs_view: bool = False

    @classmethod
    def of(cls, view: conversations_pb.ConversationView) -> Self:
        """Returns the count that a read of the whole conversation brought."""
        mute_end_time = read_conversation_preferences(view.preferences).mute_end_time
        count = cls(Place.of(view.head), join_position=view.membership.join_position, mute_end_time=mute_end_time)
        count.take_read(view.read_state, view.head.cursor.position)
        return count

    def take_read(self, pb: read_state_pb2.ReadState, position: int) -> None:
        """Takes a read, as of a position of the same life of the log."""
        last_counted = pb.marker.counted_number + pb.unread_count
        self.place = replace(self.place, position=position, last_counted=last_counted)
        self.marker_number, self.marker_counted = pb.marker.message_number, pb.marker.counted_number
        self.summed_mentions, self.summed_counted = pb.mention_count, last_counted
        self.mentions.clear()
        self.unread_mark_position = pb.unread_mark_position
        self.is_stale = self.needs_view = False

    def set_read(self, head: Place) -> None:
        """Takes that a read found nothing unread, no earlier than at this head."""
        if self.place.is_before(head):
            self.place = head
        self.move(head.last_number, head.last_counted)
        self.summed_mentions = 0
        self.is_stale = False

    def move(self, number: int, counted: int) -> None:
        """Takes a marker; one that is behind changes nothing."""
        if number <= self.marker_number:
            return
        self.marker_number, self.marker_counted = number, max(counted, self.marker_counted)
        self.mentions = {mentioned: sender for mentioned, sender in self.mentions.items() if mentioned > number}
        if counted >= self.summed_counted:
            self.summed_mentions = 0
        elif self.summed_mentions:
            self.is_stale = True  # how many of them are left?

    def mention(self, number: int, sender_id: str, blocked: set[str]) -> None:
        """Takes a message after the marker that mentions the user."""
        self.mentions[number] = sender_id
        if len(self.mentions) >= MENTION_COUNT_MAX:
            self.summed_mentions += sum(sender_id not in blocked for sender_id in self.mentions.values())
            self.summed_counted = self.place.last_counted
            self.mentions.clear()

    def counters(self, blocked: set[str], now: datetime) -> ConversationCounters:
        """Returns the numbers."""
        mentions = self.summed_mentions + sum(sender_id not in blocked for sender_id in self.mentions.values())
        return ConversationCounters(
            unread_count=max(0, self.place.last_counted - self.marker_counted),
            mention_count=min(mentions, MENTION_COUNT_MAX),
            is_marked_unread=self.unread_mark_position > 0,
            is_muted=self.mute_end_time is not None and self.mute_end_time > now,
        )
