"""The stage."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.world import World, open_world


@pytest_asyncio.fixture(params=["aio", "edge"])
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    """Two nodes on fakes of log and store; each scenario plays on both transports."""
    async with open_world(tmp_path, transport=request.param) as world:
        yield world
