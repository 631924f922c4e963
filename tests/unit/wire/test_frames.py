"""Frames of the server: as few messages as may be, a control always alone."""

from itertools import accumulate, groupby

import pytest
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.history.v1 import history_service_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app import frames
from hubbub_server.app.frames import Events, Outgoing
from hubbub_server.domain.errors import ConversationNotFound, InvalidField, ProtocolBreach
from hubbub_server.domain.events import Event, MessageSent
from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.domain.limits import FRAME_MAX_BYTES
from hubbub_server.domain.message import Message
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.wire.frames import encode_messages, read_connect_request
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.values import stored_message_to_pb
from tests.unit.wire import strategies

CODEC = ProtoRecordCodec()
USER = UserId(TopicId("u1"))


def _record(events: list[Event]) -> Events:
    return Events(body=b"".join(CODEC.encode(event) for event in events), count=len(events))


records = st.lists(strategies.events, min_size=1, max_size=3).map(_record)
controls: st.SearchStrategy[Outgoing] = st.one_of(
    st.builds(frames.TopicEnded, topic_id=strategies.conversation_ids),
    st.just(frames.Lagging()),
    st.builds(frames.Rejected, request_id=strategies.texts, error=st.just(ConversationNotFound())),
    st.builds(
        frames.Goodbye,
        reason=st.sampled_from(frames.GoodbyeReason),
        reconnect=st.booleans(),
        retry_delay_s=st.floats(min_value=0, max_value=100),
    ),
)


@strategies.FEWER
@given(st.lists(records | controls, max_size=12))
def test_messages_keep_the_order_and_a_control_is_alone(outgoing: list[Outgoing]) -> None:
    sent = [chat_service_pb2.ConnectResponse.FromString(m).frame for m in encode_messages(outgoing)]

    is_control = [frame.WhichOneof("control") is not None for frame in sent]
    events = [event for frame in sent for event in frame.events]
    wanted = [d.event for each in outgoing if isinstance(each, Events) for d in CODEC.decode(each.body)]
    assert is_control == [
        key for key, run in groupby(not isinstance(o, Events) for o in outgoing) for _ in (run if key else [0])
    ]
    assert not any(frame.events and frame.WhichOneof("control") for frame in sent)
    assert [(e.topic_id, e.position) for e in events] == [(e.topic_id, e.position) for e in wanted]


@strategies.FEWER
@given(st.lists(st.integers(min_value=1, max_value=FRAME_MAX_BYTES), min_size=1, max_size=20))
def test_joined_events_never_exceed_the_frame_and_neighbours_would_not_fit(sizes: list[int]) -> None:
    messages = encode_messages([Events(body=b"x" * size, count=1) for size in sizes])

    frame_sizes = [len(m) - 1 - (1 if len(m) < 130 else 2 if len(m) < 16_387 else 3) for m in messages]
    assert sum(frame_sizes) == sum(sizes)
    assert max(frame_sizes) <= FRAME_MAX_BYTES
    assert all(a + b > FRAME_MAX_BYTES for a, b in zip(frame_sizes, _firsts(sizes, frame_sizes), strict=False))


def _firsts(sizes: list[int], frame_sizes: list[int]) -> list[int]:
    """Returns the first body of each frame but the first."""
    starts = set(accumulate(frame_sizes))
    return [size for size, before in zip(sizes, accumulate(sizes, initial=0), strict=False) if before in starts]


@strategies.FEWER
@given(records)
def test_the_message_of_a_record_ends_with_the_bytes_of_the_log_and_is_made_once(record: Events) -> None:
    first, second = encode_messages([record]), encode_messages([Events(body=bytes(record.body), count=record.count)])

    assert first[0].endswith(record.body)
    assert first[0] is second[0]


@pytest.mark.parametrize(
    "response",
    [
        chat_service_pb2.ConnectResponse,
        chat_service_pb2.SubscribeResponse,
        history_service_pb2.SyncResponse,
        history_service_pb2.SyncOnceResponse,
    ],
)
def test_all_streams_have_the_same_bytes(
    response: type[
        chat_service_pb2.ConnectResponse
        | chat_service_pb2.SubscribeResponse
        | history_service_pb2.SyncResponse
        | history_service_pb2.SyncOnceResponse
    ],
) -> None:
    (message,) = encode_messages([frames.TopicEnded(topic_id=TopicId("c1"))])

    expected = response(frame=frame_pb2.ServerFrame(topic_ended=frame_pb2.TopicEnded(topic_id="c1")))
    assert response.FromString(message) == expected
    assert expected.SerializeToString() == message


@given(st.binary(max_size=100))
def test_any_bytes_are_a_frame_or_a_breach(message: bytes) -> None:
    try:
        frame = read_connect_request(message, USER)
    except (ProtocolBreach, InvalidField):
        return
    assert isinstance(frame, frames.Hello | frames.StreamCommand | frames.Ack | frames.UnknownFrame)


@strategies.FEWER
@given(strategies.messages, strategies.numbers, strategies.times_ms)
def test_a_stored_message_is_its_bytes_with_its_state(message: Message, position: int, time_ms: int) -> None:
    event = Event(
        topic_id=TopicId("c1"),
        epoch=1,
        position=position,
        commit_time_ms=time_ms,
        actor_id=None,
        message_number=message.message_number,
        kind=MessageSent(message=message),
    )
    (decoded,) = CODEC.decode(CODEC.encode(event))

    pb = stored_message_to_pb(
        StoredMessage(
            message_number=message.message_number,
            counted_number=message.counted_number,
            sender_id=message.sender_id,
            change_position=position,
            commit_time_ms=time_ms,
            body=decoded.message_body,
        )
    )

    assert pb.client_message_id == message.client_message_id
    assert (pb.change_position, pb.commit_time.ToMilliseconds()) == (position, time_ms)
