"""Two worker processes on a real log and a real store: killed, frozen, told to end, and met with poison."""

import asyncio
import json
import os
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.dead_letters import NatsDeadLetters
from hubbub_server.adapters.nats.records import EXPECTED_SEQUENCE, encode_facts, log_subject
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.domain.commands import CreateGroup
from hubbub_server.domain.ids import ConversationId, TopicId, shard_of
from hubbub_server.ports.shard_leases import Unit
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.roles import ROLES, TRIM
from tests.integration.test_projector_restart import check_store_is_log, message_id
from tests.support.real_node import RealInstance
from tests.support.real_worker import SHARDS, Node, open_node, worker_settings, working
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.support.waiting import until_found, until_it_answers
from tests.unit.domain.builders import ALICE, send

pytestmark = pytest.mark.asyncio

UNITS = {Unit(role, shard) for role in (*ROLES, TRIM) for shard in range(SHARDS)}
ROOMS = [
    next(
        topic_id
        for topic_id in (ConversationId(TopicId(f"cshared{n}")) for n in range(100))
        if shard_of(topic_id, SHARDS) == shard
    )
    for shard in range(SHARDS)
]
TTL_S = 10.0
FROZEN_S = 15.0


async def until_shared(cluster: NatsCluster, *names: str) -> dict[Unit, str]:
    """Waits until all units are held by workers of these names, evenly; returns who has which."""
    async with NatsConnection(cluster.urls, name="test", on_closed=lambda: None) as connection:
        leases = NatsShardLeases(connection)

        async def look() -> dict[Unit, str] | None:
            claims = (await leases.read()).claims
            holders = {unit: claim.worker_id.partition(".")[0] for unit, claim in claims.items()}
            counts = [list(holders.values()).count(name) for name in names]
            is_even = max(counts) - min(counts) <= len(UNITS) / SHARDS  # one a role
            return holders if holders.keys() == UNITS and sum(counts) == len(UNITS) and is_even else None

        return await until_found(look)


async def make_rooms(node: Node) -> None:
    for room in ROOMS:
        await node.submit(room, CreateGroup(creator_id=ALICE, title="tea", user_ids=()))


async def say(node: Node, first: int, last: int) -> None:
    for number in range(first, last + 1):
        for room in ROOMS:
            await node.submit(room, send(ALICE, message_id(number)))


async def test_workers_share_the_shards_and_the_rest_goes_on_when_one_is_killed(tmp_path: Path) -> None:
    """C11: kill -9. What the dead one had not acknowledged is projected by the other one, within seconds."""
    store = tmp_path / "store.db"
    async with ready_nats_cluster(1) as cluster, open_node(cluster, store) as node:
        async with working(cluster, store, name="a") as a, working(cluster, store, name="b") as b:
            holders = await until_shared(cluster, "a", "b")
            await make_rooms(node)
            await say(node, 1, 20)
            b.signal(signal.SIGKILL)
            killed_s = asyncio.get_running_loop().time()
            await say(node, 21, 40)
            for room in ROOMS:
                await node.until_applied(room)
            took_s = asyncio.get_running_loop().time() - killed_s
            for room in ROOMS:
                await check_store_is_log(node, room, 40)

        assert set(holders.values()) == {"a", "b"}
        assert took_s < 3 * TTL_S
        assert not [line for each in (a, b) for line in each.lines if line["level"] == "error"]


async def test_a_frozen_worker_wakes_up_and_leaves_its_shards_to_the_other_one(tmp_path: Path) -> None:
    """SIGSTOP, 15 s, SIGCONT: it notices that its leases are gone before it writes or acknowledges; then it joins."""
    store = tmp_path / "store.db"
    async with ready_nats_cluster(1) as cluster, open_node(cluster, store) as node:
        async with working(cluster, store, name="a") as a, working(cluster, store, name="b") as b:
            await until_shared(cluster, "a", "b")
            await make_rooms(node)
            b.signal(signal.SIGSTOP)
            await say(node, 1, 20)
            await asyncio.sleep(FROZEN_S)  # not a wait: the length of the fault
            await until_shared(cluster, "a")
            b.signal(signal.SIGCONT)
            await say(node, 21, 40)
            await until_shared(cluster, "a", "b")
            await say(node, 41, 60)
            for room in ROOMS:
                await node.until_applied(room)
                await check_store_is_log(node, room, 60)

        assert not [line for each in (a, b) for line in each.lines if line["level"] == "error"]


