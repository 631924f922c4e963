"""Every implementation of the ports of accounts, for the contract suites. A new one joins by one entry in ACCOUNTS."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from hubbub_server.adapters.nats.accounts import NatsAccountStore, NatsDeviceSessionStore, ensure_buckets
from hubbub_server.ports.accounts import AccountStore, DeviceSessionStore
from tests.support.fakes.accounts import FakeAccountStore, FakeDeviceSessionStore
from tests.support.logs import NatsLogSetup
from tests.support.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenAccounts:
    """Accounts and device sessions as two nodes see them."""

    accounts: AccountStore
    sessions: DeviceSessionStore
    other_accounts: AccountStore
    other_sessions: DeviceSessionStore


@asynccontextmanager
async def open_fake_accounts(_services: Services) -> AsyncIterator[OpenAccounts]:
    """Opens the stores in memory."""
    accounts, sessions = FakeAccountStore(), FakeDeviceSessionStore()
    yield OpenAccounts(accounts=accounts, sessions=sessions, other_accounts=accounts, other_sessions=sessions)


@asynccontextmanager
async def open_nats_accounts(services: Services, size: int) -> AsyncIterator[OpenAccounts]:
    """Opens the buckets on real servers that all tests share."""
    setup = NatsLogSetup(services.nats(size))
    async with setup.connection() as connection, setup.connection() as other:
        await ensure_buckets(connection, replicas=size)
        yield OpenAccounts(
            accounts=NatsAccountStore(connection),
            sessions=NatsDeviceSessionStore(connection),
            other_accounts=NatsAccountStore(other),
            other_sessions=NatsDeviceSessionStore(other),
        )


ACCOUNTS: dict[str, Callable[[Services], AbstractAsyncContextManager[OpenAccounts]]] = {
    "fake": open_fake_accounts,
    "nats-r1": lambda services: open_nats_accounts(services, 1),
    "nats-r3": lambda services: open_nats_accounts(services, 3),
}
