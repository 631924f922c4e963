"""Values that calls return and take. Plain data: nothing here talks to a server."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from hubbub_client.entities import TextEntity
from hubbub_client.kept import ConversationPreferences, ConversationSettings, ReadState, ReceiptsMode


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in one topic's log: everything up to and including `position`. Comparable only within one epoch."""

    topic_id: str
    epoch: int
    position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TopicHead:
    """The newest event of a topic; `last_message_number` is 0 when it has no message."""

    cursor: Cursor
    last_message_number: int
    last_counted_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A message; (conversation_id, message_number) is its identity.

    `text` is the fallback text when the kind of content is newer than this client, and empty when `deleted`. `entities`
    are the parts of it that are more than words; those of a kind newer than this client are left out.
    `commit_time` is the server's and orders messages as the numbers do; `client_time` is the sender's clock, for
    display only. `change_position` is 0 when the message came with an event instead of a page.
    """

    conversation_id: str
    message_number: int
    counted_number: int
    sender_id: str
    client_message_id: str
    text: str
    commit_time: datetime
    client_time: datetime | None = None
    change_position: int = 0
    deleted: bool = False
    entities: tuple[TextEntity, ...] = ()


class MemberRole(Enum):
    """What a member may do; roles newer than this client read as MEMBER."""

    OWNER = "owner"
    ADMIN = "admin"
    MEMBER = "member"


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user's part in a conversation, since the event at `join_position`."""

    user_id: str
    role: MemberRole
    join_position: int


class ConversationKind(Enum):
    """The sort of a conversation."""

    DIRECT = "direct"
    GROUP = "group"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """A conversation as the caller sees it: everything up to `head` is included. `title` is empty when direct.

    `read_state` is what was unread then; with `keeps_counters` the client's own counters go on from there.
    """

    conversation_id: str
    kind: ConversationKind
    title: str
    member_count: int
    membership: Member
    head: TopicHead
    last_message: Message | None
    receipts_mode: ReceiptsMode
    read_state: ReadState
    preferences: ConversationPreferences
    settings: ConversationSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as every other user sees them; only `user_id` never changes."""

    user_id: str
    login_name: str
    display_name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that is durable: the same number on every repeat."""

    client_message_id: str
    message_number: int
    cursor: Cursor
    commit_time: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class MessagePage:
    """Messages ascending by number without holes, exactly as of `head`.

    `head_unconfirmed`: the server cannot read its log at the moment, newer messages may exist.
    """

    messages: tuple[Message, ...]
    older_available: bool
    newer_available: bool
    head: TopicHead
    head_unconfirmed: bool = False


class TypingKind(Enum):
    """What a user makes; kinds newer than this client read as TEXT."""

    TEXT = "text"
    RECORDING = "recording"
    UPLOADING = "uploading"


class PageSide(Enum):
    """On which side of the anchor to read."""

    BEFORE = "before"
    AFTER = "after"
    AROUND = "around"


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a signed-in device holds. The refresh token is for one use: keep the newest pair only."""

    user_id: str
    device_session_id: str
    access_token: str
    refresh_token: str
    access_expire_time: datetime

    def __repr__(self) -> str:
        return f"Credentials(user_id={self.user_id!r}, device_session_id={self.device_session_id!r})"


@dataclass(frozen=True, slots=True)
class Login:
    """Signs in with a name and its password, again whenever the server no longer accepts the refresh token."""

    login_name: str
    password: str

    def __repr__(self) -> str:
        return f"Login({self.login_name!r})"


@dataclass(frozen=True, slots=True)
class Registration:
    """Makes the account and signs in with it. Not repeatable: a second try answers NameTaken."""

    login_name: str
    password: str
    display_name: str

    def __repr__(self) -> str:
        return f"Registration({self.login_name!r}, display_name={self.display_name!r})"


SignIn = Login | Registration | Credentials
