"""A bench for each test."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.support.edge_bench import Bench


@pytest_asyncio.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.close()