async def test_a_worker_that_is_told_to_end_gives_its_shards_back_at_once(tmp_path: Path) -> None:
    store = tmp_path / "store.db"
    async with ready_nats_cluster(1) as cluster, open_node(cluster, store) as node:
        async with working(cluster, store, name="a"), working(cluster, store, name="b") as b:
            await until_shared(cluster, "a", "b")
            await make_rooms(node)
            b.signal(signal.SIGTERM)
            assert await b.wait() == 0
            ended_s = asyncio.get_running_loop().time()
            await until_shared(cluster, "a")
            took_s = asyncio.get_running_loop().time() - ended_s
            await say(node, 1, 5)
            for room in ROOMS:
                await node.until_applied(room)

        assert b.log_of("unit given back")
        assert took_s < TTL_S


async def test_workers_keep_their_shards_while_nats_servers_are_killed_one_after_the_other(tmp_path: Path) -> None:
    """Three replicas: each server dies once, leaders move, nothing is lost, nobody is taken for dead."""
    store = tmp_path / "store.db"
    async with ready_nats_cluster(3) as cluster, open_node(cluster, store) as node:
        async with working(cluster, store, name="a") as a, working(cluster, store, name="b") as b:
            before = await until_shared(cluster, "a", "b")
            await until_it_answers(lambda: make_rooms(node))
            sent = 0
            for server in cluster.servers:
                server.kill()
                for _ in range(10):
                    sent += 1
                    await until_it_answers(partial(say, node, sent, sent))
                server.start()
                await server.wait_ready()
            for room in ROOMS:
                await node.until_applied(room)
                await check_store_is_log(node, room, sent)
            after = await until_shared(cluster, "a", "b")

        assert after == before
        assert not [line for each in (a, b) for line in each.lines if line["level"] == "error"]


async def append_raw(connection: NatsConnection, room: ConversationId, body: bytes, headers: dict[str, str]) -> None:
    """Appends to a room's log what no node would."""
    shard = shard_of(room, SHARDS)
    info = await connection.call(f"STREAM.MSG.GET.LOG_{shard}", {"last_by_subj": log_subject(shard, room)})
    expected = {EXPECTED_SEQUENCE: str(info["message"]["seq"])}
    answer = json.loads((await connection.request(log_subject(shard, room), body, headers=headers | expected)).data)
    assert "error" not in answer, answer


