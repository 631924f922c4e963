"""What each foreign client does, and what must come of it: the one script that all of them play.

A client reads the script (`Script`, JSON) from its standard input, does the steps in their order, and prints a line of
JSON for each: `{"step": name, "seconds": n, "outcome": {…}}`, or `{"step": name, "error": text}` and nothing more.
`code` is always the number of a gRPC status. A session is a stream of `Connect`; browsers take `Subscribe`, `SyncOnce`
and the unary `SendMessage` instead, and their outcomes are the same.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

HISTORY_MESSAGES: Final = 340
_TEXT_LENGTH: Final = 8_000
"""In code points: the longest there is, here almost 32 KiB."""


def history_text(number: int) -> str:
    """The text of a message of the history: no two are equal, most code points have four bytes."""
    return f"{number:08}".ljust(_TEXT_LENGTH, "𝄞")


@dataclass(frozen=True, kw_only=True)
class Script:
    """What a client is told, besides the steps."""

    streams: str
    """host:port of the streaming methods."""
    unary: str
    """host:port of all other methods."""
    page_port: int
    """Port on which a browser's page is served; its origin may call."""
    proto: str
    """Folder of the contract."""
    token: str
    """Access token of the client's user."""
    peer_token: str
    """Access token of the other one in the conversation."""
    conversation: str
    """A conversation of these two, without messages."""
    history: str
    """A conversation with 10 MB of messages, of which the client's user is a member."""
    nobody: str = "c" + "a" * 26
    """An id of no conversation."""
    instance: str = "00000000-0000-4000-8000-000000000001"
    """instance_id of the client's session."""
    other_instance: str = "00000000-0000-4000-8000-000000000002"
    """instance_id of sessions beside it."""
    message_ids: tuple[str, ...] = tuple(f"00000000-0000-4000-8000-0000000001{n:02}" for n in range(7))
    """client_message_id of each of `texts`."""
    texts: tuple[str, ...] = ("Grüß dich, 世界 👋🏽", "one", "двa", "ثلاثة", "while away", "far away", "still there?")
    """The first is sent by the client in `send`, the others by its peer: three in `receive`, two in `reconnect` and one
    in `idle`."""
    deadline_ms: int = 1_500
    """Of the step `deadline`."""
    idle_ms: int = 21_000
    """Of the step `idle`."""

    def as_json(self) -> dict[str, Any]:
        """What the client reads."""
        return asdict(self)


@dataclass(frozen=True)
class Step:
    """One step: its name, what the client does, and what it must see."""

    name: str
    does: str
    outcome: Mapping[str, Any]


def _refused(code: int, reason: str, message: str, field: str = "") -> dict[str, Any]:
    return {"code": code, "message": message, "reason": f"ERROR_REASON_{reason}", "field": field}


_HISTORY: Final = "".join(history_text(number + 1) for number in range(HISTORY_MESSAGES)).encode()
_TEXTS: Final = Script.texts

STEPS: Final = (
    Step(
        "hello",
        "Opens a session as `instance`: Hello, Welcome, then Heads up to the complete one; `heads` counts the two "
        "conversations and the user's own topic, `heartbeat_s` is told by Welcome.",
        {"heartbeat_s": 20, "heads": 3},
    ),
    Step(
        "send",
        "Sends the first text as a command, and once more with the same client_message_id.",
        {"number": 1, "again": 1},
    ),
    Step(
        "receive",
        "The peer sends three texts by unary calls; the session brings all four messages as events. `dense`: their "
        "positions follow the head that Heads told, without a hole.",
        {"texts": list(_TEXTS[:4]), "dense": True},
    ),
    Step(
        "history",
        "Syncs `history` from position 0 until CaughtUp: the number of messages, and bytes and SHA-256 of all texts.",
        {"messages": HISTORY_MESSAGES, "bytes": len(_HISTORY), "sha256": hashlib.sha256(_HISTORY).hexdigest()},
    ),
    Step(
        "deadline",
        "Opens another session, as `other_instance`, with a deadline of `deadline_ms`; reads Welcome, and to its end.",
        {"code": 4},
    ),
    Step(
        "cancel",
        "Opens one more as `other_instance`, cancels it after Welcome, and reads to its end.",
        {"code": 1},
    ),
    Step(
        "reconnect",
        "Opens a session as `instance` on a new connection: the first one gets Goodbye and its end. Closes the new "
        "connection too, the peer sends two texts, and a third connection finds in Heads how many events it is behind, "
        "and by a Sync which.",
        {"goodbye": 5, "code": 0, "behind": 2, "missed": list(_TEXTS[4:6])},
    ),
    Step(
        "errors",
        "Opens a session without a token, one with an instance_id that is no UUID, and Syncs `nobody`: code, message, "
        "reason of the ErrorInfo and the field that BadRequest names, of two statuses and of the one in Rejected.",
        {
            "no_token": _refused(16, "INVALID_CREDENTIALS", "sign in again"),
            "bad_hello": _refused(3, "INVALID_FIELD", "hello.instance_id: a UUID", field="hello.instance_id"),
            "rejected": _refused(5, "CONVERSATION_NOT_FOUND", "no such conversation"),
        },
    ),
    Step(
        "idle",
        "Nothing is said for `idle_ms` after the session of `reconnect` was opened, but an Ack for the heartbeat; then "
        "the peer sends the last text. `live`: what the heartbeat says.",
        {"live": True, "text": _TEXTS[6]},
    ),
)
