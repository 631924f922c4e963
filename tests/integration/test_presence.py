"""Presence on two real nodes, a real Valkey and Envoy: nodes die, Valkey is flushed, frozen, killed."""

import asyncio
import os
import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import httpx
import pytest
from hubbub.auth.v1 import auth_service_pb2
from hubbub.presence.v1 import presence_service_pb2 as pb
from redis import Redis

from hubbub_server.app.authenticate import Credentials
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.domain.presence import GRACE_S
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.cluster import Cluster, Process
from tests.support.live_client import LiveClient
from tests.support.node import PASSWORD, RpcClient
from tests.support.waiting import until
from tests.support.watching import WatchClient, presence_of

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(500)]

USERS = 20
DEAD_WITHIN_S = 15.0
"""G7."""
RESTARTED_WITHIN_S = 150.0
"""A busy machine takes its time with that."""


class Stage:
    """Watchers on the second node; users on either."""

    def __init__(self, cluster: Cluster, stack: AsyncExitStack) -> None:
        self.cluster = cluster
        self._stack = stack
        self._channels: dict[int, grpc.aio.Channel] = {}

    async def channel(self, port: int) -> grpc.aio.Channel:
        """Connects to a port of this machine, once."""
        if port not in self._channels:
            options = [("grpc.use_local_subchannel_pool", 1)]
            channel = grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
            self._channels[port] = await self._stack.enter_async_context(channel)
        return self._channels[port]

    def node(self, name: str) -> Process:
        """Finds a running node."""
        return next(each for each in self.cluster.processes("node") if each.name == name)

    async def sign_up(self) -> Credentials:
        """Registers somebody, through Envoy."""
        client = RpcClient(await self.channel(self.cluster.port), None)
        name = f"p.{uuid.uuid4().hex[:20]}"
        request = auth_service_pb2.RegisterRequest(login_name=name, password=PASSWORD, display_name="Somebody")
        answer = (await client.accounts.Register(request)).credentials
        return Credentials(
            user_id=UserId(TopicId(answer.user_id)),
            device_session_id=DeviceSessionId(answer.device_session_id),
            access_token=answer.access_token,
            access_expire_time_ms=answer.access_expire_time.ToMilliseconds(),
            refresh_token=answer.refresh_token,
        )

    async def client(self, credentials: Credentials, name: str) -> RpcClient:
        """Returns the stubs of a user at a node, or at Envoy."""
        if name == "envoy":
            return RpcClient(await self.channel(self.cluster.port), credentials.access_token)
        node = self.node(name)
        return RpcClient(
            await self.channel(node.grpc_port), credentials.access_token, await self.channel(node.stream_port)
        )

    @asynccontextmanager
    async def valkey(self) -> AsyncIterator[tuple[Process, "Redis"]]:
        """Opens a client of the server, for what nodes do not do."""
        (process,) = self.cluster.processes("valkey")
        password = (self.cluster.data / "secrets" / "valkey_password").read_text().strip()
        with Redis(port=process.ports["redis"], password=password) as redis:
            yield process, redis


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """For the instance."""
    return tmp_path_factory.mktemp("presence")


