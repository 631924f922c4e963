"""How far the application has come: the cursors from which a later run goes on.

Theory of operation. The own topic tells when memberships begin and end; the conversation itself may not have come so
far, because its events are yet to be fetched. Until it has, that news is *pending*: it is known to this run and in the
own topic, nowhere else. A later run needs it, or it would jump from the end of one membership over the next ones. So
while news is pending the own topic has two cursors: the first says what the application has, the second lies before
the oldest pending news. A later run reads the own topic again from the second, and hands over what is above the first.
The second is the last cursor of all, so a store that keeps one cursor a topic keeps that one: then events of the own
topic come again, and nothing is missed.
"""

from collections.abc import Iterable, Mapping

from hubbub_client import events
from hubbub_client.live_progress import Delivery
from hubbub_client.model import Cursor


def place(cursor: Cursor) -> tuple[int, int]:
    """Returns what orders cursors of one topic: a later epoch is a later life of the topic."""
    return cursor.epoch, cursor.position


class ProcessedCursors:
    """Follows what the application has processed.

    Args:
        user_id: the signed-in user, whose own topic has this id.
        cursors: what `resume()` of an earlier run returned.
    """

    def __init__(self, user_id: str, cursors: Iterable[Cursor] = ()) -> None:
        self._user_id = user_id
        self._cursors: dict[str, Cursor] = {}  # of the own topic: how far it was read, perhaps again
        self._own: Cursor | None = None  # what the application has of the own topic
        # By conversation: position in the own topic -> where the conversation has to come.
        self._pending: dict[str, dict[int, Cursor]] = {}
        own = []
        for cursor in cursors:
            if cursor.topic_id == user_id:
                own.append(cursor)
            else:
                self._cursors[cursor.topic_id] = cursor
        if own:
            self._own = max(own, key=place)
            self._cursors[user_id] = min((one for one in own if one.epoch == self._own.epoch), key=place)

    @property
    def topics(self) -> Mapping[str, Cursor]:
        """The cursor from which each topic is read."""
        return self._cursors

    @property
    def told_before(self) -> Cursor | None:
        """Up to where the own topic is read again; None when it is not."""
        read = self._cursors.get(self._user_id)
        return None if read == self._own else self._own

    def has(self, item: events.Event) -> bool:
        """Tells whether the application has an item already: one of the own topic that is read again."""
        if not isinstance(item, events.TopicEvent) or item.cursor.topic_id != self._user_id or self._own is None:
            return False
        return place(item.cursor) <= place(self._own)

    def process(self, delivery: Delivery) -> None:
        """Notes that an item is processed."""
        self.move(delivery.cursors)
        own = delivery.cursors.get(self._user_id)
        if own is None:
            return
        if not isinstance(delivery.item, events.TopicEvent):
            self._pending.clear()  # events of the own topic were skipped: the list of conversations tells what holds
        elif (pending := delivery.pending) is not None and self._lies_ahead(pending):
            self._pending.setdefault(pending.topic_id, {})[own.position] = pending

    def move(self, cursors: Mapping[str, Cursor | None]) -> None:
        """Moves cursors; None forgets a topic."""
        for topic_id, cursor in cursors.items():
            if cursor is None:
                self._cursors.pop(topic_id, None)
            else:
                self._cursors[topic_id] = cursor
            if topic_id in self._pending:
                self._settle(topic_id)
        if (own := self._cursors.get(self._user_id)) is not None:
            self._own = own if self._own is None else max(self._own, own, key=place)

    def _lies_ahead(self, pending: Cursor) -> bool:
        cursor = self._cursors.get(pending.topic_id)
        return cursor is not None and place(cursor) < place(pending)

    def _settle(self, topic_id: str) -> None:
        ahead = {own: pending for own, pending in self._pending[topic_id].items() if self._lies_ahead(pending)}
        if ahead:
            self._pending[topic_id] = ahead
        else:
            del self._pending[topic_id]

    def resume(self) -> list[Cursor]:
        """Returns where a later run goes on without missing anything: one cursor a topic, and perhaps a second own."""
        cursors = [cursor for topic_id, cursor in self._cursors.items() if topic_id != self._user_id]
        if self._own is None:
            return cursors
        cursors.append(self._own)
        read = self._cursors[self._user_id]
        oldest = min((own for pending in self._pending.values() for own in pending), default=read.position + 1)
        again = min(read.position, oldest - 1)
        if (read.epoch, again) < place(self._own):
            cursors.append(Cursor(self._user_id, read.epoch, again))
        return cursors
