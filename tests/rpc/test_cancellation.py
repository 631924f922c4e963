"""The client may go at any await of a stream: its session, its topics and its place among the streams are free then."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable

import grpc.aio
import pytest
from hubbub.chat.v1 import chat_service_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import RESET_AFTER_S
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.rpc.server import ServerLimits
from tests.support.live_client import LiveClient, reason_of, status_of_error, text_message
from tests.support.node import WITHIN_S, Node, NodeCluster, RpcClient, until

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]

_SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))


async def _never(topic_id: TopicId) -> LogRecord | None:
    await asyncio.get_running_loop().create_future()
    return None


Scene = Callable[[NodeCluster, Node, RpcClient, str], Awaitable[grpc.aio.Call]]


async def _before_hello(cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str) -> grpc.aio.Call:
    live = LiveClient.silent(client)
    await until(lambda: len(node.streams) == 1)
    return live.call


async def _while_topics_open(
    cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str
) -> grpc.aio.Call:
    node.log.read_head = _never  # type: ignore[method-assign]  # the log does not answer
    live = LiveClient.silent(client)
    await live.hello()
    await live.expect(lambda frame: frame.HasField("welcome"))
    return live.call


async def _while_idle(cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str) -> grpc.aio.Call:
    return (await LiveClient.connect(client)).call


async def _while_subscribed(cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str) -> grpc.aio.Call:
    hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    call = client.chat.Subscribe(chat_service_pb2.SubscribeRequest(hello=hello), metadata=client.auth)
    await call.read()
    return call


async def _while_a_write_is_blocked(
    cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str
) -> grpc.aio.Call:
    live = await LiveClient.connect(client)
    for _ in range(60):
        await client.chat.SendMessage(text_message(conversation_id, "x" * 8_000), metadata=client.auth)
    return live.call


async def _while_the_status_is_blocked(
    cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str
) -> grpc.aio.Call:
    live = await LiveClient.connect(client)
    for _ in range(200):
        await client.chat.SendMessage(text_message(conversation_id, "x" * 8_000), metadata=client.auth)
    node.streams.tick()
    cluster.clock.advance(RESET_AFTER_S + 0.001)
    node.streams.tick()
    await until(lambda: len(node.streams) == 0)
    return live.call


async def _while_half_closed(
    cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str
) -> grpc.aio.Call:
    live = await LiveClient.connect(client)
    await live.call.done_writing()
    return live.call


async def _while_sync_reads(cluster: NodeCluster, node: Node, client: RpcClient, conversation_id: str) -> grpc.aio.Call:
    node.log.read_head = _never  # type: ignore[method-assign]  # the log does not answer
    call = client.history.Sync(metadata=client.auth)
    cursor = conversation_pb2.Cursor(topic_id=conversation_id, epoch=1)
    await call.write(history_service_pb2.SyncRequest(cursors=[cursor]))
    await asyncio.sleep(0.02)  # nothing tells from outside that the read has begun; cancelling earlier is right too
    return call


_SCENES: tuple[Scene, ...] = (
    _before_hello,
    _while_topics_open,
    _while_idle,
    _while_subscribed,
    _while_a_write_is_blocked,
    _while_the_status_is_blocked,
    _while_half_closed,
    _while_sync_reads,
)


@pytest.mark.parametrize("scene", _SCENES, ids=lambda scene: scene.__name__.strip("_"))
async def test_a_client_that_goes_leaves_nothing_behind(
    scene: Scene, cluster: NodeCluster, alice: Credentials, bob: Credentials
) -> None:
    """One stream is allowed, so the next one opens only when all of the first is gone."""
    async with cluster.node(limits=ServerLimits(max_streams=1), channel_options=_SMALL_WINDOW) as node:
        view = await node.conversations.create_direct(alice.user_id, bob.user_id)
        client = node.client(alice.access_token)
        call = await scene(cluster, node, client, view.conversation_id)
        tasks = _stream_tasks()

        call.cancel()

        await until(lambda: len(node.streams) == 0 and not tasks & _stream_tasks())
        node.log.__dict__.pop("read_head", None)
        assert node.hub.topic(view.conversation_id).subscribers == set()
        await until(lambda: node.hub.topic(alice.user_id).subscribers == set())  # when the leaving is told
        await _connect_when_there_is_room(client)


async def _connect_when_there_is_room(client: RpcClient) -> None:
    async with asyncio.timeout(WITHIN_S):
        while True:
            try:
                live = await LiveClient.connect(client)
            except asyncio.InvalidStateError:
                pass  # refused before Hello was written
            except grpc.aio.AioRpcError as error:
                if reason_of(status_of_error(error)) != "BACKEND_UNAVAILABLE":
                    raise
            else:
                live.call.cancel()
                return


def _stream_tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks() if task.get_name() == "stream reader"}
