"""One connection of the edge with a peer that does exactly what a test wants, without sockets (C86, G6)."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

import grpc
import grpc.aio
import h2.events
import h2.exceptions
import pytest
import pytest_asyncio
from hyperframe.frame import DataFrame, GoAwayFrame

from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.limits import STRANGERS, EdgeLimits, Rate
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.rpc.call import Call, Proceed
from tests.support.h2_peer import H2Peer, Pipe, grpc_headers

pytestmark = pytest.mark.asyncio

NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 5, 7, 8, 11
CALL = grpc_headers("/t.T/Call")
Behaviour = Callable[[EdgeStream], Awaitable[None]]


class Bench:
    """A host whose one method does what a test says, and connections of it."""

    def __init__(self) -> None:
        self.limits: EdgeLimits = STRANGERS
        self.behaviour: Behaviour = echo
        self.streams: list[EdgeStream] = []
        self.ended: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self, **windows: int) -> tuple[H2Peer, Pipe]:
        peer = H2Peer(**windows)
        return peer, Pipe(EdgeConnection(self, self.limits, needs_alpn=False), peer)

    @property
    def running(self) -> int:
        """Number of tasks that have not ended."""
        return sum(not task.done() for task in self._tasks)

    def serve(self, stream: EdgeStream, path: str) -> bool:
        if path != "/t.T/Call":
            return False
        self.streams.append(stream)
        self._tasks.append(asyncio.create_task(self._run(stream)))
        return True

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        self._tasks.append(asyncio.create_task(stream.serve(lambda _: behave(), is_rest=True)))

    async def _run(self, stream: EdgeStream) -> None:
        async def behave(stream: EdgeStream) -> None:
            try:
                await self.behaviour(stream)
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            self.ended.append("returned")

        await stream.serve(behave)

    def admit(self, connection: EdgeConnection) -> bool:
        return True

    def forget(self, connection: EdgeConnection) -> None:
        pass

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def echo(stream: EdgeStream) -> None:
    """Answers each message with itself."""
    while (message := await stream.read()) is not grpc.aio.EOF:
        await stream.write(message)


async def wait(stream: EdgeStream) -> None:
    """Never ends by itself."""
    await asyncio.get_running_loop().create_future()


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()


def later(pipe: Pipe, seconds: float) -> None:
    """Lets a connection see a later time."""
    assert isinstance(pipe.protocol, EdgeConnection)
    pipe.protocol.tick(asyncio.get_running_loop().time() + seconds)


async def test_a_call_is_answered_with_headers_messages_and_trailers(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one", b"two", end_stream=True)
    await pipe.move()
    assert peer.heads[stream] == {":status": "200", "content-type": "application/grpc"}
    assert peer.messages(stream) == [b"one", b"two"]
    assert peer.trailers[stream] == {"grpc-status": "0"}
    assert peer.resets == {}


@pytest.mark.parametrize("step", [1, 2, 5, 7])
async def test_a_message_that_comes_in_pieces_is_one_message(bench: Bench, step: int) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    data = prefixed(b"a message") + prefixed(b"") + prefixed(b"another")
    for start in range(0, len(data), step):
        peer.h2.send_data(stream, data[start : start + step])
        await pipe.move(1)
    await pipe.move()
    assert peer.messages(stream) == [b"a message", b"", b"another"]


async def test_bytes_of_http2_may_come_one_by_one(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one", end_stream=True)
    for byte in peer.h2.data_to_send():
        pipe.protocol.data_received(bytes([byte]))
    await pipe.move()
    assert peer.messages(stream) == [b"one"]


async def test_all_frames_of_one_turn_of_the_loop_leave_in_one_write(bench: Bench) -> None:
    """Issue 5: what ten streams have to say at once is one write."""
    bench.behaviour = wait
    peer, pipe = bench.connect()
    streams = [peer.call(CALL) for _ in range(10)]
    await pipe.move()
    before = len(pipe.writes)

    writing = [asyncio.create_task(stream.write(b"news")) for stream in bench.streams]
    await pipe.move()

    await asyncio.gather(*writing)
    assert len(pipe.writes) == before + 1
    assert [peer.messages(stream) for stream in streams] == [[b"news"]] * 10


async def test_a_closed_window_holds_up_no_other_stream_and_is_used_when_it_opens(bench: Bench) -> None:
    peer, pipe = bench.connect(window_bytes=100)
    slow = peer.call(CALL, b"s" * 500)
    await pipe.move()
    quick = peer.call(CALL, b"q" * 20, end_stream=True)
    await pipe.move()
    assert len(peer.bodies[slow]) == 100
    assert peer.messages(quick) == [b"q" * 20]
    assert peer.trailers[quick]["grpc-status"] == "0"

    peer.h2.increment_flow_control_window(1_000, slow)
    peer.h2.send_data(slow, prefixed(b"next"), end_stream=True)
    await pipe.move()

    assert peer.messages(slow) == [b"s" * 500, b"next"]
    assert peer.trailers[slow]["grpc-status"] == "0"


async def test_a_closed_window_of_the_connection_is_used_when_it_opens(bench: Bench) -> None:
    peer, pipe = bench.connect(connection_window_bytes=65_535)
    bench.behaviour = write_much
    stream = peer.call(CALL)
    await pipe.move()
    assert len(peer.bodies[stream]) == 65_535

    peer.h2.increment_flow_control_window(1_000_000)
    await pipe.move()

    assert peer.messages(stream) == [b"x" * 200_000]
    assert peer.trailers[stream]["grpc-status"] == "0"


async def write_much(stream: EdgeStream) -> None:
    await stream.write(b"x" * 200_000)


async def test_what_is_not_read_holds_the_client_back(bench: Bench) -> None:
    """Memory is bounded by the window: it opens when the messages are read, not when they come."""
    bench.behaviour = wait
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    await pipe.move()
    for _ in range(4):
        peer.h2.send_data(stream, prefixed(b"x" * 16_000))
        await pipe.move(1)
    await pipe.move()
    left = peer.h2.local_flow_control_window(stream)
    assert left == bench.limits.window_bytes - 4 * 16_005
    assert [await bench.streams[0].read() for _ in range(4)] == [b"x" * 16_000] * 4
    await pipe.move()
    assert peer.h2.local_flow_control_window(stream) == bench.limits.window_bytes


async def test_a_deadline_that_passes_ends_the_call(bench: Bench) -> None:
    bench.behaviour = wait
    peer, pipe = bench.connect()
    stream = peer.call([*CALL, ("grpc-timeout", "1m")])
    await pipe.move()
    remaining_s = bench.streams[0].time_remaining()
    assert remaining_s is not None
    async with asyncio.timeout(5):
        while stream not in peer.trailers:
            await pipe.move(1)
    assert remaining_s <= 0.001
    assert peer.trailers[stream]["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])
    assert bench.ended == ["cancelled"]


@pytest.mark.parametrize("path", ["/t.T/Call", "/t.T/Other"])
async def test_the_longest_deadline_leaves_nothing_behind(bench: Bench, path: str) -> None:
    peer, pipe = bench.connect()
    stream = peer.call([*grpc_headers(path), ("grpc-timeout", "99999999H")], end_stream=True)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == ("0" if path == "/t.T/Call" else "12")
    assert all(timer.cancelled() for timer in asyncio.get_running_loop()._scheduled)  # type: ignore[attr-defined]


async def test_a_reset_cancels_its_call_and_no_other(bench: Bench) -> None:
    """TRAPS 1.20: what is said to a stream that is gone must not end the connection."""
    bench.behaviour = wait
    peer, pipe = bench.connect()
    first, second = peer.call(CALL), peer.call(CALL)
    await pipe.move()
    peer.h2.reset_stream(first, CANCEL)
    writing = asyncio.create_task(bench.streams[0].write(b"too late"))
    await pipe.move()
    writing.cancel()
    await asyncio.create_task(bench.streams[1].write(b"news"))
    await pipe.move()
    assert bench.ended == ["cancelled"]
    assert peer.messages(second) == [b"news"]
    assert not pipe.is_closing()


async def test_a_call_and_its_reset_in_one_read_do_nothing(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one")
    peer.h2.reset_stream(stream, CANCEL)
    await pipe.move()
    assert bench.streams == []
    assert not pipe.is_closing()


async def test_the_end_of_the_connection_cancels_its_calls(bench: Bench) -> None:
    bench.behaviour = wait
    peer, pipe = bench.connect()
    for _ in range(3):
        peer.call(CALL)
    await pipe.move()
    pipe.abort()
    await pipe.move()
    assert bench.ended == ["cancelled"] * 3


async def test_a_connection_that_is_over_keeps_no_stream_that_was_marked_late(bench: Bench) -> None:
    """Found by the fuzzer: calls that end after their connection mark their streams once more."""

    async def mark_at_the_end(stream: EdgeStream) -> None:
        try:
            await wait(stream)
        finally:
            connection.mark(stream)

    bench.behaviour = mark_at_the_end
    peer, pipe = bench.connect()
    assert isinstance(pipe.protocol, EdgeConnection)
    connection = pipe.protocol
    peer.call(CALL)
    await pipe.move()
    pipe.abort()
    await pipe.move()
    assert bench.ended == ["cancelled"]
    assert not connection._marked


async def end(stream: EdgeStream) -> None:
    await stream.abort(grpc.StatusCode.NOT_FOUND, "gone", (("grpc-status-details-bin", b"\0\1"),))


async def test_a_call_that_ends_before_its_client_does_tells_it_to_stop_sending(bench: Bench) -> None:
    """RFC 9113 8.1: a reset without error after the whole answer."""
    bench.behaviour = end
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one")
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "5"
    assert peer.trailers[stream]["grpc-message"] == "gone"
    assert peer.trailers[stream]["grpc-status-details-bin"] == "AAE"
    assert peer.resets == {stream: NO_ERROR}
    assert len(pipe.protocol) == 0  # type: ignore[arg-type]  # an EdgeConnection


async def test_an_error_of_ours_is_internal_and_says_nothing(bench: Bench) -> None:
    async def fail(stream: EdgeStream) -> None:
        raise RuntimeError("a secret")

    bench.behaviour = fail
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "13"
    assert peer.trailers[stream]["grpc-message"] == "internal error"


@pytest.mark.parametrize("end_stream", [True, False])
async def test_an_unknown_method_is_unimplemented(bench: Bench, end_stream: bool) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(grpc_headers("/t.T/Other"), b"one", end_stream=end_stream)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "12"
    assert peer.resets == ({} if end_stream else {stream: NO_ERROR})


async def test_compression_is_unimplemented_and_says_what_is_taken(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call([*CALL, ("grpc-encoding", "gzip")])
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "12"
    assert peer.trailers[stream]["grpc-accept-encoding"] == "identity"
    assert bench.streams == []


async def test_what_is_no_grpc_gets_a_status_of_http(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call([(n, "text/plain" if n == "content-type" else v) for n, v in CALL])
    await pipe.move()
    assert peer.heads[stream][":status"] == "415"
    assert bytes(peer.bodies[stream]) == b"this port speaks gRPC\n"


async def test_a_client_that_was_refused_and_goes_on_is_told_to_stop(bench: Bench) -> None:
    """Not at once: a reset that overtakes its last frames would hide what is wrong with them, and most end anyway."""
    peer, pipe = bench.connect()
    stream, ended = (peer.call([*CALL, ("grpc-encoding", "gzip")], end_stream=done) for done in (False, True))
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "12"
    assert peer.resets == {}
    later(pipe, 1.1)
    await pipe.move()
    assert ended in peer.trailers
    assert peer.resets == {stream: NO_ERROR}


async def test_a_message_that_is_too_large_ends_its_call_at_the_prefix(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    peer.h2.send_data(stream, b"\0\x7f\xff\xff\xff")
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "8"


async def test_an_incomplete_last_message_ends_the_call(bench: Bench) -> None:
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    peer.h2.send_data(stream, prefixed(b"half")[:-1], end_stream=True)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "13"


async def test_a_message_that_does_not_go_on_ends_its_call(bench: Bench) -> None:
    """A client that sends a byte now and then would hold a stream for ever."""
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    peer.h2.send_data(stream, prefixed(b"half")[:-1])
    await pipe.move()
    later(pipe, bench.limits.message_within_s - 1)
    await pipe.move()
    assert stream not in peer.trailers
    later(pipe, bench.limits.message_within_s + 1)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "4"


async def test_last_bytes_that_the_client_does_not_take_end_with_a_reset(bench: Bench) -> None:
    peer, pipe = bench.connect(window_bytes=10)
    stream = peer.call(CALL, b"more than ten bytes", end_stream=True)
    await pipe.move()
    bench.streams[0].fail(grpc.StatusCode.ABORTED, "over")
    await pipe.move()
    later(pipe, bench.limits.finish_within_s + 1)
    await pipe.move()
    assert peer.resets == {stream: ENHANCE_YOUR_CALM}
    assert len(pipe.protocol) == 0  # type: ignore[arg-type]  # an EdgeConnection


async def test_a_client_that_does_not_read_cannot_keep_a_call_in_its_write(bench: Bench) -> None:
    """A stream that is written to one message at a time, as Sync: it gets as long as a silent client has."""
    bench.behaviour = write_much
    peer, pipe = bench.connect(window_bytes=1_000)
    stream = peer.call(CALL)
    await pipe.move()
    later(pipe, bench.limits.taken_within_s - 1)
    await pipe.move()
    assert stream not in peer.resets
    later(pipe, bench.limits.taken_within_s + 1)
    await pipe.move()
    assert peer.resets == {stream: ENHANCE_YOUR_CALM}
    assert bench.ended == ["cancelled"]


async def test_a_silent_peer_is_asked_and_cut_when_it_does_not_answer(bench: Bench) -> None:
    """Keepalive of ours: a half-open socket (C35: a phone in airplane mode does not stay online)."""
    peer, pipe = bench.connect()
    peer.call(CALL)
    await pipe.move()
    later(pipe, bench.limits.ping_after_s + 1)
    await asyncio.sleep(0)
    later(pipe, bench.limits.ping_after_s + bench.limits.pong_within_s + 2)
    assert pipe.is_aborted


async def test_a_peer_that_answers_stays(bench: Bench) -> None:
    peer, pipe = bench.connect()
    peer.call(CALL)
    await pipe.move()
    later(pipe, bench.limits.ping_after_s + 1)
    await pipe.move()
    assert len(peer.heard(h2.events.PingReceived)) == 1
    later(pipe, bench.limits.ping_after_s - 1)
    assert not pipe.is_closing()


async def test_pings_of_the_peer_are_answered_and_too_many_end_the_connection(bench: Bench) -> None:
    bench.limits = replace(STRANGERS, controls=Rate(burst=5, per_s=1))
    peer, pipe = bench.connect()
    for _ in range(4):  # the SETTINGS were one
        peer.h2.ping(b"12345678")
    await pipe.move()
    assert len(peer.heard(h2.events.PingAckReceived)) == 4
    for _ in range(4):
        peer.h2.ping(b"12345678")
    await pipe.move()
    assert [code for _, code in peer.goaways][:1] == [ENHANCE_YOUR_CALM]
    assert peer.heard(h2.events.ConnectionTerminated)[0].additional_data == b"too_many_pings"
    assert pipe.is_closing()


async def test_a_ping_after_data_is_no_strike(bench: Bench) -> None:
    """Clients of gRPC measure the bandwidth by pings while messages come."""
    bench.limits = replace(STRANGERS, controls=Rate(burst=5, per_s=1))
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    for _ in range(50):
        peer.h2.send_data(stream, prefixed(b"x"))
        await pipe.move(3)
        peer.h2.ping(b"12345678")
        await pipe.move(3)
    assert len(peer.heard(h2.events.PingAckReceived)) == 50
    assert not pipe.is_closing()


async def test_a_window_that_is_opened_for_what_was_read_is_no_strike(bench: Bench) -> None:
    """Clients of gRPC open the windows of the stream and of the connection for each message, if they like."""
    bench.limits = replace(STRANGERS, idle_frames=Rate(burst=5, per_s=0))
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    for count in range(1, 51):
        peer.h2.send_data(stream, prefixed(b"x"))
        await pipe.move(3)
        assert len(peer.messages(stream)) == count
        for which in (stream, None):
            peer.h2.increment_flow_control_window(1, which)
        await pipe.move(3)
    assert not pipe.is_closing()
    for _ in range(10):
        peer.h2.increment_flow_control_window(1)
    await pipe.move()
    assert [code for _, code in peer.goaways][:1] == [ENHANCE_YOUR_CALM]


async def test_a_node_that_leaves_names_the_last_stream_and_ends_with_it(bench: Bench) -> None:
    """Drain: first "open no more here", then the last stream that is served; those that run go on to their end."""
    peer, pipe = bench.connect()
    stream = peer.call(CALL)
    await pipe.move()
    assert isinstance(pipe.protocol, EdgeConnection)
    pipe.protocol.leave()
    await pipe.move()
    assert peer.goaways == [(2**31 - 1, NO_ERROR), (stream, NO_ERROR)]

    refused = peer.call(CALL, b"late")
    peer.h2.send_data(stream, prefixed(b"last"))
    await pipe.move()
    assert peer.messages(stream) == [b"last"]
    assert len(bench.streams) == 1
    assert refused not in peer.heads
    assert not pipe.is_closing()

    peer.h2.end_stream(stream)
    await pipe.move()
    assert peer.trailers[stream]["grpc-status"] == "0"
    assert pipe.is_closing()
    assert not pipe.is_aborted


async def test_a_connection_whose_peer_leaves_ends_with_its_last_stream(bench: Bench) -> None:
    """Found by the fuzzer: it ended only if no stream was open at the GOAWAY, and else was kept until it was unused."""
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one")
    pipe.protocol.data_received(peer.h2.data_to_send() + GoAwayFrame(0).serialize())
    await pipe.move()
    assert not pipe.is_closing()
    peer.h2.send_data(stream, prefixed(b"two"), end_stream=True)
    await pipe.move()
    assert peer.messages(stream) == [b"one", b"two"]
    assert peer.trailers[stream]["grpc-status"] == "0"
    assert pipe.is_closing()
    assert not pipe.is_aborted


async def test_a_call_on_its_way_while_the_node_begins_to_leave_is_served(bench: Bench) -> None:
    peer, pipe = bench.connect()
    await pipe.move()
    assert isinstance(pipe.protocol, EdgeConnection)
    pipe.protocol.leave()
    stream = peer.call(CALL, b"one", end_stream=True)
    await pipe.move()
    assert peer.messages(stream) == [b"one"]
    assert peer.goaways[-1] == (stream, NO_ERROR)
    assert pipe.is_closing()


async def test_a_node_leaves_also_when_a_peer_answers_no_ping(bench: Bench) -> None:
    _peer, pipe = bench.connect()
    await pipe.move()
    assert isinstance(pipe.protocol, EdgeConnection)
    pipe.protocol.leave()
    await asyncio.sleep(0)
    later(pipe, 2.0)
    assert pipe.is_closing()


async def test_a_socket_that_takes_nothing_is_given_nothing_and_cut_in_the_end(bench: Bench) -> None:
    bench.behaviour = wait
    peer, pipe = bench.connect()
    peer.call(CALL)
    await pipe.move()
    pipe.protocol.pause_writing()
    writing = asyncio.create_task(bench.streams[0].write(b"news"))
    before = len(pipe.writes)
    peer.call(CALL)
    await pipe.move()
    assert len(pipe.writes) == before
    assert len(bench.streams) == 1  # nor is it listened to: what it says would ask for answers
    pipe.protocol.resume_writing()
    await pipe.move()
    assert len(pipe.writes) == before + 1
    assert writing.done()
    assert len(bench.streams) == 2
    pipe.protocol.pause_writing()
    later(pipe, bench.limits.blocked_s + 1)
    assert pipe.is_aborted


async def test_a_peer_that_is_not_listened_to_is_not_taken_for_dead(bench: Bench) -> None:
    """Its answer to a ping waits in the socket; that it takes nothing has a bound of its own."""
    bench.limits = replace(STRANGERS, blocked_s=1_000.0)
    peer, pipe = bench.connect()
    peer.call(CALL)
    await pipe.move()
    for pause_first in (True, False):
        if pause_first:
            pipe.protocol.pause_writing()
        later(pipe, bench.limits.ping_after_s + 1)
        pipe.protocol.pause_writing()
        later(pipe, bench.limits.ping_after_s + bench.limits.pong_within_s + 3)
        assert not pipe.is_closing()
        pipe.protocol.resume_writing()
        await pipe.move()
    assert len(peer.heard(h2.events.PingReceived)) == 1


async def test_a_peer_without_preface_is_cut(bench: Bench) -> None:
    _, pipe = bench.connect()
    later(pipe, bench.limits.preface_within_s + 1)
    assert pipe.is_aborted


async def test_a_connection_without_streams_ends_in_order(bench: Bench) -> None:
    peer, pipe = bench.connect()
    peer.call(CALL, end_stream=True)
    await pipe.move()
    later(pipe, bench.limits.unused_s + 1)
    await pipe.move()
    assert peer.goaways[-1][1] == NO_ERROR
    assert pipe.is_closing()
    assert not pipe.is_aborted


async def test_streams_too_many_before_the_bound_was_heard_are_refused_one_by_one(bench: Bench) -> None:
    """RFC 9113 5.1.2; gRPC tries a refused call again by itself."""
    bench.limits = replace(STRANGERS, max_streams=2)
    peer, pipe = bench.connect()
    streams = [peer.call(CALL, b"one", end_stream=True) for _ in range(3)]
    await pipe.move()
    assert peer.resets == {streams[2]: REFUSED_STREAM}
    assert [peer.messages(stream) for stream in streams] == [[b"one"], [b"one"], []]


async def test_a_peer_that_breaks_the_bound_of_streams_ends_its_connection(bench: Bench) -> None:
    bench.limits = replace(STRANGERS, max_streams=2)
    bench.behaviour = wait
    peer, pipe = bench.connect()
    for _ in range(2):
        peer.call(CALL)
    await pipe.move()
    with pytest.raises(h2.exceptions.TooManyStreamsError):
        peer.call(CALL)
    peer.h2.remote_settings.max_concurrent_streams = 10
    peer.h2.remote_settings.acknowledge()
    peer.call(CALL)
    await pipe.move()
    assert [code for _, code in peer.goaways] == [PROTOCOL_ERROR]
    assert pipe.is_closing()
    assert len(bench.streams) == 2


async def test_a_peer_that_goes_on_after_its_end_hears_why_the_connection_ends(bench: Bench) -> None:
    """RFC 9113 5.1; nghttp2 would read and drop it for ever."""
    bench.behaviour = wait
    peer, pipe = bench.connect()
    stream = peer.call(CALL, b"one")
    peer.call(CALL)
    await pipe.move()
    peer.h2.reset_stream(stream, CANCEL)
    await pipe.move()
    pipe.protocol.data_received(DataFrame(stream, b"more").serialize())
    await pipe.move()
    assert [code for _, code in peer.goaways] == [STREAM_CLOSED]
    assert pipe.is_closing()
    assert not pipe.is_aborted
    assert bench.ended == ["cancelled"] * 2


async def test_what_came_before_a_breach_is_taken_when_it_comes_with_it(bench: Bench) -> None:
    peer, pipe = bench.connect()
    await pipe.move()
    bench.behaviour = wait
    stream = peer.call(CALL, b"one", end_stream=True)
    said = peer.h2.data_to_send() + DataFrame(stream, b"more").serialize()
    pipe.protocol.data_received(said)
    await pipe.move()
    assert len(bench.streams) == 1
    assert peer.goaways == [(stream, STREAM_CLOSED)]
