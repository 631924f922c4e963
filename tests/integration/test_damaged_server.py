"""Files of one of three NATS servers are damaged, and it leads: what clients see, what an operator does about it.

Public tests of 2.12 lost acknowledged records that way (nats-server#7549, #7556). Each case was looked at on 2.15: most
servers heal themselves or serve from their peers; some come back without records and say nothing. Those may not get a
commit: positions would be given twice. In every case the cure is the same: the damaged server starts with nothing.
"""

import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Final

import pytest
import pytest_asyncio

from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.domain.errors import LogUnavailable
from tests.support.real_node import RealInstance
from tests.support.real_room import ROOM, SHARD, hubbub_log, leader_and_group, now, numbers, sent, talk, until_sent
from tests.support.services import NatsCluster, NatsServer, ready_nats_cluster
from tests.support.waiting import until, until_found
from tests.unit.domain.builders import BOB

pytestmark = pytest.mark.asyncio

SAID: Final = 40
STREAM: Final = stream_name(SHARD)


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[NatsCluster]:
    async with ready_nats_cluster(3) as running:
        yield running


def flip(path: Path) -> None:
    """Flips one bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cuts the second half off."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


async def make_leader(instance: RealInstance, server: NatsServer) -> None:
    """Has a server lead the log of the shard."""
    async with instance.core() as core:

        async def lead() -> bool | None:
            try:
                group = (await core.connection.call(f"STREAM.INFO.{STREAM}"))["cluster"]
                if group.get("leader") == server.data.name:
                    return True
                followers = {each["name"] for each in group.get("replicas") or () if each.get("current")}
                if server.data.name in followers:  # elections without an end would keep it from catching up
                    placement = {"placement": {"preferred": server.data.name}}
                    await core.connection.call(f"STREAM.LEADER.STEPDOWN.{STREAM}", placement)
            except LogUnavailable:  # an election
                pass
            return None

        await until_found(lead)


async def damaged(
    instance: RealInstance, cluster: NatsCluster, folder: str, pattern: str, harm: Callable[[Path], None]
) -> NatsServer:
    """Damages files of a server that does not lead, while it is down, and starts it again."""
    leader, group = await leader_and_group(instance)
    server = next(each for each in cluster.servers if each.data.name != leader)
    server.stop()
    jetstream = server.data / "jetstream"
    folders = {
        "stream": jetstream / "$G" / "streams" / STREAM,
        "raft": jetstream / "$SYS" / "_js_" / group,
        "meta": jetstream / "$SYS" / "_js_" / "_meta_",
    }
    paths = sorted(folders[folder].glob(pattern))
    assert paths, f"{folder} has no {pattern}"
    for path in paths:
        harm(path)
    server.start()
    return server


async def cure(cluster: NatsCluster, server: NatsServer) -> None:
    """Does what docs/OPERATIONS.md says of a damaged server."""
    server.kill()
    shutil.rmtree(server.data)
    cluster.start()
    await cluster.wait_ready()


@pytest.mark.parametrize(
    ("folder", "pattern", "harm"),
    [
        pytest.param("stream", "msgs/*.blk", flip, id="flipped block"),
        pytest.param("stream", "msgs/index.db", flip, id="flipped index"),
        pytest.param("stream", "msgs/index.db", cut, id="cut index"),
        pytest.param("raft", "msgs/*.blk", flip, id="flipped raft log"),
        pytest.param("raft", "msgs/*.blk", cut, id="cut raft log"),
        pytest.param("raft", "tav.idx", flip, id="flipped term and vote"),
        pytest.param("raft", "tav.idx", cut, id="cut term and vote"),
        pytest.param("meta", "msgs/*.blk", cut, id="cut meta log"),
    ],
)
async def test_damage_that_a_leader_heals_or_its_peers_hide_costs_nothing(
    instance: RealInstance, cluster: NatsCluster, folder: str, pattern: str, harm: Callable[[Path], None]
) -> None:
    """G1, G2, failure matrix "files of one NATS server damaged"."""
    said = await talk(instance, 1, SAID)
    server = await damaged(instance, cluster, folder, pattern, harm)
    await server.wait_ready()
    await make_leader(instance, server)

    async with instance.node() as node:
        assert await until_sent(node, 100) == SAID + 1
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]
        assert await numbers(node) == list(range(1, SAID + 2))


@pytest.mark.parametrize(
    ("pattern", "harm"), [pytest.param("*.blk", cut, id="cut block"), pytest.param("*.blk", Path.unlink, id="no block")]
)
async def test_log_of_the_leader_that_lost_records_takes_no_commits(
    instance: RealInstance, cluster: NatsCluster, pattern: str, harm: Callable[[Path], None]
) -> None:
    """G1, G2: its last sequence is right, its oldest or newest records are gone; without them it looks trimmed."""
    said = await talk(instance, 1, SAID)
    server = await damaged(instance, cluster, "stream", f"msgs/{pattern}", harm)
    await server.wait_ready()
    async with instance.node() as old, instance.node() as idle:
        await old.hub.at_head(said[0][1].cursor.topic_id)
        await make_leader(instance, server)
        async with instance.node() as new:
            for node in (old, idle, new):
                with pytest.raises(LogUnavailable):
                    await sent(node, now(BOB, 100))
            assert SHARD in new.guard.refused()

        code, lines = await hubbub_log(instance, "verify")
        assert (code, lines.splitlines()[0].startswith(f"shard {SHARD}: the leader of its log lost record ")) == (
            1,
            True,
        )
        if harm is Path.unlink:  # of a cut block the two others still tell what was in it
            assert f"topic {ROOM}, positions 1 to {SAID + 3}: the log lost them, the store has them" in lines

        await cure(cluster, server)
        assert await until_sent(old, 101) == SAID + 1
        assert await until_sent(idle, 102) == SAID + 2
        assert [await sent(idle, command) for command, _ in said] == [answer for _, answer in said]
        assert await numbers(old) == list(range(1, SAID + 3))
    assert await hubbub_log(instance, "verify") == (0, "")


async def test_log_that_lost_records_on_the_leader_goes_on_above_the_store(
    instance: RealInstance, cluster: NatsCluster
) -> None:
    """G1, G2: the other way out, when no server has them any more: another epoch."""
    await talk(instance, 1, SAID)
    server = await damaged(instance, cluster, "stream", "msgs/*.blk", Path.unlink)
    await server.wait_ready()
    await make_leader(instance, server)

    code, lines = await hubbub_log(instance, "new-epoch")
    assert (code, f"shard {SHARD}: epoch 2" in lines, "lost\n" in lines) == (0, True, False)

    async with instance.node() as node, instance.worker(kept_s=3600):
        assert await until_sent(node, 100) == SAID + 1
        await instance.until_caught_up()
        assert await numbers(node) == list(range(1, SAID + 2))


@pytest.mark.parametrize("harm", [flip, cut])
async def test_server_whose_raft_snapshot_is_damaged_serves_nothing_until_it_is_cured(
    instance: RealInstance, cluster: NatsCluster, harm: Callable[[Path], None]
) -> None:
    """G1: it has the stream no more and says so in its log; the two others go on."""
    await talk(instance, 1, SAID)
    server = await damaged(instance, cluster, "raft", "snapshots/*", harm)
    await server.wait_ready()
    async with instance.node() as node:
        assert await until_sent(node, 100) == SAID + 1
        await until(lambda: "snapshot corrupt" in server.log.read_text(), timeout_s=20)
        await cure(cluster, server)
        await make_leader(instance, server)
        assert await until_sent(node, 101) == SAID + 2
        assert await numbers(node) == list(range(1, SAID + 3))


@pytest.mark.parametrize("harm", [flip, cut])
async def test_server_whose_meta_snapshot_is_damaged_does_not_start_until_it_is_cured(
    instance: RealInstance, cluster: NatsCluster, harm: Callable[[Path], None]
) -> None:
    """G1, nats-server#7556: 2.12 took all streams for orphans and deleted them; 2.15 refuses to start."""
    await talk(instance, 1, SAID)
    server = await damaged(instance, cluster, "meta", "snapshots/*", harm)
    with pytest.raises(RuntimeError, match="snapshot corrupt"):
        await server.wait_ready()
    server.kill()
    async with instance.node() as node:
        assert await until_sent(node, 100) == SAID + 1
        await cure(cluster, server)
        await make_leader(instance, server)
        assert await until_sent(node, 101) == SAID + 2
        assert await numbers(node) == list(range(1, SAID + 3))


async def test_server_that_lost_all_its_files_catches_up_and_leads(
    instance: RealInstance, cluster: NatsCluster
) -> None:
    """G1, failure matrix "data of one NATS server lost"."""
    said = await talk(instance, 1, SAID)
    leader, _ = await leader_and_group(instance)
    server = next(each for each in cluster.servers if each.data.name == leader)
    await cure(cluster, server)
    await make_leader(instance, server)

    async with instance.node() as node:
        assert await until_sent(node, 100) == SAID + 1
        assert [await sent(node, command) for command, _ in said] == [answer for _, answer in said]
        assert await numbers(node) == list(range(1, SAID + 2))
    assert await hubbub_log(instance, "verify") == (0, "")
