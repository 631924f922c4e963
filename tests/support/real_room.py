"""One room on a real log and a real store: who talks there, what can be read, what the tools say of its shard."""

import asyncio
import json
import os
import sys
import time

from hubbub_server.adapters.nats.records import stream_name
from hubbub_server.app.read_history import PageSide
from hubbub_server.domain.commands import CreateGroup, SendMessage, Sent
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.supervisor.leash import leashed
from tests.support.real_node import SHARDS, RealInstance, RealNode, shard_of_topic
from tests.support.waiting import until_found, until_it_answers
from tests.unit.domain.builders import ALICE, BOB, send, uuid7

ROOM = ConversationId(TopicId("croom"))
SHARD = shard_of_topic(ROOM)
KEPT_S = 3600.0


def now(sender_id: UserId, serial: int) -> SendMessage:
    """Returns a message with an id of this moment."""
    return send(sender_id, uuid7(int(time.time() * 1_000) + 1, serial))


async def sent(node: RealNode, command: SendMessage, room: ConversationId = ROOM) -> Sent:
    """Sends a message and returns the answer."""
    answer = await node.submit(room, command)
    assert isinstance(answer, Sent)
    return answer


async def talk(instance: RealInstance, first: int, last: int) -> list[tuple[SendMessage, Sent]]:
    """Makes the room if need be, sends messages, and lets a worker do all its work."""
    said: list[tuple[SendMessage, Sent]] = []
    async with instance.node() as node, instance.worker(kept_s=KEPT_S):
        await node.submit(ROOM, CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))
        for serial in range(first, last + 1):
            command = now(ALICE, serial)
            said.append((command, await sent(node, command)))
        await instance.until_caught_up()
    return said


async def numbers(node: RealNode, room: ConversationId = ROOM) -> list[int]:
    """Returns the numbers of the newest page of messages."""
    page = await node.history.list_messages(ALICE, room, anchor_number=0, side=PageSide.BEFORE, page_size=200)
    return [message.message_number for message in page.messages]


async def until_sent(node: RealNode, serial: int) -> int:
    """Sends as a client does, again and again until it is acknowledged; returns the number."""

    async def look() -> int | None:
        node.guard.recheck()
        try:
            return (await sent(node, now(BOB, serial))).message_number
        except LogUnavailable:
            return None

    return await until_found(look)


async def leader_and_group(instance: RealInstance) -> tuple[str, str]:
    """Returns which server leads the log of the shard, and the name of its raft group."""
    async with instance.core() as core:

        async def look() -> tuple[str, str] | None:
            content = (await core.connection.call(f"STREAM.INFO.{stream_name(SHARD)}"))["cluster"]
            return (content["leader"], content["raft_group"]) if content.get("leader") else None

        return await until_it_answers(lambda: until_found(look))


async def hubbub_log(instance: RealInstance, *arguments: str) -> tuple[int, str]:
    """Runs `hubbub log …`; returns its exit code and what it printed."""
    settings = {
        "HUBBUB_NATS__SERVERS": json.dumps(instance.settings.nats.servers),
        "HUBBUB_NATS__SHARDS": str(SHARDS),
        "HUBBUB_STORE__PATH": str(instance.settings.store.path),
        "HUBBUB_LOG_LEVEL": "error",
    }
    process = await asyncio.create_subprocess_exec(
        *leashed(sys.executable, "-m", "hubbub_server", "log", *arguments),
        env=os.environ | settings,
        stdout=asyncio.subprocess.PIPE,
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()
