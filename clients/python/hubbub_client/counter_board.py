"""What is unread, as the server defines it, kept up to date from events, sans-IO.

Theory of operation. Of each conversation the board has a *count*: the numbers of the newest message and of the
effective marker (what the user marked read, their own newest message, the newest one on joining). Unread is the
difference of counted numbers and never counted up or down (G10), so an event that comes twice, late or after a newer
read changes nothing. Mentions after the marker are known one by one, but for those that a read has summed up: when a
marker ends among those, or somebody is blocked or unblocked, the count is *stale*.

Where counts come from: `next_read` says what to read, the caller reads and hands the answer in. ALL is
ListConversations and the blocked users: the first read, and after news of the own topic were skipped. COUNTERS is
GetCounters: cheap, when many conversations are behind. A conversation alone: when its count is stale. Events go on
while a read is open; they are kept and applied again to what the read brought, by position, so neither order loses
anything.

COUNTERS does not name a conversation that is read. It was asked for after its head was heard of (Heads, events), and
reads are exact; so what was read is at least that head. Markers only grow, so what came meanwhile stays.
"""

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime
from enum import Enum, auto
from typing import Final

from hubbub.chat.v1 import event_pb2
from hubbub.chat.v1 import marker_service_pb2 as markers_pb
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb

from hubbub_client import events
from hubbub_client.conversation_count import ConversationCount, Place
from hubbub_client.kept import ConversationCounters, Counters
from hubbub_client.wire_entities import is_mentioned
from hubbub_client.wire_kept import read_conversation_preferences

COUNTERS_MAX: Final = 5_000  # more than so many are not named by COUNTERS
_MEANWHILE_MAX: Final = 10_000


class Read(Enum):
    """What to read, besides single conversations."""

    ALL = auto()
    COUNTERS = auto()


