"""A real node and a real Valkey that is killed, flushed, frozen, slow: the node serves on, and is seen again."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hubbub.conversation.v1 import conversation_service_pb2

from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import RedisNodeRegistry
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.registered_node import RegisteredNode
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.ports.node_registry import LEASE_S, NodeLife, NodeTable
from hubbub_server.supervisor.data_folder import DataFolder
from tests.support.fault_proxy import FaultProxy
from tests.support.live_client import LiveClient, text_message
from tests.support.node import RpcClient
from tests.support.program import Program
from tests.support.real_worker import working
from tests.support.services import Services, ready_nats_cluster
from tests.support.serving_node import serving, sign_up
from tests.support.valkey import ValkeyServer, valkey_server
from tests.support.waiting import until, until_found

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

NODE = "node-1"
AWAY = "registry of nodes away"
BACK = "registry of nodes is back"


class Talk:
    """Alice in a room, with her stream: what she sends is delivered to her, live."""

    def __init__(self, alice: RpcClient, room: str, live: LiveClient) -> None:
        self._alice = alice
        self._room = room
        self._live = live
        self.said: list[str] = []

    @classmethod
    async def begin(cls, channel: "RpcClient", bob_id: str) -> "Talk":
        """Opens a stream and makes the room."""
        direct = conversation_service_pb2.DirectSpec(user_id=bob_id)
        created = await channel.conversations.CreateConversation(
            conversation_service_pb2.CreateConversationRequest(direct=direct), metadata=channel.auth
        )
        return cls(channel, created.view.conversation.conversation_id, await LiveClient.connect(channel))

    async def say(self, text: str) -> None:
        """Sends a message and waits until it was delivered."""
        sent = await self._alice.chat.SendMessage(text_message(self._room, text), metadata=self._alice.auth)
        assert sent.message_number == len(self.said) + 1
        await self._live.expect(
            lambda frame: any(event.message_sent.message.content.text.text == text for event in frame.events)
        )
        self.said.append(text)


@asynccontextmanager
async def looking(server: ValkeyServer) -> AsyncIterator[RedisNodeRegistry]:
    """Opens the registry for the test, past any proxy."""
    async with RedisConnection(server.url, name="test") as connection:
        yield RedisNodeRegistry(connection)


async def read(registry: RedisNodeRegistry) -> NodeTable | None:
    try:
        return await registry.read()
    except RegistryUnavailable:
        return None


async def until_alive(registry: RedisNodeRegistry, *, other_than: str = "") -> NodeLife:
    """Waits until the node lives, in another life than that one."""

    async def look() -> NodeLife | None:
        table = await read(registry)
        lives = [life for life in table.alive if life.node_id == NODE] if table else []
        return next((life for life in lives if life.life_id != other_than), None)

    return await until_found(look)


@asynccontextmanager
async def noticing(node: Program) -> AsyncIterator[None]:
    """A fault begins in this block, which ends when the node has noticed that the registry is away."""

    def count(event: str) -> int:
        return sum(line["event"] == event for line in node.lines)

    await until(lambda: count(BACK) == count(AWAY))
    before = count(AWAY)
    yield
    await until(lambda: count(AWAY) > before)


def list_nodes(url: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "hubbub_server", "nodes")
    environment = os.environ | {"HUBBUB_REDIS__URL": url}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)


async def test_messages_flow_while_the_registry_is_flushed_killed_frozen_or_slow_and_it_heals(tmp_path: Path) -> None:
    """The failure matrix, row Redis; C38: leases are there again within one lease."""
    folder = DataFolder(tmp_path / "var")
    loop = asyncio.get_running_loop()
    healed_s: dict[str, float] = {}
    with valkey_server() as server:
        async with (
            FaultProxy(server.port) as proxy,
            ready_nats_cluster(1) as cluster,
            working(cluster, folder.store),
            serving(cluster, folder, more={"HUBBUB_REDIS__URL": server.url_at(proxy.port)}) as (node, channel),
            looking(server) as registry,
        ):
            alice, _ = await sign_up(channel, "alice")
            _, bob_id = await sign_up(channel, "bob")
            talk = await Talk.begin(alice, bob_id)
            life = await until_alive(registry)
            await talk.say("before")

            async def heals(fault: str, *, from_s: float, other_than: str = "") -> NodeLife:
                found = await until_alive(registry, other_than=other_than)
                healed_s[fault] = loop.time() - from_s
                await talk.say(f"after: {fault}")
                return found

            server.flush()
            await talk.say("flushed")
            life = await heals("flushed", from_s=loop.time(), other_than=life.life_id)

            async with noticing(node):
                server.kill()
            await talk.say("killed")
            server.start()
            life = await heals("killed", from_s=loop.time(), other_than=life.life_id)

            async with noticing(node):
                server.freeze()
            await talk.say("frozen")
            server.thaw()
            await heals("frozen", from_s=loop.time())

            async with noticing(node):
                proxy.delay(3.0)
            await talk.say("slow")
            proxy.flow()
            await heals("slow", from_s=loop.time())

    assert max(healed_s.values()) <= LEASE_S, healed_s
    assert await node.wait() == -signal.SIGKILL  # it lived to the end of the test


async def test_a_frozen_node_is_seen_gone_after_its_lease_and_takes_a_new_life_when_it_wakes(tmp_path: Path) -> None:
    """G7, and C37's other half: who was taken for dead does not come back as the same."""
    folder = DataFolder(tmp_path / "var")
    loop = asyncio.get_running_loop()
    settled: list[tuple[float, NodeLife]] = []

    async def note(life: NodeLife) -> None:
        settled.append((loop.time(), life))

    with valkey_server() as server:
        async with (
            ready_nats_cluster(1) as cluster,
            working(cluster, folder.store),
            serving(cluster, folder, more={"HUBBUB_REDIS__URL": server.url}) as (node, _),
            looking(server) as registry,
            RegisteredNode(
                registry,
                node_id="observer",
                address="127.0.0.1:1",
                clock=SystemClock(),
                ids=RandomIds(),
                on_gone=note,
            ),
        ):
            life = await until_alive(registry)
            node.signal(signal.SIGSTOP)
            frozen_s = loop.time()
            await until(lambda: settled, timeout_s=3 * LEASE_S)
            still_there = [each for each in (await registry.read()).alive if each.node_id == NODE]
            node.signal(signal.SIGCONT)
            awake_s = loop.time()
            new_life = await until_alive(registry, other_than=life.life_id)
            back_s = loop.time()

    (gone_s, gone) = settled[0]
    assert [each for _, each in settled] == [life]
    assert gone == life
    assert still_there == []
    assert LEASE_S - 2.5 - 0.5 <= gone_s - frozen_s <= LEASE_S + 2.0
    assert back_s - awake_s <= 5.0
    assert new_life.address == life.address


