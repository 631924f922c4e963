"""The probe of the image's HEALTHCHECK, against a real server."""

import asyncio
import sys

import pytest

from hubbub_server.supervisor.ports import find_free
from tests.support.node import Node
from tests.support.waiting import until_found

pytestmark = pytest.mark.asyncio


async def probe(address: str) -> int | None:
    """Runs the probe as the engine does; returns its exit code."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "hubbub_server.rpc.health_probe", address, stderr=asyncio.subprocess.DEVNULL
    )
    async with asyncio.timeout(30.0):
        return await process.wait()


async def test_the_probe_passes_while_the_node_serves_and_fails_while_it_does_not(node: Node) -> None:
    serving = await probe(node.address)
    node.log.cut()

    async def look() -> int | None:
        return await probe(node.address) or None  # the server looks at itself twice a second

    assert (serving, await until_found(look)) == (0, 1)


async def test_the_probe_fails_where_nobody_listens() -> None:
    (port,) = find_free(1)
    assert await probe(f"127.0.0.1:{port}") == 1
