"""What a soak client has to send: made once, sent again with the same id until there is an answer. Pure bookkeeping.

Messages of one topic form a pipeline: each names the one before it while that one is unanswered, so that the order
holds across refusals, retries and nodes. A send whose predecessor was refused for good is given up too.
"""

import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.soak.records import Journal, digest

MAX_PENDING = 300
RETRYABLE = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CUT", "RESOURCE_EXHAUSTED", "UNAUTHENTICATED", "CANCELLED"})
SEND_ORDER = "ERROR_REASON_SEND_ORDER"


@dataclass
class Send:
    """One message on its way. `due` is when it may be tried (again); `flying_since` is None while no try is out."""

    topic: str
    message_id: str
    text: str
    prev: str
    on_stream: bool
    tries: int = 0
    due: float = 0.0
    flying_since: float | None = None
    is_repeat: bool = False


@dataclass(frozen=True)
class Answer:
    """The answer to a send."""

    number: int
    epoch: int
    position: int
    commit_ms: int


def uuid7() -> str:
    """Makes a UUIDv7 of now."""
    value = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class Outbox:
    """All sends without an answer, in the order in which they were made."""

    def __init__(self, journal: Journal) -> None:
        """Starts empty; every try, answer and failure goes into the journal."""
        self._journal = journal
        self._pending: dict[str, Send] = {}
        self._given_up: set[str] = set()

    def __len__(self) -> int:
        """How many have no answer yet."""
        return len(self._pending)

    def add(self, topic: str, text: str, *, on_stream: bool) -> None:
        """Makes a message; those on the stream are pipelined. Dropped when too much is pending."""
        if len(self._pending) >= MAX_PENDING:
            return
        prev = ""
        if on_stream:
            prev = next(
                (s.message_id for s in reversed(self._pending.values()) if s.topic == topic and s.on_stream), ""
            )
        send = Send(topic, uuid7(), text, prev, on_stream)
        self._pending[send.message_id] = send

    def repeat(self, send: Send, *, due: float) -> None:
        """Sends an answered message once more, with the same id, by unary call."""
        again = Send(send.topic, send.message_id, send.text, "", False, tries=send.tries, due=due, is_repeat=True)
        self._pending[send.message_id] = again

    def hurry(self) -> None:
        """Makes everything due now: what was to be repeated later is repeated at once."""
        for send in self._pending.values():
            send.due = 0.0

    def due(self, *, on_stream: bool) -> Iterator[Send]:
        """Yields what may be tried now, in order; within a topic nothing overtakes."""
        now = time.monotonic()
        held: set[str] = set()
        for send in list(self._pending.values()):
            if send.on_stream != on_stream or send.flying_since is not None or send.topic in held:
                continue
            if send.due > now:
                if on_stream:
                    held.add(send.topic)
                continue
            yield send

    def oldest_flying(self) -> float | None:
        """When the oldest try on the stream left."""
        return min((s.flying_since for s in self._pending.values() if s.on_stream and s.flying_since), default=None)

    def left(self, send: Send) -> None:
        """A try leaves now."""
        send.tries += 1
        send.flying_since = time.monotonic()
        self._journal.write(
            "attempt",
            topic=send.topic,
            id=send.message_id,
            **{"try": send.tries},
            content=digest(send.text),
            prev=send.prev,
            repeat=send.is_repeat,
        )

    def answered(self, send: Send, answer: Answer) -> None:
        """The send is done."""
        self._journal.write(
            "ack",
            topic=send.topic,
            id=send.message_id,
            **{"try": send.tries},
            number=answer.number,
            epoch=answer.epoch,
            position=answer.position,
            commit_ms=answer.commit_ms,
        )
        self._pending.pop(send.message_id, None)

    def failed(self, send: Send, code: str, reason: str = "", *, delay_s: float) -> None:
        """A try failed: it comes again after `delay_s`, or never when it was refused for good."""
        follows_lost = send.prev in self._given_up
        final = (code not in RETRYABLE and reason != SEND_ORDER) or (reason == SEND_ORDER and follows_lost)
        self._journal.write(
            "fail", topic=send.topic, id=send.message_id, **{"try": send.tries}, code=code, reason=reason, final=final
        )
        send.flying_since = None
        send.due = time.monotonic() + delay_s
        if final:
            self._given_up.add(send.message_id)
            self._pending.pop(send.message_id, None)

    def cut(self, *, on_stream: bool) -> None:
        """The stream broke: nobody knows what became of the tries that were out on it."""
        for send in list(self._pending.values()):
            if send.on_stream == on_stream and send.flying_since is not None:
                self.failed(send, "CUT", delay_s=0.0)
