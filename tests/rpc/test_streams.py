"""Connect and Subscribe through a real channel."""

import asyncio
import base64
import uuid

import grpc.aio
import pytest
from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S, HELLO_WITHIN_S, TOKEN_GRACE_S
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import RECORD_MAX_EVENTS
from tests.support.live_client import LiveClient, reason_of, status_of, text_message
from tests.support.node import Node, NodeCluster, RpcClient, until

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]


async def test_a_command_is_answered_and_its_event_reaches_both_members(
    node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    sender = await LiveClient.connect(client)
    reader = await LiveClient.connect(node.client(bob.access_token))
    await sender.command(frame_pb2.Command(request_id="1", send_message=text_message(direct, "hi")))

    reply = (await sender.answer("1")).reply.send_message
    await reader.expect(lambda frame: len(frame.events) > 0)

    assert reply.message_number == 1
    assert reader.events[0].message_sent.message.content.text.text == "hi"
    assert reader.events[0].position == reply.cursor.position


async def test_all_readers_and_the_log_have_the_same_bytes(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """The bytes that were committed are the bytes that clients receive (G2)."""
    raw: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = node.channel.stream_stream(
        "/hubbub.chat.v1.ChatService/Connect"
    )
    hello = chat_service_pb2.ConnectRequest(hello=chat_service_pb2.Hello(instance_id=str(uuid.uuid4())))
    call = raw(metadata=node.client(bob.access_token).auth)
    await call.write(hello.SerializeToString())
    for _ in ("Welcome", "Heads"):
        await call.read()
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)

    received = await call.read()

    body = cluster.log_server.by_topic[_topic(direct)][-1].body
    assert isinstance(received, bytes)
    assert received.endswith(body)
    assert chat_service_pb2.ConnectResponse.FromString(received).frame.events[0].position == 3
    call.cancel()


def _topic(conversation_id: str) -> UserId:
    return UserId(conversation_id)  # type: ignore[arg-type]  # any topic id


async def test_half_close_ends_the_stream_with_ok_after_the_answers(client: RpcClient, direct: str) -> None:
    live = await LiveClient.connect(client)
    await live.command(frame_pb2.Command(request_id="1", send_message=text_message(direct)))
    await live.call.done_writing()

    status = await live.end()

    assert status.code == 0
    assert [frame.reply.request_id for frame in live.controls if frame.HasField("reply")] == ["1"]


async def test_subscribe_delivers_the_same_frames(node: Node, client: RpcClient, bob: Credentials, direct: str) -> None:
    reader = node.client(bob.access_token)
    hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    call = reader.chat.Subscribe(chat_service_pb2.SubscribeRequest(hello=hello), metadata=reader.auth)
    frames = [await call.read(), await call.read()]
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)

    frames.append(await call.read())

    kinds = [
        response.frame.WhichOneof("control") or "events"
        for response in frames
        if isinstance(response, chat_service_pb2.SubscribeResponse)
    ]
    assert kinds == ["welcome", "heads", "events"]
    call.cancel()


async def test_heartbeats_come_when_they_are_due(cluster: NodeCluster, node: Node, client: RpcClient) -> None:
    live = await LiveClient.connect(client)
    cluster.clock.advance(HEARTBEAT_INTERVAL_S)
    node.streams.tick()

    frame = await live.expect(lambda f: f.HasField("heartbeat"))

    assert frame.heartbeat.live
    live.call.cancel()


