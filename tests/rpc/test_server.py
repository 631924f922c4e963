"""What the server is beside its services: health, reflection, ports, unary answers."""

import asyncio
import uuid
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc.error_details_pb2 import RetryInfo
from google.rpc.status_pb2 import Status
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.user.v1 import user_service_pb2 as users

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import TOKEN_GRACE_S
from tests.support.live_client import LiveClient, end_of, reason_of, status_of_error, text_message
from tests.support.node import WITHIN_S, Node, NodeCluster, RpcClient
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

_SERVICES = [
    "hubbub.auth.v1.AuthService",
    "hubbub.chat.v1.ChatService",
    "hubbub.chat.v1.MarkerService",
    "hubbub.conversation.v1.ConversationService",
    "hubbub.history.v1.HistoryService",
    "hubbub.presence.v1.PresenceService",
    "hubbub.user.v1.SettingsService",
    "hubbub.user.v1.UserService",
]


def retry_delay_s(status: Status) -> float:
    """Returns what RetryInfo says, 0 without one."""
    for detail in status.details:
        retry = RetryInfo()
        if detail.Unpack(retry):
            return retry.retry_delay.seconds + retry.retry_delay.nanos / 1e9
    return 0.0


async def _health(node: Node, service: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(node.channel)
    response: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest(service=service))
    return response.status


async def test_health_serves_while_the_log_is_live_and_not_otherwise(node: Node) -> None:
    """Without a token, and by Watch, as a load balancer asks."""
    stub: Any = health_pb2_grpc.HealthStub(node.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service=_SERVICES[0]))
    seen = [(await watch.read()).status]
    async with asyncio.timeout(WITHIN_S):
        node.log.cut()
        seen.append((await watch.read()).status)
        node.log.heal()
        seen.append((await watch.read()).status)
    watch.cancel()

    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
    assert seen == [serving, not_serving, serving]
    assert {service: await _health(node, service) for service in ("", *_SERVICES)} == dict.fromkeys(
        ("", *_SERVICES), serving
    )


async def test_health_of_an_unknown_service_is_not_found_as_its_protocol_says(node: Node) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await _health(node, "hubbub.none.v1.None")

    assert failure.value.code() is grpc.StatusCode.NOT_FOUND


async def test_reflection_names_our_services_and_their_files(node: Node) -> None:
    channel: Any = node.channel  # the stubs know only the other sort of channel
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(channel)
    call = stub.ServerReflectionInfo()
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    listed = await call.read()
    await call.write(reflection_pb2.ServerReflectionRequest(file_containing_symbol="hubbub.chat.v1.ServerFrame"))
    described = await call.read()
    await call.done_writing()

    names = sorted(service.name for service in listed.list_services_response.service)
    file = FileDescriptorProto.FromString(described.file_descriptor_response.file_descriptor_proto[0])
    assert [name for name in names if name.startswith("hubbub.")] == _SERVICES
    assert file.name == "hubbub/chat/v1/frame.proto"


async def test_an_unknown_method_is_unimplemented(node: Node, client: RpcClient) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = node.channel.unary_unary("/hubbub.chat.v1.ChatService/No")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await method(b"", metadata=client.auth)

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_port_that_is_taken_is_an_error(cluster: NodeCluster, node: Node) -> None:
    async with cluster.node() as other:
        await other.server.stop(0)
        with pytest.raises(RuntimeError):
            await other.server.start(node.address)


async def test_a_conversation_as_its_members_see_it(client: RpcClient, alice: Credentials, bob: Credentials) -> None:
    spec = conversation.GroupSpec(title="  Café ", user_ids=[bob.user_id])
    created = await client.conversations.CreateConversation(
        conversation.CreateConversationRequest(request_id=str(uuid.uuid4()), group=spec), metadata=client.auth
    )
    conversation_id = created.view.conversation.conversation_id
    await client.chat.SendMessage(text_message(conversation_id, "hi"), metadata=client.auth)
    listed = await client.conversations.ListConversations(conversation.ListConversationsRequest(), metadata=client.auth)
    members = await client.conversations.ListMembers(
        conversation.ListMembersRequest(conversation_id=conversation_id), metadata=client.auth
    )

    (view,) = listed.views
    assert (view.conversation.title, view.conversation.member_count) == ("Café", 2)
    assert (view.head.cursor.position, view.head.last_message_number) == (4, 1)
    assert view.last_message.content.text.text == "hi"
    assert (view.last_message.change_position, view.last_message.commit_time.ToMilliseconds()) == (
        4,
        1_800_000_000_000,
    )
    assert [(m.user_id, m.join_position) for m in members.members] == [(alice.user_id, 2), (bob.user_id, 3)]


async def test_a_page_of_conversations_with_large_messages_ends_early_and_the_next_goes_on(
    cluster: NodeCluster, client: RpcClient
) -> None:
    """200 messages of 32 KB are more than a client takes in one answer."""
    for number in range(70):
        other = await cluster.sign_up(f"user{number}")
        spec = conversation.DirectSpec(user_id=other.user_id)
        created = await client.conversations.CreateConversation(
            conversation.CreateConversationRequest(direct=spec), metadata=client.auth
        )
        text = text_message(created.view.conversation.conversation_id, "\U0001f600" * 8_000)
        await client.chat.SendMessage(text, metadata=client.auth)
    pages: list[conversation.ListConversationsResponse] = []
    token = ""
    while not pages or token:
        request = conversation.ListConversationsRequest(page_size=200, page_token=token)
        page = await client.conversations.ListConversations(request, metadata=client.auth)
        pages.append(page)
        token = page.next_page_token

    ids = [view.conversation.conversation_id for page in pages for view in page.views]
    assert len(ids) == len(set(ids)) == 70
    assert len(pages) == 3
    assert max(page.ByteSize() for page in pages) < 1.1 * 1024 * 1024


