"""Runs each suite on every adapter of its port; `--adapters=fake,sqlite` chooses some."""

from collections.abc import AsyncIterator, Mapping

import pytest
import pytest_asyncio

from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.node_registry import NodeRegistry
from hubbub_server.ports.shard_leases import ShardLeases
from tests.support.account_stores import ACCOUNTS, OpenAccounts
from tests.support.logs import LOGS, LogSetup
from tests.support.node_registries import PRESENCE, OpenPresence
from tests.support.node_registries import REGISTRIES as NODE_REGISTRIES
from tests.support.services import Services
from tests.support.signal_buses import SIGNAL_BUSES, SignalBuses
from tests.support.stores import STORES, OpenStore
from tests.support.worker_ports import DEAD_LETTERS, LEASES

REGISTRIES: Mapping[str, Mapping[str, object]] = {
    "store": STORES,
    "log_setup": LOGS,
    "account_stores": ACCOUNTS,
    "leases": LEASES,
    "dead_letters": DEAD_LETTERS,
    "node_registries": NODE_REGISTRIES,
    "presence": PRESENCE,
    "signal_buses": SIGNAL_BUSES,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises the suites over the registries."""
    chosen = metafunc.config.getoption("--adapters")
    for fixture, registry in REGISTRIES.items():
        if fixture in metafunc.fixturenames:
            names = [name for name in registry if chosen == "all" or name in chosen.split(",")]
            metafunc.parametrize(fixture, names, indirect=True)


@pytest.fixture
def log_setup(request: pytest.FixtureRequest, services: Services) -> LogSetup:
    """A log for many nodes. Real ones are shared by all tests: take new topics."""
    return LOGS[request.param](services)


@pytest_asyncio.fixture
async def store(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[OpenStore]:
    """An open, empty store."""
    async with STORES[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def account_stores(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[OpenAccounts]:
    """Open accounts and sessions. Real ones are shared by all tests: take new names and ids."""
    async with ACCOUNTS[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def leases(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[tuple[ShardLeases, ShardLeases]]:
    """The table of leases as two workers see it. A real one is shared by all tests: take new roles and workers."""
    async with LEASES[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def dead_letters(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[DeadLetters]:
    """Open letters. A real stream is shared by all tests: take new roles."""
    async with DEAD_LETTERS[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def node_registries(
    request: pytest.FixtureRequest, services: Services
) -> AsyncIterator[tuple[NodeRegistry, NodeRegistry]]:
    """An empty registry as two nodes see it, with leases of `node_registries.LEASE_S`."""
    async with NODE_REGISTRIES[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def presence(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[OpenPresence]:
    """Empty registries: of nodes, leases of `LEASE_S`; of presence as two nodes see it, a grace of `GRACE_S`."""
    async with PRESENCE[request.param](services) as opened:
        yield opened


@pytest_asyncio.fixture
async def signal_buses(request: pytest.FixtureRequest, services: Services) -> AsyncIterator[SignalBuses]:
    """The signals as two nodes see them. Real servers are shared by all tests: take new keys."""
    async with SIGNAL_BUSES[request.param](services) as opened:
        yield opened
