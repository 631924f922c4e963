"""What every TopicDirectory reads: a topic's whole state as of one applied position."""

import time

import pytest

from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.events import ConversationKind, Member, MemberRole, SourcePlace
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import Membership, UserTopicState
from hubbub_server.ports.projection import EVERYBODY, ProjectionBatch, ShardRow
from hubbub_server.ports.topic_directory import StoredTopic
from tests.support.rows import (
    SENDER,
    applied_row,
    block_row,
    conversation_id,
    conversation_row,
    entry_row,
    event_row,
    mark_row,
    member_row,
    membership_row,
    settings_row,
    shard_row,
    user_id,
)
from tests.support.stores import OpenStore

pytestmark = pytest.mark.asyncio

ROOM = conversation_id("croom")
ALICE = user_id("ualice")
BOB = user_id("ubob")


async def test_topic_that_was_never_applied_is_none(store: OpenStore) -> None:
    assert await store.directory.load(ROOM) is None
    assert await store.directory.load(ALICE) is None
    assert await store.directory.read_applied(ROOM) is None


async def test_conversation_comes_back_with_members_and_former_members(store: OpenStore) -> None:
    """A role that is not there (left) is something else than a row that is not there (never joined)."""
    applied = applied_row(ROOM, 9, epoch=2, last_message_number=4, id_floor_ms=77)
    await store.projection.apply(
        ProjectionBatch(
            conversations=[conversation_row(ROOM, title="")],
            settings=[settings_row(ROOM, 6, ReceiptsMode.OFF), settings_row(ROOM, 5, ReceiptsMode.FULL)],
            members=[member_row(ROOM, ALICE, 2, MemberRole.OWNER), member_row(ROOM, BOB, 8, None)],
            marks=[mark_row(ROOM, ALICE, 3, counted=2, mention=4), mark_row(ROOM, EVERYBODY, mention=1)],
            blocks=[block_row(ROOM, BOB, 7)],
            applied=[applied],
            shard=shard_row(),
        )
    )

    assert await store.directory.load(ROOM) == StoredTopic(
        state=ConversationState(
            conversation_id=ROOM,
            epoch=2,
            position=9,
            commit_time_ms=applied.commit_time_ms,
            kind=ConversationKind.GROUP,
            title="",
            creator_id=SENDER,
            creation_hash="creation hash",
            members={ALICE: Member(user_id=ALICE, role=MemberRole.OWNER, join_position=2)},
            former_members={BOB: 8},
            last_message_number=4,
            last_counted_number=4,
            last_broadcast_number=1,
            marks=MemberMarks({ALICE: MemberMark(message_number=3, counted_number=2, mention_number=4)}),
            blocks={BOB: Block(blocked=True, source=SourcePlace(1, 70))},
            receipts_limit=ReceiptsMode.OFF,
            window=IdWindow(floor_ms=77, evicted_position=9),
        ),
        applied=applied,
    )


async def test_user_topic_comes_back_with_what_was_joined_and_left(store: OpenStore) -> None:
    other = conversation_id("cother")
    applied = applied_row(ALICE, 2, last_message_number=0)
    await store.projection.apply(
        ProjectionBatch(
            memberships=[
                membership_row(ALICE, ROOM, 1, joined=True),
                membership_row(ALICE, other, 2, joined=False),
            ],
            entries=[entry_row(ALICE, "preferences", 2), entry_row(ALICE, f"marker {ROOM}", 1)],
            applied=[applied],
            shard=shard_row(),
        )
    )

    assert await store.directory.load(ALICE) == StoredTopic(
        state=UserTopicState(
            user_id=ALICE,
            epoch=1,
            position=2,
            commit_time_ms=applied.commit_time_ms,
            memberships={
                ROOM: Membership(conversation_id=ROOM, joined=True, epoch=1, position=10, user_position=1),
                other: Membership(conversation_id=other, joined=False, epoch=1, position=20, user_position=2),
            },
        ),
        applied=applied,
        entries=(entry_row(ALICE, f"marker {ROOM}", 1), entry_row(ALICE, "preferences", 2)),
    )


