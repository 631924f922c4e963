"""One connection of the edge: its frames, bounds, breaches and end, with a peer without sockets (C86, G6)."""

import asyncio
from dataclasses import replace

import h2.events
import h2.exceptions
import pytest
from hyperframe.frame import DataFrame, GoAwayFrame

from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.limits import STRANGERS, Rate
from hubbub_server.edge.stream import EdgeStream
from tests.support.edge_bench import CALL, Bench, later, wait

pytestmark = pytest.mark.asyncio

NO_ERROR, PROTOCOL_ERROR, STREAM_CLOSED, REFUSED_STREAM, CANCEL, ENHANCE_YOUR_CALM = 0, 1, 5, 7, 8, 11


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
