"""Peers of the edge that read late, say nothing or stop in the middle: each costs only itself (C86, G6)."""

import asyncio
from dataclasses import replace

import grpc
import h2.events
import pytest

from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.limits import STRANGERS
from hubbub_server.edge.stream import EdgeStream
from tests.support.edge_bench import CALL, Bench, later, wait

pytestmark = pytest.mark.asyncio

ENHANCE_YOUR_CALM = 11


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
