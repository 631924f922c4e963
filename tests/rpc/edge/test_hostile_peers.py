"""Peers that want to harm, on sockets: each bound of strangers holds, in memory and time, and other peers are served.

Issue 5, TRAPS 8.7 and 8.8. What such a peer costs in one connection without sockets is in `tests/unit/edge`.
"""

import asyncio
import os
import ssl
import struct
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import structlog.testing
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hpack import Encoder
from hubbub.chat.v1 import chat_service_pb2
from hyperframe.frame import DataFrame, PingFrame
from prometheus_client import REGISTRY

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import HELLO_WITHIN_S, RESET_AFTER_S
from hubbub_server.edge.grpc_messages import prefixed
from hubbub_server.edge.limits import STRANGERS, TRUSTED_PROXY
from hubbub_server.edge.server import StreamEdge
from hubbub_server.rpc import streaming_calls
from tests.rpc.edge.test_edge import CONNECT, WINDOW_BYTES, connect, frames, send, status
from tests.support.certificates import make_certificate
from tests.support.h2_peer import SocketPeer, grpc_headers
from tests.support.live_client import reason_of
from tests.support.node import Node, NodeCluster, RpcClient
from tests.support.raw_peer import (
    ACK,
    CANCEL,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    RawPeer,
    call,
    frame,
    greeting,
    header_block,
)
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

SUBSCRIBE = "/hubbub.chat.v1.ChatService/Subscribe"
HEALTH = "/grpc.health.v1.Health/Check"
FLOW_CONTROL_ERROR, ENHANCE_YOUR_CALM = 3, 11
MEMORY_MAX_BYTES = 48 * 1024 * 1024
ANSWER_WITHIN_S = 3.0
MOST = 100_000
"""Frames of a flood that nothing ends: more than any bound in the time that it takes."""

NOTHING = header_block("/none")
FIELD = Encoder().encode([("x", "y" * 1_000)])

Flood = Callable[[bytes], tuple[bytes, Callable[[int], bytes]]]
"""What is said first, and then again and again; it is given the headers of a call that goes on."""


def ids(number: int) -> int:
    return 2 * number + 1


FLOODS: dict[str, Flood] = {
    "SETTINGS": lambda block: (b"", lambda _: frame(SETTINGS)),
    "SETTINGS that change windows": lambda block: (
        call(1, block),
        lambda number: frame(SETTINGS, payload=struct.pack(">HI", 4, 65_535 + number % 2)),
    ),
    "SETTINGS that answer nothing": lambda block: (b"", lambda _: frame(SETTINGS, ACK)),
    "PING": lambda block: (b"", lambda _: frame(PING, payload=b"12345678")),
    "answers to no PING": lambda block: (b"", lambda _: frame(PING, ACK, payload=b"12345678")),
    "calls and their resets": lambda block: (
        b"",
        lambda number: call(ids(number), block) + frame(RST_STREAM, 0, ids(number), CANCEL),
    ),
    "calls that we reset, by a window of 0": lambda block: (
        b"",
        lambda number: call(ids(number), block) + frame(WINDOW_UPDATE, 0, ids(number), bytes(4)),
    ),
    "calls that we reset, by data after the end": lambda block: (
        b"",
        lambda number: call(ids(number), block, flags=END_HEADERS | END_STREAM) + frame(DATA, 0, ids(number), b"x"),
    ),
    "calls of nothing": lambda block: (b"", lambda number: call(ids(number), NOTHING)),
    "calls that are malformed": lambda block: (
        b"",
        lambda number: call(ids(number), block + Encoder().encode([("Upper", "case")])),
    ),
    "calls too many at once": lambda block: (b"", lambda number: call(ids(number), block)),
    "CONTINUATION without an end": lambda block: (call(1, block, flags=0), lambda _: frame(CONTINUATION, 0, 1)),
    "CONTINUATION of a list without an end": lambda block: (
        call(1, block, flags=0),
        lambda _: frame(CONTINUATION, 0, 1, FIELD),
    ),
    "empty DATA": lambda block: (call(1, block), lambda _: frame(DATA, 0, 1)),
    "DATA of padding alone": lambda block: (
        call(1, block),
        lambda _: frame(DATA, PADDED, 1, b"\xff" + bytes(255)),
    ),
    "WINDOW_UPDATE of the connection": lambda block: (b"", lambda _: frame(WINDOW_UPDATE, payload=b"\0\0\0\1")),
    "WINDOW_UPDATE of a stream": lambda block: (call(1, block), lambda _: frame(WINDOW_UPDATE, 0, 1, b"\0\0\0\1")),
    "GOAWAY": lambda block: (call(1, block), lambda _: frame(GOAWAY, payload=bytes(8) + b"x" * 1_000)),
}


