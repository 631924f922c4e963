"""The worker as a process, killed again and again, on a real log and a real store: it catches up, nothing is lost."""

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from hubbub_server.domain.commands import AddMembers, CreateGroup, RemoveMember
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.user_topic import UserTopicState
from tests.support.real_worker import Node, open_node, working
from tests.support.services import ready_nats_cluster
from tests.support.waiting import until_found
from tests.unit.domain.builders import ALICE, BOB, CAROL, send, uuid7

pytestmark = pytest.mark.asyncio

ROOMS = [ConversationId(TopicId(f"croom{n}")) for n in range(3)]
KILLS = 5
SOON_MS = int(time.time() * 1_000) + 240_000


def message_id(number: int) -> ClientMessageId:
    """Returns a client's id of a moment to come, so that sending it needs no look-up in the store."""
    return uuid7(SOON_MS, number)


async def test_killed_worker_catches_up_and_loses_nothing(tmp_path: Path) -> None:
    """G1, G8: killed with SIGKILL in the middle of traffic, again and again; afterwards the store is the log."""
    store = tmp_path / "store.db"
    async with ready_nats_cluster(1) as cluster, open_node(cluster, store) as node:
        async with working(cluster, store):  # without a store nobody can say that these rooms are new
            for room in ROOMS:
                await node.submit(room, CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))
        done = asyncio.Event()
        sent = dict.fromkeys(ROOMS, 0)

        async def talk(room: ConversationId) -> None:
            while not done.is_set():
                await node.submit(room, send(ALICE, message_id(sent[room] + 1)))
                sent[room] += 1
                await asyncio.sleep(0.005)  # not a wait: the pace of traffic

        async def kill_workers() -> None:
            for _ in range(KILLS):
                async with working(cluster, store):
                    await asyncio.sleep(random.uniform(0.0, 0.2))  # not a wait: a random moment
            done.set()

        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(kill_workers())
            for room in ROOMS:
                tasks.create_task(talk(room))
        await node.submit(ROOMS[0], AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
        await node.submit(ROOMS[1], RemoveMember(actor_id=ALICE, user_id=BOB))

        async with working(cluster, store) as last:
            for room in ROOMS:
                await node.until_applied(room)
                await check_store_is_log(node, room, sent[room])
            await check_standing(node, CAROL, {ROOMS[0]: True})
            await check_standing(node, BOB, {ROOMS[0]: True, ROOMS[1]: False, ROOMS[2]: True})

        assert min(sent.values()) > 50
        assert not [line for line in last.lines if line["level"] == "error"]


async def check_store_is_log(node: Node, room: ConversationId, sent: int) -> None:
    """Compares every event byte for byte, and the messages by number and id."""
    head = await node.log.read_head(room)
    assert head is not None
    in_log = b""
    after_sequence = 0
    while after_sequence < head.sequence:
        records = await node.log.read_range(
            room, after_sequence=after_sequence, up_to_sequence=head.sequence, max_bytes=1 << 20
        )
        in_log += b"".join(record.body for record in records)
        after_sequence = records[-1].sequence
    in_store = b""
    position = 0
    while rows := await node.events.read_after(room, after_position=position, limit=1_000):
        assert [row.position for row in rows] == list(range(position + 1, position + 1 + len(rows)))
        in_store += b"".join(row.framed for row in rows)
        position = rows[-1].position
    assert in_store == in_log
    numbers = [
        message.message_number
        for first in range(1, sent + 1, 200)
        for message in await node.messages.read_range(room, first_number=first, last_number=first + 199)
    ]
    assert numbers == list(range(1, sent + 1))
    lookup = await node.messages.find_ids(room, [(ALICE, message_id(n)) for n in range(1, sent + 1)])
    assert [lookup.found[ALICE, message_id(n)].message_number for n in range(1, sent + 1)] == numbers


async def check_standing(node: Node, user_id: UserId, expected: dict[ConversationId, bool]) -> None:
    """Waits until the relay's news of a user have come round to the store."""

    async def look() -> bool | None:
        stored = await node.directory.load(user_id)
        if stored is None:
            return None
        assert isinstance(stored.state, UserTopicState)
        known = {room: membership.joined for room, membership in stored.state.memberships.items()}
        return True if known == expected else None

    await until_found(look)


async def test_worker_on_an_empty_store_projects_everything_again(tmp_path: Path) -> None:
    """The file was lost, the floor says that it was projected: going on would lose history."""
    store = tmp_path / "store.db"
    async with ready_nats_cluster(1) as cluster, open_node(cluster, store) as node:
        room = ROOMS[0]
        async with working(cluster, store):
            await node.submit(room, CreateGroup(creator_id=ALICE, title="tea", user_ids=()))
            for number in range(1, 11):
                await node.submit(room, send(ALICE, message_id(number)))
            await node.until_applied(room)
            await node.until_applied(ALICE)
            await node.until_remembered(room)
        for suffix in ("", "-wal", "-shm"):
            os.unlink(f"{store}{suffix}")
        await node.submit(room, send(ALICE, message_id(11)))

        async with working(cluster, store) as second:
            await node.until_applied(room)
            await check_store_is_log(node, room, 11)
            await check_standing(node, ALICE, {room: True})

        assert any(line["event"] == "shard starts over" for line in second.lines)
        assert not [line for line in second.lines if line["level"] == "error"]
