"""Runs each suite on every adapter of its port; `--adapters=fake,sqlite` chooses some."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.stores import STORES, OpenStore


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises the suites over the registries."""
    chosen = metafunc.config.getoption("--adapters")
    if "store" in metafunc.fixturenames:
        names = [name for name in STORES if chosen == "all" or name in chosen.split(",")]
        metafunc.parametrize("store", names, indirect=True)


@pytest_asyncio.fixture
async def store(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[OpenStore]:
    """An open, empty store."""
    async with STORES[request.param](tmp_path) as opened:
        yield opened