@asynccontextmanager
async def others_are_served(node: Node) -> AsyncIterator[None]:
    """Asks for health on another connection, again and again, in the block.

    The process must not have grown by it, and what a peer does is no fault of ours.
    """
    stub: Any = health_pb2_grpc.HealthStub(node.stream_channel)
    loop = asyncio.get_running_loop()
    waited_s = [0.0]

    async def ask() -> None:
        while True:
            began_s = loop.time()
            assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
            waited_s.append(loop.time() - began_s)
            await asyncio.sleep(0.03)  # 33 a second: less than a stranger may

    before_bytes = _resident_bytes()
    with structlog.testing.capture_logs() as logs:
        async with asyncio.TaskGroup() as tasks:
            asking = tasks.create_task(ask())
            yield
            count = len(waited_s)
            await until(lambda: len(waited_s) > count + 1)
            asking.cancel()
    assert [line for line in logs if line["log_level"] in ("error", "critical")] == []
    assert max(waited_s) < ANSWER_WITHIN_S
    assert _resident_bytes() - before_bytes < MEMORY_MAX_BYTES


def hello() -> bytes:
    message = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    return chat_service_pb2.ConnectRequest(hello=message).SerializeToString()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def ended(reason: str) -> float:
    """How many connections the edge ended for a reason."""
    return REGISTRY.get_sample_value("hubbub_edge_ended_connections_total", {"reason": reason}) or 0.0


# ---- floods


@pytest.mark.parametrize("kind", FLOODS)
async def test_a_flood_ends_its_connection_and_nobody_else_waits(node: Node, bob: Credentials, kind: str) -> None:
    opening, again = FLOODS[kind](header_block(CONNECT, token=bob.access_token))
    async with others_are_served(node), RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + opening)
        await peer.flood(again, most=MOST)
        await peer.until_closed()
    await until(lambda: len(node.streams) == 0)


@pytest.mark.parametrize("kind", ["PING", "SETTINGS", "calls of nothing", "calls and their resets", "empty DATA"])
async def test_a_flood_of_a_peer_that_reads_nothing_is_cut(node: Node, bob: Credentials, kind: str) -> None:
    """Answers would pile up."""
    opening, again = FLOODS[kind](header_block(CONNECT, token=bob.access_token))
    edge = node.edge
    assert edge is not None
    async with RawPeer(node.stream_address, reads=False) as peer:
        async with others_are_served(node):
            await peer.say(greeting() + opening)
            await peer.flood(again, most=MOST)
        edge.tick(ahead_s=STRANGERS.blocked_s + STRANGERS.finish_within_s + 1.0)
        await until(lambda: len(edge) <= 1)  # health has one
    await until(lambda: len(node.streams) == 0)


@pytest.mark.parametrize(
    "again",
    [
        pytest.param(lambda number: frame(PRIORITY, 0, ids(number % 50 + 1), b"\0\0\0\0\x10"), id="PRIORITY"),
        pytest.param(lambda number: frame(0xEE, 0xFF, number % 7, b"?"), id="frames of no known kind"),
        pytest.param(lambda number: frame(DATA, 0, 1, b"x"), id="DATA of a stream that is over"),
    ],
)
async def test_frames_that_ask_for_nothing_cost_no_memory_and_hold_up_nobody(
    node: Node, again: Callable[[int], bytes]
) -> None:
    """They are ignored, as HTTP/2 wants it, or end the connection."""
    block = header_block(CONNECT)
    async with others_are_served(node), RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + call(1, block) + frame(RST_STREAM, 0, 1, CANCEL))
        await peer.flood(again, most=4 * MOST)


