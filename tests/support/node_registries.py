"""Every implementation of the registries of nodes and of presence, for their suites. A new one joins by one entry."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Final

from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import RedisNodeRegistry
from hubbub_server.adapters.redis.presence_registry import RedisPresenceRegistry
from hubbub_server.ports.node_registry import NodeRegistry
from hubbub_server.ports.presence_registry import PresenceRegistry
from tests.support.fakes.node_registry import FakeNodeRegistry, FakeRegistryServer
from tests.support.fakes.presence_registry import FakePresenceRegistry, FakePresenceServer
from tests.support.services import Services

# Short, since leases must run out; long enough for a busy machine to look twice within half of one.
LEASE_S: Final = 1.0
GRACE_S: Final = 0.5


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

OpenPresence = tuple[NodeRegistry, PresenceRegistry, PresenceRegistry]


@asynccontextmanager
async def open_fake_presence(_services: Services) -> AsyncIterator[OpenPresence]:
    """Opens the tables in memory: lives, and sessions as two nodes see them."""
    nodes = FakeRegistryServer(time.monotonic, lease_s=LEASE_S)
    presence = FakePresenceServer(nodes, grace_s=GRACE_S)
    yield FakeNodeRegistry(nodes), FakePresenceRegistry(presence), FakePresenceRegistry(presence)


@asynccontextmanager
async def open_valkey_presence(services: Services) -> AsyncIterator[OpenPresence]:
    """Opens empty tables on a real server that all tests share."""
    server = services.valkey()
    server.flush()
    async with RedisConnection(server.url, name="one") as one, RedisConnection(server.url, name="two") as two:
        yield (
            RedisNodeRegistry(one, lease_s=LEASE_S),
            RedisPresenceRegistry(one, lease_s=LEASE_S, grace_s=GRACE_S),
            RedisPresenceRegistry(two, lease_s=LEASE_S, grace_s=GRACE_S),
        )


PRESENCE: dict[str, Callable[[Services], AbstractAsyncContextManager[OpenPresence]]] = {
    "fake": open_fake_presence,
    "valkey": open_valkey_presence,
}
