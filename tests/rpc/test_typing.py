"""SetTyping and its signals through real channels: commands and unary calls, Connect and Subscribe, two nodes."""

import asyncio
import uuid
from collections.abc import AsyncIterator

import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2
from hubbub.history.v1 import history_service_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.domain.limits import TYPING_EXPIRES_S, TYPING_INTERVAL_S
from tests.support.live_client import LiveClient, reason_of, status_of_error, text_message
from tests.support.node import WITHIN_S, Node, NodeCluster, RpcClient

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]


@pytest_asyncio.fixture
async def other_node(cluster: NodeCluster) -> AsyncIterator[Node]:
    """One more node."""
    async with cluster.node() as node:
        yield node


def typing(conversation_id: str, *, active: bool = True, kind: int = 0) -> frame_pb2.SetTypingRequest:
    request = frame_pb2.SetTypingRequest(conversation_id=conversation_id, active=active)
    request.kind = kind  # type: ignore[assignment]  # any number
    return request


async def types(live: LiveClient, conversation_id: str, *, active: bool = True) -> frame_pb2.ServerFrame:
    """Says it as a command and returns the answer."""
    request_id = str(uuid.uuid4())
    await live.command(frame_pb2.Command(request_id=request_id, set_typing=typing(conversation_id, active=active)))
    return await live.answer(request_id)


async def until_signals(live: LiveClient, count: int) -> list[bool]:
    """Reads until so many signals of typing have come; tells of each whether it is a start."""
    while len(live.signals) < count:
        await live.expect(lambda frame: len(frame.signals) > 0)
    return [signal.typing.active for signal in live.signals]


async def test_typing_reaches_the_other_member_on_any_node_and_nobody_else(
    node: Node, other_node: Node, client: RpcClient, alice: Credentials, bob: Credentials, direct: str
) -> None:
    """Neither the one who types nor their other devices; both kinds of clients get the same bytes."""
    sender, device = await LiveClient.connect(client), await LiveClient.connect(client)
    reader = await LiveClient.connect(other_node.client(bob.access_token))
    browser = node.client(bob.access_token)
    hello = chat_service_pb2.SubscribeRequest(hello=chat_service_pb2.Hello(instance_id=str(uuid.uuid4())))
    subscribed = browser.chat.Subscribe(hello, metadata=browser.auth)
    for _ in ("Welcome", "Heads"):
        await subscribed.read()

    assert (await types(sender, direct)).reply.HasField("set_typing")

    await until_signals(reader, 1)
    (signal,) = reader.signals
    assert (signal.conversation_id, signal.user_id) == (direct, alice.user_id)
    assert (signal.typing.kind, signal.typing.active) == (frame_pb2.TYPING_KIND_TEXT, True)
    assert signal.typing.expires_in.ToMilliseconds() == TYPING_EXPIRES_S * 1000
    async with asyncio.timeout(WITHIN_S):
        response = await subscribed.read()
    assert isinstance(response, chat_service_pb2.SubscribeResponse)
    assert list(response.frame.signals) == [signal]
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    for own in (sender, device):
        await own.expect(lambda frame: len(frame.events) > 0)
        assert own.signals == []
    subscribed.cancel()


