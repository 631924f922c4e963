"""What every store makes of batches: the same rows in any order, any number of times, and no floor before its rows.

Written through Projection, read through the other three ports.
"""

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubbub_server.app.stored_topic import stored_conversation, stored_user_topic
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.events import MemberRole
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.projection import (
    EVERYBODY,
    AppliedRow,
    EventRow,
    MemberMarkRow,
    ProjectionBatch,
    ShardRow,
    StoreSetBack,
)
from tests.support.rows import (
    SENDER,
    applied_row,
    block_row,
    client_id,
    conversation_id,
    conversation_row,
    entry_row,
    event_row,
    mark_row,
    member_row,
    membership_row,
    mention_row,
    message_row,
    messages_batch,
    reader_row,
    settings_row,
    shard_row,
    user_id,
)
from tests.support.stores import OpenStore

pytestmark = pytest.mark.asyncio

ROOM = conversation_id("croom")
ALICE = user_id("ualice")
PEOPLE = [user_id("u1"), user_id("u2")]
ROOMS = [conversation_id("c1"), conversation_id("c2")]

Row = TypeVar("Row")
_examples = itertools.count()


# ---- any order, any partition, any number of times


def merge(batches: Sequence[ProjectionBatch]) -> ProjectionBatch:
    """Joins batches of consecutive records as the projector would have made one of them."""
    applied: dict[TopicId, AppliedRow] = {}
    for row in itertools.chain.from_iterable(batch.applied for batch in batches):
        before = applied.get(row.topic_id)
        if before is not None:
            row = replace(  # noqa: PLW2901  # the row as it stands after the one before it
                row,
                id_floor_ms=max(row.id_floor_ms, before.id_floor_ms),
                has_unknown_event=row.has_unknown_event or before.has_unknown_event,
            )
        applied[row.topic_id] = row
    return ProjectionBatch(
        events=[row for batch in batches for row in batch.events],
        messages=[row for batch in batches for row in batch.messages],
        conversations=[row for batch in batches for row in batch.conversations],
        settings=[row for batch in batches for row in batch.settings],
        members=[row for batch in batches for row in batch.members],
        memberships=[row for batch in batches for row in batch.memberships],
        marks=[row for batch in batches for row in batch.marks],
        blocks=[row for batch in batches for row in batch.blocks],
        mentions=[row for batch in batches for row in batch.mentions],
        entries=newest([row for batch in batches for row in batch.entries], lambda row: row.entry),
        readers=newest([row for batch in batches for row in batch.readers], lambda row: row.user_id),
        deliveries=newest([row for batch in batches for row in batch.deliveries], lambda row: row.user_id),
        applied=list(applied.values()),
        shard=batches[-1].shard,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[TopicId, TopicId, list[ProjectionBatch]]:
    """Draws what happened on a conversation and on a user's topic of one shard, a batch a record."""
    example = next(_examples)
    room, alice = conversation_id(f"croom{example}"), user_id(f"ualice{example}")
    epoch, room_position, alice_position, number = 1, 0, 0, 0
    batches = []
    kinds = st.sampled_from(
        ["message", "change", "settings", "member", "membership", "unknown", "epoch", "block", "entry", "limit"]
    )
    for sequence, kind in enumerate(draw(st.lists(kinds, min_size=1, max_size=14)), start=1):
        epoch += kind == "epoch"
        rows: dict[str, Any] = {}
        if kind == "membership":
            alice_position += 1
            joined = draw(st.booleans())
            rows["memberships"] = [
                membership_row(alice, draw(st.sampled_from(ROOMS)), alice_position, joined=joined, epoch=epoch)
            ]
            applied = applied_row(alice, alice_position, epoch=epoch, last_message_number=0)
        elif kind == "entry":
            alice_position += 1
            entry = draw(st.sampled_from(["preferences", "marker c1"]))
            rows["entries"] = [entry_row(alice, entry, alice_position, epoch=epoch)]
            rows["readers"] = [reader_row(room, alice, alice_position, alice_position, epoch=epoch)]
            rows["deliveries"] = [reader_row(room, alice, alice_position, alice_position + 1, epoch=epoch)]
            applied = applied_row(alice, alice_position, epoch=epoch, last_message_number=0)
        else:
            room_position += 1
            if kind == "message" or (kind == "change" and number == 0):
                number += 1
                rows["messages"] = [message_row(room, number, position=room_position, epoch=epoch)]
                person, mentioned = draw(st.sampled_from(PEOPLE)), draw(st.sampled_from([*PEOPLE, EVERYBODY]))
                rows["marks"] = [mark_row(room, person, number), mark_row(room, mentioned, mention=number)]
                rows["mentions"] = [mention_row(room, mentioned, number, position=room_position, epoch=epoch)]
            elif kind == "change":
                changed = draw(st.integers(1, number))
                body = f"changed at {room_position}".encode()
                rows["messages"] = [message_row(room, changed, position=room_position, epoch=epoch, body=body)]
            elif kind == "block":
                rows["blocks"] = [block_row(room, alice, room_position, blocked=draw(st.booleans()), epoch=epoch)]
            elif kind == "settings":
                title = f"title at {room_position}"
                rows["conversations"] = [conversation_row(room, room_position, epoch=epoch, title=title)]
            elif kind == "limit":
                limit = draw(st.sampled_from(ReceiptsMode))
                rows["settings"] = [settings_row(room, room_position, limit, epoch=epoch)]
            elif kind == "member":
                role = draw(st.sampled_from([None, *MemberRole]))
                person = draw(st.sampled_from(PEOPLE))
                rows["members"] = [member_row(room, person, room_position, role, epoch=epoch)]
            applied = applied_row(
                room,
                room_position,
                epoch=epoch,
                last_message_number=number,
                id_floor_ms=draw(st.integers(0, 5)),
                has_unknown_event=kind == "unknown",
            )
        batches.append(
            ProjectionBatch(
                events=[event_row(applied.topic_id, applied.position, epoch=epoch)],
                applied=[applied],
                shard=shard_row(sequence, shard=example, epoch=epoch),
                **rows,
            )
        )
    return room, alice, batches


@st.composite
def deliveries(draw: st.DrawFn, batches: list[ProjectionBatch]) -> list[ProjectionBatch]:
    """Draws batches that together cover all records at least once, of any sizes, in any order, with replays."""
    spans = []
    start = 0
    while start < len(batches):
        end = draw(st.integers(start + 1, len(batches)))
        spans.append((start, end))
        start = end
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(batches) - 1))
        spans.append((start, draw(st.integers(start + 1, len(batches)))))
    return [merge(batches[start:end]) for start, end in draw(st.permutations(spans))]


