"""All that a client knows besides the events themselves: who types, who has read, what is unread, what is pending.

The engine feeds it; the client asks it for what the application has not been told. What must come before the events
that wait (a message ends its sender's typing and its own echo) is taken first; what follows from them (counters) is
taken when none waits, so many changes are told as one.
"""

from datetime import UTC, datetime
from typing import Final

from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2

from hubbub_client import events
from hubbub_client.counter_board import CounterBoard
from hubbub_client.echoes import EchoBoard
from hubbub_client.presence_board import PresenceBoard
from hubbub_client.receipt_board import ReceiptBoard
from hubbub_client.typing_board import TypingBoard

_LATER: Final = 3_600.0


class Boards:
    """Holds the boards. `now_s` is monotonic.

    Args:
        user_id: the signed-in user.
        keeps_counters: whether counters are wanted; without, `counters` is None.
    """

    def __init__(self, user_id: str, *, keeps_counters: bool = False) -> None:
        self.typing = TypingBoard()
        self.echoes = EchoBoard()
        self.receipts = ReceiptBoard()
        self.presence = PresenceBoard()
        self.counters = CounterBoard(user_id) if keeps_counters else None

    # ---- what the engine tells

    def receive_signal(self, signal: frame_pb2.Signal, now_s: float) -> None:
        """Takes a signal of the live stream."""
        self.typing.receive(signal, now_s)
        self.receipts.receive(signal)

    def receive_event(self, event: event_pb2.Event) -> None:
        """Takes an event that waits for the application from now on."""
        self.typing.receive_event(event)
        self.echoes.receive_event(event)
        if self.counters is not None:
            self.counters.receive_event(event)

    def hear_head(self, head: conversation_pb2.TopicHead) -> None:
        """Takes a head that was heard of."""
        if self.counters is not None:
            self.counters.hear_head(head)

    def start_own(self, position: int) -> None:
        """The user's own topic is followed after this position."""
        if self.counters is not None:
            self.counters.start_own(position)

    def connect(self, behind: int) -> None:
        """A stream covers everything from here on; so many topics are behind."""
        if self.counters is not None:
            self.counters.connect(behind)

    def disconnect(self) -> None:
        """The stream ended."""
        if self.counters is not None:
            self.counters.disconnect()

    def skip(self, head: conversation_pb2.TopicHead) -> None:
        """Events of a topic up to its head are left out."""
        if self.counters is not None:
            self.counters.skip(head)

    def forget(self, conversation_id: str, *, is_rejoined: bool) -> None:
        """A conversation is over for this user; `is_rejoined`: the user's topic has told of the next membership."""
        self.typing.forget(conversation_id)
        self.receipts.forget(conversation_id)
        if self.counters is not None and not is_rejoined:
            self.counters.forget(conversation_id)

    @property
    def counters_come_first(self) -> bool:
        """Tells whether catching up is to wait for the counters: who is far behind sees the numbers first."""
        return self.counters is not None and self.counters.comes_first

    # ---- what the application is told

    def take_before(self, now_s: float) -> events.Signal | None:
        """Returns what is to be told before the events that wait; None: nothing."""
        if (echo := self.echoes.take()) is not None:
            return events.EchoChanged(echo=echo)
        return self.typing.take(now_s)

    def take_after(self) -> events.Signal | None:
        """Returns what is to be told when no event waits; None: nothing."""
        if (change := self.receipts.take() or self.presence.take()) is not None:
            return change
        return None if self.counters is None else self.counters.take(datetime.now(UTC))

    def next_end_s(self, now_s: float) -> float | None:
        """Returns when there may be something to tell though nothing comes; None: not by itself."""
        end = None if self.counters is None else self.counters.next_end()
        # Looked at again each hour at least: the clock may be set, and this one stands still in sleep.
        mute_s = None if end is None else now_s + min(_LATER, max(0.0, (end - datetime.now(UTC)).total_seconds()))
        return min((each for each in (self.typing.next_end_s(), mute_s) if each is not None), default=None)
