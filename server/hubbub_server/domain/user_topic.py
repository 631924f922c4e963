"""A user's own stream: which conversations the user belongs to, and what only this user decides. Pure.

Joining and leaving are effects of events in other topics, so each remembers the place that caused it, and an older one
never undoes a newer one: the committing node and the relay worker may both write it, in any order, any number of times.

Everything else is set to a state, by any device: markers, drafts, preferences, blocks. Events carry the whole new value
of one entry, so the newest event of an entry is the entry, but for markers, which only grow (max-merge). What is kept
about a conversation ends when the user joins or leaves it: so it is bounded by the conversations; all else by limits.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType
from typing import Final, assert_never

from hubbub_server.domain.commands import (
    Accepted,
    Answer,
    ChangeConversationPreferences,
    Changed,
    ChangePreferences,
    Decision,
    Delivered,
    Done,
    MarkDelivered,
    Marked,
    MarkRead,
    MarkUnread,
    RecordMembership,
    Refused,
    SetBlock,
    SetDraft,
    UserTopicCommand,
)
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import ConversationNotFound, HubbubError, LimitReached, Unavailable
from hubbub_server.domain.events import (
    ConversationJoined,
    ConversationLeft,
    ConversationMarkedUnread,
    ConversationPreferencesChanged,
    DeliveredMarker,
    DeliveredMarkerMoved,
    DraftChanged,
    Event,
    EventKind,
    PreferencesChanged,
    ReadMarker,
    ReadMarkerMoved,
    SourcePlace,
    UnknownKind,
    UserBlocked,
    UserUnblocked,
)
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.limits import BLOCKED_MAX, DRAFTS_MAX, DRAFTS_MAX_BYTES, PINNED_MAX
from hubbub_server.domain.preferences import ConversationPreferences, Preferences, updated


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
class Draft:
    """What a user has begun to write."""

    text: str
    change_time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What a user keeps about a conversation. `unread_mark_position` is the event of the mark that stands; 0: none."""

    marker: ReadMarker = ReadMarker()  # frozen
    delivered: DeliveredMarker = DeliveredMarker()  # frozen
    unread_mark_position: int = 0
    preferences: ConversationPreferences = ConversationPreferences()  # frozen
    draft: Draft | None = None

    @property
    def received(self) -> DeliveredMarker:
        """How far it is received: what is read is."""
        read = DeliveredMarker(epoch=self.marker.epoch, message_number=self.marker.message_number)
        return read if self.delivered.is_behind(read) else self.delivered


NOTHING_KEPT: Final = Kept()


@dataclass(frozen=True, slots=True, kw_only=True)
class UserTopicState:
    """A user's topic as of `position`. A topic without events is a user who belongs nowhere yet."""

    user_id: UserId
    epoch: int
    position: int = 0
    commit_time_ms: int = 0
    memberships: Mapping[ConversationId, Membership] = field(default_factory=lambda: MappingProxyType({}))
    kept: Mapping[ConversationId, Kept] = field(default_factory=lambda: MappingProxyType({}))
    """Of conversations that the user belongs to, and of which there is something to keep."""
    blocked: Mapping[UserId, SourcePlace] = field(default_factory=lambda: MappingProxyType({}))
    """Whom the user blocks, by the place of that event in this topic."""
    preferences: Preferences = field(default_factory=Preferences)
    has_unknown_event: bool = False

    @property
    def head(self) -> TopicHead:
        """The head that this state was folded to."""
        return TopicHead(cursor=Cursor(topic_id=self.user_id, epoch=self.epoch, position=self.position))

    def joined(self) -> list[Membership]:
        """Returns the conversations that the user belongs to, newest joined first."""
        joined = [m for m in self.memberships.values() if m.joined]
        return sorted(joined, key=lambda m: m.user_position, reverse=True)

    def is_joined(self, conversation_id: ConversationId) -> bool:
        """Tells whether the user belongs to a conversation, as far as this topic knows."""
        membership = self.memberships.get(conversation_id)
        return membership is not None and membership.joined

    def kept_of(self, conversation_id: ConversationId) -> Kept:
        """Returns what the user keeps about a conversation."""
        return self.kept.get(conversation_id, NOTHING_KEPT)


def decide(state: UserTopicState, command: UserTopicCommand, now_ms: int) -> Decision:  # noqa: PLR0911  # one a command
    """Decides a command on the state at the head."""
    if state.has_unknown_event:
        return Refused(error=Unavailable("this topic has events of a newer version", retry_after_s=30))
    try:
        match command:
            case RecordMembership():
                return _accept(state, _news_of_membership(state, command), now_ms)
            case MarkRead() | MarkUnread():
                return _decide_mark(state, command, now_ms)
            case MarkDelivered():
                return _decide_delivered(state, command, now_ms)
            case ChangeConversationPreferences():
                return _accept(state, _change_conversation_preferences(state, command), now_ms)
            case SetDraft():
                return _accept(state, _set_draft(state, command), now_ms)
            case SetBlock():
                return _accept(state, _set_block(state, command), now_ms)
            case ChangePreferences(preferences=values, names=names):
                preferences = updated(state.preferences, values, names)
                is_same = preferences == state.preferences
                return _accept(state, None if is_same else PreferencesChanged(preferences=preferences), now_ms)
            case _:
                assert_never(command)
    except HubbubError as error:
        return Refused(error=error)