def newest(rows: Iterable[Row], key: Callable[[Row], Any]) -> list[Row]:
    """Returns, of the rows with the same key, the one with the largest (epoch, position)."""
    best: dict[Any, Row] = {}
    for row in sorted(rows, key=lambda row: (row.epoch, row.position)):  # type: ignore[attr-defined]  # any row
        best[key(row)] = row
    return list(best.values())


def merged(rows: Iterable[MemberMarkRow]) -> list[MemberMarkRow]:
    """Returns, of the marks of each member, the largest of each number."""
    best: dict[UserId, MemberMarkRow] = {}
    for row in rows:
        old = best.get(row.user_id, row)
        best[row.user_id] = replace(
            row,
            message_number=max(row.message_number, old.message_number),
            counted_number=max(row.counted_number, old.counted_number),
            mention_number=max(row.mention_number, old.mention_number),
        )
    return list(best.values())


async def check_holds(store: OpenStore, batches: list[ProjectionBatch], room: ConversationId, alice: UserId) -> None:
    """Compares what the store has with what the records alone say."""
    whole = merge(batches)
    applied = {row.topic_id: row for row in whole.applied}
    members = newest([row for batch in batches for row in batch.members], lambda row: row.user_id)
    memberships = newest([row for batch in batches for row in batch.memberships], lambda row: row.conversation_id)
    conversations = newest([row for batch in batches for row in batch.conversations], lambda row: row.conversation_id)
    messages = newest([row for batch in batches for row in batch.messages], lambda row: row.message_number)

    for topic_id in (room, alice):
        expected = [row for batch in batches for row in batch.events if row.topic_id == topic_id]
        assert await store.events.read_after(topic_id, after_position=0, limit=1_000) == expected
        assert await store.directory.read_applied(topic_id) == applied.get(topic_id)
    assert await store.messages.read_range(room, first_number=1, last_number=200) == [
        StoredMessage(
            message_number=row.message_number,
            counted_number=row.counted_number,
            sender_id=row.sender_id,
            change_position=row.position,
            commit_time_ms=row.commit_time_ms,
            body=row.body,
        )
        for row in sorted(messages, key=lambda row: row.message_number)
    ]
    blocks = newest(whole.blocks, lambda row: row.user_id)
    if room in applied:
        conversation = conversations[0] if conversations else None
        limits = newest(whole.settings, lambda row: row.conversation_id)
        limit = limits[0].receipts_limit if limits else ReceiptsMode.FULL
        assert await store.directory.load(room) == stored_conversation(
            room, applied[room], conversation, members, merged(whole.marks), blocks, limit
        )
    for rows, found in (
        (whole.readers, await store.markers.read_readers(room)),
        (whole.deliveries, await store.markers.read_deliveries(room)),
    ):
        assert found == {row.user_id: row.message_number for row in newest(rows, lambda row: row.user_id)}
    if alice in applied:
        assert await store.directory.load(alice) == stored_user_topic(
            alice, applied[alice], memberships, newest(whole.entries, lambda row: row.entry)
        )
    assert await store.projection.read_shard(whole.shard.shard) == whole.shard


