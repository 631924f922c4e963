"""Events on their way from a delivery to the client of an edge stream: at once, or behind what waits (G4, G6)."""

import random
from typing import cast

import pytest
from hubbub.chat.v1 import chat_service_pb2, event_pb2, frame_pb2

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.frames import Events
from hubbub_server.app.live_stream import LiveStream, Owner
from hubbub_server.app.resume import StreamResume
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.rpc.call import Call
from tests.support.app_node import GROUP
from tests.support.edge_bench import CALL, Bench
from tests.support.h2_peer import H2Peer, Pipe
from tests.support.sessions import command, head, sent
from tests.support.windows import WINDOW, ack, with_window

pytestmark = pytest.mark.asyncio

ROOM = cast("ActiveTopic", None)
"""Nobody asks for the topic of events that turn nothing."""
SMALL_BYTES = 20


class Node:
    """Owner and StreamResume of a stream that is live from the start."""

    def __init__(self) -> None:
        self.topics: dict[str, ActiveTopic] = {}
        self.typing = self
        self.forgotten: list[LiveStream] = []

    def session_ended(self, session_id: str) -> None:
        pass

    def forget(self, stream: LiveStream) -> None:
        self.forgotten.append(stream)


class Live:
    """A live stream on a connection of the edge, and the peer that hears it."""

    def __init__(self, bench: Bench, *, beside: "Live | None" = None, ack_window: int = 0, **windows: int) -> None:
        """`beside` has the connection to use."""
        self.node = node = Node()
        self.session = with_window(ack_window)
        self.stream = LiveStream(self.session, cast("StreamResume", node), cast("Owner", node))
        bench.behaviour = self._serve
        self.peer: H2Peer
        self.pipe: Pipe
        self.peer, self.pipe = (beside.peer, beside.pipe) if beside else bench.connect(**windows)
        self.call = self.peer.call(CALL)
        self.said = 0

    async def _serve(self, stream: EdgeStream) -> None:
        call = Call(method="/t.T/Call", is_stream=True, context=stream, pump=stream.pump, metadata={}, request_id="r1")
        await stream.pump(call, self.stream, takes_frames=False)

    def answer(self) -> None:
        """Queues an answer, as the node does: the stream is woken."""
        self.session.receive(command(f"r{self.said}"), 0.0)
        self.session.answer(f"r{self.said}", sent())
        self.stream._wake()

    def say(self, size_bytes: int = SMALL_BYTES) -> None:
        """Delivers a record with one event, the next number as its position."""
        self.said += 1
        event = event_pb2.Event(position=self.said, actor_id="x" * size_bytes)
        frame = Events(body=frame_pb2.ServerFrame(events=[event]).SerializeToString(), count=1)
        self.stream.on_delivery(ROOM, Delivery(topic_id=GROUP, head=head(1), frame=frame, turns=()))

    def frames(self) -> list[frame_pb2.ServerFrame]:
        """Returns what came."""
        return [chat_service_pb2.ConnectResponse.FromString(message).frame for message in self.peer.messages(self.call)]

    def heard(self) -> list[int]:
        """Returns the numbers of the events that came, in the order in which they did."""
        return [event.position for frame in self.frames() for event in frame.events]


async def opened(live: Live) -> Pipe:
    """Lets the first frame pass: from then on the stream knows its window."""
    await live.pipe.move()
    live.answer()
    await live.pipe.move()
    return live.pipe


async def test_events_that_nothing_waits_before_pass_the_queue_by(bench: Bench) -> None:
    live = Live(bench)
    pipe = await opened(live)
    writes = len(pipe.writes)
    for _ in range(3):
        live.say()
        assert not live.session.has_output
    await pipe.move()
    assert live.heard() == [1, 2, 3]
    assert len(pipe.writes) == writes + 1


async def test_a_stream_has_no_task_while_it_lasts(bench: Bench) -> None:
    live = Live(bench)
    await opened(live)
    assert bench.running == 0
    assert live.node.forgotten == []