async def test_a_clock_that_was_set_back_makes_no_lease_endless(services: Services) -> None:
    """G7: a server that took over is an hour behind; who was gone stays gone, who lived has a whole lease."""
    server = services.valkey()
    server.flush()
    hour_ms, lease_s = 3_600_000, 1.0
    lives = [NodeLife(life_id=f"{name}.1", node_id=name, address=f"{name}:1") for name in ("dead", "lived")]
    async with RedisConnection(server.url, name="test") as connection:
        registry = RedisNodeRegistry(connection, lease_s=lease_s)
        for life in lives:
            await registry.begin(life)
        with server.admin() as admin:
            ahead_ms = int(admin.get("hubbub:{nodes}:reached") or 0) + hour_ms
            admin.set("hubbub:{nodes}:reached", ahead_ms)
            admin.zadd("hubbub:{nodes}:leases", {"dead.1": ahead_ms - 1, "lived.1": ahead_ms + 1})
        before_s = asyncio.get_running_loop().time()
        after_the_step = await registry.read()

        async def look() -> NodeTable | None:
            table = await registry.read()
            return None if table.alive else table

        later = await until_found(look)
        lived_s = asyncio.get_running_loop().time() - before_s

    assert after_the_step == NodeTable(alive=lives[1:], gone=lives[:1])
    assert later == NodeTable(alive=[], gone=lives)
    assert lived_s >= lease_s * 0.99


async def test_nodes_are_listed_by_the_command_line(tmp_path: Path) -> None:
    with valkey_server() as server:
        async with looking(server) as registry:
            await registry.begin(NodeLife(life_id="node-1.x", node_id="node-1", address="10.0.0.1:50051"))
            await registry.begin(NodeLife(life_id="node-2.y", node_id="node-2", address="10.0.0.2:50051"))
            await registry.end("node-2.y")
            listed = await asyncio.to_thread(list_nodes, server.url)
        server.kill()
        refused = await asyncio.to_thread(list_nodes, server.url)
    unset = await asyncio.to_thread(list_nodes, "")

    assert listed.stdout.splitlines() == [
        "alive  node-1  10.0.0.1:50051  node-1.x",
        "gone  node-2  10.0.0.2:50051  node-2.y",
    ]
    assert (refused.returncode, refused.stderr.strip()) == (
        1,
        "hubbub: the registry cannot be reached: ConnectionError",
    )
    assert (unset.returncode, unset.stderr.strip()) == (1, "hubbub: HUBBUB_REDIS__URL is not set: there is no registry")