@given(data=st.data())
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_any_partition_order_and_replay_end_in_the_same_rows(store: OpenStore, data: st.DataObject) -> None:
    """Law: projections are commutative. G1, G2: what the worker does after a crash changes nothing."""
    room, alice, batches = data.draw(histories())

    for batch in data.draw(deliveries(batches)):
        await store.projection.apply(batch)

    await check_holds(store, batches, ConversationId(room), UserId(alice))


# ---- older never overwrites newer, one kind of row at a time


@pytest.mark.parametrize(("epoch", "position"), [(2, 4), (1, 5), (1, 9)])
async def test_older_message_never_overwrites_a_newer_one(store: OpenStore, epoch: int, position: int) -> None:
    """The epoch counts before the position: (1, 9) is older than (2, 5)."""
    newer = message_row(ROOM, 1, epoch=2, position=5, body=b"newer")
    older = message_row(ROOM, 1, epoch=epoch, position=position, body=b"older")
    for row in (newer, older):
        await store.projection.apply(ProjectionBatch(messages=[row], shard=shard_row()))

    (message,) = await store.messages.read_range(ROOM, first_number=1, last_number=1)

    assert message.body == b"newer"


@pytest.mark.parametrize(("epoch", "position"), [(2, 4), (1, 9)])
async def test_older_leave_never_undoes_a_newer_join(store: OpenStore, epoch: int, position: int) -> None:
    """G5: for members, for the user's own topic, and for the settings alike."""
    newer = ProjectionBatch(
        conversations=[conversation_row(ROOM, 5, epoch=2, title="newer")],
        members=[member_row(ROOM, ALICE, 5, MemberRole.ADMIN, epoch=2)],
        memberships=[membership_row(ALICE, ROOM, 5, joined=True, epoch=2)],
        applied=[applied_row(ROOM, 5, epoch=2), applied_row(ALICE, 5, epoch=2)],
        shard=shard_row(),
    )
    older = ProjectionBatch(
        conversations=[conversation_row(ROOM, position, epoch=epoch, title="older")],
        members=[member_row(ROOM, ALICE, position, None, epoch=epoch)],
        memberships=[membership_row(ALICE, ROOM, position, joined=False, epoch=epoch)],
        applied=[applied_row(ROOM, position, epoch=epoch), applied_row(ALICE, position, epoch=epoch)],
        shard=shard_row(),
    )
    await store.projection.apply(newer)
    await store.projection.apply(older)

    room, alice = await store.directory.load(ROOM), await store.directory.load(ALICE)

    assert room is not None
    assert isinstance(room.state, ConversationState)
    assert room.state.title == "newer"
    assert room.state.members[ALICE].role is MemberRole.ADMIN
    assert room.state.former_members == {}
    assert (room.applied.epoch, room.applied.position) == (2, 5)
    assert alice is not None
    assert isinstance(alice.state, UserTopicState)
    assert alice.state.memberships[ROOM].joined


