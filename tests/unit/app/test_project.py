"""What the projector makes of records, and which it calls poison."""

import asyncio
import itertools
from dataclasses import replace

import pytest
from hubbub.chat.v1 import event_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.project import project
from hubbub_server.domain.commands import AddMembers, CreateGroup, RecordMembership, RemoveMember
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import ConversationKind, MemberRole, MessageSent
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.message import TextContent, content_hash
from hubbub_server.ports.projection import ConversationRow, MemberRow, MembershipRow, ProjectionBatch, ShardRow
from hubbub_server.ports.record_consumer import PoisonRecord
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.wire.record_codec import ProtoRecordCodec
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeLogServer
from tests.support.records import NOW_MS, LogWriter
from tests.unit.domain.builders import ALICE, BOB, CAROL, CONVERSATION, send, uuid4, uuid7

CODEC = ProtoRecordCodec()


@pytest.fixture
def writer() -> LogWriter:
    return LogWriter(FakeLogServer(shards=1))


def make_group(writer: LogWriter) -> None:
    writer.run(CONVERSATION, CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))


def records(writer: LogWriter) -> list[LogRecord]:
    return writer.server.records[0]


def project_all(writer: LogWriter) -> ProjectionBatch:
    return project(CODEC, 0, records(writer))


def unknown_body(*, position: int) -> bytes:
    """Returns a record body of a kind that is newer than this version: only field numbers, no kind that we know."""
    pb = event_pb2.Event(topic_id=CONVERSATION, epoch=1, position=position)
    payload = pb.SerializeToString() + b"\xfa\x3f\x02hi"  # field 1023, two bytes
    return b"\x0a" + bytes([len(payload)]) + payload


def test_creation_becomes_settings_and_members(writer: LogWriter) -> None:
    make_group(writer)

    batch = project_all(writer)

    state = writer.states[CONVERSATION]
    assert isinstance(state, ConversationState)
    assert batch.conversations == [
        ConversationRow(
            conversation_id=CONVERSATION,
            epoch=1,
            position=1,
            kind=ConversationKind.GROUP,
            title="tea",
            creator_id=ALICE,
            creation_hash=state.creation_hash,
        )
    ]
    assert state.creation_hash
    assert batch.members == [
        MemberRow(conversation_id=CONVERSATION, user_id=ALICE, epoch=1, position=2, role=MemberRole.OWNER),
        MemberRow(conversation_id=CONVERSATION, user_id=BOB, epoch=1, position=3, role=MemberRole.MEMBER),
    ]


def test_removal_becomes_a_member_without_a_role(writer: LogWriter) -> None:
    make_group(writer)
    writer.run(CONVERSATION, RemoveMember(actor_id=ALICE, user_id=BOB))

    assert project_all(writer).members[-1] == MemberRow(
        conversation_id=CONVERSATION, user_id=BOB, epoch=1, position=4, role=None
    )


def test_message_keeps_its_bytes_and_the_hash_from_the_facts(writer: LogWriter) -> None:
    """G3: a retry with other content is told apart by this hash."""
    make_group(writer)
    writer.run(CONVERSATION, send(ALICE, uuid4(1), "hello"))

    (row,) = project_all(writer).messages

    (decoded,) = CODEC.decode(records(writer)[-1].body)
    assert row.body == decoded.message_body != b""
    assert row.content_hash == content_hash(TextContent(text="hello"))
    assert (row.message_number, row.counted_number, row.position, row.epoch) == (1, 1, 4, 1)
    assert (row.sender_id, row.client_message_id, row.commit_time_ms) == (ALICE, uuid4(1), NOW_MS)


def test_events_keep_the_bytes_that_were_committed(writer: LogWriter) -> None:
    make_group(writer)
    writer.run(CONVERSATION, send(ALICE, uuid4(1)))

    batch = project_all(writer)

    assert b"".join(row.framed for row in batch.events) == b"".join(record.body for record in records(writer))
    assert [row.position for row in batch.events] == [1, 2, 3, 4]


def test_user_topic_becomes_memberships(writer: LogWriter) -> None:
    writer.run(ALICE, RecordMembership(conversation_id=CONVERSATION, epoch=3, position=8, joined=True))
    writer.run(ALICE, RecordMembership(conversation_id=CONVERSATION, epoch=3, position=9, joined=False))

    assert project_all(writer).memberships == [
        MembershipRow(
            user_id=ALICE,
            conversation_id=CONVERSATION,
            epoch=1,
            position=position,
            joined=joined,
            source_epoch=3,
            source_position=source_position,
        )
        for position, joined, source_position in ((1, True, 8), (2, False, 9))
    ]


def test_each_topic_is_applied_up_to_its_last_record(writer: LogWriter) -> None:
    make_group(writer)
    writer.run(ALICE, RecordMembership(conversation_id=CONVERSATION, epoch=1, position=2, joined=True))
    writer.run(CONVERSATION, send(ALICE, uuid4(1)))
    writer.run(CONVERSATION, send(BOB, uuid4(2)))

    batch = project_all(writer)

    room, alice = batch.applied
    assert (room.topic_id, room.position, room.sequence, room.last_message_number) == (CONVERSATION, 5, 6, 2)
    assert (alice.topic_id, alice.position, alice.sequence) == (ALICE, 1, 4)
    assert batch.shard == ShardRow(shard=0, epoch=1, sequence=6)


def test_id_floor_is_the_largest_time_of_all_messages_in_the_batch(writer: LogWriter) -> None:
    """G3: an id may carry a time after its commit; the floor must not be below it."""
    make_group(writer)
    writer.run(CONVERSATION, send(ALICE, uuid7(NOW_MS + 60_000)))
    writer.run(CONVERSATION, send(ALICE, uuid4(1)))

    assert project_all(writer).applied[0].id_floor_ms == NOW_MS + 60_000


