"""The stage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.support.world import World, open_world


@pytest_asyncio.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    """Two nodes on fakes of log and store."""
    async with open_world(tmp_path) as world:
        yield world
