"""What waits to be sent and what waits for its answer, sans-IO.

Theory of operation. Messages of one conversation leave in the order in which they were added. Several are in flight
at once; each names the one before it in the queue (`previous_client_message_id`), so the server refuses it with
SEND_ORDER unless that one is committed, and no retry can change the order. An entry is WAITING (to be written, again
or for the first time) or IN FLIGHT (written on the present stream, named by a request_id).

* Answered: it leaves the queue. * Refused for good: it leaves with its error, and the messages after it go on, named
  after the one that is now before them. * Unavailable: it waits again, and its conversation pauses for the delay that
  the server asks for, or a random one that grows. * SEND_ORDER: it waits again and follows the one before it. * The
  stream ended: everything in flight waits again, under the same client_message_id, so nothing is committed twice.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from google.protobuf import timestamp_pb2
from hubbub.chat.v1 import frame_pb2

from hubbub_client import wire
from hubbub_client.backoff import Backoff
from hubbub_client.entities import TextEntity
from hubbub_client.errors import HubbubError, SendOrder, Unavailable, error_of_status
from hubbub_client.model import Sent
from hubbub_client.typing_notices import TypingNotices
from hubbub_client.wire_entities import write_text

IN_FLIGHT_MAX: Final = 128
_ORDER_TRIES: Final = 3  # refusals of SEND_ORDER that a cut or a failure explains; from then on it waits between them

Settle = Callable[[Sent | HubbubError], None]


@dataclass(slots=True, eq=False)
class _Entry:
    conversation_id: str
    client_message_id: str
    text: str
    entities: Sequence[TextEntity]
    client_time: datetime
    settle: Settle
    request_id: str = ""  # not empty: in flight
    tries: int = 0


@dataclass(slots=True)
class _Queue:
    entries: list[_Entry]
    backoff: Backoff
    paused_until_s: float = 0.0


class Outbox:
    """Keeps unacknowledged messages and makes the commands that send them. The caller bounds how many it adds.

    Args:
        backoff: makes the pauses of one conversation when the server asks for none.
    """

    def __init__(self, backoff: Callable[[], Backoff]) -> None:
        self._new_backoff = backoff
        self._queues: dict[str, _Queue] = {}
        self._in_flight: dict[str, _Entry] = {}
        self._sendable: deque[str] = deque()  # conversations that may have a waiting entry
        self._requests = 0
        self.typing = TypingNotices()

    def __len__(self) -> int:
        return sum(len(queue.entries) for queue in self._queues.values())

    def add(
        self,
        conversation_id: str,
        client_message_id: str,
        text: str,
        client_time: datetime,
        settle: Settle,
        *,
        entities: Sequence[TextEntity] = (),
    ) -> None:
        """Queues a message behind the others of its conversation; `settle` is called once with what became of it.

        Raises:
            ValueError: a message with this id is queued already.
        """
        queue = self._queues.get(conversation_id)
        if queue is None:
            queue = self._queues[conversation_id] = _Queue([], self._new_backoff())
        if any(entry.client_message_id == client_message_id for entry in queue.entries):
            raise ValueError(f"{client_message_id} is being sent already")
        self.typing.forget(conversation_id)
        queue.entries.append(_Entry(conversation_id, client_message_id, text, entities, client_time, settle))
        self._offer(conversation_id)

    def withdraw(self, conversation_id: str, client_message_id: str) -> None:
        """Takes a message out without calling `settle`. If it was in flight it may be committed all the same."""
        for entry in self._queues[conversation_id].entries if conversation_id in self._queues else ():
            if entry.client_message_id == client_message_id:
                self._remove(entry)
                return

    def fail_all(self, error: HubbubError) -> None:
        """Settles everything with an error: the client stops."""
        for queue in list(self._queues.values()):
            for entry in list(queue.entries):
                self._remove(entry)
                entry.settle(error)

    def next_command(self, now_s: float) -> frame_pb2.Command | None:
        """Returns the next command to write, or None: everything is in flight, paused, or the window is full.

        Messages come first: what is typed after one is told after it.
        """
        return self._next_send(now_s) or self.typing.next_command(now_s)

    def _next_send(self, now_s: float) -> frame_pb2.Command | None:
        if len(self._in_flight) >= IN_FLIGHT_MAX:
            return None
        for _ in range(len(self._sendable)):
            conversation_id = self._sendable[0]
            queue = self._queues.get(conversation_id)
            index = self._first_waiting(queue)
            if queue is None or index is None:
                self._sendable.popleft()
            elif queue.paused_until_s > now_s:
                self._sendable.rotate(-1)
            else:
                return self._write(queue, index)
        return None

    def next_wake_s(self, now_s: float) -> float | None:
        """Returns when the first paused conversation goes on, or typing is to be told; None: neither."""
        pauses = (queue.paused_until_s for queue in self._queues.values() if self._first_waiting(queue) is not None)
        typing_s = self.typing.next_wake_s()
        return min((until for until in (*pauses, typing_s) if until is not None and until > now_s), default=None)

    def receive_reply(self, reply: frame_pb2.Reply) -> None:
        """Takes the answer to a command; one that is not ours or was withdrawn is ignored."""
        if self.typing.is_ours(reply.request_id):
            self.typing.receive_reply(reply.request_id)
            return
        entry = self._in_flight.pop(reply.request_id, None)
        if entry is None:
            return
        if queue := self._queues.get(entry.conversation_id):
            queue.backoff.reset()
        self._remove(entry)
        entry.settle(wire.read_sent(entry.client_message_id, reply.send_message))

    def receive_rejected(self, rejected: frame_pb2.Rejected, now_s: float) -> None:
        """Takes the refusal of a command; one that is not ours or was withdrawn is ignored."""
        if self.typing.is_ours(rejected.request_id):
            self.typing.receive_rejected(rejected)
            return
        entry = self._in_flight.pop(rejected.request_id, None)
        if entry is None:
            return
        error = error_of_status(rejected.status)
        entry.request_id = ""
        queue = self._queues.get(entry.conversation_id)
        if queue is None or entry not in queue.entries:
            return
        if isinstance(error, SendOrder):
            if entry.tries >= _ORDER_TRIES:
                queue.paused_until_s = now_s + queue.backoff.next_s()
        elif isinstance(error, Unavailable):
            queue.paused_until_s = now_s + (error.retry_delay_s or queue.backoff.next_s())
        else:
            self._remove(entry)
            entry.settle(error)
        self._offer(entry.conversation_id)

    def close_stream(self) -> None:
        """Notes that no answer comes any more on the present stream: everything in flight waits again, unpaused."""
        self._in_flight.clear()
        self.typing.close_stream()
        for conversation_id, queue in self._queues.items():
            queue.paused_until_s = 0.0
            for entry in queue.entries:
                entry.request_id = ""
            self._offer(conversation_id)

    def _write(self, queue: _Queue, index: int) -> frame_pb2.Command:
        entry = queue.entries[index]
        self._requests += 1
        entry.request_id = str(self._requests)
        entry.tries += 1
        self._in_flight[entry.request_id] = entry
        client_time = timestamp_pb2.Timestamp()
        client_time.FromDatetime(entry.client_time)
        send = frame_pb2.SendMessageRequest(
            conversation_id=entry.conversation_id,
            client_message_id=entry.client_message_id,
            content=write_text(entry.text, entry.entities),
            client_time=client_time,
            # Whatever is still in the queue before it is unacknowledged.
            previous_client_message_id=queue.entries[index - 1].client_message_id if index else "",
        )
        return frame_pb2.Command(request_id=entry.request_id, send_message=send)

    @staticmethod
    def _first_waiting(queue: _Queue | None) -> int | None:
        entries = queue.entries if queue else ()
        return next((index for index, entry in enumerate(entries) if not entry.request_id), None)

    def _offer(self, conversation_id: str) -> None:
        if conversation_id not in self._sendable:
            self._sendable.append(conversation_id)

    def _remove(self, entry: _Entry) -> None:
        self._in_flight.pop(entry.request_id, None)
        queue = self._queues[entry.conversation_id]
        queue.entries.remove(entry)
        if not queue.entries:
            del self._queues[entry.conversation_id]
