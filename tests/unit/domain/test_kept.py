"""What a user keeps on the own topic: markers, marks-as-unread, preferences, drafts, blocks."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.commands import (
    Accepted,
    ChangeConversationPreferences,
    Changed,
    ChangePreferences,
    Done,
    Marked,
    MarkRead,
    MarkUnread,
    RecordMembership,
    Refused,
    SetBlock,
    SetDraft,
    UserTopicCommand,
)
from hubbub_server.domain.errors import ConversationNotFound, LimitReached
from hubbub_server.domain.events import ReadMarker, ReadMarkerMoved, SourcePlace
from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.domain.limits import BLOCKED_MAX, DRAFTS_MAX, DRAFTS_MAX_BYTES, PINNED_MAX
from hubbub_server.domain.preferences import (
    ConversationPreferences,
    NotificationLevel,
    Preferences,
    Status,
    StatusState,
)
from hubbub_server.domain.user_topic import Kept, UserTopicState, decide, evolve
from hubbub_server.ports.topic_states import Snapshot
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from tests.unit.domain.builders import ALICE, BOB, CAROL, CONVERSATION, NOW_MS, user

DIRECT = ConversationId(TopicId("cdirect"))
_NATS_PAYLOAD_BYTES = 1024 * 1024


def conversation(number: int) -> ConversationId:
    return ConversationId(TopicId(f"c{number:026d}"))


def join(conversation_id: ConversationId, position: int = 2, *, joined: bool = True) -> RecordMembership:
    return RecordMembership(conversation_id=conversation_id, epoch=1, position=position, joined=joined)


def read(number: int, *, seen: int = 0, epoch: int = 1) -> MarkRead:
    marker = ReadMarker(epoch=epoch, message_number=number, counted_number=number)
    return MarkRead(conversation_id=CONVERSATION, marker=marker, unread_mark_position=seen)


UNREAD = MarkUnread(conversation_id=CONVERSATION)


def after(*commands: UserTopicCommand, state: UserTopicState | None = None) -> UserTopicState:
    """Folds what these commands become; none of them may be refused."""
    state = state or UserTopicState(user_id=ALICE, epoch=1)
    for command in commands:
        decision = decide(state, command, NOW_MS)
        assert isinstance(decision, Accepted | Done), decision
        if isinstance(decision, Accepted):
            (event,) = decision.events
            state = evolve(state, event)
            assert decision.answer.cursor.position == state.position
    return state


def marked(state: UserTopicState, command: MarkRead | MarkUnread) -> Marked:
    decision = decide(state, command, NOW_MS)
    assert isinstance(decision, Accepted | Done), decision
    assert isinstance(decision.answer, Marked)
    return decision.answer


def refusal(state: UserTopicState, command: UserTopicCommand) -> Exception:
    decision = decide(state, command, NOW_MS)
    assert isinstance(decision, Refused), decision
    return decision.error


# ---- markers


def test_smaller_marker_changes_nothing_and_is_answered_with_the_stored_one() -> None:
    """C31: A1 reads up to 50 while A2's call for 40 is late."""
    state = after(join(CONVERSATION), read(50))

    assert isinstance(decide(state, read(40), NOW_MS), Done)
    assert marked(state, read(40)).marker.message_number == 50
    assert isinstance(decide(state, read(50), NOW_MS), Done)


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_marker_is_the_maximum_whatever_the_order(numbers: list[int]) -> None:
    state = after(join(CONVERSATION), *map(read, numbers))

    assert state.kept_of(CONVERSATION).marker.message_number == max(numbers)


def test_marker_of_a_later_epoch_is_later_whatever_the_number() -> None:
    state = after(join(CONVERSATION), read(50), read(12, epoch=2))

    assert state.kept_of(CONVERSATION).marker == ReadMarker(epoch=2, message_number=12, counted_number=12)
    assert after(read(51), state=state) == state


def test_evolve_merges_by_maximum_too() -> None:
    """Whatever wrote the events: a marker never goes back."""
    state = after(join(CONVERSATION), read(50))
    decision = decide(replace(state, kept={}), read(40), NOW_MS)
    assert isinstance(decision, Accepted)

    assert evolve(state, decision.events[0]).kept_of(CONVERSATION).marker.message_number == 50


@pytest.mark.parametrize("shares", [True, False])
def test_who_sends_no_receipts_reads_hidden(shares: bool) -> None:
    """Decided at the commit: nothing read meanwhile is ever shown."""
    preferences = ChangePreferences(preferences=Preferences(sends_read_receipts=shares), names=["sends_read_receipts"])
    decision = decide(after(join(CONVERSATION), preferences), read(3), NOW_MS)

    assert isinstance(decision, Accepted)
    kind = decision.events[0].kind
    assert isinstance(kind, ReadMarkerMoved)
    assert kind.hidden is not shares


