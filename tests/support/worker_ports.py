"""Every implementation of what workers share, for the contract suites. A new one joins by one entry in a registry."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.ports.shard_leases import ShardLeases
from tests.support.fakes.shard_leases import FakeLeaseServer, FakeShardLeases
from tests.support.logs import NatsLogSetup
from tests.support.services import Services


@asynccontextmanager
async def open_fake_leases(_services: Services) -> AsyncIterator[tuple[ShardLeases, ShardLeases]]:
    """Opens a table in memory as two workers see it."""
    server = FakeLeaseServer()
    yield FakeShardLeases(server), FakeShardLeases(server)


@asynccontextmanager
async def open_nats_leases(services: Services, size: int) -> AsyncIterator[tuple[ShardLeases, ShardLeases]]:
    """Opens the table on real servers that all tests share, as two workers see it."""
    setup = NatsLogSetup(services.nats(size))
    async with setup.connection() as connection, setup.connection() as other:
        await NatsShardLeases(connection).ensure(replicas=size)
        yield NatsShardLeases(connection), NatsShardLeases(other)


LEASES: dict[str, Callable[[Services], AbstractAsyncContextManager[tuple[ShardLeases, ShardLeases]]]] = {
    "fake": open_fake_leases,
    "nats-r1": lambda services: open_nats_leases(services, 1),
    "nats-r3": lambda services: open_nats_leases(services, 3),
}
