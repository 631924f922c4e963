"""A real node that is told to end, and one whose NATS is gone: what balancers and clients hear, in which order."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2
from hubbub.history.v1 import history_service_pb2

from hubbub_server.supervisor.data_folder import DataFolder
from tests.support.live_client import LiveClient, text_message
from tests.support.real_worker import working
from tests.support.services import ready_nats_cluster
from tests.support.serving_node import ANNOUNCE_S, serving, sign_up
from tests.support.waiting import until, until_found

pytestmark = pytest.mark.asyncio

STREAMS = 60
READY_S = 30.0


async def watch_health(channel: grpc.aio.Channel, seen: list[tuple[float, int]]) -> None:
    """Notes what a balancer hears, with the time, until the node is gone."""
    stub: Any = health_pb2_grpc.HealthStub(channel)
    with suppress(grpc.aio.AioRpcError):
        async for response in stub.Watch(health_pb2.HealthCheckRequest()):
            seen.append((asyncio.get_running_loop().time(), response.status))


async def follow(live: LiveClient) -> tuple[float, frame_pb2.Goodbye]:
    """Reads a stream to its Goodbye; returns it and when it came."""
    goodbye = (await live.expect(lambda frame: frame.HasField("goodbye"))).goodbye
    return asyncio.get_running_loop().time(), goodbye


async def test_a_node_that_is_told_to_end_is_noticed_first_and_then_sends_its_clients_away_bit_by_bit(
    tmp_path: Path,
) -> None:
    """C81: NOT_SERVING, a time to be noticed in which it still takes streams, Goodbyes over a while, exit 0."""
    folder = DataFolder(tmp_path / "var")
    health: list[tuple[float, int]] = []
    async with (
        ready_nats_cluster(1) as cluster,
        working(cluster, folder.store),
        serving(cluster, folder) as (node, channel),
        asyncio.TaskGroup() as tasks,
    ):
        alice, _ = await sign_up(channel, "alice")
        watching = tasks.create_task(watch_health(channel, health))
        streams = [await LiveClient.connect(alice) for _ in range(STREAMS)]
        endings = [tasks.create_task(follow(live)) for live in streams]
        await until(lambda: len(health) == 1)

        node.signal(signal.SIGTERM)
        await until(lambda: len(health) == 2)
        late = await LiveClient.connect(alice)
        endings.append(tasks.create_task(follow(late)))
        ends = await asyncio.gather(*endings)
        code = await node.wait()
        watching.cancel()

    serving_status, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    times_s = sorted(time_s for time_s, _ in ends)
    assert [status for _, status in health[:2]] == [serving_status, not_serving]
    assert times_s[0] - health[1][0] >= ANNOUNCE_S - 0.6  # health is looked at twice a second
    assert times_s[-1] - times_s[0] >= 1.0
    assert {goodbye.reason for _, goodbye in ends} == {frame_pb2.GOODBYE_REASON_DRAINING}
    assert all(goodbye.reconnect for _, goodbye in ends)
    assert len({goodbye.retry_delay.nanos for _, goodbye in ends}) > STREAMS / 2
    assert code == 0


async def test_a_node_whose_nats_is_gone_says_so_and_answers_history_from_the_store(tmp_path: Path) -> None:
    """The failure matrix: all NATS down. When it is back everything goes on, without anybody doing anything."""
    folder = DataFolder(tmp_path / "var")
    health: list[tuple[float, int]] = []
    async with (
        ready_nats_cluster(1) as cluster,
        working(cluster, folder.store),
        serving(cluster, folder) as (_, channel),
        asyncio.TaskGroup() as tasks,
    ):
        alice, _ = await sign_up(channel, "alice")
        _, bob_id = await sign_up(channel, "bob")
        direct = conversation_service_pb2.DirectSpec(user_id=bob_id)
        created = await alice.conversations.CreateConversation(
            conversation_service_pb2.CreateConversationRequest(direct=direct), metadata=alice.auth
        )
        room = created.view.conversation.conversation_id
        await alice.chat.SendMessage(text_message(room, "tea?"), metadata=alice.auth)
        watching = tasks.create_task(watch_health(channel, health))
        await until(lambda: len(health) == 1)
        request = history_service_pb2.ListMessagesRequest(conversation_id=room)

        cluster.kill()
        await until(lambda: len(health) == 2, timeout_s=READY_S)
        page = await alice.history.ListMessages(request, metadata=alice.auth)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await alice.chat.SendMessage(text_message(room, "milk?"), metadata=alice.auth)
        cluster.start()
        await cluster.wait_ready()
        await until(lambda: len(health) == 3, timeout_s=READY_S)

        async def look() -> history_service_pb2.ListMessagesResponse | None:
            found = await alice.history.ListMessages(request, metadata=alice.auth)
            return None if found.head_unconfirmed else found

        healed = await until_found(look)
        watching.cancel()

    assert [message.content.text.text for message in page.messages] == ["tea?"]
    assert page.head_unconfirmed
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [message.content.text.text for message in healed.messages] == ["tea?"]
    serving_status, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert [status for _, status in health] == [serving_status, not_serving, serving_status]
