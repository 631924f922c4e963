"""Logs that were lost, restored from older copies or damaged, on a real server: noticed, refused, named, outlived."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from hubbub_server import wiring
from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.app.epoch_guard import ShardRefused
from hubbub_server.app.topic_fold import TopicDamaged
from hubbub_server.domain.commands import Sent
from hubbub_server.domain.errors import LogUnavailable
from tests.support.real_node import RealInstance
from tests.support.real_room import KEPT_S, ROOM, SHARD, hubbub_log, now, numbers, sent, talk
from tests.support.real_worker import working
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.support.waiting import until_found
from tests.unit.domain.builders import BOB

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with ready_nats_cluster(1) as running:
        yield running


async def restore(cluster: NatsCluster, copy: Path, *, only: str = "") -> None:
    """Puts an older copy of the server's files into its place: all of them, or one stream."""
    (server,) = cluster.servers
    cluster.kill()
    part = Path("jetstream", "$G", "streams", only) if only else Path()
    source, target = copy / part, server.data / part
    shutil.rmtree(target)
    shutil.copytree(source, target)
    cluster.start()
    await cluster.wait_ready()


async def back_up(cluster: NatsCluster, copy: Path) -> None:
    (server,) = cluster.servers
    cluster.kill()
    shutil.copytree(server.data, copy)
    cluster.start()
    await cluster.wait_ready()


async def begin(instance: RealInstance) -> int:
    async with instance.core() as core:
        return (await wiring.new_epoch(core).begin(SHARD)).epoch


async def test_log_restored_from_an_older_copy_is_refused_and_goes_on_above_the_store(
    instance: RealInstance, cluster: NatsCluster, tmp_path: Path
) -> None:
    """G1, G2, G3, C19: nothing in the log or beside it says so; the store does."""
    await talk(instance, 1, 5)
    await back_up(cluster, tmp_path / "copy")
    said = await talk(instance, 6, 9)
    await restore(cluster, tmp_path / "copy")

    async with instance.node() as node:
        with pytest.raises(ShardRefused):
            await sent(node, now(BOB, 100))
        epoch = await begin(instance)
    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        new = await sent(node, now(BOB, 101))
        await instance.until_caught_up()
        assert (epoch, new.cursor.epoch, new.message_number, new.cursor.position) == (2, 2, 10, 13)
        assert await numbers(node) == list(range(1, 11))
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]


async def test_log_that_alone_was_restored_is_refused_without_the_store(
    instance: RealInstance, cluster: NatsCluster, tmp_path: Path
) -> None:
    """G1: the states beside it are newer, of which there is one every 256 positions."""
    await talk(instance, 1, 5)
    await back_up(cluster, tmp_path / "copy")
    await talk(instance, 6, 270)
    await restore(cluster, tmp_path / "copy", only=stream_name(SHARD))
    instance.settings.store.path.rename(tmp_path / "away")

    async with instance.node() as node:
        assert SHARD in node.guard.refused()
        with pytest.raises((ShardRefused, TopicDamaged)):
            await sent(node, now(BOB, 100))


async def test_node_that_lives_through_a_restore_commits_nothing_on_it(
    instance: RealInstance, cluster: NatsCluster, tmp_path: Path
) -> None:
    """G1: it is looked at between the reconnect and the first commit."""
    await talk(instance, 1, 5)
    async with instance.core() as core:
        before = await core.log_shards.read_bounds(SHARD)
    await back_up(cluster, tmp_path / "copy")
    async with instance.node() as node:
        await talk(instance, 6, 9)
        await node.hub.at_head(ROOM)
        await restore(cluster, tmp_path / "copy")

        async def look() -> bool | None:
            try:
                await sent(node, now(BOB, 100))
            except (ShardRefused, TopicDamaged):
                return True if node.guard.refused() else None
            except LogUnavailable:
                return None
            raise AssertionError("committed on a log that lost records")

        assert await until_found(look)
        assert await node.core.log_shards.read_bounds(SHARD) == before


async def test_worker_begins_another_epoch_by_itself_in_development(
    instance: RealInstance, cluster: NatsCluster
) -> None:
    """C19: the stream was deleted; the next start of the worker makes it anew, and nobody is asked."""
    await talk(instance, 1, 5)
    async with instance.core() as core:
        await core.connection.call(f"STREAM.DELETE.{stream_name(SHARD)}")

    async with working(cluster, instance.settings.store.path) as worker, instance.node() as node:
        await worker.until_logged("shard refused")

        async def look() -> Sent | None:
            node.guard.recheck()
            try:
                return await sent(node, now(BOB, 100))
            except LogUnavailable:
                return None

        new = await until_found(look)
        assert (new.cursor.epoch, new.message_number, new.cursor.position) == (2, 6, 9)


async def test_damage_is_named_and_gone_on_from_by_command(instance: RealInstance) -> None:
    """A record vanished from the log. What the store has stays readable; positions go on above."""
    await talk(instance, 1, 5)
    assert await hubbub_log(instance, "verify") == (0, "")
    async with instance.core() as core:
        await core.connection.call(f"STREAM.MSG.DELETE.{stream_name(SHARD)}", {"seq": 3, "no_erase": True})

    code, lines = await hubbub_log(instance, "verify")
    of_shard, of_topic = lines.splitlines()
    assert (code, of_topic) == (1, "topic croom, position 5: the log lost them, the store has them")
    assert of_shard.startswith(f"shard {SHARD}: the leader of its log lost record 3, perhaps more")
    async with instance.node() as node:
        with pytest.raises(LogUnavailable):
            await sent(node, now(BOB, 99))
    code, lines = await hubbub_log(instance, "new-epoch")
    assert (code, lines.splitlines()[-2:]) == (  # before that, what the guard logged
        0,
        [
            f"shard {SHARD} is refused: its log lost record 3, perhaps more",
            f"shard {SHARD}: epoch 2, 2 topics; nodes notice within 30 s",
        ],
    )
    assert await hubbub_log(instance, "new-epoch") == (0, "")

    async with instance.node() as node:
        assert (await sent(node, now(BOB, 100))).cursor.position == 9
        assert await numbers(node) == list(range(1, 7))