async def test_a_proxy_whose_clients_vanish_together_keeps_its_connection(
    cluster: NodeCluster, bob: Credentials
) -> None:
    """TRAPS 1.20: that is a burst of resets, and would be a flood of a stranger."""
    block = header_block(CONNECT, token=bob.access_token)
    cluster.edge_limits = TRUSTED_PROXY
    async with cluster.node() as node, RawPeer(node.stream_address) as peer:
        await peer.say(greeting())
        for round_number in range(2):  # more resets than libnghttp2 takes by itself
            numbers = [ids(round_number * 1_000 + number) for number in range(900)]
            await peer.say(b"".join(call(number, block) for number in numbers))
            await until(lambda: len(node.streams) == 900)
            await peer.say(b"".join(frame(RST_STREAM, 0, number, CANCEL) for number in numbers))
            await until(lambda: len(node.streams) == 0)
        await peer.say(call(ids(10_000), block))
        await until(lambda: len(node.streams) == 1)
        assert not peer.is_closed


# ---- how much at once


async def test_connections_too_many_are_closed_and_the_others_go_on(cluster: NodeCluster, bob: Credentials) -> None:
    cluster.edge_limits = replace(STRANGERS, max_connections=2)
    async with cluster.node() as node, SocketPeer(node.stream_address) as peer, RawPeer(node.stream_address):
        stream = await connect(peer, bob)
        before = ended("too many")
        for _ in range(5):
            async with RawPeer(node.stream_address) as late:
                await late.until_closed()
                assert late.frames == []
        assert ended("too many") == before + 5
        assert stream not in peer.trailers
        peer.h2.ping(b"12345678")
        await peer.until(lambda: not peer.is_closed and len(node.streams) == 1)


async def test_a_connection_has_so_many_streams_and_what_is_more_is_refused(node: Node, bob: Credentials) -> None:
    """A peer that has not heard of the bound; one that breaks what it has confirmed loses the connection."""
    block = header_block(CONNECT, token=bob.access_token)
    async with RawPeer(node.stream_address) as peer:
        count = STRANGERS.max_streams + 5
        await peer.say(greeting() + b"".join(call(ids(number), block) for number in range(count)))
        await peer.until(lambda: len(peer.resets) == 5)
        assert peer.resets == {ids(number): 7 for number in range(STRANGERS.max_streams, count)}  # REFUSED_STREAM
        assert len(node.streams) == STRANGERS.max_streams
        await peer.say(frame(SETTINGS, ACK) + call(ids(count), block))
        await peer.until_closed()
    await until(lambda: len(node.streams) == 0)


FIELDS: dict[str, list[tuple[str, str]]] = {
    "too many": [(f"x-{number}", "") for number in range(STRANGERS.header_max_fields)],
    "too long": [("x", "y" * STRANGERS.header_max_bytes)],
    # RFC 7541: each use after the first is one byte, and stands for 4,000
    "small on the wire, large decoded": [("x", "y" * 4_000)] * 16_000,
}


@pytest.mark.parametrize("fields", FIELDS)
async def test_headers_beyond_their_bounds_end_the_connection(node: Node, fields: str) -> None:
    encoded = Encoder().encode([*grpc_headers(CONNECT), *FIELDS[fields]])
    assert fields != "small on the wire, large decoded" or len(encoded) < 20_000
    parts = [encoded[start : start + 16_384] for start in range(0, len(encoded), 16_384)]
    kinds = [HEADERS, *[CONTINUATION] * (len(parts) - 1)]
    flags = [*[0] * (len(parts) - 1), END_HEADERS]
    block = b"".join(frame(kind, flag, 1, part) for kind, flag, part in zip(kinds, flags, parts, strict=True))
    async with others_are_served(node), RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + block)
        await peer.until_closed()