@pytest.mark.parametrize(("expires_ms", "hidden"), [(None, True), (NOW_MS + 1, True), (NOW_MS, False)])
def test_who_is_invisible_reads_hidden(expires_ms: int | None, hidden: bool) -> None:
    """Nobody who signed out reads."""
    status = Status(state=StatusState.INVISIBLE, expire_time_ms=expires_ms)
    invisible = ChangePreferences(preferences=Preferences(status=status), names=["status"])
    decision = decide(after(join(CONVERSATION), invisible), read(3), NOW_MS)

    assert isinstance(decision, Accepted)
    kind = decision.events[0].kind
    assert isinstance(kind, ReadMarkerMoved)
    assert kind.hidden is hidden


# ---- mark as unread


def test_unread_mark_has_the_position_of_its_event_and_leaves_the_marker() -> None:
    state = after(join(CONVERSATION), read(5), UNREAD)

    assert state.kept_of(CONVERSATION) == Kept(
        marker=ReadMarker(epoch=1, message_number=5, counted_number=5), unread_mark_position=3
    )
    assert isinstance(decide(state, UNREAD, NOW_MS), Done)
    assert marked(state, UNREAD).unread_mark_position == 3


def test_unread_mark_ends_when_the_marker_moves() -> None:
    state = after(join(CONVERSATION), read(5), UNREAD, read(6))

    assert state.kept_of(CONVERSATION).unread_mark_position == 0


def test_reading_again_ends_the_mark_that_it_names() -> None:
    state = after(join(CONVERSATION), read(5), UNREAD)

    assert marked(state, read(5, seen=3)).unread_mark_position == 0
    assert after(read(5, seen=3), state=state).kept_of(CONVERSATION).unread_mark_position == 0


@pytest.mark.parametrize("late", [read(5), read(4, seen=2), read(5, seen=2)], ids=["blind", "older", "same"])
def test_late_call_does_not_take_a_newer_mark_away(late: MarkRead) -> None:
    """C31: a call from before the mark is replayed after a reconnect."""
    state = after(join(CONVERSATION), read(5), UNREAD)

    assert isinstance(decide(state, late, NOW_MS), Done)
    assert marked(state, late).unread_mark_position == 3


def test_mark_that_was_taken_away_may_come_again() -> None:
    state = after(join(CONVERSATION), UNREAD, read(1), UNREAD)

    assert state.kept_of(CONVERSATION).unread_mark_position == 4


# ---- preferences and drafts


def test_named_fields_alone_change() -> None:
    """Two devices that change different things do not undo each other."""
    muted = ChangeConversationPreferences(
        conversation_id=CONVERSATION,
        preferences=ConversationPreferences(mute_end_time_ms=7, pinned=True),
        names=["mute_end_time_ms"],
    )
    archived = replace(muted, preferences=ConversationPreferences(archived=True), names=["archived"])
    state = after(join(CONVERSATION), muted, archived)

    assert state.kept_of(CONVERSATION).preferences == ConversationPreferences(mute_end_time_ms=7, archived=True)
    assert isinstance(decide(state, archived, NOW_MS), Done)


def test_preferences_as_always_are_not_kept() -> None:
    pinned = ChangeConversationPreferences(
        conversation_id=CONVERSATION, preferences=ConversationPreferences(pinned=True), names=["pinned"]
    )
    state = after(join(CONVERSATION), pinned)
    assert set(state.kept) == {CONVERSATION}

    assert not after(replace(pinned, preferences=ConversationPreferences()), state=state).kept


def test_preferences_everywhere_change_by_name() -> None:
    names = ["notification_level"]
    change = ChangePreferences(preferences=Preferences(notification_level=NotificationLevel.NONE), names=names)
    state = after(change)

    assert state.preferences == Preferences(notification_level=NotificationLevel.NONE)
    assert isinstance(decide(state, change, NOW_MS), Done)


def test_at_most_20_conversations_are_pinned() -> None:
    conversations = [conversation(number) for number in range(PINNED_MAX + 1)]
    state = after(*map(join, conversations))
    pins = [
        ChangeConversationPreferences(
            conversation_id=each, preferences=ConversationPreferences(pinned=True), names=["pinned"]
        )
        for each in conversations
    ]
    state = after(*pins[:PINNED_MAX], state=state)

    assert isinstance(refusal(state, pins[PINNED_MAX]), LimitReached)
    archived = ConversationPreferences(pinned=True, archived=True)
    state = after(replace(pins[0], preferences=archived, names=["pinned", "archived"]), state=state)
    after(replace(pins[0], preferences=ConversationPreferences()), pins[PINNED_MAX], state=state)


