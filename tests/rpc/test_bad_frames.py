"""Frames that break the protocol of a stream end it, after Goodbye(PROTOCOL); bad commands do not."""

import asyncio
import uuid
from collections.abc import Sequence

import grpc.aio
import pytest
from google.rpc import status_pb2
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.chat.v1.chat_service_pb2 import Ack, ConnectRequest, Hello

from hubbub_server.app.authenticate import Credentials
from hubbub_server.domain.limits import FRAME_MAX_BYTES, REQUEST_ID_MAX_CHARACTERS, RESUME_TOKEN_MAX_BYTES
from hubbub_server.ports.topic_log import NewRecord
from tests.support.live_client import LiveClient, reason_of, status_of, text_message
from tests.support.node import Node, NodeCluster, RpcClient

pytestmark = [pytest.mark.asyncio, pytest.mark.parametrize("transport", ["aio", "edge"])]


def _hello(**fields: object) -> ConnectRequest:
    hello = Hello(instance_id=str(uuid.uuid4()))
    for name, value in fields.items():
        setattr(hello, name, value)
    return ConnectRequest(hello=hello)


def _command(request_id: str = "1", **payload: object) -> ConnectRequest:
    return ConnectRequest(command=frame_pb2.Command(request_id=request_id, **payload))  # type: ignore[arg-type]


def _frame_of(size_bytes: int) -> ConnectRequest:
    """Returns a command in a frame of exactly this size."""
    request = _command(send_message=text_message("c" * 200_000))
    request.command.send_message.conversation_id = "c" * (200_000 + size_bytes - request.ByteSize())
    assert request.ByteSize() == size_bytes
    return request


async def _end_after(client: RpcClient, *frames: ConnectRequest | bytes) -> tuple[status_pb2.Status, LiveClient]:
    method: grpc.aio.StreamStreamMultiCallable[bytes, chat_service_pb2.ConnectResponse] = client.channel.stream_stream(
        "/hubbub.chat.v1.ChatService/Connect",
        response_deserializer=chat_service_pb2.ConnectResponse.FromString,
    )
    call = method(metadata=client.auth)
    for frame in frames:
        await call.write(frame if isinstance(frame, bytes) else frame.SerializeToString())
    live = LiveClient(call)  # type: ignore[arg-type]  # it writes nothing itself
    return await live.end(), live


BREACHES: dict[str, Sequence[ConnectRequest | bytes]] = {
    "a command before Hello": (_command(send_message=text_message("c1")),),
    "an Ack before Hello": (ConnectRequest(ack=Ack()),),
    "Hello twice": (_hello(), _hello()),
    "an empty frame": (_hello(), ConnectRequest()),
    "an empty frame first": (b"",),
    "a frame of an unknown kind": (_hello(), b"\xaa\x06\x01x"),
    "bytes that are no frame": (_hello(), b"\xff\xff"),
    "a frame one byte too large": (_hello(), _frame_of(FRAME_MAX_BYTES + 1)),
    "an Ack of more than was sent": (_hello(), ConnectRequest(ack=Ack(processed_events=1))),
    "a negative Ack": (_hello(), ConnectRequest(ack=Ack(processed_events=-1))),
}


@pytest.mark.parametrize("frames", BREACHES.values(), ids=BREACHES.keys())
async def test_a_breach_of_the_protocol_ends_the_stream_after_goodbye(
    frames: Sequence[ConnectRequest | bytes], client: RpcClient
) -> None:
    status, live = await _end_after(client, *frames)

    assert reason_of(status) == "STREAM_PROTOCOL"
    assert live.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_PROTOCOL
    assert not live.controls[-1].goodbye.reconnect


async def test_a_request_id_is_free_again_once_it_is_answered(client: RpcClient, direct: str) -> None:
    live = await LiveClient.connect(client)
    for number in (1, 2):
        await live.command(frame_pb2.Command(request_id="1", send_message=text_message(direct)))
        assert (await live.answer("1")).reply.send_message.message_number == number
    live.call.cancel()


async def test_a_request_id_that_is_still_unanswered_ends_the_stream(
    node: Node, client: RpcClient, direct: str
) -> None:
    async def never(record: NewRecord, *, after_sequence: int) -> int:
        await asyncio.get_running_loop().create_future()
        return 0

    node.log.append = never  # type: ignore[method-assign]  # the log does not answer
    live = await LiveClient.connect(client)
    for _ in range(2):
        await live.command(frame_pb2.Command(request_id="1", send_message=text_message(direct)))

    assert reason_of(await live.end()) == "STREAM_PROTOCOL"
    assert live.controls[-1].goodbye.reason == frame_pb2.GOODBYE_REASON_PROTOCOL


