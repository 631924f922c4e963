"""What callers ask of a topic, and how a decision comes out."""

from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import Event
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.id_window import IdKey
from hubbub_server.domain.ids import ClientMessageId, ConversationId, UserId
from hubbub_server.domain.message import Content


@dataclass(frozen=True, slots=True, kw_only=True)
class SendMessage:
    """Sends a message. Answered by Sent."""

    sender_id: UserId
    client_message_id: ClientMessageId
    content: Content
    client_time_ms: int | None = None
    previous_client_message_id: ClientMessageId | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateDirect:
    """Creates the direct conversation of a pair, or finds it. Answered by Changed."""

    creator_id: UserId
    other_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateGroup:
    """Creates a group, or finds it. `user_ids` are the members besides the creator. Answered by Changed."""

    creator_id: UserId
    title: str
    user_ids: tuple[UserId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AddMembers:
    """Adds users to a group; those already there stay as they are. Answered by Changed."""

    actor_id: UserId
    user_ids: tuple[UserId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoveMember:
    """Removes a user from a group; oneself = leave. Answered by Changed."""

    actor_id: UserId
    user_id: UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordMembership:
    """Writes on a user's topic what happened to them in a conversation at (`epoch`, `position`) of its log.

    The effect of a membership event; idempotent, and an older one never undoes a newer one. Answered by Changed.
    """

    conversation_id: ConversationId
    epoch: int
    position: int
    joined: bool


Command = SendMessage | CreateDirect | CreateGroup | AddMembers | RemoveMember | RecordMembership


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """A message that is durable, now or since the first use of its id."""

    message_number: int
    cursor: Cursor
    commit_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """Where a change stands in the log; the head when there was nothing to do."""

    cursor: Cursor


Answer = Sent | Changed


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The command becomes these events, once they are committed.

    `request_hashes` has one entry an event, "" for none.
    """

    events: tuple[Event, ...]
    request_hashes: tuple[str, ...]
    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """There is nothing to write: it was done before."""

    answer: Answer


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The command is refused on this state."""

    error: HubbubError


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupNeeded:
    """These ids must be looked up in the store first."""

    keys: frozenset[IdKey]


Decision = Accepted | Done | Refused | LookupNeeded
