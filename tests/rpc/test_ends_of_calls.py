"""How a call ends that its client leaves alone: the same on both transports, and the log says the same."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
import structlog.testing
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2 as history

from hubbub_server.app.authenticate import Credentials
from hubbub_server.rpc.server import ServerLimits
from tests.support.h2_peer import SocketPeer, grpc_headers
from tests.support.live_client import end_of, reason_of
from tests.support.node import Node, NodeCluster, until

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]

SYNC = "/hubbub.history.v1.HistoryService/Sync"


@pytest_asyncio.fixture
async def impatient_node(cluster: NodeCluster) -> AsyncIterator[Node]:
    """A node that waits a moment for requests of Sync."""
    async with cluster.node(limits=ServerLimits(client_silence_s=0.3)) as node:
        yield node


async def test_a_sync_whose_client_says_nothing_ends_and_says_why(impatient_node: Node, alice: Credentials) -> None:
    """TRAPS 8.7: what nobody uses is not held."""
    client = impatient_node.client(alice.access_token)
    assert reason_of(await end_of(client.history.Sync(metadata=client.auth))) == "STREAM_PROTOCOL"


async def test_a_sync_is_not_ended_by_the_time_of_all_its_requests(
    impatient_node: Node, alice: Credentials, direct: str
) -> None:
    client = impatient_node.client(alice.access_token)
    call = client.history.Sync(metadata=client.auth)
    request = history.SyncRequest(cursors=[conversation_pb2.Cursor(topic_id=direct, epoch=1)])
    loop = asyncio.get_running_loop()
    until_s = loop.time() + 0.6
    while loop.time() < until_s:
        await call.write(request)
        while not _is_caught_up(await call.read()):
            pass
    await call.done_writing()
    assert (await end_of(call)).code == 0


def _is_caught_up(answer: object) -> bool:
    assert isinstance(answer, history.SyncResponse)
    return answer.frame.HasField("caught_up")


async def test_a_deadline_that_passes_is_logged_as_such(node: Node, alice: Credentials) -> None:
    """Of a client that does not cancel the call itself; one that does is faster, and is logged as CANCELLED."""
    with structlog.testing.capture_logs() as logs:
        async with SocketPeer(node.stream_address) as peer:
            stream = peer.call(grpc_headers(SYNC, ("grpc-timeout", "100m"), token=alice.access_token))
            await peer.until(lambda: stream in peer.trailers or stream in peer.resets)
            await until(lambda: any(entry["event"] == "stream closed" for entry in logs))
    (line,) = [entry for entry in logs if entry["event"] == "stream closed"]
    assert (line["code"], line["log_level"]) == ("DEADLINE_EXCEEDED", "warning")