async def run_replay(cluster: NatsCluster, store: Path, *arguments: str) -> tuple[int, list[dict[str, Any]]]:
    """Runs `hubbub worker replay`; returns its exit code and what it logged."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "hubbub_server", "worker", "replay", *arguments),
        env=os.environ | worker_settings(cluster, store),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, [json.loads(line) for line in output.splitlines()]


async def head_of(node: Node, room: ConversationId) -> LogRecord:
    head = await node.log.read_head(room)
    assert head is not None
    return head


async def until_dead(letters: NatsDeadLetters, room: ConversationId, role: str, count: int) -> list[int]:
    """Waits until a topic has so many letters; returns the sequences of their records."""

    async def look() -> list[int] | None:
        found = await letters.read(room, role=role, shard=shard_of(room, SHARDS), max_letters=count + 1)
        return [letter.record.sequence for letter in found] if len(found) >= count else None

    return await until_found(look)


async def test_poison_of_both_kinds_holds_up_its_topic_alone_until_it_is_replayed(tmp_path: Path) -> None:
    """C13: a record without facts, and one whose body is none. Workers go on, also those that start later."""
    store = tmp_path / "store.db"
    without_facts, without_body = ROOMS[:2]
    async with (
        ready_nats_cluster(1) as cluster,
        open_node(cluster, store) as node,
        NatsConnection(cluster.urls, name="strange", on_closed=lambda: None) as connection,
    ):
        letters = NatsDeadLetters(connection)
        good = ConversationId(TopicId("cgoodroom"))
        async with working(cluster, store, name="a"):
            await make_rooms(node)
            await node.submit(good, CreateGroup(creator_id=ALICE, title="tea", user_ids=()))
            await say(node, 1, 2)
            for room in ROOMS:
                await node.until_applied(room)
        head = await head_of(node, without_body)
        facts = replace(
            head.facts,
            record_id="broken",
            first_position=head.facts.last_position + 1,
            last_position=head.facts.last_position + 1,
        )
        await append_raw(connection, without_facts, b"hello", {})
        await append_raw(connection, without_body, b"\xff", encode_facts(facts))

        async with working(cluster, store, name="a") as a:
            await until_dead(letters, without_facts, "projector", 1)
            await until_dead(letters, without_facts, "relay", 1)
            await until_dead(letters, without_body, "projector", 1)
            for number in range(1, 11):
                await node.submit(good, send(ALICE, message_id(number)))
            await node.until_applied(good)
            await append_raw(connection, without_body, b"\xff", encode_facts(replace(facts, record_id="next")))
            followed = await until_dead(letters, without_body, "projector", 2)
            await check_store_is_log(node, good, 10)
            alarms = [line for line in a.lines if line["level"] == "error"]

        async with working(cluster, store, name="a") as again:
            await again.until_logged("unit taken")
            code, lines = await run_replay(cluster, store)
            one_code, one = await run_replay(cluster, store, "--topic", without_body)
            for number in range(11, 16):
                await node.submit(good, send(ALICE, message_id(number)))
            await node.until_applied(good)
            assert not again.log_of("shard starts over")
            assert not again.log_of("shard stopped")

        applied = await node.directory.read_applied(without_body)
        assert applied is not None
        assert applied.position == head.facts.last_position
        assert followed == sorted(set(followed))
        assert {line["event"] for line in alarms} == {"record put into the dead letters"}
        assert {line["topic_id"] for line in alarms} == {without_facts, without_body}
        replays = [line for line in lines if line["event"] == "dead topic replayed"]
        assert {(line["topic_id"], line["records"]) for line in replays} == {(without_facts, 0), (without_body, 0)}
        assert all(line["reason"] for line in replays)
        assert [line["topic_id"] for line in one if line["event"] == "dead topic replayed"] == [without_body]
        assert (code, one_code) == (1, 1)


async def test_a_replay_with_a_program_that_can_read_them_stores_what_was_put_aside(tmp_path: Path) -> None:
    """The fix is played by letters of whole records: to the program of today they are no poison."""
    store = tmp_path / "store.db"
    room = ROOMS[0]
    shard = shard_of(room, SHARDS)
    async with (
        ready_nats_cluster(1) as cluster,
        open_node(cluster, store) as node,
        NatsConnection(cluster.urls, name="strange", on_closed=lambda: None) as connection,
    ):
        letters = NatsDeadLetters(connection)
        async with working(cluster, store, name="a"):
            await make_rooms(node)
            await say(node, 1, 2)
            await node.until_applied(room)
        await node.submit(room, send(ALICE, message_id(3)))
        await letters.add(await head_of(node, room), role="projector", shard=shard, reason="a fault", after=0)
        await node.submit(room, send(ALICE, message_id(4)))

        async with working(cluster, store, name="a"):
            await until_dead(letters, room, "projector", 2)
            code, lines = await run_replay(cluster, store)
            await node.submit(room, send(ALICE, message_id(5)))
            await node.until_applied(room)
            await check_store_is_log(node, room, 5)

        (line,) = [line for line in lines if line["event"] == "dead topic replayed"]
        assert (line["role"], line["topic_id"], line["records"], line["reason"]) == ("projector", room, 2, "")
        assert code == 0
        assert await letters.topics(role="projector", shard=shard) == {}


@pytest.mark.parametrize("servers", [1, 3])
async def test_workers_that_start_at_once_make_one_log(tmp_path: Path, servers: int) -> None:
    """G1: whoever comes second finds the streams, of the same epoch, and no shard is refused."""
    async with ready_nats_cluster(servers) as cluster:
        instance = RealInstance(cluster, tmp_path / "store.db")
        await asyncio.gather(*(instance.make() for _ in range(4)))
        async with instance.node() as node:
            states = node.core.states
            assert node.guard.refused() == {}
            assert [await states.complete_epoch(shard) for shard in range(SHARDS)] == [1] * SHARDS