def _accept(state: UserTopicState, kind: EventKind | None, now_ms: int, answer: Answer | None = None) -> Decision:
    """Returns the decision that `kind` happens; None: there is nothing to do."""
    position = state.position if kind is None else state.position + 1
    cursor = Cursor(topic_id=state.user_id, epoch=state.epoch, position=position)
    if answer is None:
        answer = Changed(cursor=cursor)
    if kind is None:
        return Done(answer=answer)
    event = Event(
        topic_id=state.user_id,
        epoch=state.epoch,
        position=position,
        commit_time_ms=max(now_ms, state.commit_time_ms),
        actor_id=None,
        message_number=0,
        kind=kind,
    )
    return Accepted(events=(event,), request_hashes=("",), answer=answer)


def _news_of_membership(state: UserTopicState, command: RecordMembership) -> EventKind | None:
    known = state.memberships.get(command.conversation_id)
    if known is not None and (known.epoch, known.position) >= (command.epoch, command.position):
        return None
    conversation_id, epoch, position = command.conversation_id, command.epoch, command.position
    if command.joined:
        return ConversationJoined(conversation_id=conversation_id, epoch=epoch, join_position=position)
    return ConversationLeft(conversation_id=conversation_id, epoch=epoch, leave_position=position)


def _kept_of_joined(state: UserTopicState, conversation_id: ConversationId) -> Kept:
    if not state.is_joined(conversation_id):
        raise ConversationNotFound
    return state.kept_of(conversation_id)


def _decide_mark(state: UserTopicState, command: MarkRead | MarkUnread, now_ms: int) -> Decision:
    conversation_id = command.conversation_id
    kept = _kept_of_joined(state, conversation_id)
    marker, mark_position = kept.marker, kept.unread_mark_position
    kind: EventKind | None = None
    match command:
        case MarkRead():
            is_moving = marker.is_behind(command.marker)
            if is_moving or 0 < mark_position <= command.unread_mark_position:
                marker, mark_position = (command.marker if is_moving else marker), 0
                hidden = not state.preferences.shows_reading(now_ms)
                kind = ReadMarkerMoved(conversation_id=conversation_id, marker=marker, hidden=hidden)
        case MarkUnread() if not mark_position:
            mark_position = state.position + 1
            kind = ConversationMarkedUnread(conversation_id=conversation_id)
    cursor = replace(state.head.cursor, position=state.position + (kind is not None))
    return _accept(state, kind, now_ms, Marked(marker=marker, unread_mark_position=mark_position, cursor=cursor))


def _decide_delivered(state: UserTopicState, command: MarkDelivered, now_ms: int) -> Decision:
    known = _kept_of_joined(state, command.conversation_id).received
    number, kind = known.message_number, None
    if known.is_behind(command.marker) and state.preferences.shows_deliveries(now_ms):
        kind = DeliveredMarkerMoved(conversation_id=command.conversation_id, marker=command.marker)
        number = command.marker.message_number
    cursor = replace(state.head.cursor, position=state.position + (kind is not None))
    answer = Delivered(message_number=number, is_news=kind is not None, cursor=cursor)
    return _accept(state, kind, now_ms, answer)


def _change_conversation_preferences(state: UserTopicState, command: ChangeConversationPreferences) -> EventKind | None:
    before = _kept_of_joined(state, command.conversation_id).preferences
    after = updated(before, command.preferences, command.names)
    if after == before:
        return None
    if after.pinned > before.pinned and sum(kept.preferences.pinned for kept in state.kept.values()) >= PINNED_MAX:
        raise LimitReached(f"at most {PINNED_MAX} conversations are pinned")
    return ConversationPreferencesChanged(conversation_id=command.conversation_id, preferences=after)


def _set_draft(state: UserTopicState, command: SetDraft) -> EventKind | None:
    before = _kept_of_joined(state, command.conversation_id).draft
    if command.text == (before.text if before else ""):
        return None
    others = [k.draft.text for c, k in state.kept.items() if k.draft is not None and c != command.conversation_id]
    if command.text and (
        len(others) >= DRAFTS_MAX or sum(len(t.encode()) for t in (*others, command.text)) > DRAFTS_MAX_BYTES
    ):
        raise LimitReached(f"at most {DRAFTS_MAX} drafts of {DRAFTS_MAX_BYTES} bytes together")
    return DraftChanged(conversation_id=command.conversation_id, text=command.text)


