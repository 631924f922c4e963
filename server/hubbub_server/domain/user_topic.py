"""A user's own stream: which conversations the user belongs to. Pure.

Its events are effects of events in other topics, so each remembers the place that caused it, and an older one never
undoes a newer one: the committing node and the relay worker may both write it, in any order, any number of times.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType

from hubbub_server.domain.commands import Accepted, Changed, Decision, Done, RecordMembership, Refused
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import Unavailable
from hubbub_server.domain.events import ConversationJoined, ConversationLeft, Event, UnknownKind
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ConversationId, UserId


@dataclass(frozen=True, slots=True, kw_only=True)
class Membership:
    """The newest thing known of a user in a conversation: at (`epoch`, `position`) of its log they joined or left.

    `user_position` is the place of that news in the user's own topic: the order of joining.
    """

    conversation_id: ConversationId
    joined: bool
    epoch: int
    position: int
    user_position: int


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTopicState:
    """A user's topic as of `position`. A topic without events is a user who belongs nowhere yet."""

    user_id: UserId
    epoch: int
    position: int = 0
    commit_time_ms: int = 0
    memberships: Mapping[ConversationId, Membership] = field(default_factory=lambda: MappingProxyType({}))
    has_unknown_event: bool = False

    @property
    def head(self) -> TopicHead:
        """The head that this state was folded to."""
        return TopicHead(cursor=Cursor(topic_id=self.user_id, epoch=self.epoch, position=self.position))

    def joined(self) -> list[Membership]:
        """Returns the conversations that the user belongs to, newest joined first."""
        joined = [m for m in self.memberships.values() if m.joined]
        return sorted(joined, key=lambda m: m.user_position, reverse=True)


def decide(state: UserTopicState, command: RecordMembership, now_ms: int) -> Decision:
    """Decides whether a membership event is news to the user's topic."""
    if state.has_unknown_event:
        return Refused(error=Unavailable("this topic has events of a newer version", retry_after_s=30))
    known = state.memberships.get(command.conversation_id)
    if known is not None and (known.epoch, known.position) >= (command.epoch, command.position):
        return Done(answer=Changed(cursor=state.head.cursor))
    kind = (
        ConversationJoined(conversation_id=command.conversation_id, epoch=command.epoch, join_position=command.position)
        if command.joined
        else ConversationLeft(
            conversation_id=command.conversation_id, epoch=command.epoch, leave_position=command.position
        )
    )
    event = Event(
        topic_id=state.user_id,
        epoch=state.epoch,
        position=state.position + 1,
        commit_time_ms=max(now_ms, state.commit_time_ms),
        actor_id=None,
        message_number=0,
        kind=kind,
    )
    cursor = Cursor(topic_id=state.user_id, epoch=state.epoch, position=event.position)
    return Accepted(events=(event,), request_hashes=("",), answer=Changed(cursor=cursor))


def evolve(state: UserTopicState, event: Event) -> UserTopicState:
    """Folds one committed event."""
    state = replace(state, position=event.position, epoch=event.epoch, commit_time_ms=event.commit_time_ms)
    match event.kind:
        case ConversationJoined(conversation_id=conversation_id, epoch=epoch, join_position=position):
            joined = True
        case ConversationLeft(conversation_id=conversation_id, epoch=epoch, leave_position=position):
            joined = False
        case UnknownKind():
            return replace(state, has_unknown_event=True)
        case _:
            raise ValueError(f"{type(event.kind).__name__} does not belong to a user's topic")
    membership = Membership(
        conversation_id=conversation_id,
        joined=joined,
        epoch=epoch,
        position=position,
        user_position=event.position,
    )
    return replace(state, memberships={**state.memberships, conversation_id: membership})
