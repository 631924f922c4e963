"""Signals as bytes: what goes in comes out, and they are frames that may be joined with others."""

import pytest
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.frames import Events, Signals
from hubbub_server.domain.events import Event
from hubbub_server.domain.limits import TYPING_EXPIRES_S
from hubbub_server.domain.signals import DeliveredMarker, ReadMarker, Signal, Typing, UnknownSignal
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from tests.unit.wire import strategies

CODEC = ProtoSignalCodec()
ANYBODY = frame_pb2.Signal(conversation_id="c1", user_id="u1")

signals = st.builds(
    Signal,
    conversation_id=strategies.conversation_ids,
    user_id=strategies.user_ids,
    kind=st.one_of(
        st.builds(Typing, making=st.integers(-(2**31), 2**31 - 1), active=st.booleans()),
        st.builds(ReadMarker, message_number=strategies.numbers),
        st.builds(DeliveredMarker, message_number=strategies.numbers),
    ),
)


@given(signals)
def test_a_signal_is_read_as_what_it_was(signal: Signal) -> None:
    """A kind of typing that this version does not know, too."""
    assert CODEC.decode(CODEC.encode(signal)) == signal


@strategies.FEWER
@given(st.lists(signals | strategies.events, min_size=1, max_size=8))
def test_signals_and_events_that_are_ready_together_are_one_frame(items: list[Signal | Event]) -> None:
    """Neither needs to be parsed for that."""
    outgoing = [
        Signals(body=CODEC.encode(item))
        if isinstance(item, Signal)
        else Events(body=ProtoRecordCodec().encode(item), count=1)
        for item in items
    ]

    (message,) = encode_messages(outgoing)

    frame = chat_service_pb2.ConnectResponse.FromString(message).frame
    assert [s.user_id for s in frame.signals] == [item.user_id for item in items if isinstance(item, Signal)]
    assert [e.position for e in frame.events] == [item.position for item in items if isinstance(item, Event)]


def test_typing_says_when_to_forget_it() -> None:
    signal = Signal(
        conversation_id=ANYBODY.conversation_id,  # type: ignore[arg-type]  # any id
        user_id=ANYBODY.user_id,  # type: ignore[arg-type]  # any id
        kind=Typing(making=frame_pb2.TYPING_KIND_UPLOADING, active=True),
    )

    (pb,) = frame_pb2.ServerFrame.FromString(CODEC.encode(signal)).signals

    assert (pb.typing.kind, pb.typing.active) == (frame_pb2.TYPING_KIND_UPLOADING, True)
    assert pb.typing.expires_in.ToMilliseconds() == TYPING_EXPIRES_S * 1000


def test_a_signal_of_a_newer_version_is_read_as_such() -> None:
    body = frame_pb2.ServerFrame(signals=[ANYBODY]).SerializeToString()

    assert CODEC.decode(body).kind == UnknownSignal()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        frame_pb2.ServerFrame(signals=[ANYBODY, ANYBODY]).SerializeToString(),
        frame_pb2.ServerFrame(signals=[ANYBODY], lagging=frame_pb2.Lagging()).SerializeToString(),
        frame_pb2.ServerFrame(signals=[frame_pb2.Signal(conversation_id="u1", user_id="u1")]).SerializeToString(),
        frame_pb2.ServerFrame(signals=[frame_pb2.Signal(conversation_id="c1", user_id="c1")]).SerializeToString(),
    ],
)
def test_what_is_not_one_signal_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"signal|frame"):
        CODEC.decode(body)
