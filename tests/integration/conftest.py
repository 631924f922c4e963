"""An instance on the NATS servers that each file chooses by its fixture `cluster`."""

from pathlib import Path

import pytest_asyncio

from tests.support.real_node import RealInstance
from tests.support.services import NatsCluster


@pytest_asyncio.fixture
async def instance(cluster: NatsCluster, tmp_path: Path) -> RealInstance:
    made = RealInstance(cluster, tmp_path / "store.db")
    await made.make()
    return made
