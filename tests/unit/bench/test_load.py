"""Clients of measurements: what they read, and when they say that something was late."""

import asyncio
import json
import time
from xml.etree import ElementTree

import pytest
from hubbub.chat.v1 import chat_service_pb2, event_pb2, frame_pb2

from bench import senders
from bench.growth import largest_over_smallest, slopes
from bench.h2_client import GrpcCall, GrpcConnection, prefixed, split
from bench.senders import Sender, Senders, SendersPlan
from bench.svg import flames
from bench.where import read_stacks, shares
from bench.wires import field, read_centrifugo, read_hubbub, stamp_of


def response(frame: frame_pb2.ServerFrame) -> bytes:
    """Returns a frame as it comes on a stream."""
    return prefixed(chat_service_pb2.ConnectResponse(frame=frame).SerializeToString())


def sent(text: str) -> event_pb2.Event:
    """Returns an event with a text."""
    event = event_pb2.Event()
    event.message_sent.message.content.text.text = text
    return event


@pytest.mark.parametrize("size", [1, 4, 7, 1_000])
def test_messages_are_whole_however_their_bytes_were_cut(size: int) -> None:
    messages = [b"", b"a", bytes(300), b"end"]
    data = b"".join(map(prefixed, messages))
    taken: list[bytes] = []
    call = GrpcCall(1, lambda whole: taken.extend(split(whole)))
    for start in range(0, len(data), size):
        call.take(data[start : start + size])
    assert taken == messages


def test_frames_of_hubbub_are_read() -> None:
    events = frame_pb2.ServerFrame(events=[sent("12.5 x"), sent("no number")])
    heads = frame_pb2.ServerFrame(heads=frame_pb2.Heads(complete=True))
    first = read_hubbub(response(events) + response(heads))
    assert (first.events, first.stamps, first.opens, first.is_over) == (2, (12.5,), True, False)
    beat = read_hubbub(response(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat())))
    assert chat_service_pb2.ConnectRequest.FromString(beat.reply).HasField("ack")
    assert read_hubbub(response(frame_pb2.ServerFrame(goodbye=frame_pb2.Goodbye()))).is_over


def test_pushes_of_centrifugo_are_read() -> None:
    publication = field(4, json.dumps("7.25 xxx").encode()) + b"\x30\x05"  # and its offset
    push = field(2, b"bench") + field(4, publication)
    answer = read_centrifugo(prefixed(push) + prefixed(field(10, b"")))
    assert (answer.events, answer.stamps, answer.opens) == (1, (7.25,), True)
    assert read_centrifugo(prefixed(field(11, b""))).is_over
    assert read_centrifugo(prefixed(field(2, bytes(200)))).events == 0


def test_a_stamp_is_a_number_at_the_beginning() -> None:
    assert [stamp_of(text) for text in ("1.5 x", "2", "x 1", "")] == [1.5, 2.0, 0.0, 0.0]


class StalledConnection(GrpcConnection):
    """Answers nothing until it is told to; the schedule goes on meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.frames: list[chat_service_pb2.ConnectRequest] = []

    def start(self, *_: object) -> GrpcCall:
        """Opens nothing."""
        return GrpcCall(1, lambda _: None)

    def send(self, call: GrpcCall, message: bytes, *, is_last: bool = False) -> None:
        """Keeps what would be sent."""
        self.frames.append(chat_service_pb2.ConnectRequest.FromString(message))


@pytest.mark.asyncio
async def test_a_send_that_was_late_counts_from_when_it_was_due() -> None:
    plan = SendersPlan(port=0, by="stream", connections=1, senders=(("token", ("c1",)),))
    connection = StalledConnection()
    sender = Sender(connection, plan, "token", ("c1",))
    sender.open()
    sender.send(time.monotonic() - 2.0)
    request_id = connection.frames[-1].command.request_id
    reply = frame_pb2.ServerFrame(reply=frame_pb2.Reply(request_id=request_id))
    delivered = frame_pb2.ServerFrame(events=[sent(connection.frames[-1].command.send_message.content.text.text)])
    sender._take(response(delivered) + response(reply))
    assert sender.round.ack_ms[0] >= 2_000
    assert sender.round.delivered_ms[0] >= 2_000
    assert sender.unanswered == 0


@pytest.mark.asyncio
async def test_a_schedule_does_not_wait_for_answers() -> None:
    plan = SendersPlan(port=0, by="stream", connections=1, senders=(("token", ("c1", "c2")),))
    connection = StalledConnection()
    sender = Sender(connection, plan, "token", ("c1", "c2"))
    sender.open()
    process = Senders(plan)
    process._all.append(sender)
    await process._send_on_schedule(time.monotonic() - 10.0, 20, 200.0)
    assert sender.unanswered == 20
    topics = [each.command.send_message.conversation_id for each in connection.frames if each.HasField("command")]
    assert topics == ["c1", "c2"] * 10


@pytest.mark.asyncio
async def test_a_window_keeps_so_many_unanswered_and_no_more() -> None:
    plan = SendersPlan(port=0, by="stream", connections=1, senders=(("token", ("c1",)),))
    sender = Sender(StalledConnection(), plan, "token", ("c1",))
    sender.open()
    process = Senders(plan)
    process._all.append(sender)
    run = asyncio.create_task(process._keep_window(time.monotonic() + 0.05, 7))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert sender.unanswered == 7
    run.cancel()
    await asyncio.gather(run, return_exceptions=True)
    assert senders._TEXT_BYTES == 200


def test_slopes_are_what_each_further_one_costs() -> None:
    assert slopes([(100, 1_000.0), (1_000, 2_800.0), (10_000, 20_800.0)]) == [2.0, 2.0]
    assert largest_over_smallest([2.0, 2.5]) == 1.25
    assert largest_over_smallest([-0.1, 2.0]) == float("inf")


def test_stacks_begin_in_the_event_loop_and_have_no_numbers_of_lines() -> None:
    loop = "main (m.py:1);Runner.run (asyncio/runners.py:118)"
    raw = f"{loop};a (x.py:1);b (x.py:2) 3\n{loop};a (x.py:9) 1\n{loop} 5\nthread (t.py:1) 7\n"
    stacks = read_stacks(raw)
    assert stacks == {"a (x.py);b (x.py)": 3, "a (x.py)": 1}
    assert shares(stacks) == {"a (x.py)": 1.0, "b (x.py)": 0.75}
    picture = flames("a <title>", stacks)
    ElementTree.fromstring(picture)
    assert 'width="760.0"' in picture
    assert 'width="570.0"' in picture
