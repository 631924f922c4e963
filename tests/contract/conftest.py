"""Runs each suite on every adapter of its port; `--adapters=fake,sqlite` chooses some."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.support.account_stores import ACCOUNTS, OpenAccounts
from tests.support.logs import LOGS, LogSetup
from tests.support.services import Services
from tests.support.stores import STORES, OpenStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises the suites over the registries."""
    chosen = metafunc.config.getoption("--adapters")
    for fixture, registry in (("store", STORES), ("log_setup", LOGS), ("account_stores", ACCOUNTS)):
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
