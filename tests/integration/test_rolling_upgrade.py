"""Programs of two versions on one log: what the newer one commits, an old node forwards and does not touch."""

from dataclasses import replace
from pathlib import Path

import grpc.aio
import pytest
from hubbub.chat.v1 import event_pb2
from hubbub.conversation.v1 import conversation_pb2, conversation_service_pb2
from hubbub.history.v1 import history_service_pb2

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.records import encode_facts
from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.supervisor.data_folder import DataFolder
from tests.integration.test_workers import append_raw
from tests.support.live_client import LiveClient, text_message
from tests.support.node import RpcClient
from tests.support.real_worker import Node, open_node, working
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.support.serving_node import serving, sign_up

pytestmark = pytest.mark.asyncio

NEWER_KIND = b"\xfa\x3f\x02hi"  # field 1023 of an event, two bytes


async def commit_as_a_newer_node(cluster: NatsCluster, node: Node, room: ConversationId) -> bytes:
    """Appends one event of a kind that nobody knows today; returns its bytes."""
    head = await node.log.read_head(room)
    assert head is not None
    position = head.facts.last_position + 1
    facts = replace(
        head.facts,
        record_id="newer",
        first_position=position,
        last_position=position,
        kinds=frozenset({"ReactionAdded"}),
        request_hashes=(),
    )
    event = event_pb2.Event(topic_id=room, epoch=facts.epoch, position=position).SerializeToString() + NEWER_KIND
    async with NatsConnection(cluster.urls, name="newer", on_closed=lambda: None) as connection:
        await append_raw(connection, room, b"\x0a" + bytes([len(event)]) + event, encode_facts(facts))
    return event


async def say(client: RpcClient, room: str, text: str) -> None:
    """Sends a message."""
    await client.chat.SendMessage(text_message(room, text), metadata=client.auth)


async def refusal_of(client: RpcClient, room: str) -> grpc.StatusCode:
    """Tries to send; returns how it was refused."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await say(client, room, "no")
    return refused.value.code()


async def direct(client: RpcClient, user_id: str) -> ConversationId:
    """Makes a direct conversation."""
    spec = conversation_service_pb2.DirectSpec(user_id=user_id)
    request = conversation_service_pb2.CreateConversationRequest(direct=spec)
    created = await client.conversations.CreateConversation(request, metadata=client.auth)
    return ConversationId(TopicId(created.view.conversation.conversation_id))


async def test_event_of_a_newer_kind_is_forwarded_and_its_topic_takes_no_commands_of_old_nodes(tmp_path: Path) -> None:
    """DESIGN 3.3: live, and on a node that starts later. Other topics, the worker and what was said go on."""
    folder = DataFolder(tmp_path / "var")
    async with (
        ready_nats_cluster(1) as cluster,
        open_node(cluster, folder.store) as log,
        working(cluster, folder.store) as worker,
    ):
        async with serving(cluster, folder) as (_, channel):
            alice, _ = await sign_up(channel, "alice")
            token = alice.auth[0][1].removeprefix("Bearer ")
            bob, bob_id = await sign_up(channel, "bob")
            _, carol_id = await sign_up(channel, "carol")
            room, other = await direct(alice, bob_id), await direct(alice, carol_id)
            await say(alice, room, "before")
            live = await LiveClient.connect(bob)
            newer = await commit_as_a_newer_node(cluster, log, room)
            await live.expect(lambda frame: [event.SerializeToString() for event in frame.events] == [newer])
            assert await refusal_of(alice, room) is grpc.StatusCode.UNAVAILABLE
            await say(alice, other, "goes on")
            await log.until_applied(room)

        applied = await log.directory.read_applied(room)
        assert applied is not None
        assert applied.has_unknown_event
        async with serving(cluster, folder) as (_, channel):
            alice = RpcClient(channel, token)
            assert await refusal_of(alice, room) is grpc.StatusCode.UNAVAILABLE
            await say(alice, other, "and on")
            request = history_service_pb2.ListMessagesRequest(conversation_id=room)
            page = await alice.history.ListMessages(request, metadata=alice.auth)
            assert [message.content.text.text for message in page.messages] == ["before"]
            cursor = conversation_pb2.Cursor(topic_id=room, epoch=applied.epoch, position=applied.position - 1)
            sync = history_service_pb2.SyncOnceRequest(request=history_service_pb2.SyncRequest(cursors=[cursor]))
            frames = [answer.frame async for answer in alice.history.SyncOnce(sync, metadata=alice.auth)]
            assert [event.SerializeToString() for frame in frames for event in frame.events] == [newer]

        assert not [line for line in worker.lines if line["level"] == "error"]
