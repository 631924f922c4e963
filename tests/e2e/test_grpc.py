"""gRPC and gRPC-Web clients through Envoy and a real node."""

import os
import signal
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2

from tests.e2e.instance import Instance, Person, streams_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(180)

_TIMEOUT_S = 20.0
_TRAILERS = 0x80


def framed(message: Message) -> bytes:
    raw = message.SerializeToString()
    return b"\0" + len(raw).to_bytes(4, "big") + raw


class EndOfResponse(Exception):
    """The response ended: a call that is refused has no frames."""


class Frames:
    """The frames of a gRPC-Web response, read while it is open."""

    def __init__(self, answer: httpx.Response) -> None:
        self._chunks = answer.iter_raw()
        self._buffer = b""

    def next(self) -> tuple[int, bytes]:
        """Waits for the next frame; returns its flags and content."""
        flags, *size = self._take(5)
        return flags, self._take(int.from_bytes(bytes(size), "big"))

    def _take(self, count: int) -> bytes:
        while len(self._buffer) < count:
            try:
                self._buffer += next(self._chunks)
            except StopIteration as end:
                raise EndOfResponse from end
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken


@contextmanager
def subscribed(client: httpx.Client, person: Person) -> Iterator[Frames]:
    """Opens Subscribe as a browser does, and waits for the heads."""
    request = chat_service_pb2.SubscribeRequest(hello=chat_service_pb2.Hello(instance_id=str(uuid.uuid4())))
    with client.stream(
        "POST",
        "/hubbub.chat.v1.ChatService/Subscribe",
        content=framed(request),
        headers={
            "content-type": "application/grpc-web+proto",
            "x-grpc-web": "1",
            "authorization": f"Bearer {person.token}",
        },
    ) as answer:
        assert answer.status_code == 200
        frames = Frames(answer)
        while not next_frame(frames).heads.complete:
            pass
        yield frames


def next_frame(frames: Frames) -> frame_pb2.ServerFrame:
    flags, content = frames.next()
    assert flags != _TRAILERS, content
    return chat_service_pb2.SubscribeResponse.FromString(content).frame


@pytest.mark.parametrize("http2", [False, True])
def test_a_browser_hears_a_message_within_a_second_while_its_response_is_open(
    instance: Instance, carol: Person, dave: Person, http2: bool
) -> None:
    """G9: binary gRPC-Web over both versions of HTTP."""
    conversation_id = carol.talk_to(dave)
    client_message_id = str(uuid.uuid4())
    with (
        httpx.Client(base_url=instance.url, http1=not http2, http2=http2, timeout=_TIMEOUT_S) as client,
        subscribed(client, dave) as frames,
    ):
        begin_s = time.monotonic()
        assert carol.send(conversation_id, client_message_id, "hello browser").status_code == 200
        while not any(
            event.message_sent.message.client_message_id == client_message_id for event in next_frame(frames).events
        ):
            pass
        assert time.monotonic() - begin_s < 1


def test_a_node_that_leaves_says_goodbye_and_another_one_goes_on(tmp_path: Path) -> None:
    """SIGTERM: health first, then Goodbye through Envoy, then the end; nobody is cut off."""
    with (
        Instance(tmp_path / "var", nodes=2) as running,
        Person(running.url, "lena") as lena,
        httpx.Client(base_url=running.url, timeout=_TIMEOUT_S) as client,
    ):
        with subscribed(client, lena) as frames:
            node = next(name for name in ("node-1", "node-2") if streams_of(running, name) == 1)
            os.kill(running.pid_of(node), signal.SIGTERM)
            while not (frame := next_frame(frames)).HasField("goodbye"):
                pass
            assert frame.goodbye.reason == frame_pb2.GOODBYE_REASON_DRAINING
            assert frame.goodbye.reconnect
        other = "node-2" if node == "node-1" else "node-1"
        wait_until(lambda: is_served_by(running, client, lena, other))


def is_served_by(running: Instance, client: httpx.Client, person: Person, name: str) -> bool:
    """Tries to subscribe; for a moment the node that leaves may still be asked, and answers NODE_DRAINING."""
    try:
        with subscribed(client, person):
            return streams_of(running, name) == 1
    except EndOfResponse:
        return False


def test_a_browser_gets_the_status_of_a_failed_call_in_its_trailers(instance: Instance, carol: Person) -> None:
    request = conversation_service_pb2.GetConversationRequest(conversation_id="c" + "a" * 26)
    answer = httpx.post(
        f"{instance.url}/hubbub.conversation.v1.ConversationService/GetConversation",
        content=framed(request),
        headers={"content-type": "application/grpc-web+proto", "authorization": f"Bearer {carol.token}"},
    )
    status = answer.headers.get("grpc-status") or answer.content.decode()
    assert "5" in status


def test_a_page_of_a_known_origin_may_call_and_read_the_status(instance: Instance) -> None:
    preflight = httpx.options(
        f"{instance.url}/hubbub.chat.v1.ChatService/Subscribe",
        headers={
            "origin": "http://app.example",
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-grpc-web,x-user-agent,grpc-timeout",
        },
    )
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "http://app.example"
    assert "grpc-status-details-bin" in preflight.headers["access-control-expose-headers"]


def call(instance: Instance, path: str, request: Message, *, token: str = "") -> bytes:
    """Makes a unary call as any gRPC library does."""
    with grpc.insecure_channel(f"127.0.0.1:{instance.port}") as channel:
        method: Any = channel.unary_unary(path)
        metadata = (("authorization", f"Bearer {token}"),) if token else ()
        answer: bytes = method(request.SerializeToString(), timeout=_TIMEOUT_S, metadata=metadata)
    return answer


def test_a_grpc_client_gets_a_plain_message_and_one_error_info(instance: Instance, carol: Person) -> None:
    request = conversation_service_pb2.GetConversationRequest(conversation_id="c" + "a" * 26)
    path = "/hubbub.conversation.v1.ConversationService/GetConversation"
    with pytest.raises(grpc.RpcError) as refused:
        call(instance, path, request, token=carol.token)
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert refused.value.details() == "no such conversation"
    trailers: Any = refused.value.trailing_metadata()
    assert str(dict(trailers)["grpc-status-details-bin"]).count("google.rpc.ErrorInfo") == 1


def test_health_is_serving(instance: Instance) -> None:
    raw = call(instance, "/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest())
    assert health_pb2.HealthCheckResponse.FromString(raw).status == health_pb2.HealthCheckResponse.SERVING


def test_a_client_without_our_files_finds_every_service_by_reflection(instance: Instance) -> None:
    """What grpcurl does."""
    with grpc.insecure_channel(f"127.0.0.1:{instance.port}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {name for name in database.get_services() if name.startswith("hubbub.")} == {
            "hubbub.auth.v1.AuthService",
            "hubbub.chat.v1.ChatService",
            "hubbub.chat.v1.MarkerService",
            "hubbub.conversation.v1.ConversationService",
            "hubbub.history.v1.HistoryService",
            "hubbub.presence.v1.PresenceService",
            "hubbub.user.v1.SettingsService",
            "hubbub.user.v1.UserService",
        }
        file = database.FindFileContainingSymbol("hubbub.chat.v1.ChatService")
        assert [service.name for service in file.service] == ["ChatService"]