async def test_events_beyond_the_window_wait_for_an_ack_and_answers_do_not(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """G6: exactly as many events as Welcome says; the stream is alive meanwhile."""
    live = LiveClient.silent(node.client(bob.access_token))
    await live.hello(ack_window_events=1)
    welcome = await live.expect(lambda frame: frame.HasField("welcome"))
    await live.expect(lambda frame: frame.heads.complete)
    window = welcome.welcome.ack_window_events
    assert window == RECORD_MAX_EVENTS
    for _ in range(window + 2):  # one after the other: a record each
        await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    await live.command(frame_pb2.Command(request_id="1", send_message=text_message(direct)))
    await live.answer("1")
    cluster.clock.advance(HEARTBEAT_INTERVAL_S)
    node.streams.tick()
    beat = await live.expect(lambda frame: frame.HasField("heartbeat"))

    assert (len(live.events), list(beat.heartbeat.heads), beat.heartbeat.resume_token) == (window, [], "")
    await live.ack(1)
    await live.expect(lambda frame: len(frame.events) > 0)
    assert len(live.events) == window + 1
    await live.ack(window + 1)
    while len(live.events) < window + 3:
        await live.expect(lambda frame: len(frame.events) > 0)
    assert [event.position for event in live.events] == list(range(3, window + 6))
    live.call.cancel()


def with_last_byte_changed(token: str) -> str:
    """The last character may have bits that say nothing: another one may be the same bytes."""
    raw = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    return base64.urlsafe_b64encode(raw[:-1] + bytes([raw[-1] ^ 1])).decode().rstrip("=")


async def test_a_stream_with_a_token_names_only_what_moved(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """And one with a token that was made up names everything."""
    reader = node.client(bob.access_token)
    live = await LiveClient.connect(reader)
    own = UserId(bob.user_id)
    node.log.disturb()  # compare heads
    await until(lambda: node.hub.topic(own).covered > 0 and node.hub.topic(_topic(direct)).covered > 0)
    cluster.clock.advance(HEARTBEAT_INTERVAL_S)
    node.streams.tick()
    token = (await live.expect(lambda frame: frame.HasField("heartbeat"))).heartbeat.resume_token
    live.call.cancel()

    async def named(resume_token: str) -> tuple[bool, set[str]]:
        again = LiveClient.silent(reader)
        await again.hello(resume_token=resume_token)
        await again.expect(lambda frame: frame.heads.complete)
        again.call.cancel()
        heads = [head for frame in again.controls for head in frame.heads.heads]
        return again.controls[0].welcome.resumed, {head.cursor.topic_id for head in heads}

    assert await named(token) == (True, {own})
    assert await named(with_last_byte_changed(token)) == (False, {own, direct})
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    assert await named(token) == (True, {own, direct})


async def test_no_hello_within_ten_seconds_ends_the_stream(cluster: NodeCluster, node: Node, client: RpcClient) -> None:
    live = LiveClient.silent(client)
    await until(lambda: len(node.streams) == 1)
    cluster.clock.advance(HELLO_WITHIN_S + 0.001)
    node.streams.tick()

    status = await live.end()

    assert reason_of(status) == "STREAM_PROTOCOL"
    assert live.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_PROTOCOL


async def test_a_second_stream_of_the_same_instance_displaces_the_first(client: RpcClient) -> None:
    instance_id = str(uuid.uuid4())
    first = await LiveClient.connect(client, instance_id=instance_id)
    second = await LiveClient.connect(client, instance_id=instance_id.upper())

    status = await first.end()

    assert status.code == 0
    assert first.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_DISPLACED
    second.call.cancel()


async def test_a_token_that_ends_ends_the_stream_unless_a_newer_one_comes(
    cluster: NodeCluster, node: Node, alice: Credentials
) -> None:
    soon, later = cluster.token(alice.user_id, expires_in_s=20), cluster.token(alice.user_id, expires_in_s=600)
    stays, ends = await LiveClient.connect(node.client(soon)), await LiveClient.connect(node.client(soon))
    command = frame_pb2.Command(request_id="1", reauthenticate=frame_pb2.ReauthenticateRequest(access_token=later))
    await stays.command(command)
    answer = await stays.answer("1")
    cluster.clock.advance(20 + TOKEN_GRACE_S + 0.001)
    node.streams.tick()

    status = await ends.end()

    assert answer.reply.reauthenticate.token_expire_time.ToMilliseconds() % 600_000 == 0
    assert reason_of(status) == "TOKEN_EXPIRED"
    assert ends.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_TOKEN_EXPIRED
    assert (await stays.expect(lambda f: f.HasField("heartbeat"))).heartbeat.live
    stays.call.cancel()


async def test_a_draining_node_says_goodbye_and_takes_no_new_streams(node: Node, client: RpcClient) -> None:
    live = await LiveClient.connect(client)
    draining = asyncio.ensure_future(node.streams.drain())

    status = await live.end()
    await draining
    refused = await LiveClient.silent(client).end()

    assert live.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_DRAINING
    assert reason_of(status) == reason_of(refused) == "NODE_DRAINING"


async def test_events_of_two_nodes_meet_in_one_order(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    async with cluster.node() as other:
        reader = await LiveClient.connect(other.client(bob.access_token))
        writer = other.client(bob.access_token)
        for number in range(10):
            sender = client if number % 2 else writer
            await sender.chat.SendMessage(text_message(direct, f"{number}"), metadata=sender.auth)
        await reader.expect(lambda _: len(reader.events) == 10)

        texts = [event.message_sent.message.content.text.text for event in reader.events]

        assert texts == [str(number) for number in range(10)]
        assert [event.position for event in reader.events] == list(range(3, 13))
        reader.call.cancel()


async def test_the_server_stops_in_time_with_open_streams(cluster: NodeCluster, alice: Credentials) -> None:
    async with cluster.node() as node:
        live = await LiveClient.connect(node.client(alice.access_token))
        async with asyncio.timeout(5):
            await node.stop(0.1)

        with pytest.raises(grpc.aio.AioRpcError):
            await live.call.read()
        assert (await status_of(live.call)).code != 0
