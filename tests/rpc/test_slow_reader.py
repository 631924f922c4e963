"""A client that stops reading (G6, C86): it costs itself, and only a bounded time and memory of the node."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from hubbub.chat.v1 import frame_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import RESET_AFTER_S
from tests.support.live_client import LiveClient, reason_of, text_message
from tests.support.node import Node, NodeCluster, RpcClient, until

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]

_SMALL_WINDOW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_535))
_TEXT = "x" * 8_000


@pytest_asyncio.fixture
async def node(cluster: NodeCluster) -> AsyncIterator[Node]:
    """A node whose test client takes 64 KiB before it reads."""
    async with cluster.node(channel_options=_SMALL_WINDOW) as node:
        yield node


async def _fill(node: Node, client: RpcClient, conversation_id: str) -> None:
    """Sends more than the buffer of a stream holds."""
    for _ in range(200):
        await client.chat.SendMessage(text_message(conversation_id, _TEXT), metadata=client.auth)


async def test_a_reader_that_goes_on_in_time_gets_goodbye_and_the_status(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    reader = await LiveClient.connect(node.client(bob.access_token))
    await _fill(node, client, direct)

    status = await reader.end()

    assert reader.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_SLOW_READER
    assert reason_of(status) == "RATE_LIMITED"
    assert [event.position for event in reader.events] == list(range(3, 3 + len(reader.events)))
    assert 0 < len(reader.events) < 200


async def test_a_reader_that_stays_silent_is_given_up_after_ten_seconds(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """The write is blocked for ever: the session goes, its topics are left; nothing of it waits for the client."""
    reader = await LiveClient.connect(node.client(bob.access_token))
    await _fill(node, client, direct)
    node.streams.tick()
    assert len(node.streams) == 1
    cluster.clock.advance(RESET_AFTER_S + 0.001)
    node.streams.tick()

    await until(lambda: len(node.streams) == 0)

    assert node.hub.topic(direct).subscribers == set()  # type: ignore[arg-type]  # a topic id
    assert reason_of(await reader.end()) == "RATE_LIMITED"


async def test_a_silent_reader_does_not_keep_the_server_from_stopping(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    reader = await LiveClient.connect(node.client(bob.access_token))
    await _fill(node, client, direct)
    node.streams.tick()
    cluster.clock.advance(RESET_AFTER_S + 0.001)
    node.streams.tick()
    await until(lambda: len(node.streams) == 0)

    async with asyncio.timeout(5):
        await node.stop(0.1)

    assert (await reader.end()).code != 0


async def test_other_readers_of_the_same_topic_get_everything(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    slow = await LiveClient.connect(node.client(bob.access_token))
    quick = await LiveClient.connect(client)

    async def read_all() -> None:
        await quick.expect(lambda _: len(quick.events) == 200)

    reading = asyncio.ensure_future(read_all())
    await _fill(node, client, direct)
    await reading

    assert [event.position for event in quick.events] == list(range(3, 203))
    slow.call.cancel()
    quick.call.cancel()
