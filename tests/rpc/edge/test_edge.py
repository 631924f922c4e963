"""The stream edge of a node on a socket, with a peer that opens no window by itself, on both event loops (G6, C86)."""

import asyncio
import base64
import ssl
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.send_queue import BUFFER_MAX_BYTES
from hubbub_server.app.session import RESET_AFTER_S
from hubbub_server.edge.limits import STRANGERS
from hubbub_server.edge.server import StreamEdge
from tests.support.certificates import make_certificate
from tests.support.h2_peer import H2Peer, SocketPeer, grpc_headers
from tests.support.live_client import LiveClient, reason_of, text_message
from tests.support.node import WITHIN_S, Node, NodeCluster, RpcClient
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

CONNECT = "/hubbub.chat.v1.ChatService/Connect"
CANCEL, ENHANCE_YOUR_CALM = 8, 11
WINDOW_BYTES = 65_535


@pytest_asyncio.fixture
async def peer(node: Node) -> AsyncIterator[SocketPeer]:
    """A peer whose streams have the window that most clients have, and whose connection has a large one."""
    async with SocketPeer(node.stream_address, window_bytes=WINDOW_BYTES) as peer:
        yield peer


def frames(peer: H2Peer, stream: int) -> list[frame_pb2.ServerFrame]:
    return [chat_service_pb2.ConnectResponse.FromString(each).frame for each in peer.messages(stream)]


async def until_events(peer: SocketPeer, stream: int, count: int) -> None:
    await peer.until(lambda: sum(len(frame.events) for frame in frames(peer, stream)) == count)


def controls(peer: H2Peer, stream: int) -> list[str]:
    return [kind for frame in frames(peer, stream) if (kind := frame.WhichOneof("control")) is not None]


def status(peer: H2Peer, stream: int) -> status_pb2.Status:
    details = peer.trailers[stream]["grpc-status-details-bin"]
    return status_pb2.Status.FromString(base64.b64decode(details + "=="))


async def connect(peer: SocketPeer, credentials: Credentials) -> int:
    """Opens a stream and waits until it covers all topics."""
    hello = chat_service_pb2.ConnectRequest(hello=chat_service_pb2.Hello(instance_id=str(uuid.uuid4())))
    stream = peer.call(grpc_headers(CONNECT, token=credentials.access_token), hello.SerializeToString())
    await peer.until(lambda: "heads" in controls(peer, stream))
    return stream


async def send(client: RpcClient, conversation_id: str, *, count: int, size_bytes: int) -> None:
    for _ in range(count):
        await client.chat.SendMessage(text_message(conversation_id, "x" * size_bytes), metadata=client.auth)


async def test_a_subscription_goes_on_when_its_request_ends_late(
    client: RpcClient, peer: SocketPeer, bob: Credentials, direct: str
) -> None:
    """A proxy may send END_STREAM in a frame of its own, after the answer has begun."""
    request = chat_service_pb2.SubscribeRequest(hello=chat_service_pb2.Hello(instance_id=str(uuid.uuid4())))
    headers = grpc_headers("/hubbub.chat.v1.ChatService/Subscribe", token=bob.access_token)
    stream = peer.call(headers, request.SerializeToString())
    await peer.until(lambda: "heads" in controls(peer, stream))

    peer.h2.end_stream(stream)
    await send(client, direct, count=1, size_bytes=10)

    await until_events(peer, stream, 1)
    assert stream not in peer.trailers


