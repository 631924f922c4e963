"""Snapshots are storage that old and new servers share: what goes in comes out, and nobody decides on half a state."""

from dataclasses import replace

import pytest
from hubbub.bus.v1alpha1 import topic_state_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.events import ConversationKind, SourcePlace
from hubbub_server.domain.id_window import IdEntry, IdWindow
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.user_topic import Draft, Kept, Membership, UserTopicState
from hubbub_server.ports.topic_states import RecentIds, Snapshot, SnapshotCodec, SnapshotUndecodable
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from tests.support.snapshots import FORMER, MEMBER, OWNER, conversation_snapshot
from tests.unit.domain.builders import uuid4, uuid7
from tests.unit.wire.strategies import (
    FEWER,
    conversation_ids,
    conversation_preferences,
    epochs,
    markers,
    members,
    numbers,
    preferences,
    texts,
    times_ms,
    user_ids,
)

CODEC: SnapshotCodec = ProtoSnapshotCodec()

_counts = st.integers(0, 2**63 - 1)
places = st.builds(SourcePlace, epochs, numbers)
conversations = st.builds(
    lambda state, floor_ms: replace(state, window=IdWindow(floor_ms, state.position)),
    st.builds(
        ConversationState,
        conversation_id=conversation_ids,
        epoch=epochs,
        position=numbers,
        commit_time_ms=times_ms,
        kind=st.sampled_from(ConversationKind),
        title=texts,
        creator_id=user_ids,
        creation_hash=st.just("c0ffee"),
        members=st.lists(members, max_size=4).map(lambda found: {m.user_id: m for m in found}),
        former_members=st.dictionaries(user_ids, numbers, max_size=3),
        last_message_number=_counts,
        last_counted_number=_counts,
        last_broadcast_number=_counts,
        marks=st.dictionaries(
            user_ids,
            st.builds(MemberMark, message_number=_counts, counted_number=_counts, mention_number=_counts),
            max_size=3,
        ).map(MemberMarks),
        blocks=st.dictionaries(user_ids, st.builds(Block, blocked=st.booleans(), source=places), max_size=2),
    ),
    times_ms,
)
memberships = st.builds(
    Membership,
    conversation_id=conversation_ids,
    joined=st.booleans(),
    epoch=epochs,
    position=numbers,
    user_position=numbers,
)
users = st.builds(
    UserTopicState,
    user_id=user_ids,
    epoch=epochs,
    position=numbers,
    commit_time_ms=times_ms,
    memberships=st.lists(memberships, max_size=4).map(lambda found: {m.conversation_id: m for m in found}),
    kept=st.dictionaries(
        conversation_ids,
        st.builds(
            Kept,
            marker=markers,
            unread_mark_position=_counts,
            preferences=conversation_preferences,
            draft=st.none() | st.builds(Draft, text=texts.filter(bool), change_time_ms=times_ms),
        ),
        max_size=3,
    ),
    blocked=st.dictionaries(user_ids, places, max_size=3),
    preferences=preferences,
)
recent_ids = st.none() | st.builds(RecentIds, position=_counts, sequence=_counts, floor_ms=times_ms)
snapshots = st.builds(
    lambda state, sequence, recent_ids: Snapshot(
        topic_id=state.head.cursor.topic_id,
        state=state,
        sequence=sequence,
        recent_ids=recent_ids if isinstance(state, ConversationState) else None,
    ),
    conversations | users,
    _counts,
    recent_ids,
)


@FEWER
@given(snapshots)
def test_a_snapshot_comes_back_as_it_was(snapshot: Snapshot) -> None:
    assert CODEC.decode(CODEC.encode(snapshot)) == snapshot


def test_what_counts_as_read_by_itself_comes_back() -> None:
    """Also of a member whom nobody mentioned, and of one who never wrote."""
    snapshot = conversation_snapshot(TopicId("ctea"))
    assert isinstance(snapshot.state, ConversationState)
    marks = {
        OWNER: MemberMark(message_number=3, counted_number=2),
        MEMBER: MemberMark(message_number=1, counted_number=1, mention_number=2),
        FORMER: MemberMark(),
    }

    state = CODEC.decode(CODEC.encode(replace(snapshot, state=replace(snapshot.state, marks=MemberMarks(marks))))).state

    assert isinstance(state, ConversationState)
    assert dict(state.marks.items()) == marks


def test_ids_leave_the_window_and_raise_its_floor() -> None:
    """G3: an id that was used cannot be taken for a new one, whatever its time."""
    first, fast = uuid4(1), uuid7(1_800_000_009_000)
    window = IdWindow(5, 1)
    for key, position in ((first, 8), (fast, 9)):
        entry = IdEntry(
            message_number=position, content_hash="", epoch=1, position=position, commit_time_ms=1_800_000_000_000
        )
        window = window.add((OWNER, key), entry)
    snapshot = conversation_snapshot(TopicId("ctea"), 9)
    assert isinstance(snapshot.state, ConversationState)

    state = CODEC.decode(CODEC.encode(replace(snapshot, state=replace(snapshot.state, window=window)))).state

    assert isinstance(state, ConversationState)
    assert len(state.window) == 0
    assert state.window.evicted_position == 9
    assert not state.window.is_never_used((OWNER, fast), 1_800_000_009_000)
    assert not state.window.is_never_used((OWNER, first), 1_800_000_009_000)
    assert state.window.is_never_used((OWNER, uuid7(1_800_000_009_001)), 1_800_000_009_001)


def test_state_with_events_of_a_newer_version_is_not_written() -> None:
    """A version that knows them must not start from a state that left them out."""
    snapshot = conversation_snapshot(TopicId("ctea"))

    with pytest.raises(ValueError, match="newer version"):
        CODEC.encode(replace(snapshot, state=replace(snapshot.state, has_unknown_event=True)))


def _pb() -> topic_state_pb2.TopicState:
    return topic_state_pb2.TopicState.FromString(CODEC.encode(conversation_snapshot(TopicId("ctea"))))


def test_state_in_a_newer_format_is_refused() -> None:
    """It holds something that a decision must know: whoever does not know it must not decide."""
    pb = _pb()
    pb.format += 1

    with pytest.raises(SnapshotUndecodable):
        CODEC.decode(pb.SerializeToString())


@pytest.mark.parametrize(
    ("field", "value"), [("topic_id", "ubob"), ("topic_id", ""), ("kind", 99), ("role", 99), ("state", None)]
)
def test_state_that_this_version_cannot_decide_on_is_refused(field: str, value: object) -> None:
    pb = _pb()
    match field:
        case "topic_id":
            pb.topic_id = str(value)
        case "kind":
            pb.conversation.kind = 99  # type: ignore[assignment]  # of a newer version
        case "role":
            pb.conversation.members[0].role = 99  # type: ignore[assignment]  # of a newer version
        case _:
            pb.ClearField("conversation")

    with pytest.raises(SnapshotUndecodable):
        CODEC.decode(pb.SerializeToString())


@pytest.mark.parametrize("encoded", [b"", b"\xff", b"\x0a\x05ab"])
def test_what_is_no_state_is_refused(encoded: bytes) -> None:
    with pytest.raises(SnapshotUndecodable):
        CODEC.decode(encoded)
