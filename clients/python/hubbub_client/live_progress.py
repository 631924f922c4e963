"""How much of a live stream the application has processed: what an Ack says."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

from hubbub_client import events
from hubbub_client.model import Cursor


@dataclass(frozen=True, slots=True)
class Delivery:
    """One item for the application, and the cursors that hold once it is processed (None: forget the topic).

    `pending`: where a conversation has to come before a later run need not read this event of the own topic again.
    """

    item: events.Event
    cursors: Mapping[str, Cursor | None]
    pending: Cursor | None = None


class LiveProgress:
    """Counts the events of one stream. Those that became no item (known, early, left to Sync) wait for nobody."""

    def __init__(self) -> None:
        self._heard = 0
        self._waiting: deque[Delivery] = deque()

    @property
    def processed_events(self) -> int:
        """How many events of the stream do not wait for the application."""
        return self._heard - len(self._waiting)

    def start(self) -> None:
        """Begins another stream."""
        self._heard = 0
        self._waiting.clear()

    def hear(self, last: object) -> None:
        """Counts an event; `last` is the last Delivery that became of it, if any did."""
        self._heard += 1
        if isinstance(last, Delivery):
            self._waiting.append(last)

    def mark_processed(self, delivery: Delivery) -> None:
        """Notes that the application has processed an item; they come in the order in which they were made."""
        if self._waiting and self._waiting[0] is delivery:
            self._waiting.popleft()
