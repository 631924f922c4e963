"""PresenceService as clients see it, on both transports."""

import asyncio
import uuid

import grpc.aio
import pytest
from hubbub.conversation.v1.conversation_service_pb2 import CreateConversationRequest, GroupSpec
from hubbub.presence.v1 import presence_service_pb2 as pb
from hubbub.user.v1.settings_service_pb2 import BlockUserRequest

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.watch_presence import FRAME_INTERVAL_S
from hubbub_server.domain.ids import TopicId, UserId
from tests.support.live_client import LiveClient, end_of, reason_of
from tests.support.node import WITHIN_S, Node, NodeCluster, RpcClient
from tests.support.watching import WatchClient, presence_of

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]


async def test_a_watcher_hears_who_comes_and_goes(node: Node, client: RpcClient, bob: Credentials) -> None:
    """By a stream of ChatService as well as by one of watchers; one that says nothing is active."""
    other = node.client(bob.access_token)
    async with WatchClient(client, bob.user_id) as watch:
        assert watch.state(bob.user_id) == "offline"
        live = await LiveClient.connect(other)
        await watch.until(bob.user_id, "online")
        async with WatchClient(other, activity=pb.ACTIVITY_INACTIVE) as device:
            await watch.until(bob.user_id, "away")
            await device.write(own_activity=pb.ACTIVITY_ACTIVE)
            await watch.until(bob.user_id, "online")
        live.call.cancel()
        gone = await watch.until(bob.user_id, "offline")

    assert gone.HasField("last_seen_time")
    versions = [each.version for update in watch.updates for each in update.presences]
    assert versions == sorted(set(versions))
    asked = await presence_of(client, bob.user_id)
    assert asked.version >= gone.version
    gone.version = asked.version
    assert asked == gone


async def test_the_watched_set_is_changed_on_the_stream(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials
) -> None:
    carol = await cluster.sign_up("carol")
    async with (
        WatchClient(client, bob.user_id) as watch,
        WatchClient(node.client(bob.access_token)) as bobs,
        WatchClient(node.client(carol.access_token)),
    ):
        await watch.until(bob.user_id, "online")
        await watch.write(added_user_ids=[carol.user_id, "nobody"], removed_user_ids=[bob.user_id])
        await watch.until(carol.user_id, "online")
        await watch.until("nobody", "offline")
        await bobs.write(own_activity=pb.ACTIVITY_INACTIVE)
        await watch.write(added_user_ids=[bob.user_id])
        await watch.until(bob.user_id, "away")

    assert [update.snapshot for update in watch.updates] == [True] + [False] * (len(watch.updates) - 1)


async def test_subscribe_tells_the_same_as_watch(node: Node, client: RpcClient, bob: Credentials) -> None:
    """G9."""
    async with (
        WatchClient(client, bob.user_id) as watch,
        WatchClient(client, bob.user_id, takes_frames=False) as subscribed,
    ):
        inactive = pb.ACTIVITY_INACTIVE
        async with WatchClient(node.client(bob.access_token), "u1", takes_frames=False, activity=inactive):
            await watch.until(bob.user_id, "away")
            await subscribed.until(bob.user_id, "away")
        await watch.until(bob.user_id, "offline")
        await subscribed.until(bob.user_id, "offline")

    for one, other in zip(watch.updates, subscribed.updates, strict=True):
        for update in (one, other):
            update.presences[0].version = 0
        assert one == other


async def test_a_stream_in_the_background_is_away_and_gets_a_snapshot_when_it_comes_back(
    node: Node, client: RpcClient, alice: Credentials, bob: Credentials
) -> None:
    async with (
        WatchClient(client, bob.user_id) as watch,
        WatchClient(node.client(bob.access_token), alice.user_id) as bobs,
    ):
        await watch.until(bob.user_id, "online")
        await watch.write(own_activity=pb.ACTIVITY_BACKGROUND)
        await bobs.until(alice.user_id, "away")
        await bobs.write(own_activity=pb.ACTIVITY_INACTIVE)
        await asyncio.sleep(2 * FRAME_INTERVAL_S)
        before = len(watch.updates)
        await watch.write(own_activity=pb.ACTIVITY_ACTIVE)
        await watch.until(bob.user_id, "away")

    assert [update.snapshot for update in watch.updates[before:]] == [True]


