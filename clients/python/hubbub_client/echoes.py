"""Messages that were posted here, shown before the server has them, sans-IO.

Theory of operation. An echo is PENDING from `post` on, whatever happens to connections. It becomes SENT by the answer
to the send or by its own message_sent, whichever comes first (the event is told after it), and is then dropped here:
the message is in the log. It becomes FAILED when it is refused for good; it stays until it is retried, under the same
client_message_id and so at most once, or discarded.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING

from hubbub_client.entities import TextEntity
from hubbub_client.errors import CallFailed
from hubbub_client.model import Sent

if TYPE_CHECKING:
    from hubbub.chat.v1 import event_pb2


class EchoState(Enum):
    """What became of a message that was posted."""

    PENDING = "pending"
    SENT = "sent"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Echo:
    """A message that was posted here. `message_number` is set once it is SENT, `error` when it FAILED."""

    conversation_id: str
    client_message_id: str
    text: str
    entities: tuple[TextEntity, ...] = ()
    post_time: datetime
    state: EchoState = EchoState.PENDING
    message_number: int = 0
    error: CallFailed | None = None


class EchoBoard:
    """Keeps the echoes in the order in which they were posted, and what the application was not told of them."""

    def __init__(self) -> None:
        self._echoes: dict[str, Echo] = {}
        self._changes: dict[str, Echo] = {}  # newest state of each that the application was not told

    def __len__(self) -> int:
        return len(self._echoes)

    def post(self, echo: Echo) -> None:
        """Shows a message as pending; one that failed goes to the end of its conversation.

        Raises:
            ValueError: it is pending already.
        """
        old = self._echoes.get(echo.client_message_id)
        if old is not None and old.state is EchoState.PENDING:
            raise ValueError(f"{echo.client_message_id} is being sent already")
        self._echoes.pop(echo.client_message_id, None)
        self._set(echo)

    def settle(self, client_message_id: str, outcome: Sent | CallFailed) -> None:
        """Takes the answer to the send."""
        if (echo := self._echoes.get(client_message_id)) is None:
            return
        if isinstance(outcome, CallFailed):
            self._set(replace(echo, state=EchoState.FAILED, error=outcome))
        else:
            self._finish(echo, outcome.message_number)

    def receive_event(self, event: "event_pb2.Event") -> None:
        """Takes an event that is handed over next: a message of this client needs no echo any more."""
        if event.WhichOneof("kind") != "message_sent":
            return
        message = event.message_sent.message
        echo = self._echoes.get(message.client_message_id)
        if echo is not None and echo.conversation_id == event.topic_id:
            self._finish(echo, message.message_number)

    def discard(self, client_message_id: str) -> Echo | None:
        """Shows a message no longer; returns it, None when it is not here."""
        self._changes.pop(client_message_id, None)
        return self._echoes.pop(client_message_id, None)

    def get(self, client_message_id: str) -> Echo | None:
        """Returns one that is pending or failed."""
        return self._echoes.get(client_message_id)

    def of(self, conversation_id: str) -> Sequence[Echo]:
        """Returns those of a conversation that are pending or failed, in the order of posting."""
        return [echo for echo in self._echoes.values() if echo.conversation_id == conversation_id]

    def take(self) -> Echo | None:
        """Returns the next one whose state the application was not told; None when it knows everything."""
        for client_message_id in self._changes:
            return self._changes.pop(client_message_id)
        return None

    def _set(self, echo: Echo) -> None:
        self._echoes[echo.client_message_id] = self._changes[echo.client_message_id] = echo

    def _finish(self, echo: Echo, message_number: int) -> None:
        del self._echoes[echo.client_message_id]
        self._changes[echo.client_message_id] = replace(
            echo, state=EchoState.SENT, message_number=message_number, error=None
        )
