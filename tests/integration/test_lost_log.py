"""The log is gone, all of it or all of one shard, and made anew: positions go on above the store, old cursors end."""

import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
import pytest_asyncio

from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.app.epoch_guard import ShardRefused
from hubbub_server.app.frames import CaughtUp, Reset
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import LogUnavailable
from tests.integration.test_damaged_server import cut
from tests.support.real_node import SHARDS, RealInstance, RealNode
from tests.support.real_room import KEPT_S, ROOM, SHARD, hubbub_log, now, numbers, sent, talk, until_sent
from tests.support.real_worker import working
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.unit.domain.builders import ALICE, BOB

pytestmark = pytest.mark.asyncio


@pytest_asyncio.fixture(params=[1, 3])
async def cluster(request: pytest.FixtureRequest) -> AsyncIterator[NatsCluster]:
    async with ready_nats_cluster(request.param) as running:
        yield running


async def lose_all(cluster: NatsCluster) -> None:
    """Loses the files of every server."""
    cluster.kill()
    for server in cluster.servers:
        shutil.rmtree(server.data)
    cluster.start()
    await cluster.wait_ready()


async def frames_since(node: RealNode, cursor: Cursor) -> list[type]:
    """Returns what a client with this cursor gets from Sync."""
    core = node.core
    reader = TopicReader(
        log=core.log, messages=core.messages, events=core.events, markers=core.markers, codec=core.codec
    )
    return [type(frame) async for frame in Sync(hub=node.hub, reader=reader).serve(ALICE, [cursor])]


async def test_lost_log_takes_commits_only_after_a_person_has_said_so(
    instance: RealInstance, cluster: NatsCluster
) -> None:
    """C19, G1, G2, failure matrix "log lost": everything stored is seen, and nothing is given twice."""
    said = await talk(instance, 1, 5)
    await lose_all(cluster)
    await instance.make()  # as each worker does when it starts

    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        with pytest.raises(ShardRefused):
            await sent(node, now(BOB, 100))
    code, lines = await hubbub_log(instance, "new-epoch")
    assert (code, lines.count(": epoch 2, "), "lost\n" in lines) == (0, SHARDS, False)

    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        assert await until_sent(node, 101) == 6
        assert await frames_since(node, said[-1][1].cursor) == [Reset, CaughtUp]
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, 7))
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]
    assert await hubbub_log(instance, "new-epoch") == (0, "")


async def test_two_workers_that_may_begin_an_epoch_begin_one(instance: RealInstance, cluster: NatsCluster) -> None:
    """C19, G2: both start after the log was lost, at once, and both notice."""
    said = await talk(instance, 1, 5)
    await lose_all(cluster)
    store = instance.settings.store.path
    async with AsyncExitStack() as stack:
        for name in ("one", "two"):
            await stack.enter_async_context(working(cluster, store, name=name))
        node = await stack.enter_async_context(instance.node())
        assert await until_sent(node, 100) == 6
        assert await until_sent(node, 101) == 7
        bounds = await node.core.log_shards.read_bounds(SHARD)
        assert bounds.epoch == await node.core.states.complete_epoch(SHARD)
        assert await frames_since(node, said[-1][1].cursor) == [Reset, CaughtUp]
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, 8))


@pytest.mark.parametrize("cluster", [1], indirect=True)
async def test_single_server_whose_last_block_was_cut_takes_no_commits_on_what_is_left(
    instance: RealInstance, cluster: NatsCluster
) -> None:
    """G1, G2: a power cut, and a disk that had promised to have written; what was projected survives."""
    said = await talk(instance, 1, 40)
    (server,) = cluster.servers
    cluster.kill()
    blocks = sorted((server.data / "jetstream" / "$G" / "streams" / stream_name(SHARD) / "msgs").glob("*.blk"))
    cut(blocks[-1])
    cluster.start()
    await cluster.wait_ready()

    async with instance.node() as node:
        with pytest.raises(LogUnavailable):
            await sent(node, now(BOB, 100))
        assert SHARD in node.guard.refused()
    code, lines = await hubbub_log(instance, "verify")
    assert (code, f"topic {ROOM}, positions " in lines, "the log lost them, the store has them" in lines) == (
        1,
        True,
        True,
    )
    code, lines = await hubbub_log(instance, "new-epoch")
    assert (code, "lost\n" in lines) == (0, False)

    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        assert await until_sent(node, 101) == 41
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, 42))
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]