async def test_a_half_closed_stream_ends_well_and_its_session_with_it(
    node: Node, client: RpcClient, bob: Credentials
) -> None:
    async with WatchClient(client, bob.user_id) as watch:
        other = node.client(bob.access_token).presence.Watch(metadata=node.client(bob.access_token).auth)
        await other.write(pb.WatchRequest())
        await watch.until(bob.user_id, "online")
        await other.done_writing()
        assert (await end_of(other)).code == 0
        await watch.until(bob.user_id, "offline")
    assert len(node.presence.streams) <= 1


async def test_streams_end_with_their_token_and_with_the_node(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials
) -> None:
    async with WatchClient(client) as watch:
        cluster.clock.advance(600 + 61)
        node.presence.streams.tick()
        assert reason_of(await end_of(watch.call)) == "TOKEN_EXPIRED"
    again = node.client(cluster.token(UserId(TopicId(bob.user_id))))
    async with WatchClient(again) as other:
        node.presence.streams.drain()
        assert reason_of(await end_of(other.call)) == "NODE_DRAINING"
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await again.presence.Watch(metadata=again.auth).read()
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_many_are_listed_and_counted(
    cluster: NodeCluster, node: Node, client: RpcClient, alice: Credentials, bob: Credentials
) -> None:
    members = [await cluster.sign_up(f"member{number}") for number in range(5)]
    spec = GroupSpec(title="group", user_ids=[each.user_id for each in members])
    request = CreateConversationRequest(request_id=str(uuid.uuid4()), group=spec)
    group = await client.conversations.CreateConversation(request, metadata=client.auth)
    async with WatchClient(node.client(members[0].access_token)), WatchClient(client, members[0].user_id) as watch:
        await watch.until(members[0].user_id, "online")
        user_ids = [members[1].user_id, members[0].user_id, "nobody", members[1].user_id]
        listed = await client.presence.ListPresence(pb.ListPresenceRequest(user_ids=user_ids), metadata=client.auth)
        summary = await client.presence.GetPresenceSummary(
            pb.GetPresenceSummaryRequest(conversation_id=group.view.conversation.conversation_id), metadata=client.auth
        )

    assert [(each.user_id, each.state) for each in listed.presences] == [
        (members[1].user_id, pb.PRESENCE_STATE_OFFLINE),
        (members[0].user_id, pb.PRESENCE_STATE_ONLINE),
        ("nobody", pb.PRESENCE_STATE_OFFLINE),
    ]
    assert summary == pb.GetPresenceSummaryResponse(member_count=6, present_count=2)


async def test_who_is_blocked_is_not_counted_to_the_other(
    cluster: NodeCluster, node: Node, client: RpcClient, direct: str, bob: Credentials
) -> None:
    """In a conversation of two a count names somebody."""
    of_bob = node.client(bob.access_token)
    async with WatchClient(of_bob), WatchClient(client, bob.user_id) as watch:
        await watch.until(bob.user_id, "online")
        request = pb.GetPresenceSummaryRequest(conversation_id=direct)
        before = [await each.presence.GetPresenceSummary(request, metadata=each.auth) for each in (client, of_bob)]
        await client.settings.BlockUser(BlockUserRequest(user_id=bob.user_id), metadata=client.auth)
        after = [await each.presence.GetPresenceSummary(request, metadata=each.auth) for each in (client, of_bob)]

    assert [each.present_count for each in before] == [2, 2]
    assert [(each.member_count, each.present_count, each.unknown) for each in after] == [(2, 1, False)] * 2


async def test_500_users_are_one_snapshot_in_time(node: Node, client: RpcClient) -> None:
    async with asyncio.timeout(WITHIN_S), WatchClient(client, *[f"u{number}" for number in range(500)]) as watch:
        assert [len(update.presences) for update in watch.updates] == [500]
        assert {each.state for each in watch.newest.values()} == {pb.PRESENCE_STATE_OFFLINE}
