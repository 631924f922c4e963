"""Every implementation of the registry of nodes, for the contract suite. A new one joins by one entry."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import RedisNodeRegistry
from hubbub_server.ports.node_registry import NodeRegistry
from tests.support.fakes.node_registry import FakeNodeRegistry, FakeRegistryServer
from tests.support.services import Services

# Short, since leases must run out; long enough for a busy machine to look twice within half of one.
LEASE_S: Final = 1.0


@asynccontextmanager
async def open_fake_registries(_services: Services) -> AsyncIterator[tuple[NodeRegistry, NodeRegistry]]:
    """Opens a table in memory as two nodes see it."""
    server = FakeRegistryServer(time.monotonic, lease_s=LEASE_S)
    yield FakeNodeRegistry(server), FakeNodeRegistry(server)


@asynccontextmanager
async def open_valkey_registries(services: Services) -> AsyncIterator[tuple[NodeRegistry, NodeRegistry]]:
    """Opens an empty table on a real server that all tests share, as two nodes see it."""
    server = services.valkey()
    server.flush()
    async with RedisConnection(server.url, name="one") as one, RedisConnection(server.url, name="two") as two:
        yield RedisNodeRegistry(one, lease_s=LEASE_S), RedisNodeRegistry(two, lease_s=LEASE_S)


REGISTRIES: dict[str, Callable[[Services], AbstractAsyncContextManager[tuple[NodeRegistry, NodeRegistry]]]] = {
    "fake": open_fake_registries,
    "valkey": open_valkey_registries,
}