def test_unknown_kind_stays_an_event_and_marks_the_topic(writer: LogWriter) -> None:
    make_group(writer)
    last = records(writer)[-1]
    body = unknown_body(position=4)
    facts = replace(last.facts, first_position=4, last_position=4, kinds=frozenset({"UnknownKind"}))
    unknown = LogRecord(facts=facts, body=body, sequence=4)

    batch = project(CODEC, 0, [*records(writer), unknown])

    assert batch.events[-1].framed == body
    assert batch.applied[0].has_unknown_event
    assert batch.applied[0].position == 4


def test_mark_of_an_unknown_kind_outlasts_later_records_of_the_batch(writer: LogWriter) -> None:
    make_group(writer)
    first, second, third = records(writer)
    unknown = replace(first, body=unknown_body(position=1))

    batch = project(CODEC, 0, [unknown, second, third])

    assert batch.applied[0].has_unknown_event


@pytest.mark.parametrize("body", [b"", b"\xff", b"\x0a\x05ab", b"\x12\x00"])
def test_undecodable_body_is_poison(writer: LogWriter, body: bytes) -> None:
    make_group(writer)
    broken = replace(records(writer)[1], body=body)

    with pytest.raises(PoisonRecord) as poison:
        project(CODEC, 0, [records(writer)[0], broken, records(writer)[2]])

    assert (poison.value.shard, poison.value.sequence) == (0, 2)


@pytest.mark.parametrize(
    "changes",
    [
        {"first_position": 4},
        {"last_position": 2},
        {"epoch": 2},
        {"topic_id": BOB},
        {"request_hashes": ("", "")},
    ],
)
def test_facts_that_speak_of_other_events_are_poison(writer: LogWriter, changes: dict[str, object]) -> None:
    make_group(writer)
    first, second, third = records(writer)
    lying = replace(third, facts=replace(third.facts, **changes))  # type: ignore[arg-type]  # any field

    with pytest.raises(PoisonRecord):
        project(CODEC, 0, [first, second, lying])


@pytest.mark.parametrize("topic_id", [ALICE, CONVERSATION])
def test_event_in_a_topic_where_it_cannot_be_is_poison(writer: LogWriter, topic_id: str) -> None:
    make_group(writer)
    writer.run(ALICE, RecordMembership(conversation_id=CONVERSATION, epoch=1, position=2, joined=True))
    owner = {ALICE: records(writer)[2], CONVERSATION: records(writer)[3]}[topic_id]  # type: ignore[index]  # an id
    (decoded,) = CODEC.decode(owner.body)
    body = CODEC.encode(replace(decoded.event, topic_id=topic_id))  # type: ignore[arg-type]  # an id
    misplaced = replace(owner, body=body, facts=replace(owner.facts, topic_id=topic_id))  # type: ignore[arg-type]  # an id

    with pytest.raises(PoisonRecord, match="does not belong"):
        project(CODEC, 0, [misplaced])


def test_conversation_created_by_nobody_is_poison(writer: LogWriter) -> None:
    make_group(writer)
    first = records(writer)[0]
    (decoded,) = CODEC.decode(first.body)

    with pytest.raises(PoisonRecord):
        project(CODEC, 0, [replace(first, body=CODEC.encode(replace(decoded.event, actor_id=None)))])


COMMANDS = st.lists(
    st.one_of(
        st.integers(0, 99).map(lambda n: send(ALICE, uuid4(n))),
        st.integers(-9, 9).map(lambda n: send(BOB, uuid7(NOW_MS + 1_000 * n, abs(n)))),
        st.sampled_from([(BOB,), (CAROL,), (BOB, CAROL)]).map(lambda u: AddMembers(actor_id=ALICE, user_ids=u)),
        st.sampled_from([BOB, CAROL]).map(lambda u: RemoveMember(actor_id=ALICE, user_id=u)),
    ),
    max_size=20,
)


@given(commands=COMMANDS, cuts=st.sets(st.integers(1, 30)))
def test_stored_state_is_the_folded_state(commands: list[object], cuts: set[int]) -> None:
    """G2, G5: a node that starts from the store decides as one that saw every event."""
    writer = LogWriter(FakeLogServer(shards=1))
    make_group(writer)
    for command in commands:
        try:
            writer.run(CONVERSATION, command)  # type: ignore[arg-type]  # a command of the list above
        except HubbubError:
            continue
    store = FakeStore()
    edges = sorted({0, len(records(writer))} | {cut for cut in cuts if cut < len(records(writer))})

    async def store_all() -> object:
        for start, end in itertools.pairwise(edges):
            await store.apply(project(CODEC, 0, records(writer)[start:end]))
        return await store.load(CONVERSATION)

    stored = asyncio.run(store_all())

    folded = writer.states[CONVERSATION]
    assert isinstance(folded, ConversationState)
    times_ms = [
        max(NOW_MS, int(key[1][0:8] + key[1][9:13], 16) if key[1][14] == "7" else 0)
        for key in [
            (each.event.kind.message.sender_id, each.event.kind.message.client_message_id)
            for record in records(writer)
            for each in CODEC.decode(record.body)
            if isinstance(each.event.kind, MessageSent)
        ]
    ]
    window = IdWindow(floor_ms=max([0, *times_ms]), evicted_position=folded.position)
    assert stored is not None
    assert stored.state == replace(folded, window=window)  # type: ignore[attr-defined]  # a StoredTopic