async def test_a_unary_call_says_the_same_as_a_command(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """G9: and a kind that this server does not know is passed on."""
    reader, sender = await LiveClient.connect(node.client(bob.access_token)), await LiveClient.connect(client)
    await types(sender, direct)
    await until_signals(reader, 1)
    cluster.clock.advance(TYPING_INTERVAL_S)
    await client.chat.SetTyping(typing(direct), metadata=client.auth)
    await until_signals(reader, 2)
    cluster.clock.advance(TYPING_INTERVAL_S)
    await client.chat.SetTyping(typing(direct, kind=77), metadata=client.auth)
    await until_signals(reader, 3)

    assert reader.signals[0] == reader.signals[1]
    assert reader.signals[2].typing.kind == 77


async def test_commands_of_a_stream_are_told_in_their_order(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    reader, sender = await LiveClient.connect(node.client(bob.access_token)), await LiveClient.connect(client)

    for number, active in enumerate((True, False, True, False)):
        await sender.command(frame_pb2.Command(request_id=str(number), set_typing=typing(direct, active=active)))
    await sender.answer("3")

    assert [frame.reply.request_id for frame in sender.controls if frame.HasField("reply")] == ["0", "1", "2", "3"]
    assert await until_signals(reader, 2) == [True, False]


async def test_typing_never_comes_after_the_message_that_it_led_to(
    node: Node, other_node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """C42: cleared by the send."""
    reader = await LiveClient.connect(other_node.client(bob.access_token))
    sender = await LiveClient.connect(client)

    for number in range(3):  # the later ones wait for the first
        await sender.command(frame_pb2.Command(request_id=f"typing {number}", set_typing=typing(direct)))
    await sender.command(frame_pb2.Command(request_id="message", send_message=text_message(direct)))
    await sender.answer("message")
    await reader.expect(lambda frame: len(frame.events) > 0)
    seen = len(reader.signals)
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    while len(reader.events) < 2:
        await reader.expect(lambda frame: len(frame.events) > 0)

    assert len(reader.signals) == seen


async def test_the_end_of_a_stream_ends_its_typing(
    node: Node, other_node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """C41: also when it is cut; and a unary call that names the stream belongs to it."""
    reader = await LiveClient.connect(other_node.client(bob.access_token))
    sender = await LiveClient.connect(client)
    await types(sender, direct)
    assert await until_signals(reader, 1) == [True]

    sender.call.cancel()

    assert await until_signals(reader, 2) == [True, False]


async def test_a_call_that_names_a_stream_ends_with_it(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    reader, stream = await LiveClient.connect(node.client(bob.access_token)), await LiveClient.connect(client)
    session_id = next(frame.welcome.session_id for frame in stream.controls if frame.HasField("welcome"))
    await client.chat.SetTyping(typing(direct), metadata=(*client.auth, ("hubbub-session-id", session_id)))
    assert await until_signals(reader, 1) == [True]

    stream.call.cancel()

    assert await until_signals(reader, 2) == [True, False]


async def test_who_is_removed_neither_types_nor_hears_it(
    cluster: NodeCluster, node: Node, other_node: Node, client: RpcClient, bob: Credentials
) -> None:
    """G5, C42."""
    carol = await cluster.sign_up("carol")
    group = conversation_service_pb2.GroupSpec(title="group", user_ids=[bob.user_id, carol.user_id])
    created = await client.conversations.CreateConversation(
        conversation_service_pb2.CreateConversationRequest(request_id=str(uuid.uuid4()), group=group),
        metadata=client.auth,
    )
    group_id = created.view.conversation.conversation_id
    bobs, carols = other_node.client(bob.access_token), other_node.client(carol.access_token)
    reader, removed = await LiveClient.connect(bobs), await LiveClient.connect(carols)
    assert (await types(removed, group_id)).HasField("reply")
    await until_signals(reader, 1)
    await client.conversations.RemoveMember(
        conversation_service_pb2.RemoveMemberRequest(conversation_id=group_id, user_id=carol.user_id),
        metadata=client.auth,
    )
    await removed.expect(lambda frame: frame.HasField("topic_ended"))

    refused = await types(removed, group_id)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await carols.chat.SetTyping(typing(group_id), metadata=carols.auth)
    await client.chat.SetTyping(typing(group_id), metadata=client.auth)
    await until_signals(reader, 2)
    await bobs.chat.SetTyping(typing(group_id), metadata=bobs.auth)
    removed.call.cancel()

    assert reason_of(refused.rejected.status) == "CONVERSATION_NOT_FOUND"
    assert reason_of(status_of_error(error.value)) == "CONVERSATION_NOT_FOUND"
    assert [signal.user_id for signal in reader.signals[1:]] == [created.view.membership.user_id]
    assert removed.signals == []


async def test_it_is_in_no_answer_of_sync(client: RpcClient, bob: Credentials, node: Node, direct: str) -> None:
    """C41."""
    reader = node.client(bob.access_token)
    live = await LiveClient.connect(reader)
    await client.chat.SetTyping(typing(direct), metadata=client.auth)
    await until_signals(live, 1)
    request = history_service_pb2.SyncRequest(cursors=[{"topic_id": direct, "epoch": 1}])  # type: ignore[list-item]

    call = reader.history.SyncOnce(history_service_pb2.SyncOnceRequest(request=request), metadata=reader.auth)
    frames = [response.frame async for response in call]

    assert sum(len(frame.events) for frame in frames) == 2
    assert not any(frame.signals for frame in frames)


@pytest.mark.parametrize("conversation_id", ["", "x"])
async def test_a_bad_request_is_refused_alike_by_call_and_command(
    client: RpcClient, direct: str, conversation_id: str
) -> None:
    live = await LiveClient.connect(client)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await client.chat.SetTyping(typing(conversation_id), metadata=client.auth)

    rejected = (await types(live, conversation_id)).rejected

    reason = "CONVERSATION_NOT_FOUND" if conversation_id else "INVALID_FIELD"
    assert reason_of(status_of_error(error.value)) == reason_of(rejected.status) == reason
    if not conversation_id:
        bad = error_details_pb2.BadRequest()
        assert any(detail.Unpack(bad) for detail in rejected.status.details)
        assert [violation.field for violation in bad.field_violations] == ["command.set_typing.conversation_id"]
    assert (await types(live, direct)).HasField("reply")  # and the stream goes on


async def test_too_many_are_refused_and_come_no_more_often(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """C42: fifty at once."""
    reader, sender = await LiveClient.connect(node.client(bob.access_token)), await LiveClient.connect(client)
    for number in range(50):
        await sender.command(frame_pb2.Command(request_id=str(number), set_typing=typing(direct)))
    await sender.answer("49")

    answers = [reason_of(f.rejected.status) for f in sender.controls if f.HasField("reply") or f.HasField("rejected")]
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    await reader.expect(lambda frame: len(frame.events) > 0)

    assert answers == [""] * 20 + ["RATE_LIMITED"] * 30
    assert len(reader.signals) == 1
