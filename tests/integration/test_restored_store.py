"""The store was put back from an older copy: the log fills it again, or says that it cannot."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.support.real_node import RealInstance
from tests.support.real_room import KEPT_S, ROOM, hubbub_log, now, numbers, sent, talk
from tests.support.real_worker import working
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.unit.domain.builders import BOB

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=[1, 3])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[NatsCluster]:
    async with ready_nats_cluster(request.param) as running:
        yield running


def back_up(instance: RealInstance, copy: Path) -> None:
    """Copies the store as docs/OPERATIONS.md says, while no worker runs."""
    copy.mkdir()
    for path in instance.settings.store.path.parent.glob("store.db*"):
        shutil.copy2(path, copy / path.name)


def restore(instance: RealInstance, copy: Path) -> None:
    """Puts a copy in the place of the store."""
    folder = instance.settings.store.path.parent
    for path in folder.glob("store.db*"):
        path.unlink()
    for path in copy.iterdir():
        shutil.copy2(path, folder / path.name)


async def test_older_store_is_filled_from_the_log(instance: RealInstance, tmp_path: Path) -> None:
    """G1, G8, failure matrix "store restored": nobody has to do anything."""
    await talk(instance, 1, 5)
    back_up(instance, tmp_path / "copy")
    said = await talk(instance, 6, 40)
    restore(instance, tmp_path / "copy")

    async with instance.node() as node:
        assert await numbers(node) == list(range(1, 41))  # from the log, before the store has it
        async with instance.worker(kept_s=KEPT_S):
            assert (await sent(node, now(BOB, 100))).message_number == 41
            await instance.until_caught_up()
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]
    assert await hubbub_log(instance, "verify") == (0, "")


async def test_older_store_that_the_log_cannot_fill_stops_the_shard_until_a_newer_one_is_there(
    instance: RealInstance, cluster: NatsCluster, tmp_path: Path
) -> None:
    """G1: what was trimmed since the copy is nowhere else; nothing pretends that it never was."""
    await talk(instance, 1, 5)
    back_up(instance, tmp_path / "copy")
    await talk(instance, 6, 40)
    async with instance.worker(kept_s=-60):
        await instance.until_caught_up()
        await instance.until_trimmed()
    back_up(instance, tmp_path / "newer")
    restore(instance, tmp_path / "copy")
    store = instance.settings.store.path

    async with working(cluster, store) as worker, instance.node() as node:
        stopped = await worker.until_logged("shard stopped")
        assert stopped["role"] == "projector"
        assert (await sent(node, now(BOB, 100))).message_number == 41  # the state beside the log is enough
    code, lines = await hubbub_log(instance, "verify")
    assert code == 1
    assert f"topic {ROOM}, positions 9 to 43: neither log nor store has them" in lines

    restore(instance, tmp_path / "newer")
    async with working(cluster, store), instance.node() as node:
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, 42))
    assert await hubbub_log(instance, "verify") == (0, "")
