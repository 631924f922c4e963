"""One call on the edge, with a peer that does exactly what a test wants, without sockets."""

import asyncio

import grpc
import pytest

from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.stream import EdgeStream
from tests.support.edge_bench import CALL, Bench, later, wait
from tests.support.h2_peer import grpc_headers

pytestmark = pytest.mark.asyncio

NO_ERROR, CANCEL = 0, 8


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