async def test_newer_leave_clears_the_role(store: OpenStore) -> None:
    """Unset and null: a role that is None is written, it does not leave the old one in place."""
    for position, role in ((2, MemberRole.OWNER), (5, None)):
        await store.projection.apply(
            ProjectionBatch(
                members=[member_row(ROOM, ALICE, position, role)],
                applied=[applied_row(ROOM, position)],
                shard=shard_row(),
            )
        )

    stored = await store.directory.load(ROOM)

    assert stored is not None
    assert isinstance(stored.state, ConversationState)
    assert stored.state.members == {}
    assert stored.state.former_members == {ALICE: 5}


async def test_event_of_a_newer_epoch_takes_the_place(store: OpenStore) -> None:
    newer, older = event_row(ROOM, 1, epoch=2), event_row(ROOM, 1, epoch=1)
    for row in (older, newer, older):
        await store.projection.apply(ProjectionBatch(events=[row], applied=[applied_row(ROOM, 1)], shard=shard_row()))

    assert await store.events.read_after(ROOM, after_position=0, limit=10) == [newer]


@pytest.mark.parametrize("known", [shard_row(5), shard_row(4, epoch=2)], ids=["of the epoch", "of a newer one"])
async def test_store_that_has_less_than_is_known_is_not_written_to(store: OpenStore, known: ShardRow) -> None:
    """G1: an older copy was put in its place. What it has, or more, is no reason."""
    await store.projection.apply(ProjectionBatch(shard=shard_row(4)))
    await store.projection.apply(ProjectionBatch(shard=shard_row(4)), known=shard_row(4))
    await store.projection.apply(ProjectionBatch(shard=shard_row(4)), known=shard_row(3))

    with pytest.raises(StoreSetBack):
        await store.projection.apply(
            ProjectionBatch(events=[event_row(ROOM, 1)], applied=[applied_row(ROOM, 1)], shard=shard_row(6)),
            known=known,
        )

    assert await store.events.read_after(ROOM, after_position=0, limit=10) == []
    assert await store.projection.read_shard(known.shard) == shard_row(4)


async def test_store_that_has_nothing_is_not_written_to_when_more_is_known(store: OpenStore) -> None:
    with pytest.raises(StoreSetBack):
        await store.projection.apply(ProjectionBatch(shard=shard_row(6)), known=shard_row(5))

    assert await store.projection.read_shard(shard_row().shard) is None


async def test_new_epoch_may_begin_at_a_lower_position(store: OpenStore) -> None:
    """After a log was recreated its topics' newest epoch is what counts."""
    await store.projection.apply(messages_batch(ROOM, range(1, 10)))
    await store.projection.apply(ProjectionBatch(applied=[applied_row(ROOM, 3, epoch=2)], shard=shard_row(3, epoch=2)))

    applied = await store.directory.read_applied(ROOM)

    assert applied is not None
    assert (applied.epoch, applied.position, applied.sequence) == (2, 3, 103)
    assert await store.projection.read_shard(0) == ShardRow(shard=0, epoch=2, sequence=3)


