"""What may be wrong with a message, at each bound and one above: unary and in-band alike, and the stream goes on."""

import uuid
from collections.abc import Callable
from dataclasses import dataclass

import grpc.aio
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2, status_pb2
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1.frame_pb2 import SendMessageRequest
from hubbub.conversation.v1 import message_pb2

from hubbub_server.domain.limits import FALLBACK_MAX_CODE_POINTS, FRAME_MAX_BYTES, TEXT_MAX_CODE_POINTS
from tests.support.live_client import LiveClient, reason_of, status_of_error, text_message
from tests.support.node import RpcClient

pytestmark = pytest.mark.asyncio

_FIRST_ID = "01890000-0000-7000-8000-000000000001"


@dataclass(frozen=True)
class Case:
    """A message that `change` makes out of a good one; `reason` is "" where it is still good."""

    name: str
    change: Callable[[SendMessageRequest], None]
    reason: str = ""
    field: str = ""


def _text(text: str) -> Callable[[SendMessageRequest], None]:
    def change(request: SendMessageRequest) -> None:
        request.content.text.text = text

    return change


def _set(**values: object) -> Callable[[SendMessageRequest], None]:
    def change(request: SendMessageRequest) -> None:
        for name, value in values.items():
            if isinstance(value, Timestamp | message_pb2.Content):
                getattr(request, name).CopyFrom(value)
            else:
                setattr(request, name, value)

    return change


def _fallback(length: int) -> Callable[[SendMessageRequest], None]:
    def change(request: SendMessageRequest) -> None:
        request.content.fallback_text = "f" * length

    return change


def _fill_up_to(size_bytes: int) -> Callable[[SendMessageRequest], None]:
    """Makes the unary request exactly so large, by a conversation_id that is none."""

    def change(request: SendMessageRequest) -> None:
        request.conversation_id = "c" * 200_000
        request.conversation_id = "c" * (200_000 + size_bytes - request.ByteSize())
        assert request.ByteSize() == size_bytes

    return change


INVALID, NOT_FOUND = "INVALID_FIELD", "CONVERSATION_NOT_FOUND"
CASES = (
    Case("one code point", _text("x")),
    Case("most code points", _text("x" * TEXT_MAX_CODE_POINTS)),
    Case("most bytes that code points can have", _text("\U0001f600" * TEXT_MAX_CODE_POINTS)),
    Case("one code point more", _text("x" * (TEXT_MAX_CODE_POINTS + 1)), INVALID, "content.text.text"),
    Case("no text", _text(""), INVALID, "content.text.text"),
    Case("nothing visible", _text(" \u200b\u2060\n"), INVALID, "content.text.text"),
    Case("no content", _set(content=message_pb2.Content()), INVALID, "content"),
    Case("longest fallback", _fallback(FALLBACK_MAX_CODE_POINTS)),
    Case("fallback one longer", _fallback(FALLBACK_MAX_CODE_POINTS + 1), INVALID, "content.fallback_text"),
    Case("upper case id", _set(client_message_id=str(uuid.uuid4()).upper())),
    Case("no id", _set(client_message_id=""), INVALID, "client_message_id"),
    Case("id that is no UUID", _set(client_message_id="1"), INVALID, "client_message_id"),
    Case("id in braces", _set(client_message_id=f"{{{uuid.uuid4()}}}"), INVALID, "client_message_id"),
    Case("id of another script", _set(client_message_id="٠" * 36), INVALID, "client_message_id"),
    Case("previous id that is no UUID", _set(previous_client_message_id="1"), INVALID, "previous_client_message_id"),
    Case("previous id of nothing", _set(previous_client_message_id=str(uuid.uuid4())), "SEND_ORDER"),
    Case("no conversation", _set(conversation_id=""), INVALID, "conversation_id"),
    Case("unknown conversation", _set(conversation_id="c" + "a" * 26), NOT_FOUND),
    Case("longest id of ours", _set(conversation_id="c" + "a" * 31), NOT_FOUND),
    Case("id one longer", _set(conversation_id="c" + "a" * 32), NOT_FOUND),
    Case("subject wildcard as id", _set(conversation_id="c.>"), NOT_FOUND),
    Case("a user's topic as conversation", _set(conversation_id="u" + "0" * 26), NOT_FOUND),
    Case("earliest time", _set(client_time=Timestamp(seconds=-62_135_596_800))),
    Case("latest time", _set(client_time=Timestamp(seconds=253_402_300_799, nanos=999_999_999))),
    Case("time before year 1", _set(client_time=Timestamp(seconds=-62_135_596_801)), INVALID, "client_time"),
    Case("time after year 9999", _set(client_time=Timestamp(seconds=253_402_300_800)), INVALID, "client_time"),
    Case("negative nanoseconds", _set(client_time=Timestamp(nanos=-1)), INVALID, "client_time"),
    Case("a second of nanoseconds", _set(client_time=Timestamp(nanos=1_000_000_000)), INVALID, "client_time"),
)


