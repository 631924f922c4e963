"""More streams through Envoy than its defaults let through."""

import asyncio
import uuid
from contextlib import AsyncExitStack

import grpc.aio
import httpx
import pytest

from tests.e2e.instance import Instance, Person
from tests.support.live_client import LiveClient
from tests.support.node import RpcClient

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(180)]

STREAMS = 1_200
STREAMS_A_CONNECTION = 100
OPENING_AT_ONCE = 40
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]


async def streams_of(instance: Instance) -> float:
    """Reads how many streams the node has."""
    node = instance.process_of("node-1")
    assert node is not None
    async with httpx.AsyncClient() as client:
        page = (await client.get(f"http://127.0.0.1:{node['metrics_port']}/metrics")).text
    (line,) = [line for line in page.splitlines() if line.startswith("hubbub_streams ")]
    return float(line.split()[1])


async def until_streams(instance: Instance, count: float) -> None:
    """Waits until the node has so many streams."""
    async with asyncio.timeout(30):
        while await streams_of(instance) != count:  # noqa: ASYNC110  # a process tells nobody
            await asyncio.sleep(0.1)


async def test_1200_streams_of_one_node_are_open_at_once_and_none_is_left_when_clients_are_gone(
    instance: Instance, carol: Person, dave: Person
) -> None:
    """C90: each is live; the gauge says how many there are; those that clients cancel or drop free their places."""
    room = carol.talk_to(dave)
    before = await streams_of(instance)
    opening = asyncio.Semaphore(OPENING_AT_ONCE)

    async def connect(channel: grpc.aio.Channel) -> LiveClient:
        async with opening:
            return await LiveClient.connect(RpcClient(channel, dave.token))

    async def hear(live: LiveClient) -> None:
        await live.expect(lambda frame: any(event.topic_id == room for event in frame.events))

    async with AsyncExitStack() as stack:
        channels = [
            await stack.enter_async_context(
                grpc.aio.insecure_channel(f"127.0.0.1:{instance.port}", options=OWN_CONNECTION)
            )
            for _ in range(STREAMS // STREAMS_A_CONNECTION)
        ]
        streams = await asyncio.gather(*(connect(channel) for channel in channels * STREAMS_A_CONNECTION))
        assert await streams_of(instance) == before + STREAMS
        async with asyncio.TaskGroup() as listening:
            for live in streams:
                listening.create_task(hear(live))
            sent = carol.send(room, str(uuid.uuid4()), "to all of them")
        assert sent.status_code == 200
        for live in streams[::2]:
            live.call.cancel()
        await until_streams(instance, before + STREAMS / 2)
    await until_streams(instance, before)