async def test_conversation_without_its_settings_has_no_kind(store: OpenStore) -> None:
    """Its creation was of a kind that this version cannot read: applied, but unknown."""
    applied = applied_row(ROOM, 1, last_message_number=0, has_unknown_event=True)
    await store.projection.apply(ProjectionBatch(events=[event_row(ROOM, 1)], applied=[applied], shard=shard_row()))

    stored = await store.directory.load(ROOM)

    assert stored is not None
    assert isinstance(stored.state, ConversationState)
    assert stored.state.kind is None
    assert stored.state.has_unknown_event


async def test_applied_row_comes_back_as_it_was_written(store: OpenStore) -> None:
    applied = applied_row(ROOM, 3, id_floor_ms=2**47, has_unknown_event=True)
    await store.projection.apply(ProjectionBatch(applied=[applied], shard=shard_row()))

    assert await store.directory.read_applied(ROOM) == applied


async def test_large_topics_load_fast(store: OpenStore) -> None:
    """1,000 members, 5,000 memberships: 50 ms each on an idle machine; ten times that is a missing index."""
    members = [member_row(ROOM, user_id(f"u{n}"), n + 1, MemberRole.MEMBER) for n in range(1_000)]
    memberships = [membership_row(ALICE, conversation_id(f"c{n}"), n + 1, joined=True) for n in range(5_000)]
    await store.projection.apply(
        ProjectionBatch(
            conversations=[conversation_row(ROOM)],
            members=members,
            memberships=memberships,
            applied=[applied_row(ROOM, 1_000), applied_row(ALICE, 5_000)],
            shard=shard_row(),
        )
    )

    room = await store.directory.load(ROOM)
    alice = await store.directory.load(ALICE)
    taken_s = []
    for _ in range(3):  # the machine has other things to do as well
        start_s = time.perf_counter()
        await store.directory.load(ROOM)
        await store.directory.load(ALICE)
        taken_s.append(time.perf_counter() - start_s)

    assert room is not None
    assert isinstance(room.state, ConversationState)
    assert len(room.state.members) == 1_000
    assert alice is not None
    assert isinstance(alice.state, UserTopicState)
    assert len(alice.state.joined()) == 5_000
    assert min(taken_s) < 0.5


async def test_shard_is_as_far_as_its_newest_batch(store: OpenStore) -> None:
    assert await store.directory.read_shard(0) is None
    await store.projection.apply(ProjectionBatch(shard=ShardRow(shard=0, epoch=1, sequence=7)))
    await store.projection.apply(ProjectionBatch(shard=ShardRow(shard=1, epoch=2, sequence=3)))

    assert await store.directory.read_shard(0) == ShardRow(shard=0, epoch=1, sequence=7)
    assert await store.directory.read_shard(1) == ShardRow(shard=1, epoch=2, sequence=3)


@pytest.mark.parametrize("limit", [1, 2, 3, 1_000])
async def test_topics_are_listed_once_each_page_by_page(store: OpenStore, limit: int) -> None:
    topics = [conversation_id(f"croom{number}") for number in range(3)] + [ALICE]
    for topic_id in topics:
        await store.projection.apply(ProjectionBatch(applied=[applied_row(topic_id, 1)], shard=shard_row()))

    listed: list[TopicId] = []
    while page := await store.directory.list_topics(after=listed[-1] if listed else None, limit=limit):
        assert len(page) <= limit
        listed += page

    assert sorted(listed) == sorted(topics)


@pytest.mark.parametrize("limit", [0, 1_001])
async def test_page_of_topics_has_bounds(store: OpenStore, limit: int) -> None:
    with pytest.raises(ValueError, match="limit"):
        await store.directory.list_topics(after=None, limit=limit)
