"""Records are storage: what goes in comes out, and what is not a record is never taken for one."""

import pytest
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.events import Event, MemberRole, MembersAdded, MessageSent, UnknownKind
from hubbub_server.domain.message import UnknownContent
from hubbub_server.ports.record_codec import RecordCodec, RecordUndecodable
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.varint import encode_varint
from tests.unit.wire import strategies

CODEC: RecordCodec = ProtoRecordCodec()


def _framed(pb: event_pb2.Event, more: bytes = b"") -> bytes:
    encoded = pb.SerializeToString() + more
    return b"\x0a" + encode_varint(len(encoded)) + encoded


def _placed(**fields: object) -> event_pb2.Event:
    return event_pb2.Event(topic_id="c1", epoch=1, position=1, **fields)  # type: ignore[arg-type]  # any field


@strategies.FEWER
@given(st.lists(strategies.events, min_size=1, max_size=5))
def test_a_body_of_joined_events_decodes_to_them_and_to_their_own_bytes(events: list[Event]) -> None:
    framed = [CODEC.encode(event) for event in events]

    decoded = CODEC.decode(b"".join(framed))

    assert [d.event for d in decoded] == events
    assert [d.framed for d in decoded] == framed


@strategies.FEWER
@given(strategies.events)
def test_encoding_is_deterministic(event: Event) -> None:
    assert CODEC.encode(event) == CODEC.encode(event)


@strategies.FEWER
@given(st.lists(strategies.events, min_size=1, max_size=3))
def test_a_body_is_a_server_frame_with_nothing_but_events(events: list[Event]) -> None:
    frame = frame_pb2.ServerFrame.FromString(b"".join(CODEC.encode(event) for event in events))

    assert [(e.topic_id, e.epoch, e.position) for e in frame.events] == [
        (e.topic_id, e.epoch, e.position) for e in events
    ]
    assert frame.WhichOneof("control") is None


@strategies.FEWER
@given(strategies.events)
def test_the_message_of_an_event_comes_as_bytes_too(event: Event) -> None:
    (decoded,) = CODEC.decode(CODEC.encode(event))

    if isinstance(event.kind, MessageSent):
        pb = message_pb2.Message.FromString(decoded.message_body)
        assert pb.message_number == event.kind.message.message_number
        assert not pb.HasField("commit_time")
        assert pb.change_position == 0
    else:
        assert decoded.message_body == b""


@given(st.binary(max_size=200))
def test_any_bytes_decode_or_are_undecodable(body: bytes) -> None:
    try:
        decoded = CODEC.decode(body)
    except RecordUndecodable:
        return
    assert b"".join(d.framed for d in decoded) == body


@strategies.FEWER
@given(strategies.events, st.data())
def test_a_cut_body_is_undecodable(event: Event, data: st.DataObject) -> None:
    body = CODEC.encode(event)
    end = data.draw(st.integers(min_value=0, max_value=len(body) - 1))

    with pytest.raises(RecordUndecodable):
        CODEC.decode(body[:end])


def test_a_kind_of_a_newer_version_is_unknown_and_keeps_its_bytes_and_its_message_number() -> None:
    body = _framed(_placed(message_number=7), more=b"\x42\x03\x0a\x01x")  # field 8, taken by a later issue

    (decoded,) = CODEC.decode(body)

    assert decoded.event.kind == UnknownKind()
    assert decoded.event.message_number == 7
    assert decoded.framed == body
    with pytest.raises(ValueError, match="unknown"):
        CODEC.encode(decoded.event)


def test_content_of_a_newer_version_is_unknown_and_stays_in_the_message() -> None:
    content = message_pb2.Content.FromString(b"\x1a\x03\x0a\x01x")  # field 3, taken by a later issue
    message = message_pb2.Message(
        message_number=1,
        sender_id="u1",
        client_message_id="01890000-0000-7000-8000-000000000001",
        content=content,
    )

    (decoded,) = CODEC.decode(_framed(_placed(message_sent=event_pb2.MessageSent(message=message))))

    assert isinstance(decoded.event.kind, MessageSent)
    assert decoded.event.kind.message.content == UnknownContent()
    assert message_pb2.Message.FromString(decoded.message_body) == message
    with pytest.raises(ValueError, match="unknown"):
        CODEC.encode(decoded.event)


def test_an_unknown_sort_of_conversation_is_an_unknown_kind() -> None:
    """There are no rules for it here: commands on the topic must be refused."""
    conversation = conversation_pb2.Conversation(conversation_id="c1", kind=99)  # type: ignore[arg-type]  # newer
    created = event_pb2.ConversationCreated(conversation=conversation)

    assert CODEC.decode(_framed(_placed(conversation_created=created)))[0].event.kind == UnknownKind()


def test_an_unknown_role_counts_as_member() -> None:
    member = conversation_pb2.Member(user_id="u1", role=99, join_position=1)  # type: ignore[arg-type]  # newer
    (decoded,) = CODEC.decode(_framed(_placed(members_added=event_pb2.MembersAdded(members=[member]))))

    assert isinstance(decoded.event.kind, MembersAdded)
    assert decoded.event.kind.members[0].role is MemberRole.MEMBER


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\x0a",
        b"\x0a\x80\x80\x80\x80\x80\x01",
        b"\x12\x00",
        b"\x0a\x02\xff\xff",
        b"\x0a\x00",
        _framed(event_pb2.Event(topic_id="x1", epoch=1, position=1)),
        _framed(event_pb2.Event(topic_id="c1", epoch=0, position=1)),
        _framed(event_pb2.Event(topic_id="c1", epoch=1, position=0)),
        _framed(_placed(message_number=-1)),
        _framed(_placed(actor_id="x1")),
        _framed(_placed(member_removed=event_pb2.MemberRemoved(user_id="*"))),
        _framed(_placed(conversation_left=event_pb2.ConversationLeft(conversation_id="u1"))),
        _framed(_placed(message_sent=event_pb2.MessageSent())),
        _framed(_placed()) + b"\x0a\x05x",
        _framed(_placed()) + frame_pb2.ServerFrame(lagging=frame_pb2.Lagging()).SerializeToString(),
    ],
    ids=range(16),
)
def test_what_is_no_record_is_undecodable(body: bytes) -> None:
    with pytest.raises(RecordUndecodable):
        CODEC.decode(body)