class CounterBoard:
    """Keeps counters. `now` is aware UTC time, of this computer: it ends mutes.

    Args:
        user_id: the signed-in user.
        behind_max: so many topics that are behind after connecting are left to their events.
        alone_max: so many stale conversations are read one by one.
    """

    def __init__(self, user_id: str, *, behind_max: int = 50, alone_max: int = 8) -> None:
        self._user_id, self._behind_max, self._alone_max = user_id, behind_max, alone_max
        self._counts: dict[str, ConversationCount] = {}
        self._heads: dict[str, Place] = {}  # the furthest that was heard of each conversation
        self._own_applied = self._own_heard = 0  # positions of the own topic
        self._blocked: set[str] = set()
        self._is_based = False  # ALL was read, and nothing of the own topic was skipped since
        self._is_connected = self._counters_wanted = False
        self.comes_first = False  # COUNTERS is worth more than the events: they may wait for its answer
        self._open: Read | str | None = None
        self._heads_then: dict[str, Place] = {}
        self._meanwhile: list[event_pb2.Event] = []
        self._skipped_meanwhile: set[str] = set()
        # What follows from the above, up to date but for `_changed`.
        self._changed: set[str] = set()
        self._numbers: dict[str, ConversationCounters] = {}  # with anything unread
        self._inexact: set[str] = set()
        self._untold: set[str] = set()
        self._told: dict[str, ConversationCounters] = {}
        self._told_totals = (0, 0, False)

    # ---- what the application sees

    def counters(self, now: datetime) -> Counters:
        """Returns what is unread."""
        self._derive(now)
        return Counters(
            badge_count=sum(each.badge_count for each in self._numbers.values()),
            mention_count=sum(each.mention_count for each in self._numbers.values() if not each.is_muted),
            of_conversations=dict(self._numbers),
            is_exact=self._is_exact(),
        )

    def take(self, now: datetime) -> events.CountersChanged | None:
        """Returns what changed since the application was told; None when it knows everything."""
        self._derive(now)
        untold, self._untold = self._untold, set()
        changed = frozenset(each for each in untold if self._told.get(each) != self._numbers.get(each))
        if not changed and self._told_totals[2] == self._is_exact():
            return None
        counters = self.counters(now)
        for conversation_id in changed:
            self._told.pop(conversation_id, None)
            if numbers := self._numbers.get(conversation_id):
                self._told[conversation_id] = numbers
        totals = (counters.badge_count, counters.mention_count, counters.is_exact)
        if not changed and totals == self._told_totals:
            return None
        self._told_totals = totals
        return events.CountersChanged(counters=counters, conversation_ids=changed)

    def next_end(self) -> datetime | None:
        """Returns when the first mute of something unread ends; None: none does."""
        muted = (self._counts.get(each) for each, numbers in self._numbers.items() if numbers.is_muted)
        return min((count.mute_end_time for count in muted if count and count.mute_end_time), default=None)

    def unread_mark_position(self, conversation_id: str) -> int:
        """Returns the mark-as-unread that stands, as far as it is known; 0: none."""
        count = self._counts.get(conversation_id)
        return 0 if count is None else count.unread_mark_position

    def _is_exact(self) -> bool:
        return (
            self._is_based
            and self._is_connected
            and self._open is None
            and not self._counters_wanted
            and self._own_applied >= self._own_heard
            and not self._inexact
        )

    def _derive(self, now: datetime) -> None:
        end = self.next_end()
        if end is not None and end <= now:
            self._changed.update(each for each, numbers in self._numbers.items() if numbers.is_muted)
        changed, self._changed = self._changed, set()
        for conversation_id in changed:
            self._untold.add(conversation_id)
            self._numbers.pop(conversation_id, None)
            self._inexact.discard(conversation_id)
            if count := self._counts.get(conversation_id):
                self._derive_one(conversation_id, count, now)

    def _derive_one(self, conversation_id: str, count: ConversationCount, now: datetime) -> None:
        head = self._heads.get(conversation_id)
        if count.is_stale or (head is not None and count.place.is_before(head)):
            self._inexact.add(conversation_id)
        numbers = count.counters(self._blocked, now)
        if not count.is_new and (numbers.unread_count or numbers.mention_count or numbers.is_marked_unread):
            self._numbers[conversation_id] = numbers

    # ---- what comes from the stream

    def start_own(self, position: int) -> None:
        """The own topic is followed from here on: what came before is in the reads."""
        self._own_applied = max(self._own_applied, position)

    def hear_head(self, pb: conversation_pb2.TopicHead) -> None:
        """Takes a head, of Heads, Heartbeat or CaughtUp."""
        if pb.cursor.topic_id == self._user_id:
            self._own_heard = max(self._own_heard, pb.cursor.position)
        else:
            self._hear(pb.cursor.topic_id, Place.of(pb))

    def _hear(self, topic_id: str, place: Place) -> None:
        known = self._heads.get(topic_id)
        if known is None or known.is_before(place):
            self._heads[topic_id] = place
            self._changed.add(topic_id)

    def connect(self, behind: int) -> None:
        """The heads of a stream are complete; so many topics are behind."""
        self._is_connected = True
        if behind > self._behind_max:
            self._counters_wanted = self.comes_first = True

    def disconnect(self) -> None:
        """The stream ended: what happens is not heard of."""
        self._is_connected = self.comes_first = False

    def forget(self, conversation_id: str) -> None:
        """The conversation is over for this user."""
        self._counts.pop(conversation_id, None)
        self._heads.pop(conversation_id, None)
        self._changed.add(conversation_id)

    def skip(self, pb: conversation_pb2.TopicHead) -> None:
        """Events up to a head are left out."""
        topic_id = pb.cursor.topic_id
        self._skipped_meanwhile.add(topic_id)
        if topic_id == self._user_id:
            self._own_applied = self._own_heard = pb.cursor.position
            self._is_based = False
            return
        self._heads[topic_id] = Place.of(pb)
        self._changed.add(topic_id)
        if count := self._counts.get(topic_id):
            count.needs_view = count.needs_view or count.place.epoch != pb.cursor.epoch
            count.place, count.is_stale = Place.of(pb), True

    def receive_event(self, event: event_pb2.Event) -> None:
        """Takes an event, those of a topic in the order of their positions."""
        if self._open is not None and len(self._meanwhile) < _MEANWHILE_MAX:
            self._meanwhile.append(event)
        self._apply(event)

    def _apply(self, event: event_pb2.Event) -> None:
        if event.topic_id == self._user_id:
            self._own_applied = max(self._own_applied, event.position)
            self._apply_own(event)
        else:
            self._apply_to_conversation(event)
            self._changed.add(event.topic_id)

    def _apply_to_conversation(self, event: event_pb2.Event) -> None:
        message = event.message_sent.message if event.WhichOneof("kind") == "message_sent" else None

        def moved(before: Place) -> Place:
            if message is None:
                return replace(before, epoch=event.epoch, position=event.position)
            return Place(event.epoch, event.position, message.message_number, message.counted_number)

        self._hear(event.topic_id, moved(self._heads.get(event.topic_id, Place(event.epoch))))
        count = self._counts.get(event.topic_id)
        if count is None or (event.epoch == count.place.epoch and event.position <= count.place.position):
            return
        count.place = moved(count.place)
        if message is None:
            return
        if message.sender_id == self._user_id:
            count.move(message.message_number, message.counted_number)
        elif message.message_number > count.marker_number and is_mentioned(message, self._user_id):
            count.mention(message.message_number, message.sender_id, self._blocked)

    def _apply_own(self, event: event_pb2.Event) -> None:
        kind = event.WhichOneof("kind")
        if kind in ("user_blocked", "user_unblocked"):
            (self._blocked.add if kind == "user_blocked" else self._blocked.discard)(getattr(event, kind).user_id)
            self._doubt_sums()
        elif kind is not None and kind not in ("draft_changed", "preferences_changed"):
            self._apply_to_count(event, getattr(event, kind).conversation_id)

    def _apply_to_count(self, event: event_pb2.Event, conversation_id: str) -> None:
        count = self._counts.get(conversation_id)
        self._changed.add(conversation_id)
        match event.WhichOneof("kind"):
            case "conversation_joined":
                joined = event.conversation_joined
                self._join(conversation_id, joined.epoch, joined.join_position)
            case "conversation_left" if count and event.conversation_left.leave_position >= count.join_position:
                self.forget(conversation_id)
            case "read_marker_moved" if count:
                marker = event.read_marker_moved.marker
                if marker.epoch != count.place.epoch and marker.message_number > count.marker_number:
                    count.is_stale = True
                count.move(marker.message_number, marker.counted_number)
                count.unread_mark_position = 0
            case "conversation_marked_unread" if count:
                count.unread_mark_position = event.position
            case "conversation_preferences_changed" if count:
                preferences = read_conversation_preferences(event.conversation_preferences_changed.preferences)
                count.mute_end_time = preferences.mute_end_time
            case _:
                pass

    def _join(self, conversation_id: str, epoch: int, position: int) -> None:
        count = self._counts.get(conversation_id)
        if count is not None and (count.place.epoch, count.join_position) >= (epoch, position):
            # A read brought this membership, or a later one; perhaps before the own topic told of it, which forgets
            # what the user kept of the one before.
            count.is_stale = count.needs_view = True
            return
        self._counts[conversation_id] = ConversationCount(
            Place(epoch, position - 1), join_position=position, is_new=True, is_stale=True, needs_view=True
        )

    def _doubt_sums(self) -> None:
        """Mentions that a read has summed up were counted without those who were blocked then."""
        for conversation_id, count in self._counts.items():
            self._changed.add(conversation_id)
            if count.marker_counted < count.summed_counted:
                count.is_stale = True

    # ---- reads

    def next_read(self) -> Read | str | None:
        """Returns what to read now: ALL, COUNTERS, or the id of a conversation; None: nothing, or a read is open.

        Each is ended by `receive_all`, `receive_counters`, `receive_view` or `give_up`.
        """
        if self._open is None and self._is_connected and (wanted := self._wanted()) is not None:
            self._open = wanted
            self._heads_then, self._meanwhile, self._skipped_meanwhile = dict(self._heads), [], set()
            return wanted
        return None

    def _wanted(self) -> Read | str | None:
        if not self._is_based:
            return Read.ALL
        if self._counters_wanted:
            return Read.COUNTERS
        stale = [conversation_id for conversation_id, count in self._counts.items() if count.is_stale]
        if len(stale) <= self._alone_max:
            return stale[0] if stale else None
        return Read.ALL if any(self._counts[each].needs_view for each in stale) else Read.COUNTERS

    def give_up(self) -> None:
        """The open read failed: it is wanted again."""
        self._open, self._meanwhile, self.comes_first = None, [], False

    def receive_all(self, views: Iterable[conversations_pb.ConversationView], blocked: Iterable[str]) -> None:
        """Takes every conversation of the user, and whom they block."""
        self._changed.update(self._counts)
        self._counts = {}
        for view in views:
            self._set(ConversationCount.of(view), view.conversation.conversation_id)
        self._blocked = set(blocked)
        self._is_based, self._counters_wanted = True, False
        self._close()

    def receive_view(self, conversation_id: str, view: conversations_pb.ConversationView | None) -> None:
        """Takes one conversation; None: the user is not in it."""
        if view is None:
            self.forget(conversation_id)
        else:
            self._set(ConversationCount.of(view), conversation_id)
        self._close()

    def _set(self, count: ConversationCount, conversation_id: str) -> None:
        self._counts[conversation_id] = count
        self._hear(conversation_id, count.place)
        self._changed.add(conversation_id)

    def receive_counters(self, answer: markers_pb.GetCountersResponse) -> None:
        """Takes the counters of all conversations."""
        self._counters_wanted = False
        named = {one.conversation_id: one for one in answer.counters}
        for conversation_id, count in self._counts.items():
            self._changed.add(conversation_id)
            head = self._heads_then.get(conversation_id)
            if count.is_new or head is None or head.epoch != count.place.epoch:
                count.needs_view = True  # these numbers may be of another life, or there are none to compare with
            elif one := named.get(conversation_id):
                count.take_read(one.read_state, one.position)
            else:
                count.set_read(head)
                if count.unread_mark_position <= answer.cursor.position:
                    count.unread_mark_position = 0
        self._close()
        if len(named) >= COUNTERS_MAX:
            self._is_based = False  # what is not named may be unread all the same

    def _close(self) -> None:
        """Ends a read: what came meanwhile is applied to what it brought."""
        meanwhile, self._open, self._meanwhile, self.comes_first = self._meanwhile, None, [], False
        for event in meanwhile:
            self._apply(event)
        if len(meanwhile) >= _MEANWHILE_MAX or self._user_id in self._skipped_meanwhile:
            self._is_based = False
        for conversation_id in self._skipped_meanwhile:
            head, count = self._heads.get(conversation_id), self._counts.get(conversation_id)
            if head and count and count.place.is_before(head):
                count.place, count.is_stale = head, True
                self._changed.add(conversation_id)
