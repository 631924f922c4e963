"""What passes over a stream, as values: frames of clients in, frames of the server out. `wire/` has their bytes."""

from enum import Enum

from hubbub_server.domain.commands import Delivered, Marked, SendMessage, Sent
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.signals import Typing
from hubbub_server.ports.message_store import StoredMessage

# ---- from the client


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Opens a session."""

    instance_id: str
    resume_token: str = ""
    ack_window_events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    """The payload of a send_message command."""

    conversation_id: ConversationId
    command: SendMessage


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadUpTo:
    """The payload of a mark_read command."""

    conversation_id: ConversationId
    message_number: int
    unread_mark_position: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedUpTo:
    """The payload of a mark_delivered command."""

    conversation_id: ConversationId
    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthenticate:
    """The payload of a reauthenticate command."""

    access_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetTyping:
    """The payload of a set_typing command."""

    conversation_id: ConversationId
    typing: Typing


CommandPayload = Send | ReadUpTo | ReceivedUpTo | Reauthenticate | SetTyping


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCommand:
    """A command; its payload is the error (InvalidField, ConversationNotFound) that reading it raised."""

    request_id: str
    payload: CommandPayload | HubbubError


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Events that the client has processed since Welcome."""

    processed_events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UnknownFrame:
    """A frame without a payload that this version knows."""


ClientFrame = Hello | StreamCommand | Ack | UnknownFrame

# ---- from the server


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Durable events: `body` is a record body or several joined, `count` how many events it holds."""

    body: bytes
    count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Signals:
    """Passing news: `body` is a frame of one signal. Passes held events, counts as none, is dropped if it must wait."""

    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Answers Hello."""

    session_id: str
    user_id: UserId
    heartbeat_interval_s: float
    ack_window_events: int
    token_expire_time_ms: int
    resumed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heads:
    """Heads of topics that this stream covers from now on."""

    heads: tuple[TopicHead, ...]
    complete: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Sign of life with the heads that changed."""

    heads: tuple[TopicHead, ...]
    resume_token: str
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Reauthenticated:
    """The session goes on with a newer token."""

    token_expire_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TypingSet:
    """The typing was heard."""


Done = Sent | Marked | Delivered | Reauthenticated | TypingSet


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """Answers a command that was done."""

    request_id: str
    answer: Done


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Refuses a command (`request_id`) or a topic of a Sync (`topic_id`); the other one is empty."""

    error: HubbubError
    request_id: str = ""
    topic_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CaughtUp:
    """Sync: these topics are complete up to here."""

    heads: tuple[TopicHead, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Sync: events between `start` and `head` are left out; the newest messages, oldest first."""

    start: Cursor
    head: TopicHead
    newest_messages: tuple[StoredMessage, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """The client's copy of a topic is worthless."""

    head: TopicHead


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicEnded:
    """The topic is over for this user."""

    topic_id: TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class Lagging:
    """The client reads too slowly."""


class GoodbyeReason(Enum):
    """Why a stream ends; `wire/` has the numbers."""

    DRAINING = "draining"
    SLOW_READER = "slow_reader"
    TOKEN_EXPIRED = "token_expired"  # noqa: S105  # a reason, not a password
    REVOKED = "revoked"
    DISPLACED = "displaced"
    PROTOCOL = "protocol"
    MAX_AGE = "max_age"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goodbye:
    """Last frame of a stream."""

    reason: GoodbyeReason
    reconnect: bool
    retry_delay_s: float = 0.0
    resume_token: str = ""


Control = Welcome | Heads | Heartbeat | Reply | Rejected | CaughtUp | Gap | Reset | TopicEnded | Lagging | Goodbye
Outgoing = Events | Signals | Control
