"""What this client tells of its user's typing, sans-IO: said when it begins, again every 3 s, and when it ends.

Nothing of it is worth keeping: what cannot be said now is not said later, and refusals matter to nobody, except that a
conversation which is not there (any more) needs to hear no more. A stream that ends ends what was said on it, by the
server's hand, so the next one begins anew with what still goes on.
"""

from dataclasses import dataclass
from typing import Final

from hubbub.chat.v1 import frame_pb2

from hubbub_client import wire
from hubbub_client.errors import Unavailable, error_of_status
from hubbub_client.model import TypingKind

REPEATED_S: Final = 3.0
_PREFIX: Final = "typing "


@dataclass(slots=True)
class _Notice:
    kind: TypingKind
    until_s: float
    due_s: float
    is_told: bool = False


class TypingNotices:
    """Makes commands of what the application says. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._notices: dict[str, _Notice] = {}
        self._stops: dict[str, TypingKind] = {}
        self._asked: dict[str, str] = {}  # request_id of a command under way -> its conversation
        self._requests = 0

    def start(self, conversation_id: str, kind: TypingKind, for_s: float, now_s: float) -> None:
        """The user makes a message, for so long if nothing else is said."""
        self._stops.pop(conversation_id, None)
        notice = self._notices.get(conversation_id)
        if notice is None or notice.kind is not kind:
            self._notices[conversation_id] = _Notice(kind, now_s + for_s, now_s)
        else:
            notice.until_s = now_s + for_s

    def stop(self, conversation_id: str) -> None:
        """The user stopped without sending."""
        notice = self._notices.pop(conversation_id, None)
        if notice is not None and notice.is_told:
            self._stops[conversation_id] = notice.kind

    def forget(self, conversation_id: str) -> None:
        """A message of the user is on its way there, which says it all; or the conversation is not there."""
        self._notices.pop(conversation_id, None)
        self._stops.pop(conversation_id, None)

    def next_command(self, now_s: float) -> frame_pb2.Command | None:
        """Returns the next command to write, None when there is nothing to say now."""
        for conversation_id in [each for each, notice in self._notices.items() if notice.until_s <= now_s]:
            self.stop(conversation_id)
        if self._stops:
            conversation_id, kind = self._stops.popitem()
            return self._command(conversation_id, kind, active=False)
        for conversation_id, notice in self._notices.items():
            if notice.due_s <= now_s:
                notice.due_s, notice.is_told = now_s + REPEATED_S, True
                return self._command(conversation_id, notice.kind, active=True)
        return None

    def next_wake_s(self) -> float | None:
        """Returns when there is something to say next; None: never by itself."""
        return min((min(notice.due_s, notice.until_s) for notice in self._notices.values()), default=None)

    def is_ours(self, request_id: str) -> bool:
        """Tells whether a command was made here."""
        return request_id.startswith(_PREFIX)

    def receive_reply(self, request_id: str) -> None:
        """Takes the answer to a command."""
        self._asked.pop(request_id, None)

    def receive_rejected(self, rejected: frame_pb2.Rejected) -> None:
        """Takes the refusal of a command."""
        conversation_id = self._asked.pop(rejected.request_id, "")
        if not isinstance(error_of_status(rejected.status), Unavailable):
            self.forget(conversation_id)

    def close_stream(self) -> None:
        """The stream ended, and with it what was said on it."""
        self._asked.clear()
        self._stops.clear()
        for notice in self._notices.values():
            notice.due_s, notice.is_told = 0.0, False

    def _command(self, conversation_id: str, kind: TypingKind, *, active: bool) -> frame_pb2.Command:
        self._requests += 1
        request_id = f"{_PREFIX}{self._requests}"
        self._asked[request_id] = conversation_id
        request = frame_pb2.SetTypingRequest(
            conversation_id=conversation_id, kind=wire.write_typing_kind(kind), active=active
        )
        return frame_pb2.Command(request_id=request_id, set_typing=request)