async def test_id_floor_and_unknown_events_are_kept_from_older_batches(store: OpenStore) -> None:
    """G3: the floor is merged by maximum, the flag by or, whichever batch came last."""
    rows = [
        applied_row(ROOM, 2, id_floor_ms=900, has_unknown_event=True),
        applied_row(ROOM, 5, id_floor_ms=100),
        applied_row(ROOM, 3, id_floor_ms=1_000),
        applied_row(ROOM, 1, id_floor_ms=50),
    ]
    for row in rows:
        await store.projection.apply(ProjectionBatch(applied=[row], shard=shard_row()))

    applied = await store.directory.read_applied(ROOM)

    assert applied is not None
    assert (applied.position, applied.id_floor_ms, applied.has_unknown_event) == (5, 1_000, True)


async def test_shards_are_kept_apart_and_never_go_back(store: OpenStore) -> None:
    for row in (shard_row(5, shard=0), shard_row(7, shard=1), shard_row(4, shard=0)):
        await store.projection.apply(ProjectionBatch(shard=row))

    assert await store.projection.read_shard(0) == shard_row(5, shard=0)
    assert await store.projection.read_shard(1) == shard_row(7, shard=1)
    assert await store.projection.read_shard(2) is None


# ---- readers beside the writer


async def test_floor_is_never_ahead_of_its_rows(store: OpenStore) -> None:
    """G8: whoever reads the floor first and the rows second finds all of them, at any moment."""
    batch_messages, batches = 20, 30
    done = asyncio.Event()

    async def write() -> None:
        for start in range(1, batches * batch_messages, batch_messages):
            await store.projection.apply(messages_batch(ROOM, range(start, start + batch_messages)))
            await asyncio.sleep(0)
        done.set()

    async def read() -> int:
        looks = 0
        while not done.is_set():
            applied = await store.directory.read_applied(ROOM)
            if applied is not None:
                last = applied.position
                messages = await store.messages.read_range(ROOM, first_number=max(1, last - 199), last_number=last)
                events = await store.events.read_after(ROOM, after_position=max(0, last - 200), limit=1_000)
                lookup = await store.messages.find_ids(ROOM, [(SENDER, client_id(last))])
                stored = await store.directory.load(ROOM)
                assert [m.message_number for m in messages] == list(range(max(1, last - 199), last + 1))
                assert [e.position for e in events][: min(last, 200)] == list(range(max(1, last - 199), last + 1))
                assert lookup.applied_position >= last
                assert lookup.found
                assert stored is not None
                assert stored.state.position == stored.applied.position >= last
                looks += 1
            await asyncio.sleep(0)
        return looks

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        group.create_task(write())

    assert reading.result() > 0
    applied = await store.directory.read_applied(ROOM)
    assert applied is not None
    assert applied.position == batches * batch_messages


async def test_empty_batch_moves_the_shard_alone(store: OpenStore) -> None:
    await store.projection.apply(ProjectionBatch(shard=shard_row(3)))

    assert await store.projection.read_shard(0) == shard_row(3)
    assert await store.directory.read_applied(ROOM) is None


async def test_what_was_written_is_read_back_byte_for_byte(store: OpenStore) -> None:
    """Law: the bytes that were committed are the bytes that clients receive."""
    row = EventRow(topic_id=ROOM, epoch=1, position=1, framed=bytes(range(256)) * 128)
    await store.projection.apply(ProjectionBatch(events=[row], applied=[applied_row(ROOM, 1)], shard=shard_row()))

    assert await store.events.read_after(ROOM, after_position=0, limit=1) == [row]
