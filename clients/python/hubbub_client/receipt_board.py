"""How far other members have received and read, as far as this client was told, sans-IO: markers only grow.

Where nobody is told of one member there is a floor: how far all of them have read.
"""

from hubbub.chat.v1 import frame_pb2

from hubbub_client import events

KEPT_MAX = 10_000

_Place = tuple[str, str]


class ReceiptBoard:
    """Keeps the largest numbers of each member; beyond 10,000 the oldest are forgotten (and told again)."""

    def __init__(self) -> None:
        self._numbers: dict[_Place, tuple[int, int]] = {}  # delivered, read
        self._changed: dict[_Place, None] = {}  # an ordered set
        self._floors: dict[str, int] = {}
        self._changed_floors: dict[str, None] = {}

    def receive(self, signal: frame_pb2.Signal) -> None:
        """Takes a signal of the live stream; other kinds change nothing."""
        match signal.WhichOneof("kind"):
            case "read_marker":
                number = signal.read_marker.message_number
                self.learn(signal.conversation_id, signal.user_id, delivered_number=number, read_number=number)
            case "delivered_marker":
                number = signal.delivered_marker.message_number
                self.learn(signal.conversation_id, signal.user_id, delivered_number=number)
            case "read_floor":  # of all members, so it names nobody
                self.learn_floor(signal.conversation_id, signal.read_floor.message_number)
            case _:
                pass

    def learn(self, conversation_id: str, user_id: str, *, delivered_number: int, read_number: int = 0) -> None:
        """Takes what is known of a member, from wherever; what is read was delivered."""
        place = (conversation_id, user_id)
        before = self._numbers.pop(place, (0, 0))
        delivered = max(before[0], delivered_number, read_number)
        after = self._numbers[place] = (delivered, max(before[1], read_number))
        if after != before:
            self._changed[place] = None
        if len(self._numbers) > KEPT_MAX:
            oldest = next(iter(self._numbers))
            del self._numbers[oldest]
            self._changed.pop(oldest, None)

    def learn_floor(self, conversation_id: str, number: int) -> None:
        """Takes how far all members have read, from wherever."""
        before = self._floors.pop(conversation_id, 0)
        if max(before, number) == 0:
            return
        self._floors[conversation_id] = max(before, number)
        if number > before:
            self._changed_floors[conversation_id] = None
        if len(self._floors) > KEPT_MAX:
            oldest = next(iter(self._floors))
            del self._floors[oldest]
            self._changed_floors.pop(oldest, None)

    def of(self, conversation_id: str, user_id: str) -> tuple[int, int]:
        """Returns the numbers of a member: delivered, read; 0: not known."""
        return self._numbers.get((conversation_id, user_id), (0, 0))

    def forget(self, conversation_id: str) -> None:
        """The conversation is over for this user, or began a new life."""
        for place in [place for place in self._numbers if place[0] == conversation_id]:
            del self._numbers[place]
            self._changed.pop(place, None)
        self._floors.pop(conversation_id, None)
        self._changed_floors.pop(conversation_id, None)

    def take(self) -> events.ReceiptChanged | events.ReadFloorChanged | None:
        """Returns the next change that the application has not been told, None when it knows everything."""
        for place in self._changed:
            del self._changed[place]
            delivered, read = self._numbers[place]
            return events.ReceiptChanged(
                conversation_id=place[0], user_id=place[1], delivered_number=delivered, read_number=read
            )
        for conversation_id in self._changed_floors:
            del self._changed_floors[conversation_id]
            number = self._floors[conversation_id]
            return events.ReadFloorChanged(conversation_id=conversation_id, message_number=number)
        return None
