"""G9: one contract for all three client kinds. What goes two ways says the same on both, field by field."""

import uuid

import pytest
from google.protobuf.message import Message
from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S
from tests.support.live_client import LiveClient, text_message
from tests.support.node import Node, NodeCluster, RpcClient

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]


def _set_fields(message: Message) -> list[str]:
    return [field.name for field, _ in message.ListFields()]


async def test_the_answer_of_a_command_is_the_answer_of_the_call(client: RpcClient, direct: str) -> None:
    """A retry by the other way gets the same answer, with every field set."""
    live = await LiveClient.connect(client)
    request = text_message(direct)
    unary = await client.chat.SendMessage(request, metadata=client.auth)
    await live.command(frame_pb2.Command(request_id="1", send_message=request))

    in_band = (await live.answer("1")).reply.send_message

    assert in_band == unary
    assert _set_fields(in_band) == [field.name for field in in_band.DESCRIPTOR.fields]
    live.call.cancel()


async def test_subscribe_and_connect_carry_the_same_frames(
    cluster: NodeCluster, node: Node, client: RpcClient, bob: Credentials, direct: str
) -> None:
    """Welcome, Heads, an event and a heartbeat with its head: equal but for what names the stream."""
    reader = node.client(bob.access_token)
    connected = await LiveClient.connect(reader)
    hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    call = reader.chat.Subscribe(chat_service_pb2.SubscribeRequest(hello=hello), metadata=reader.auth)
    frames: list[frame_pb2.ServerFrame] = []

    async def read() -> frame_pb2.ServerFrame:
        response = await call.read()
        assert isinstance(response, chat_service_pb2.SubscribeResponse)
        frames.append(response.frame)
        return response.frame

    while not (await read()).heads.complete:
        pass
    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    event = (await read()).events[0]
    await connected.expect(lambda frame: len(frame.events) > 0)
    cluster.clock.advance(HEARTBEAT_INTERVAL_S)
    node.streams.tick()
    heartbeat = (await read()).heartbeat
    other = (await connected.expect(lambda frame: frame.HasField("heartbeat"))).heartbeat

    assert event == connected.events[0]
    assert heartbeat == other
    assert [head.cursor.topic_id for head in heartbeat.heads] == [direct]
    kinds = [frame.WhichOneof("control") for frame in connected.controls]
    assert [frame.WhichOneof("control") for frame in frames if not frame.events] == kinds
    call.cancel()
    connected.call.cancel()