def draft(text: str, conversation_id: ConversationId = CONVERSATION) -> SetDraft:
    return SetDraft(conversation_id=conversation_id, text=text)


def test_draft_is_kept_until_it_is_empty() -> None:
    state = after(join(CONVERSATION), draft("I th"))
    kept = state.kept_of(CONVERSATION).draft
    assert kept is not None
    assert (kept.text, kept.change_time_ms) == ("I th", NOW_MS)
    assert isinstance(decide(state, draft("I th"), NOW_MS), Done)

    assert not after(draft(""), state=state).kept


def test_drafts_are_bounded_in_number_and_size() -> None:
    conversations = [conversation(number) for number in range(DRAFTS_MAX + 1)]
    state = after(*map(join, conversations), *(draft("x", each) for each in conversations[:DRAFTS_MAX]))
    assert isinstance(refusal(state, draft("x", conversations[DRAFTS_MAX])), LimitReached)
    after(draft("longer", conversations[0]), state=state)

    large = [draft("x" * (DRAFTS_MAX_BYTES // 4), each) for each in conversations[:4]]
    state = after(*map(join, conversations), *large)
    assert isinstance(refusal(state, draft("x", conversations[4])), LimitReached)
    after(draft("", conversations[0]), draft("x", conversations[4]), state=state)


# ---- blocks


def block(name: str, *, blocked: bool = True) -> SetBlock:
    return SetBlock(user_id=user(name), conversation_id=DIRECT, blocked=blocked)


def test_block_is_known_by_its_place_until_it_ends() -> None:
    state = after(block("bob"), block("carol"))
    assert state.blocked == {BOB: SourcePlace(1, 1), CAROL: SourcePlace(1, 2)}
    assert isinstance(decide(state, block("bob"), NOW_MS), Done)

    state = after(block("bob", blocked=False), state=state)
    assert set(state.blocked) == {CAROL}
    answer = decide(state, block("bob", blocked=False), NOW_MS)
    assert isinstance(answer, Done)
    assert isinstance(answer.answer, Changed)


# ---- of conversations that the user belongs to


@pytest.mark.parametrize(
    "command",
    [
        read(1),
        UNREAD,
        draft("x"),
        ChangeConversationPreferences(conversation_id=CONVERSATION, preferences=ConversationPreferences(), names=[]),
    ],
    ids=lambda command: type(command).__name__,
)
@pytest.mark.parametrize("left", [False, True])
def test_nothing_is_kept_about_a_foreign_conversation(command: UserTopicCommand, left: bool) -> None:
    state = after(join(CONVERSATION), join(CONVERSATION, 3, joined=False)) if left else after()

    assert isinstance(refusal(state, command), ConversationNotFound)


def test_what_was_kept_ends_with_leaving_and_does_not_come_back() -> None:
    state = after(join(CONVERSATION), read(5), draft("x"), join(CONVERSATION, 9, joined=False))
    assert not state.kept

    assert not after(join(CONVERSATION, 12), state=state).kept


def test_full_state_fits_into_a_snapshot() -> None:
    """Every bound at its edge, and 2,000 conversations with all that can be kept: NATS takes 1 MiB."""
    blocks = {user(f"{number:026d}"): SourcePlace(1, 2**30) for number in range(BLOCKED_MAX)}
    memberships = after(*(join(conversation(number), 2**30) for number in range(100))).memberships
    many = {
        conversation(number): replace(
            memberships[conversation(number % 100)], conversation_id=conversation(number), user_position=2**30
        )
        for number in range(2_000)
    }
    kept = Kept(
        marker=ReadMarker(epoch=1, message_number=2**30, counted_number=2**30),
        unread_mark_position=2**30,
        preferences=ConversationPreferences(mute_end_time_ms=253_402_300_799_000, archived=True),
    )
    state = UserTopicState(
        user_id=ALICE, epoch=1, position=2**30, memberships=many, kept=dict.fromkeys(many, kept), blocked=blocks
    )
    large = [draft("x" * (DRAFTS_MAX_BYTES // DRAFTS_MAX), conversation(number)) for number in range(DRAFTS_MAX)]
    state = after(*large, state=state)
    assert isinstance(refusal(state, block("onemore")), LimitReached)
    after(block(f"{0:026d}", blocked=False), block("onemore"), state=state)

    encoded = ProtoSnapshotCodec().encode(Snapshot(topic_id=ALICE, state=state, sequence=1))

    assert len(encoded) < 0.9 * _NATS_PAYLOAD_BYTES
    assert ProtoSnapshotCodec().decode(encoded).state == state