async def test_a_stream_whose_client_went_is_forgotten(bench: Bench) -> None:
    live = Live(bench)
    pipe = await opened(live)
    live.peer.h2.reset_stream(live.call)
    await pipe.move()
    assert live.node.forgotten == [live.stream]
    assert bench.running == 0


async def test_a_stream_that_ends_has_its_status_and_is_forgotten(bench: Bench) -> None:
    live = Live(bench)
    pipe = await opened(live)
    live.stream.half_close()
    await pipe.move()
    assert live.peer.trailers[live.call] == {"grpc-status": "0"}
    assert live.node.forgotten == [live.stream]


async def test_events_behind_an_answer_come_after_it(bench: Bench) -> None:
    live = Live(bench)
    pipe = await opened(live)
    live.answer()
    live.say()
    await pipe.move()
    answer, events = live.frames()[-2:]
    assert answer.HasField("reply")
    assert events.events


async def test_a_window_of_the_client_that_is_closed_leaves_events_in_the_queue_of_the_session(bench: Bench) -> None:
    """G6: what HTTP/2 keeps for a client that does not read is bounded by its window and by 64 KiB."""
    live = Live(bench, window_bytes=10_000)
    await opened(live)
    for _ in range(300):
        live.say(1_000)
    await live.pipe.move()
    assert live.session.buffered_bytes > 300_000 - 20_000


async def test_a_socket_that_takes_nothing_leaves_events_in_the_queue_of_the_session(bench: Bench) -> None:
    live = Live(bench)
    pipe = await opened(live)
    pipe.protocol.pause_writing()
    live.say()
    assert live.session.has_output
    pipe.protocol.resume_writing()
    await pipe.move()
    assert live.heard() == [1]


async def test_one_turn_of_the_loop_hands_over_a_bounded_part_of_what_all_streams_have(bench: Bench) -> None:
    """G6: the rest stays in the queues of the sessions, which know how much they may hold."""
    first = Live(bench)
    await opened(first)
    streams = [first]
    for _ in range(5):
        streams.append(Live(bench, beside=first))
        await opened(streams[-1])
    for live in streams:
        live.say(60_000)
    assert [live.session.has_output for live in streams] == [False] * 4 + [True] * 2
    await first.pipe.move()
    assert [live.heard() for live in streams] == [[1]] * 6


async def test_events_beyond_the_window_of_acks_are_held(bench: Bench) -> None:
    live = Live(bench, ack_window=WINDOW)
    await opened(live)
    for _ in range(WINDOW + 5):
        live.say()
    await live.pipe.move()
    assert len(live.heard()) == WINDOW
    ack(live.session, 5)
    live.stream._wake()
    await live.pipe.move()
    assert live.heard() == list(range(1, WINDOW + 6))


@pytest.mark.parametrize("seed", range(30))
async def test_in_any_order_of_things_events_come_once_and_in_order(bench: Bench, seed: int) -> None:
    """G4: small windows that open now and then, sockets that stop, answers in between, large and small events."""
    chance = random.Random(seed)
    live = Live(bench, window_bytes=chance.choice([300, 5_000, 100_000]))
    pipe = await opened(live)
    answers = 1
    for _ in range(150):
        match chance.choice(["say", "say", "say", "say", "answer", "open", "stop", "go", "move", "move"]):
            case "say" if live.session.buffered_bytes < 400_000:
                live.say(chance.choice([SMALL_BYTES, SMALL_BYTES, 200, 70_000]))
            case "answer":
                live.answer()
                answers += 1
            case "open":
                live.peer.h2.increment_flow_control_window(chance.choice([50, 500, 80_000]), live.call)
            case "stop":
                pipe.protocol.pause_writing()
            case "go":
                pipe.protocol.resume_writing()
            case _:
                await pipe.move()
    pipe.protocol.resume_writing()
    live.peer.h2.increment_flow_control_window(50_000_000, live.call)
    await pipe.move(turns=50)
    assert live.heard() == list(range(1, live.said + 1))
    assert sum(frame.HasField("reply") for frame in live.frames()) == answers