async def test_pages_of_messages_and_one_message(cluster: NodeCluster, client: RpcClient, direct: str) -> None:
    for number in range(1, 6):
        await client.chat.SendMessage(text_message(direct, f"{number}"), metadata=client.auth)
    await cluster.project()

    page = await client.history.ListMessages(
        history.ListMessagesRequest(conversation_id=direct, anchor_number=2, side=history.PAGE_SIDE_AFTER, page_size=2),
        metadata=client.auth,
    )
    one = await client.history.GetMessage(
        history.GetMessageRequest(conversation_id=direct, message_number=5), metadata=client.auth
    )

    assert [message.content.text.text for message in page.messages] == ["3", "4"]
    assert (page.older_available, page.newer_available) == (True, True)
    assert one.message.content.text.text == "5"
    assert one.head == page.head


async def test_users_see_each_other(client: RpcClient, alice: Credentials, bob: Credentials) -> None:
    found = await client.users.LookupUser(users.LookupUserRequest(login_name="BOB"), metadata=client.auth)
    several = await client.users.BatchGetUsers(
        users.BatchGetUsersRequest(user_ids=[bob.user_id, "unobody", alice.user_id, bob.user_id]),
        metadata=client.auth,
    )

    assert (found.user.user_id, found.user.login_name, found.user.display_name) == (bob.user_id, "bob", "Bob")
    assert [user.user_id for user in several.users] == [bob.user_id, alice.user_id]


async def test_the_session_of_a_unary_send_goes_into_the_record(
    cluster: NodeCluster, client: RpcClient, direct: str
) -> None:
    metadata = (*client.auth, ("hubbub-session-id", "s123"))
    await client.chat.SendMessage(text_message(direct), metadata=metadata)

    records = [record for records in cluster.log_server.records for record in records]
    assert [r.facts.session_id for r in records if r.facts.last_message_number] == ["s123"]


async def test_a_sync_stream_ends_with_its_token(
    cluster: NodeCluster, node: Node, alice: Credentials, direct: str
) -> None:
    client = node.client(cluster.token(alice.user_id, expires_in_s=1))
    request = history.SyncRequest(cursors=[conversation_pb2.Cursor(topic_id=direct, epoch=1, position=2)])
    call = client.history.Sync(metadata=client.auth)
    await call.write(request)
    answers = [await call.read()]
    cluster.clock.advance(1 + TOKEN_GRACE_S)
    await call.write(request)
    answers.append(await call.read())
    cluster.clock.advance(0.001)
    await call.write(request)

    assert all(isinstance(a, history.SyncResponse) and a.frame.HasField("caught_up") for a in answers)
    assert reason_of(await end_of(call)) == "TOKEN_EXPIRED"


async def test_a_node_without_the_log_answers_history_from_the_store_and_refuses_the_rest_with_a_time_to_come_again(
    cluster: NodeCluster, node: Node, client: RpcClient, direct: str
) -> None:
    """The failure matrix: all NATS down, and a node cut from NATS."""
    await client.chat.SendMessage(text_message(direct, "tea?"), metadata=client.auth)
    await cluster.project()
    node.log.cut()

    page = await client.history.ListMessages(history.ListMessagesRequest(conversation_id=direct), metadata=client.auth)
    found = await client.history.GetMessage(
        history.GetMessageRequest(conversation_id=direct, message_number=1), metadata=client.auth
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.chat.SendMessage(text_message(direct, "milk?"), metadata=client.auth)
    sent = status_of_error(refused.value)
    opened = await LiveClient.silent(client).end()
    node.log.heal()
    healed = await client.history.ListMessages(
        history.ListMessagesRequest(conversation_id=direct), metadata=client.auth
    )

    assert [message.content.text.text for message in page.messages] == ["tea?"]
    assert page.head_unconfirmed
    assert found.head_unconfirmed
    assert not healed.head_unconfirmed
    assert reason_of(sent) == reason_of(opened) == "BACKEND_UNAVAILABLE"
    assert all(retry_delay_s(status) > 0 for status in (sent, opened))


async def test_a_stream_that_comes_while_too_many_are_opened_is_told_when_to_come_again(
    cluster: NodeCluster, alice: Credentials
) -> None:
    """C81."""
    async with cluster.node(max_opening=2) as node:
        client = node.client(alice.access_token)
        silent = [LiveClient.silent(client) for _ in range(2)]
        async with asyncio.timeout(WITHIN_S):
            await until(lambda: len(node.streams) == 2)
        refused = await LiveClient.silent(client).end()
        silent[0].call.cancel()
        await until(lambda: len(node.streams) == 1)
        live = await LiveClient.connect(client)

        assert reason_of(refused) == "BACKEND_UNAVAILABLE"
        assert 0 < retry_delay_s(refused) <= 5
        for each in (silent[1], live):
            each.call.cancel()