def _set_block(state: UserTopicState, command: SetBlock) -> EventKind | None:
    if command.blocked is (command.user_id in state.blocked):
        return None
    if not command.blocked:
        return UserUnblocked(user_id=command.user_id, conversation_id=command.conversation_id)
    if len(state.blocked) >= BLOCKED_MAX:
        raise LimitReached(f"at most {BLOCKED_MAX} users are blocked")
    return UserBlocked(user_id=command.user_id, conversation_id=command.conversation_id)


def evolve(state: UserTopicState, event: Event) -> UserTopicState:
    """Folds one committed event."""
    state = replace(state, position=event.position, epoch=event.epoch, commit_time_ms=event.commit_time_ms)
    match event.kind:
        case ConversationJoined(conversation_id=conversation_id, epoch=epoch, join_position=position):
            return _with_membership(state, conversation_id, joined=True, epoch=epoch, position=position)
        case ConversationLeft(conversation_id=conversation_id, epoch=epoch, leave_position=position):
            return _with_membership(state, conversation_id, joined=False, epoch=epoch, position=position)
        case UnknownKind():
            return replace(state, has_unknown_event=True)
        case _:
            return with_entry(state, event)


def _with_membership(
    state: UserTopicState, conversation_id: ConversationId, *, joined: bool, epoch: int, position: int
) -> UserTopicState:
    membership = Membership(
        conversation_id=conversation_id, joined=joined, epoch=epoch, position=position, user_position=state.position
    )
    return replace(
        state,
        memberships={**state.memberships, conversation_id: membership},
        kept={c: kept for c, kept in state.kept.items() if c != conversation_id},
    )


def with_entry(state: UserTopicState, event: Event) -> UserTopicState:
    """Folds an event that sets an entry, and leaves the place of the state as it is.

    Raises:
        ValueError: it sets none.
    """
    match event.kind:
        case ReadMarkerMoved(conversation_id=conversation_id, marker=marker):
            kept = state.kept_of(conversation_id)
            marker = marker if kept.marker.is_behind(marker) else kept.marker
            return _keep(state, conversation_id, replace(kept, marker=marker, unread_mark_position=0))
        case DeliveredMarkerMoved(conversation_id=conversation_id, marker=delivered):
            kept = state.kept_of(conversation_id)
            delivered = delivered if kept.delivered.is_behind(delivered) else kept.delivered
            return _keep(state, conversation_id, replace(kept, delivered=delivered))
        case ConversationMarkedUnread(conversation_id=conversation_id):
            kept = state.kept_of(conversation_id)
            return _keep(state, conversation_id, replace(kept, unread_mark_position=event.position))
        case ConversationPreferencesChanged(conversation_id=conversation_id, preferences=preferences):
            return _keep(state, conversation_id, replace(state.kept_of(conversation_id), preferences=preferences))
        case DraftChanged(conversation_id=conversation_id, text=text):
            draft = Draft(text=text, change_time_ms=event.commit_time_ms) if text else None
            return _keep(state, conversation_id, replace(state.kept_of(conversation_id), draft=draft))
        case UserBlocked(user_id=user_id):
            return replace(state, blocked={**state.blocked, user_id: SourcePlace(event.epoch, event.position)})
        case UserUnblocked(user_id=user_id):
            return replace(state, blocked={u: place for u, place in state.blocked.items() if u != user_id})
        case PreferencesChanged(preferences=wanted):
            return replace(state, preferences=wanted)
        case _:
            raise ValueError(f"{type(event.kind).__name__} does not belong to a user's topic")


def entry_of(kind: EventKind) -> str | None:
    """Returns the name of the entry that an event sets: its newest event says all of it; None: it sets none."""
    match kind:
        case ReadMarkerMoved(conversation_id=conversation_id):
            return f"marker {conversation_id}"
        case DeliveredMarkerMoved(conversation_id=conversation_id):
            return f"delivered {conversation_id}"
        case ConversationMarkedUnread(conversation_id=conversation_id):
            return f"unread {conversation_id}"
        case ConversationPreferencesChanged(conversation_id=conversation_id):
            return f"preferences {conversation_id}"
        case DraftChanged(conversation_id=conversation_id):
            return f"draft {conversation_id}"
        case UserBlocked(user_id=user_id) | UserUnblocked(user_id=user_id):
            return f"block {user_id}"
        case PreferencesChanged():
            return "preferences"
        case _:
            return None


def _keep(state: UserTopicState, conversation_id: ConversationId, kept: Kept) -> UserTopicState:
    if kept == NOTHING_KEPT:
        return replace(state, kept={c: each for c, each in state.kept.items() if c != conversation_id})
    return replace(state, kept={**state.kept, conversation_id: kept})