async def test_a_closed_window_costs_lagging_then_goodbye_and_no_other_stream_of_the_connection_waits(
    node: Node, client: RpcClient, peer: SocketPeer, bob: Credentials, direct: str
) -> None:
    """G6: the queue is bounded; what was thrown away is never half of it, and the client is told."""
    slow, *_, quick = [await connect(peer, bob) for _ in range(6)]  # in whatever order the topic has them
    count = 2 * BUFFER_MAX_BYTES // 8_000
    for sent in range(1, count + 1):
        await send(client, direct, count=1, size_bytes=7_900)
        await until_events(peer, quick, sent)
        peer.h2.increment_flow_control_window(WINDOW_BYTES - peer.h2.remote_flow_control_window(quick), quick)
    assert len(peer.bodies[slow]) <= WINDOW_BYTES
    assert slow not in peer.trailers

    peer.h2.increment_flow_control_window(WINDOW_BYTES, slow)
    await peer.until(lambda: slow in peer.trailers)

    assert controls(peer, slow) == ["welcome", "heads", "goodbye"]
    assert frames(peer, slow)[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_SLOW_READER
    assert reason_of(status(peer, slow)) == "RATE_LIMITED"
    positions = [event.position for frame in frames(peer, slow) for event in frame.events]
    assert positions == list(range(3, 3 + len(positions)))


async def test_a_reader_that_lags_is_told_before_it_is_too_late(
    client: RpcClient, peer: SocketPeer, bob: Credentials, direct: str
) -> None:
    slow = await connect(peer, bob)
    await send(client, direct, count=90, size_bytes=7_900)

    peer.h2.increment_flow_control_window(2 * BUFFER_MAX_BYTES, slow)
    await until_events(peer, slow, 90)

    assert controls(peer, slow) == ["welcome", "heads", "lagging"]
    assert slow not in peer.trailers


async def test_a_reader_that_is_given_up_between_messages_is_told_why(
    cluster: NodeCluster, node: Node, client: RpcClient, peer: SocketPeer, bob: Credentials, direct: str
) -> None:
    """RFC 9113 6.9: trailers need no window."""
    slow = await connect(peer, bob)
    await send(client, direct, count=150, size_bytes=7_900)
    await _give_up(cluster, node)
    await peer.until(lambda: slow in peer.resets)

    assert reason_of(status(peer, slow)) == "RATE_LIMITED"
    assert peer.resets == {slow: 0}
    assert len(node.streams) == 0


async def test_a_reader_that_is_given_up_inside_of_a_message_is_reset(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """Between the bytes of a message gRPC has no place for trailers; it reads this reset as RESOURCE_EXHAUSTED."""
    async with SocketPeer(node.stream_address, window_bytes=20_000) as peer:
        slow = await connect(peer, bob)
        await send(client, direct, count=150, size_bytes=7_900)
        await _give_up(cluster, node)
        await peer.until(lambda: slow in peer.resets)

        assert peer.resets == {slow: ENHANCE_YOUR_CALM}
        assert slow not in peer.trailers
        assert len(node.streams) == 0


async def _give_up(cluster: NodeCluster, node: Node) -> None:
    node.streams.tick()
    cluster.clock.advance(RESET_AFTER_S + 0.001)
    node.streams.tick()


async def test_a_failed_call_has_status_message_and_details(peer: SocketPeer) -> None:
    stream = peer.call(grpc_headers(CONNECT, token="no token"))
    await peer.until(lambda: stream in peer.trailers)
    found = status(peer, stream)
    assert peer.trailers[stream]["grpc-status"] == str(found.code) == "16"
    assert reason_of(found) == "INVALID_CREDENTIALS"
    assert peer.trailers[stream]["content-type"] == "application/grpc"


async def test_a_reset_ends_the_session_at_once(node: Node, peer: SocketPeer, bob: Credentials, direct: str) -> None:
    stream = await connect(peer, bob)
    assert len(node.streams) == 1
    peer.h2.reset_stream(stream, CANCEL)
    await peer.until(lambda: len(node.streams) == 0)
    assert node.hub.topic(direct).subscribers == set()  # type: ignore[arg-type]  # a topic id


async def test_a_socket_that_closes_ends_its_sessions_at_once(node: Node, bob: Credentials) -> None:
    async with SocketPeer(node.stream_address) as peer:
        await connect(peer, bob)
        await connect(peer, bob)
        assert len(node.streams) == 2
    await until(lambda: len(node.streams) == 0)


async def test_a_command_in_pieces_is_answered_once(peer: SocketPeer, bob: Credentials, direct: str) -> None:
    stream = await connect(peer, bob)
    command = frame_pb2.Command(request_id="1", send_message=text_message(direct, "hi"))
    data = chat_service_pb2.ConnectRequest(command=command).SerializeToString()
    data = b"\0" + len(data).to_bytes(4) + data
    for start in range(0, len(data), 9):
        peer.h2.send_data(stream, data[start : start + 9])
        peer.flush()
        await asyncio.sleep(0)
    await peer.until(lambda: "reply" in controls(peer, stream))
    assert controls(peer, stream).count("reply") == 1
    assert [each.reply.request_id for each in frames(peer, stream) if each.HasField("reply")] == ["1"]


async def test_unary_methods_are_not_served_here(peer: SocketPeer, bob: Credentials) -> None:
    path = "/hubbub.chat.v1.ChatService/SendMessage"
    stream = peer.call(grpc_headers(path, token=bob.access_token), b"", end_stream=True)
    await peer.until(lambda: stream in peer.trailers)
    assert peer.trailers[stream]["grpc-status"] == "12"


async def test_health_of_the_edge_is_that_of_the_node(node: Node) -> None:
    stub: Any = health_pb2_grpc.HealthStub(node.stream_channel)
    request = health_pb2.HealthCheckRequest()
    seen = [(await stub.Check(request)).status]
    node.log.cut()
    seen.append((await stub.Check(request)).status)
    node.log.heal()
    seen.append((await stub.Check(request)).status)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert seen == [serving, not_serving, serving]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_a_node_that_stops_says_so_lets_its_streams_end_and_closes(
    node: Node, peer: SocketPeer, bob: Credentials
) -> None:
    """C81: GOAWAY with the last stream; Goodbye comes by the drain; then the connection is closed, not cut."""
    stream = await connect(peer, bob)
    assert node.edge is not None
    async with asyncio.TaskGroup() as group:
        group.create_task(node.edge.stop(5.0))
        await peer.until(lambda: len(peer.goaways) == 2)
        assert not node.edge.is_serving
        assert stream not in peer.trailers
        group.create_task(node.streams.drain())
    await peer.until(lambda: peer.is_closed)
    assert peer.goaways == [(2**31 - 1, 0), (stream, 0)]
    assert controls(peer, stream)[-1] == "goodbye"
    assert reason_of(status(peer, stream)) == "NODE_DRAINING"


async def test_a_stop_without_grace_cuts_who_does_not_leave(node: Node, peer: SocketPeer, bob: Credentials) -> None:
    await connect(peer, bob)
    assert node.edge is not None
    async with asyncio.timeout(3):
        await node.edge.stop(0.1)
    await peer.until(lambda: peer.is_closed)
    assert len(node.streams) == 0


async def test_tls_serves_who_speaks_http2_and_nobody_else(
    cluster: NodeCluster, node: Node, bob: Credentials, tmp_path: Path
) -> None:
    certificate, key = make_certificate(tmp_path)
    server_tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_tls.load_cert_chain(certificate, key)
    calls = node.server.streaming_calls()
    async with StreamEdge(calls, limits=cluster.edge_limits, is_ready=lambda: True) as edge:
        port = await edge.start("127.0.0.1", 0, tls=server_tls)
        credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
        async with grpc.aio.secure_channel(f"localhost:{port}", credentials) as channel:
            live = await LiveClient.connect(RpcClient(channel, bob.access_token))
            live.call.cancel()
        other = ssl.create_default_context(cafile=certificate)
        other.set_alpn_protocols(["http/1.1"])
        assert await _first_byte(port, other) == b""


async def _first_byte(port: int, tls: ssl.SSLContext) -> bytes:
    try:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=tls)
    except (ConnectionError, ssl.SSLError):
        return b""
    try:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        return await reader.read(1)
    except (ConnectionError, ssl.SSLError):
        return b""
    finally:
        writer.transport.abort()


async def test_a_peer_that_talks_on_hears_the_last_words_and_the_end(node: Node) -> None:
    """Closing a socket with bytes unread resets it, and a peer may lose what it has not read yet."""
    reader, writer = await asyncio.open_connection(*node.stream_address.split(":"))
    peer = H2Peer()
    for _ in range(100):
        peer.h2.ping(b"too many")
    writer.write(peer.h2.data_to_send())
    async with asyncio.timeout(WITHIN_S):
        while not peer.goaways:
            peer.take(await reader.read(65_536))
        writer.write(b"\0" * 4_000_000)
        await writer.drain()
        assert await reader.read() == b""
    assert peer.goaways[0][1] == ENHANCE_YOUR_CALM
    writer.close()
    await writer.wait_closed()
    assert node.edge is not None
    edge = node.edge
    async with asyncio.timeout(WITHIN_S):
        await until(lambda: len(edge) == 0)


async def test_a_peer_that_does_not_close_after_the_last_words_is_cut(node: Node) -> None:
    reader, writer = await asyncio.open_connection(*node.stream_address.split(":"))
    peer = H2Peer()
    for _ in range(100):
        peer.h2.ping(b"too many")
    writer.write(peer.h2.data_to_send())
    assert node.edge is not None
    edge = node.edge
    async with asyncio.timeout(WITHIN_S):
        while await reader.read(65_536):
            pass
        assert len(edge) == 1
        edge.tick(ahead_s=STRANGERS.finish_within_s + 0.1)
        await until(lambda: len(edge) == 0)
    writer.close()