HELLOS: dict[str, tuple[dict[str, object], bool]] = {
    "no instance_id": ({"instance_id": ""}, False),
    "an instance_id that is no UUID": ({"instance_id": "tab-1"}, False),
    "an upper case instance_id": ({"instance_id": str(uuid.uuid4()).upper()}, True),
    "the longest resume_token": ({"resume_token": "x" * RESUME_TOKEN_MAX_BYTES}, True),
    "a resume_token one longer": ({"resume_token": "x" * (RESUME_TOKEN_MAX_BYTES + 1)}, False),
    "an ack window": ({"ack_window_events": 2**31 - 1}, True),
    "a negative ack window": ({"ack_window_events": -1}, False),
}


@pytest.mark.parametrize(("fields", "is_good"), HELLOS.values(), ids=HELLOS.keys())
async def test_a_bad_hello_ends_connect_and_subscribe_with_invalid_field(
    fields: dict[str, object], is_good: bool, client: RpcClient
) -> None:
    hello = _hello(**fields)
    live = LiveClient.silent(client)
    await live.call.write(hello)
    await live.call.done_writing()
    connected = await live.end()
    subscribing = client.chat.Subscribe(chat_service_pb2.SubscribeRequest(hello=hello.hello), metadata=client.auth)
    try:
        first = await subscribing.read()
    except grpc.aio.AioRpcError:
        first = grpc.aio.EOF

    if is_good:
        assert connected.code == 0
        assert isinstance(first, chat_service_pb2.SubscribeResponse)
        subscribing.cancel()
    else:
        assert reason_of(connected) == reason_of(await status_of(subscribing)) == "INVALID_FIELD"


async def test_subscribe_without_hello_is_an_invalid_field(client: RpcClient) -> None:
    call = client.chat.Subscribe(chat_service_pb2.SubscribeRequest(), metadata=client.auth)
    with pytest.raises(grpc.aio.AioRpcError):
        await call.read()

    assert reason_of(await status_of(call)) == "INVALID_FIELD"


COMMANDS: dict[str, tuple[ConnectRequest, str]] = {
    "no request_id": (_command("", send_message=text_message("c1")), "INVALID_FIELD"),
    "the longest request_id": (
        _command("x" * REQUEST_ID_MAX_CHARACTERS, send_message=text_message("c1")),
        "CONVERSATION_NOT_FOUND",
    ),
    "a request_id one longer": (
        _command("x" * (REQUEST_ID_MAX_CHARACTERS + 1), send_message=text_message("c1")),
        "INVALID_FIELD",
    ),
    "the largest frame": (_frame_of(FRAME_MAX_BYTES), "CONVERSATION_NOT_FOUND"),
    "no payload": (_command(), "INVALID_FIELD"),
    "no token": (_command(reauthenticate=frame_pb2.ReauthenticateRequest()), "INVALID_FIELD"),
    "a forged token": (
        _command(reauthenticate=frame_pb2.ReauthenticateRequest(access_token="x.y.z")),
        "INVALID_CREDENTIALS",
    ),
}


@pytest.mark.parametrize(("frame", "reason"), COMMANDS.values(), ids=COMMANDS.keys())
async def test_a_bad_command_is_rejected_and_the_stream_goes_on(
    frame: ConnectRequest, reason: str, client: RpcClient, direct: str
) -> None:
    live = await LiveClient.connect(client)
    await live.call.write(frame)

    rejected = (await live.expect(lambda f: f.HasField("rejected"))).rejected
    await live.command(frame_pb2.Command(request_id="good", send_message=text_message(direct)))

    assert reason_of(rejected.status) == reason
    assert rejected.request_id == frame.command.request_id[:REQUEST_ID_MAX_CHARACTERS]
    assert (await live.answer("good")).HasField("reply")
    live.call.cancel()


async def test_a_token_of_another_sign_in_or_an_ended_one_leaves_the_old_one(
    cluster: NodeCluster, client: RpcClient, alice: Credentials, bob: Credentials, direct: str
) -> None:
    live = await LiveClient.connect(client)
    reasons = []
    for token in (bob.access_token, cluster.token(alice.user_id), cluster.token(alice.user_id, expires_in_s=-1)):
        await live.call.write(_command(reauthenticate=frame_pb2.ReauthenticateRequest(access_token=token)))
        reasons.append(reason_of((await live.answer("1")).rejected.status))
    await live.command(frame_pb2.Command(request_id="good", send_message=text_message(direct)))

    assert reasons == ["INVALID_CREDENTIALS", "INVALID_CREDENTIALS", "TOKEN_EXPIRED"]
    assert (await live.answer("good")).HasField("reply")
    live.call.cancel()
