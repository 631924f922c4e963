"""One node on fakes; every failed status of every test is checked against the error contract."""

from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from hubbub.conversation.v1 import conversation_service_pb2

from hubbub_server.app.authenticate import Credentials
from tests.support.node import Node, NodeCluster, RpcClient


@pytest.fixture
def transport() -> str:
    """What serves the streaming methods; a module of tests that hold for both says so (`BOTH_TRANSPORTS`)."""
    return "aio"


@pytest.fixture
def cluster(transport: str) -> Iterator[NodeCluster]:
    """What nodes share; fails the test when a status broke the error contract."""
    cluster = NodeCluster(transport=transport)
    yield cluster
    assert cluster.breaches == []


@pytest_asyncio.fixture
async def node(cluster: NodeCluster) -> AsyncIterator[Node]:
    """A running node."""
    async with cluster.node() as node:
        yield node


@pytest_asyncio.fixture
async def alice(cluster: NodeCluster) -> Credentials:
    """A user."""
    return await cluster.sign_up("alice")


@pytest_asyncio.fixture
async def bob(cluster: NodeCluster) -> Credentials:
    """Another user."""
    return await cluster.sign_up("bob")


@pytest.fixture
def client(node: Node, alice: Credentials) -> RpcClient:
    """Alice's stubs."""
    return node.client(alice.access_token)


@pytest_asyncio.fixture
async def direct(client: RpcClient, bob: Credentials) -> str:
    """The id of the direct conversation of Alice and Bob."""
    request = conversation_service_pb2.CreateConversationRequest(
        direct=conversation_service_pb2.DirectSpec(user_id=bob.user_id)
    )
    response = await client.conversations.CreateConversation(request, metadata=client.auth)
    return response.view.conversation.conversation_id
