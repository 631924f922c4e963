"""What to mark as delivered, and when, sans-IO.

Theory of operation. Of each conversation a record says up to which message the application has processed what others
sent (`wanted`), up to which one that is known to the server or to nobody's interest (`told`), and what the view said of
its receipts (`mode`, as of a place in the topic; None: to be asked for). A record with more wanted than told waits. It
is taken when it is due, is busy until the call is over, and is due again no earlier than `INTERVAL_S` after it was
taken: so there is one call at a time of a conversation, and what comes meanwhile goes into the next one.

What was read is received, so the user's own markers, moved on any device, count as told. A mode is asked for again
only after what may have made another one of it.
"""

from dataclasses import dataclass
from typing import Final

from hubbub_client import events
from hubbub_client.kept import ReceiptsMode
from hubbub_client.model import Conversation, Cursor

INTERVAL_S: Final = 2.0
SETTLING_S: Final = 0.2  # so a burst is one call


@dataclass(slots=True, eq=False)
class _Record:
    epoch: int
    mode: ReceiptsMode | None = None
    mode_place: tuple[int, int] = (0, 0)  # (epoch, position) that it was read at, or of what made it unknown
    wanted: int = 0
    told: int = 0
    due_s: float = 0.0
    is_busy: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A message to mark as delivered. `needs_mode`: only if the view, which is to be learned first, says FULL."""

    conversation_id: str
    number: int
    needs_mode: bool
    record: _Record


class DeliveredBoard:
    """Takes what the application has processed and says what is to be told. `now_s` is monotonic.

    Args:
        user_id: the signed-in user, whose own messages are not marked.
    """

    def __init__(self, user_id: str) -> None:
        self._user_id = user_id
        self._records: dict[str, _Record] = {}  # as many as conversations
        self._waiting: dict[str, _Record] = {}
        self._busy_count = 0

    # ---- what the application has processed

    def receive(self, item: events.Event, now_s: float) -> None:  # noqa: C901, PLR0912  # one case a kind
        """Takes an item that the application has processed."""
        match item:
            case events.MessageReceived(cursor=cursor, message=message):
                if message.sender_id != self._user_id:
                    self._want(cursor, message.message_number, now_s)
            case events.GapSkipped(head=head, newest_messages=newest):
                self._doubt(head.cursor)
                for message in newest:
                    if message.sender_id != self._user_id:
                        self._want(head.cursor, message.message_number, now_s)
            case events.TopicReset(head=head):
                self._doubt(head.cursor)
            case events.TopicEnded(topic_id=topic_id):
                self._records.pop(topic_id, None)
                self._waiting.pop(topic_id, None)
            case events.ConversationSettingsChanged(cursor=cursor):
                self._doubt(cursor)
            case events.MembersAdded(cursor=cursor):
                self._doubt(cursor, when_full=True)
            case events.MemberRemoved(cursor=cursor):
                self._doubt(cursor, when_full=False)
            case events.ReadMarkerMoved(conversation_id=conversation_id, marker=marker):
                self._settle(conversation_id, marker.epoch, marker.message_number)
            case events.DeliveredMarkerMoved(conversation_id=conversation_id, epoch=epoch, message_number=number):
                self._settle(conversation_id, epoch, number)
            case _:
                pass

    def learn(self, conversation: Conversation) -> None:
        """Takes a view, as of its head."""
        head = conversation.head.cursor
        record = self._record(head.topic_id, head.epoch)
        place = (head.epoch, head.position)
        if record is None or place < record.mode_place:
            return
        record.mode, record.mode_place = conversation.receipts_mode, place
        if record.mode is not ReceiptsMode.FULL:
            record.told = record.wanted  # nobody is told; what comes later may be
        self._judge(head.topic_id, record)

    # ---- what is to be told

    @property
    def is_idle(self) -> bool:
        """Tells whether nothing waits and no mark is out."""
        return not self._waiting and not self._busy_count

    @property
    def is_waiting(self) -> bool:
        """Tells whether something waits to be taken."""
        return bool(self._waiting)

    def next_due_s(self) -> float | None:
        """Returns when there will be something to take; None: not by itself."""
        return min((record.due_s for record in self._waiting.values()), default=None)

    def take_due(self, now_s: float, out_max: int) -> list[Mark]:
        """Returns what is to be told now, with what is out already at most `out_max`; give each one to `finish`."""
        due = [(record.due_s, topic_id) for topic_id, record in self._waiting.items() if record.due_s <= now_s]
        marks = []
        for _, topic_id in sorted(due)[: max(0, out_max - self._busy_count)]:
            record = self._waiting.pop(topic_id)
            record.is_busy, record.due_s = True, now_s + INTERVAL_S
            self._busy_count += 1
            marks.append(
                Mark(conversation_id=topic_id, number=record.wanted, needs_mode=record.mode is None, record=record)
            )
        return marks

    def needs_mode(self, mark: Mark) -> bool:
        """Tells whether the mode of a mark that is out is unknown still: a change of it came after the view."""
        return mark.needs_mode and mark.record.mode is None

    def is_wanted(self, mark: Mark) -> bool:
        """Tells whether a mark that is out, and whose mode was learned, is worth its call."""
        record = mark.record
        is_current = self._records.get(mark.conversation_id) is record
        return is_current and record.mode is ReceiptsMode.FULL and mark.number > record.told

    def finish(self, mark: Mark, *, retry_s: float | None = None) -> None:
        """Ends a mark. `retry_s`: it was not answered, and is due again then at the earliest."""
        record = mark.record
        record.is_busy = False
        self._busy_count -= 1
        if retry_s is not None:
            record.due_s = max(record.due_s, retry_s)
        else:
            record.told = max(record.told, mark.number)
        if self._records.get(mark.conversation_id) is record:
            self._judge(mark.conversation_id, record)

    def hurry(self, now_s: float) -> None:
        """Makes due at once what waits: the client is closing."""
        for record in self._waiting.values():
            record.due_s = now_s

    # ---- records

    def _record(self, conversation_id: str, epoch: int) -> _Record | None:
        """Returns the record of a conversation's life, None when that one is over; a newer one starts afresh."""
        record = self._records.get(conversation_id)
        if record is None or record.epoch < epoch:
            self._waiting.pop(conversation_id, None)
            record = self._records[conversation_id] = _Record(epoch)
        return record if record.epoch == epoch else None

    def _want(self, cursor: Cursor, number: int, now_s: float) -> None:
        record = self._record(cursor.topic_id, cursor.epoch)
        if record is None or number <= record.wanted:
            return
        record.wanted = number
        if record.mode not in (None, ReceiptsMode.FULL):
            record.told = number
        if not record.is_busy and cursor.topic_id not in self._waiting:
            record.due_s = max(record.due_s, now_s + SETTLING_S)
        self._judge(cursor.topic_id, record)

    def _settle(self, conversation_id: str, epoch: int, number: int) -> None:
        if (record := self._record(conversation_id, epoch)) is not None:
            record.told = max(record.told, number)
            self._judge(conversation_id, record)

    def _doubt(self, cursor: Cursor, *, when_full: bool | None = None) -> None:
        """Notes that the mode may be another one: more members only end FULL, fewer only begin it."""
        record = self._record(cursor.topic_id, cursor.epoch)
        place = (cursor.epoch, cursor.position)
        if record is None or place <= record.mode_place:
            return
        if record.mode is None or when_full is None or (record.mode is ReceiptsMode.FULL) is when_full:
            record.mode, record.mode_place = None, place

    def _judge(self, conversation_id: str, record: _Record) -> None:
        if record.wanted > record.told and not record.is_busy:
            self._waiting[conversation_id] = record
        else:
            self._waiting.pop(conversation_id, None)