async def test_metadata_beyond_its_bound_ends_its_call_alone(node: Node, bob: Credentials) -> None:
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        large = peer.call(grpc_headers(CONNECT, ("x", "y" * STRANGERS.metadata_max_bytes), token=bob.access_token))
        await peer.until(lambda: large in peer.trailers)
        assert peer.trailers[large]["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        await connect(peer, bob)


async def test_a_message_beyond_its_bound_ends_its_call_alone(node: Node, bob: Credentials) -> None:
    """By its length: none of it is waited for."""
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        large = peer.call(grpc_headers(CONNECT, token=bob.access_token))
        peer.h2.send_data(large, b"\0" + (STRANGERS.message_max_bytes + 1).to_bytes(4))
        await peer.until(lambda: large in peer.trailers)
        assert peer.trailers[large]["grpc-status"] == str(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0])
        await connect(peer, bob)
    await until(lambda: len(node.streams) == 0)


async def test_garbage_for_health_is_refused_and_no_fault_of_ours(node: Node) -> None:
    async with others_are_served(node), SocketPeer(node.stream_address) as peer:
        garbled = peer.call(grpc_headers(HEALTH), b"\xff\xff", end_stream=True)
        empty = peer.call(grpc_headers(HEALTH), end_stream=True)
        await peer.until(lambda: {garbled, empty} <= peer.trailers.keys())
        invalid = str(grpc.StatusCode.INVALID_ARGUMENT.value[0])
        assert [peer.trailers[stream]["grpc-status"] for stream in (garbled, empty)] == [invalid, invalid]


# ---- windows


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(frame(WINDOW_UPDATE, payload=b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR, id="the connection's"),
        pytest.param(
            frame(SETTINGS, payload=struct.pack(">HI", 4, 2**31)), FLOW_CONTROL_ERROR, id="the first of streams"
        ),
        pytest.param(frame(WINDOW_UPDATE, payload=bytes(4)), 1, id="of 0"),
    ],
)
async def test_a_window_of_the_connection_that_cannot_be_ends_it_and_says_why(
    node: Node, said: bytes, code: int
) -> None:
    """RFC 9113 6.9.1, 6.5.2 and 6.9."""
    async with RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + said)
        await peer.until_closed()
        assert peer.goaways == [code]


@pytest.mark.parametrize(
    ("said", "code"),
    [
        pytest.param(frame(WINDOW_UPDATE, 0, 1, b"\x7f\xff\xff\xff"), FLOW_CONTROL_ERROR, id="that overflows"),
        pytest.param(frame(WINDOW_UPDATE, 0, 1, bytes(4)), 1, id="of 0"),
    ],
)
async def test_a_window_of_a_stream_that_cannot_be_ends_the_connection_too(
    node: Node, bob: Credentials, said: bytes, code: int
) -> None:
    """RFC 9113 5.4.1: a stream error may end the connection, and nghttp2 does so."""
    async with RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + call(1, header_block(CONNECT, token=bob.access_token)))
        await until(lambda: len(node.streams) == 1)
        await peer.say(said)
        await peer.until_closed()
        assert peer.goaways == [code]
    await until(lambda: len(node.streams) == 0)


