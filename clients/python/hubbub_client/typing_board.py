"""Who types where, as far as this client was told, sans-IO.

Theory of operation. `_shown` is the truth: what signals said and neither time nor an event has ended. `_told` is what
the application knows of it. `take` makes one into the other, a change at a time, so that whatever was told is taken
back, and what began and ended while nobody looked is never told.
"""

from typing import TYPE_CHECKING, Final

from hubbub.chat.v1 import event_pb2, frame_pb2

from hubbub_client import events, wire

if TYPE_CHECKING:
    from hubbub_client.model import TypingKind

SHOWN_MAX: Final = 1_000

_Place = tuple[str, str]


class TypingBoard:
    """Keeps who types; at most 1,000, those that come then are not shown. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._shown: dict[_Place, tuple[TypingKind, float]] = {}
        self._told: dict[_Place, TypingKind] = {}
        self._changed: dict[_Place, None] = {}  # an ordered set

    def receive(self, signal: frame_pb2.Signal, now_s: float) -> None:
        """Takes a signal of the live stream; other kinds than typing change nothing."""
        if signal.WhichOneof("kind") != "typing":
            return
        place = (signal.conversation_id, signal.user_id)
        if not signal.typing.active:
            self._end(place)
        elif place in self._shown or len(self._shown) < SHOWN_MAX:
            expires_in = signal.typing.expires_in
            until_s = now_s + expires_in.seconds + expires_in.nanos / 1e9
            self._shown[place] = (wire.read_typing_kind(signal.typing.kind), until_s)
            self._changed[place] = None

    def receive_event(self, event: event_pb2.Event) -> None:
        """Takes an event that is handed over: a message ends its sender's typing, a removal that of the removed."""
        match event.WhichOneof("kind"):
            case "message_sent":
                self._end((event.topic_id, event.message_sent.message.sender_id))
            case "member_removed":
                self._end((event.topic_id, event.member_removed.user_id))
            case _:
                pass

    def forget(self, conversation_id: str) -> None:
        """The conversation is over for this user."""
        for place in [place for place in self._shown if place[0] == conversation_id]:
            self._end(place)

    def take(self, now_s: float) -> events.TypingChanged | None:
        """Returns the next change that the application has not been told, None when it knows everything."""
        for place in [place for place, (_, until_s) in self._shown.items() if until_s <= now_s]:
            self._end(place)
        while self._changed:
            place = next(iter(self._changed))
            del self._changed[place]
            kind = self._shown[place][0] if place in self._shown else None
            if kind == self._told.get(place):
                continue
            if kind is None:
                del self._told[place]
            else:
                self._told[place] = kind
            return events.TypingChanged(conversation_id=place[0], user_id=place[1], kind=kind)
        return None

    def next_end_s(self) -> float | None:
        """Returns when the first of those that are shown runs out; None when nobody is."""
        return min((until_s for _, until_s in self._shown.values()), default=None)

    def _end(self, place: _Place) -> None:
        if self._shown.pop(place, None) is not None:
            self._changed[place] = None
