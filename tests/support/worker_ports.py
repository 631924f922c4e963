"""Every implementation of what workers share, for the contract suites. A new one joins by one entry in a registry."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from hubbub_server.adapters.nats.dead_letters import NatsDeadLetters
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.shard_leases import ShardLeases
from tests.support.fakes.dead_letters import FakeDeadLetters
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


@asynccontextmanager
async def open_fake_letters(_services: Services) -> AsyncIterator[DeadLetters]:
    """Opens letters in memory."""
    yield FakeDeadLetters()


@asynccontextmanager
async def open_nats_letters(services: Services, size: int) -> AsyncIterator[DeadLetters]:
    """Opens the stream of letters on real servers that all tests share."""
    async with NatsLogSetup(services.nats(size)).connection() as connection:
        letters = NatsDeadLetters(connection)
        await letters.ensure(replicas=size)
        yield letters


DEAD_LETTERS: dict[str, Callable[[Services], AbstractAsyncContextManager[DeadLetters]]] = {
    "fake": open_fake_letters,
    "nats-r1": lambda services: open_nats_letters(services, 1),
    "nats-r3": lambda services: open_nats_letters(services, 3),
}