def _fields_of(status: status_pb2.Status) -> list[str]:
    bad = error_details_pb2.BadRequest()
    return [v.field for detail in status.details if detail.Unpack(bad) for v in bad.field_violations]


async def _unary_status(client: RpcClient, request: SendMessageRequest) -> status_pb2.Status:
    try:
        await client.chat.SendMessage(request, metadata=client.auth)
    except grpc.aio.AioRpcError as error:
        return status_of_error(error)
    return status_pb2.Status()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_unary_and_in_band_answer_alike_and_the_stream_goes_on(
    case: Case, client: RpcClient, direct: str
) -> None:
    live = await LiveClient.connect(client)
    requests = [text_message(direct), text_message(direct)]
    for request in requests:
        case.change(request)

    unary = await _unary_status(client, requests[0])
    await live.command(frame_pb2.Command(request_id="bad", send_message=requests[1]))
    in_band = (await live.answer("bad")).rejected.status
    await live.command(frame_pb2.Command(request_id="good", send_message=text_message(direct)))
    after = await live.answer("good")

    assert (reason_of(unary), reason_of(in_band)) == (case.reason, case.reason)
    assert _fields_of(unary) == ([case.field] if case.field else [])
    assert _fields_of(in_band) == ([f"command.send_message.{case.field}"] if case.field else [])
    assert after.HasField("reply")
    live.call.cancel()


async def test_a_used_id_with_other_content_names_the_first_number(client: RpcClient, direct: str) -> None:
    """C07: the same id and content is the same message, other content is refused, and nothing is written for either."""
    live = await LiveClient.connect(client)
    request = text_message(direct, "first", client_message_id=_FIRST_ID)
    first = await client.chat.SendMessage(request, metadata=client.auth)
    again = await client.chat.SendMessage(request, metadata=client.auth)
    request.content.text.text = "second"

    unary = await _unary_status(client, request)
    await live.command(frame_pb2.Command(request_id="1", send_message=request))
    in_band = (await live.answer("1")).rejected.status
    last = await client.chat.SendMessage(text_message(direct), metadata=client.auth)

    info = error_details_pb2.ErrorInfo()
    assert again == first
    assert unary == in_band
    assert unary.details[0].Unpack(info)
    assert (info.reason, dict(info.metadata)) == ("ERROR_REASON_ID_REUSED", {"first_number": "1"})
    assert last.message_number == 2
    live.call.cancel()


async def test_the_largest_request_is_read_and_one_byte_more_is_not(client: RpcClient, direct: str) -> None:
    fits, exceeds = text_message(direct), text_message(direct)
    _fill_up_to(FRAME_MAX_BYTES)(fits)
    _fill_up_to(FRAME_MAX_BYTES + 1)(exceeds)

    answers = [await _unary_status(client, request) for request in (fits, exceeds)]

    assert [reason_of(answer) for answer in answers] == ["CONVERSATION_NOT_FOUND", "INVALID_FIELD"]
    assert _fields_of(answers[1]) == ["request"]


async def test_a_request_that_is_no_message_is_an_invalid_field(client: RpcClient) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
        "/hubbub.chat.v1.ChatService/SendMessage"
    )
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await method(b"\xff\xff", metadata=client.auth)

    assert _fields_of(status_of_error(failure.value)) == ["request"]


async def test_a_text_that_is_no_utf_8_is_an_invalid_field(client: RpcClient, direct: str) -> None:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = client.channel.unary_unary(
        "/hubbub.chat.v1.ChatService/SendMessage"
    )
    request = text_message(direct, "xxxx").SerializeToString().replace(b"xxxx", b"\xff\xfe\xfd\xfc")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await method(request, metadata=client.auth)

    assert _fields_of(status_of_error(failure.value)) == ["request"]


async def test_the_transport_itself_refuses_more_than_a_mebibyte(client: RpcClient, direct: str) -> None:
    """Bare RESOURCE_EXHAUSTED, as proto/README.md says; the connection lives."""
    request = text_message(direct, "x" * (1024 * 1024))
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.chat.SendMessage(request, metadata=client.auth)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert (await client.chat.SendMessage(text_message(direct), metadata=client.auth)).message_number == 1