async def test_presence_through_deaths_of_nodes_and_of_valkey(folder: Path) -> None:
    """G7, C35, and the failure matrix, row Redis; deliveries go on all the time."""
    async with Cluster(folder, nodes=2) as cluster, AsyncExitStack() as stack:
        stage = Stage(cluster, stack)
        alice, *users = [await stage.sign_up() for _ in range(1 + USERS)]
        ids = [each.user_id for each in users]
        watcher = await stage.client(alice, "node-2")
        loop = asyncio.get_running_loop()

        # Envoy knows the routes, and REST the unary calls.
        through_envoy = await stage.client(alice, "envoy")
        await until_known(through_envoy, ids[0])
        async with WatchClient(through_envoy, ids[0]) as proxied:
            assert proxied.state(ids[0]) == "offline"
        base = f"http://127.0.0.1:{cluster.port}"
        async with httpx.AsyncClient(base_url=base, headers=dict(through_envoy.auth)) as rest:
            status = {"presence": {"state": "MANUAL_STATE_AWAY", "text": "at lunch"}}
            assert (await rest.post("/v1/presence", json=status)).json()["presence"]["text"] == "at lunch"
            own = (await rest.get("/v1/users/me/presence")).json()
            assert own["own"]["state"] == "MANUAL_STATE_AWAY"
            listed = await rest.get("/v1/presence", params={"user_ids": ids})
            assert len(listed.json()["presences"]) == USERS

        async with WatchClient(watcher, *ids) as watch:
            # a node is killed
            for each in users:
                await LiveClient.connect(await stage.client(each, "node-1"))
            await all_are(watch, ids, "online")
            cluster.hold("node-1")
            os.kill(stage.node("node-1").pid, signal.SIGKILL)
            dead_s = loop.time()
            await all_are(watch, ids, "offline")
            assert loop.time() - dead_s <= DEAD_WITHIN_S
            cluster.release("node-1")
            await until(
                lambda: any(each.name == "node-1" for each in cluster.processes("node")), timeout_s=RESTARTED_WITHIN_S
            )

            # a node is frozen, and wakes
            clients = [await stage.client(each, "node-2") for each in users]
            lives = [await LiveClient.connect(client) for client in clients[:-1]]
            await all_are(watch, ids[:-1], "online")
            frozen = stage.node("node-1")
            channel = await stage.channel(frozen.grpc_port)
            async with asyncio.timeout(RESTARTED_WITHIN_S):
                await channel.channel_ready()
            sleeper = await LiveClient.connect(RpcClient(channel, users[-1].access_token))
            await watch.until(ids[-1], "online")
            os.kill(frozen.pid, signal.SIGSTOP)
            frozen_s = loop.time()
            await watch.until(ids[-1], "offline")
            assert loop.time() - frozen_s <= DEAD_WITHIN_S
            os.kill(frozen.pid, signal.SIGCONT)
            await watch.until(ids[-1], "online")
            sleeper.call.cancel()

            # Valkey is flushed, frozen, killed
            async with stage.valkey() as (process, redis):
                redis.flushall()
                await all_are(watch, ids[:-1], "online", after="unspecified", within_s=LEASE_S)
                os.kill(process.pid, signal.SIGSTOP)
                await all_are(watch, ids[:-1], "unspecified")
                assert (await presence_of(watcher, ids[0])).state == pb.PRESENCE_STATE_UNSPECIFIED
                os.kill(process.pid, signal.SIGCONT)
                await all_are(watch, ids[:-1], "online", within_s=LEASE_S)
                os.kill(process.pid, signal.SIGKILL)
                await all_are(watch, ids[:-1], "online", after="unspecified", within_s=3 * LEASE_S)

            for live in lives:
                live.call.cancel()
            await all_are(watch, ids[:-1], "offline", within_s=GRACE_S + LEASE_S + 5.0)


async def until_known(client: RpcClient, user_id: str) -> None:
    """Waits until the registry is old enough to know who is missing."""
    async with asyncio.timeout(2 * LEASE_S):
        while (await presence_of(client, user_id)).state == pb.PRESENCE_STATE_UNSPECIFIED:  # noqa: ASYNC110  # asked
            await asyncio.sleep(0.1)


async def all_are(
    watch: WatchClient, user_ids: list[UserId], state: str, *, after: str = "", within_s: float = 2 * LEASE_S
) -> None:
    """Reads until all users are so, and one of them was told to be `after` before."""
    async with asyncio.timeout(within_s):
        while after and after not in {watch.state(user_id) for user_id in user_ids}:
            await watch.read()
        while {watch.state(user_id) for user_id in user_ids} != {state}:
            await watch.read()