async def test_a_window_of_0_gets_nothing_and_costs_the_stream_when_the_node_has_waited_long_enough(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """G6. The window of the connection is open, so another stream of it could go on."""
    async with others_are_served(node), RawPeer(node.stream_address) as peer:
        block = header_block(CONNECT, token=bob.access_token)
        await peer.say(greeting(window_bytes=0) + call(1, block) + frame(DATA, 0, 1, prefixed(hello())))
        await until(lambda: len(node.hub.topic(direct).subscribers) == 1)  # type: ignore[arg-type]  # a topic id
        await send(client, direct, count=150, size_bytes=7_900)
        node.streams.tick()
        cluster.clock.advance(RESET_AFTER_S + 0.001)
        node.streams.tick()
        await until(lambda: len(node.streams) == 0)
        await peer.until(lambda: peer.resets == {1: ENHANCE_YOUR_CALM})
        assert not any(isinstance(each, DataFrame) and each.data for each in peer.frames)


async def test_an_answer_that_nobody_takes_is_not_kept(node: Node) -> None:
    async with RawPeer(node.stream_address) as peer:
        said = call(1, header_block(HEALTH)) + frame(DATA, END_STREAM, 1, prefixed(b""))
        await peer.say(greeting(window_bytes=0) + said)
        await peer.until(lambda: any(each.stream_id == 1 for each in peer.frames))
        assert node.edge is not None
        node.edge.tick(ahead_s=STRANGERS.taken_within_s + 1.0)
        await peer.until(lambda: peer.resets == {1: ENHANCE_YOUR_CALM})


async def test_a_window_that_shrinks_below_what_is_sent_is_kept(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """RFC 9113 6.9.2: it is negative then, and nothing comes until it is open again."""
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        stream = await connect(peer, bob)
        await send(client, direct, count=5, size_bytes=7_900)
        await peer.until(lambda: sum(len(each.events) for each in frames(peer, stream)) == 5)
        had = len(peer.bodies[stream])
        peer.h2.update_settings({4: had - 10_000})
        peer.flush()
        peer.h2.ping(b"12345678")
        await peer.until(lambda: bool(peer.heard_pong))
        await send(client, direct, count=3, size_bytes=7_900)
        peer.h2.ping(b"87654321")
        await peer.until(lambda: peer.heard_pong == 2)
        assert len(peer.bodies[stream]) == had

        peer.h2.increment_flow_control_window(60_000, stream)
        await peer.until(lambda: sum(len(each.events) for each in frames(peer, stream)) == 8)


# ---- silence and slowness


@pytest.mark.parametrize("said", [b"", PREFACE[:10], PREFACE, PREFACE + frame(SETTINGS)[:5]])
async def test_a_peer_that_does_not_greet_is_cut(node: Node, said: bytes) -> None:
    async with RawPeer(node.stream_address) as peer:
        await peer.say(said)
        await peer.until(lambda: bool(peer.frames))
        assert node.edge is not None
        before = ended("no preface")
        node.edge.tick(ahead_s=STRANGERS.preface_within_s - 1.0)
        assert not peer.is_closed
        node.edge.tick(ahead_s=STRANGERS.preface_within_s + 1.0)
        await peer.until_closed()
        assert ended("no preface") == before + 1


@pytest.mark.parametrize("said", [b"GET / HTTP/1.1\r\nHost: edge\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20, bytes(100)])
async def test_a_peer_that_speaks_something_else_is_cut_at_once(node: Node, said: bytes) -> None:
    async with RawPeer(node.stream_address) as peer:
        await peer.say(said)
        await peer.until_closed()


async def test_a_handshake_of_tls_that_does_not_end_is_cut(cluster: NodeCluster, node: Node, tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path)
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    limits = replace(STRANGERS, preface_within_s=0.2)
    async with StreamEdge(node.server.streaming_calls(), limits=limits, is_ready=lambda: True) as edge:
        port = await edge.start("127.0.0.1", 0, tls=tls)
        async with RawPeer(f"127.0.0.1:{port}") as peer:
            await peer.until_closed()
        assert len(edge) == 0


async def test_a_stream_without_hello_ends(cluster: NodeCluster, node: Node, bob: Credentials) -> None:
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        stream = peer.call(grpc_headers(CONNECT, token=bob.access_token))
        await peer.until(lambda: len(node.streams) == 1)
        cluster.clock.advance(HELLO_WITHIN_S + 0.001)
        node.streams.tick()
        await peer.until(lambda: stream in peer.trailers)
        assert reason_of(status(peer, stream)) == "STREAM_PROTOCOL"
    assert len(node.streams) == 0


async def _says_nothing(peer: SocketPeer, token: str) -> int:
    return peer.call(grpc_headers(SUBSCRIBE, token=token))


async def _says_half(peer: SocketPeer, token: str) -> int:
    stream = peer.call(grpc_headers(SUBSCRIBE, token=token))
    peer.h2.send_data(stream, prefixed(b"half of it")[:-5])
    return stream


@pytest.mark.parametrize("how", [_says_nothing, _says_half])
async def test_a_call_without_its_request_ends(
    node: Node, bob: Credentials, how: Callable[[SocketPeer, str], Awaitable[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming_calls, "_REQUEST_WITHIN_S", 0.2)
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        stream = await how(peer, bob.access_token)
        await peer.until(lambda: stream in peer.trailers)
        assert peer.trailers[stream]["grpc-status"] == str(grpc.StatusCode.DEADLINE_EXCEEDED.value[0])


async def test_a_message_that_comes_byte_by_byte_ends_its_stream_and_no_other(node: Node, bob: Credentials) -> None:
    """A slow writer: what has begun must end in time, however often something comes."""
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        slow, quick = await connect(peer, bob), await connect(peer, bob)
        assert node.edge is not None
        for byte in prefixed(b"a long message")[:-1]:
            peer.h2.send_data(slow, bytes([byte]))
            peer.flush()
        peer.h2.ping(b"12345678")
        await peer.until(lambda: bool(peer.heard_pong))
        node.edge.tick(ahead_s=STRANGERS.message_within_s + 1.0)
        await peer.until(lambda: slow in peer.trailers)
        assert reason_of(status(peer, slow)) == "STREAM_PROTOCOL"
        assert quick not in peer.trailers
        assert len(node.streams) == 1


async def test_headers_that_do_not_end_hold_a_connection_no_longer_than_silence(node: Node) -> None:
    async with RawPeer(node.stream_address) as peer:
        await peer.say(greeting())
        await peer.until(lambda: bool(peer.frames))
        for byte in call(1, header_block(CONNECT))[:-1]:
            assert await peer.say(bytes([byte]))
        assert node.edge is not None
        node.edge.tick(ahead_s=STRANGERS.unused_s + 1.0)
        await peer.until_closed()


async def test_a_socket_whose_other_end_is_gone_is_found_by_a_ping_and_its_sessions_end(
    node: Node, bob: Credentials
) -> None:
    """Half-open: nothing comes any more, and nobody says so."""
    async with RawPeer(node.stream_address) as peer:
        await peer.say(greeting() + call(1, header_block(CONNECT, token=bob.access_token)))
        await until(lambda: len(node.streams) == 1)
        assert node.edge is not None
        before = ended("dead")
        node.edge.tick(ahead_s=STRANGERS.ping_after_s + 1.0)
        await peer.until(lambda: any(isinstance(each, PingFrame) for each in peer.frames))
        node.edge.tick(ahead_s=STRANGERS.ping_after_s + STRANGERS.pong_within_s + 2.0)
        await peer.until_closed()
        assert ended("dead") == before + 1
        await until(lambda: len(node.streams) == 0)


async def test_a_peer_that_takes_nothing_from_its_socket_is_cut_and_memory_is_bounded(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """Its windows are wide open: only the socket holds it back."""
    streams = 20
    block = header_block(CONNECT, token=bob.access_token)
    async with RawPeer(node.stream_address, reads=False) as peer:
        async with others_are_served(node):
            await peer.say(greeting(window_bytes=2**31 - 1) + frame(WINDOW_UPDATE, payload=struct.pack(">I", 2**30)))
            for number in range(streams):
                await peer.say(call(ids(number), block) + frame(DATA, 0, ids(number), prefixed(hello())))
            topic = node.hub.topic(direct)  # type: ignore[arg-type]  # a topic id
            await until(lambda: len(topic.subscribers) == streams)
            await send(client, direct, count=100, size_bytes=7_900)
        before = ended("blocked")
        assert node.edge is not None
        node.edge.tick(ahead_s=STRANGERS.blocked_s + 1.0)
        await until(lambda: ended("blocked") == before + 1)
        await until(lambda: len(node.streams) == 0)
