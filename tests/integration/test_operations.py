"""The commands of docs/OPERATIONS.md about lost data are run as they stand there, on a real log and a real store."""

import asyncio
import json
import os
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.domain.errors import LogUnavailable
from tests.support.real_node import SHARDS, RealInstance
from tests.support.real_room import KEPT_S, SHARD, now, numbers, sent, talk
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.unit.domain.builders import BOB

pytestmark = pytest.mark.asyncio

ROOT = Path(__file__).resolve().parents[2]


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with ready_nats_cluster(1) as running:
        yield running


@pytest_asyncio.fixture
async def instance(cluster: NatsCluster, tmp_path: Path) -> RealInstance:
    (tmp_path / "var").mkdir()
    made = RealInstance(cluster, tmp_path / "var" / "store.db")
    await made.make()
    return made


def blocks() -> dict[str, str]:
    """The code blocks of the part about lost data, by their headings."""
    text = (ROOT / "docs" / "OPERATIONS.md").read_text(encoding="utf-8")
    part = text.split("\n## When data is lost\n")[1].split("\n## ")[0]
    found: dict[str, str] = {}
    for section in part.split("\n### ")[1:]:
        heading = section.split("\n", 1)[0]
        for block in re.findall(r"^```bash\n(.*?)^```", section, re.MULTILINE | re.DOTALL):
            assert heading not in found, "one block a heading"
            found[heading] = block
    return found


async def run(instance: RealInstance, heading: str) -> tuple[int, str]:
    """Runs a block in the folder that has `var`; returns its exit code and what it printed."""
    settings = {
        "HUBBUB_NATS__SERVERS": json.dumps(instance.settings.nats.servers),
        "HUBBUB_NATS__SHARDS": str(SHARDS),
        "HUBBUB_STORE__PATH": "var/store.db",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euc", blocks()[heading]),
        cwd=instance.settings.store.path.parents[1],
        env=os.environ | settings,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


async def test_every_block_is_run_here() -> None:
    assert set(blocks()) == {
        "Back up a SQLite store",
        "Put a SQLite store back",
        "Back up everything on one machine",
        "Put everything back",
        "Compare log and store",
        "Begin another epoch",
    }


async def test_store_is_backed_up_under_a_running_worker_and_put_back(instance: RealInstance) -> None:
    """G1: what was said after the copy comes from the log."""
    await talk(instance, 1, 5)
    async with instance.worker(kept_s=KEPT_S):
        assert (await run(instance, "Back up a SQLite store"))[0] == 0
    await talk(instance, 6, 9)
    assert (await run(instance, "Put a SQLite store back"))[0] == 0
    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        await sent(node, now(BOB, 100))
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, 11))
    assert (await run(instance, "Compare log and store"))[0] == 0


async def test_everything_is_backed_up_and_put_back(instance: RealInstance, cluster: NatsCluster) -> None:
    """G1: as of the copy; what was said later is lost with the disk that had it, log and store fit together."""
    (server,) = cluster.servers
    kept = instance.settings.store.path.parent / "nats"
    await talk(instance, 1, 5)
    cluster.kill()
    shutil.copytree(server.data, kept)  # `make run` has it there
    assert (await run(instance, "Back up everything on one machine"))[0] == 0
    cluster.start()
    await cluster.wait_ready()
    await talk(instance, 6, 9)
    cluster.kill()
    assert (await run(instance, "Put everything back"))[0] == 0
    shutil.rmtree(server.data)
    shutil.copytree(kept, server.data)
    cluster.start()
    await cluster.wait_ready()
    async with instance.node() as node:
        assert (await sent(node, now(BOB, 100))).message_number == 6
        assert await numbers(node) == list(range(1, 7))


async def test_refused_shard_goes_on_with_another_epoch(instance: RealInstance) -> None:
    """G1, G2: verify names it, new-epoch goes on above it."""
    await talk(instance, 1, 5)
    async with instance.core() as core:
        await core.connection.call(f"STREAM.MSG.DELETE.{stream_name(SHARD)}", {"seq": 3, "no_erase": True})
    async with instance.node() as node:
        with pytest.raises(LogUnavailable):
            await sent(node, now(BOB, 99))
    code, lines = await run(instance, "Compare log and store")
    assert (code, "the log lost them, the store has them" in lines) == (1, True)
    code, lines = await run(instance, "Begin another epoch")
    assert (code, f"shard {SHARD}: epoch 2" in lines) == (0, True)
    async with instance.node() as node:
        assert (await sent(node, now(BOB, 100))).message_number == 6
