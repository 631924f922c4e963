"""Envoy as we configure it, before a stand-in for a node that tells what reached it."""

import json
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import HealthServicer
from grpc_status import rpc_status
from hubbub.chat.v1 import chat_service_pb2
from hubbub.user.v1 import user_service_pb2

from hubbub_server.supervisor import descriptors, ports
from hubbub_server.supervisor.envoy_config import EnvoyPlan, render
from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.programs import envoy_path
from tests.support.waiting import PATIENCE_S, wait_until

ORIGIN = "http://app.example"
BODY_MAX_BYTES = 256 * 1024


class Node:
    """Answers every look-up, refuses every sign-in, streams for ever, and remembers metadata.

    On the server of grpc without asyncio: it needs no loop that outlives a test.
    """

    def __init__(self) -> None:
        self.metadata: dict[str, Any] = {}

    def add_to(self, server: grpc.Server) -> None:
        unary = grpc.unary_unary_rpc_method_handler
        handlers: dict[str, dict[str, Any]] = {
            "user.v1.UserService": {"LookupUser": unary(self._look_up)},
            "auth.v1.AuthService": {"Login": unary(self._refuse)},
            "chat.v1.ChatService": {"Subscribe": grpc.unary_stream_rpc_method_handler(self._stream)},
        }
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(f"hubbub.{name}", each) for name, each in handlers.items())
        )

    def _look_up(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.metadata = dict(context.invocation_metadata())
        login_name = user_service_pb2.LookupUserRequest.FromString(request).login_name
        response = user_service_pb2.LookupUserResponse(user=user_service_pb2.User(login_name=login_name))
        return response.SerializeToString()

    def _refuse(self, _request: bytes, context: grpc.ServicerContext) -> bytes:
        status = status_pb2.Status(code=code_pb2.RESOURCE_EXHAUSTED, message="zu schnell: ü")
        for detail in (
            error_details_pb2.ErrorInfo(reason="ERROR_REASON_RATE_LIMITED", domain="hubbub"),
            error_details_pb2.RetryInfo(),
        ):
            status.details.add().Pack(detail)
        context.abort_with_status(rpc_status.to_status(status))
        raise AssertionError("abort raises")

    def _stream(self, _request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        response = chat_service_pb2.SubscribeResponse()
        response.frame.welcome.session_id = "s1"
        yield response.SerializeToString()
        ended = threading.Event()
        if context.add_callback(ended.set):  # False: it has ended already
            ended.wait()


@dataclass
class Edge:
    """A running Envoy."""

    url: str
    port: int
    node: Node
    access_log: Path


@contextmanager
def running_node(port: int) -> Iterator[Node]:
    node = Node()
    with ThreadPoolExecutor(8) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        node.add_to(server)
        health = HealthServicer()
        health.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        server.add_insecure_port(f"127.0.0.1:{port}")
        server.start()
        try:
            yield node
        finally:
            server.stop(0).wait()


@contextmanager
def running_envoy(
    folder: Path, *, node_ports: Sequence[int], stream_ports: Sequence[int] = ()
) -> Iterator[tuple[int, Path]]:
    port, admin_port = ports.find_free(2)
    config = write_config(folder, port=port, admin_port=admin_port, node_ports=node_ports, stream_ports=stream_ports)
    log = (folder / "envoy.log").open("wb")
    options = ("--disable-hot-restart", "--concurrency", "1", "--log-level", "warning")
    process = subprocess.Popen(leashed(envoy_path(), "-c", config, *options), stdout=log, stderr=log)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{admin_port}/ready"))
        yield port, folder / "access.log"
    finally:
        process.kill()
        process.wait()
        log.close()


def write_config(
    folder: Path, *, port: int, admin_port: int, node_ports: Sequence[int], stream_ports: Sequence[int] = ()
) -> Path:
    (folder / "descriptors.pb").write_bytes(descriptors.descriptor_set())
    plan = EnvoyPlan(
        port=port,
        admin_port=admin_port,
        node_ports=node_ports,
        stream_ports=stream_ports or node_ports,
        cors_origins=[ORIGIN],
        descriptor_path=folder / "descriptors.pb",
        access_log_path=folder / "access.log",
    )
    config = folder / "envoy.json"
    config.write_text(json.dumps(render(plan)))
    return config


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("edge")
    (node_port,) = ports.find_free(1)
    with running_node(node_port) as node, running_envoy(folder, node_ports=[node_port]) as (port, access_log):
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: answers(f"{url}/v1/users:lookup?login_name=bob"))
        yield Edge(url, port, node, access_log)


@pytest.mark.parametrize("nodes", [1, 3])
def test_envoy_accepts_the_configuration(tmp_path: Path, nodes: int) -> None:
    config = write_config(tmp_path, port=1, admin_port=2, node_ports=range(3, 3 + nodes))
    validated = subprocess.run(
        [envoy_path(), "--mode", "validate", "-c", config], capture_output=True, text=True, check=False
    )
    assert validated.returncode == 0, validated.stderr
    assert "deprecated" not in validated.stderr.lower()


def test_nobody_outside_can_say_who_they_are_or_how_to_be_treated(edge: Edge) -> None:
    forged = {
        "x-user-id": "u1",
        "x-hubbub-user": "u1",
        "x-forwarded-for": "6.6.6.6",
        "x-forwarded-proto": "https",
        "x-forwarded-client-cert": "By=me",
        "forwarded": "for=6.6.6.6",
        "x-real-ip": "6.6.6.6",
        "x-request-id": "mine",
        "x-envoy-retry-on": "5xx",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "grpc-previous-rpc-attempts": "3",
    }
    answer = httpx.get(f"{edge.url}/v1/users:lookup?login_name=bob", headers=forged)
    assert answer.status_code == 200
    seen = edge.node.metadata
    assert not {name for name, value in forged.items() if seen.get(name) == value}
    assert "6.6.6.6" not in str(seen)
    assert not {"x-user-id", "x-hubbub-user", "forwarded", "x-real-ip"} & seen.keys()


def test_a_header_with_an_underscore_is_refused(edge: Edge) -> None:
    """Behind some gateways `x_user_id` and `x-user-id` are one."""
    assert httpx.get(f"{edge.url}/v1/users:lookup?login_name=bob", headers={"x_user_id": "u1"}).status_code == 400


def test_the_access_log_has_neither_tokens_nor_names(edge: Edge) -> None:
    httpx.get(f"{edge.url}/v1/users:lookup?login_name=secretname", headers={"authorization": "Bearer secrettoken"})
    wait_until(lambda: '"path":"/v1/users:lookup"' in edge.access_log.read_text())
    assert "secret" not in edge.access_log.read_text()


@pytest.mark.parametrize("http2", [False, True])
def test_one_port_speaks_both_versions_of_http(edge: Edge, http2: bool) -> None:
    with httpx.Client(http1=not http2, http2=http2) as client:
        answer = client.get(f"{edge.url}/v1/users:lookup?login_name=bob")
    assert answer.http_version == ("HTTP/2" if http2 else "HTTP/1.1")
    assert answer.json() == {"user": {"loginName": "bob"}}


def test_our_error_keeps_its_details_as_json(edge: Edge) -> None:
    answer = httpx.post(f"{edge.url}/v1/auth/login", json={"login_name": "alice"})
    assert answer.status_code == 429
    assert answer.json() == {
        "code": 8,
        "message": "zu schnell: ü",
        "details": [
            {
                "@type": "type.googleapis.com/google.rpc.ErrorInfo",
                "reason": "ERROR_REASON_RATE_LIMITED",
                "domain": "hubbub",
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo"},
        ],
    }


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "code"),
    [
        ("GET", "/nothing", b"", 404, 5),
        ("GET", "/v1/nothing", b"", 404, 5),
        ("DELETE", "/v1/auth/login", b"", 404, 5),
        ("GET", "/v1/users:lookup?login_name=bob&color=red", b"", 400, 3),
        ("POST", "/v1/auth/login", b'{"login_name":', 400, 3),
        ("POST", "/v1/auth/login", b'{"login_name": 3}', 400, 3),
        ("POST", "/v1/auth/login", b" " * (BODY_MAX_BYTES + 1), 413, 3),
        ("POST", "/hubbub.auth.v1.AuthService/Login", b"{}", 404, 5),
    ],
)
def test_what_envoy_refuses_has_the_shape_of_our_errors(
    edge: Edge, method: str, path: str, content: bytes, status: int, code: int
) -> None:
    answer = httpx.request(method, edge.url + path, content=content)
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["code"] == code
    assert set(answer.json()) == {"code", "message", "details"}


def test_a_body_at_its_bound_passes(edge: Edge) -> None:
    content = b'{"login_name":"alice"}'.ljust(BODY_MAX_BYTES)
    assert httpx.post(f"{edge.url}/v1/auth/login", content=content).status_code == 429


def call(port: int, path: str) -> grpc.RpcError:
    """Makes a unary call that fails."""
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        method: Any = channel.unary_unary(path)
        with pytest.raises(grpc.RpcError) as failed:
            method(b"", timeout=PATIENCE_S)
    return failed.value


def test_a_grpc_client_sees_the_plain_message(edge: Edge) -> None:
    assert call(edge.port, "/hubbub.auth.v1.AuthService/Login").details() == "zu schnell: ü"
    assert call(edge.port, "/hubbub.none.v1.NoneService/None").code() == grpc.StatusCode.UNIMPLEMENTED
    assert call(edge.port, "/none.v1.NoneService/None").code() == grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize(("origin", "is_allowed"), [(ORIGIN, True), ("http://evil.example", False)])
def test_a_preflight_is_answered_for_our_origins_only(edge: Edge, origin: str, is_allowed: bool) -> None:
    """C61: explicit origins, and no token is needed to ask."""
    answer = httpx.options(
        f"{edge.url}/hubbub.chat.v1.ChatService/SendMessage",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type,x-grpc-web",
        },
    )
    assert (answer.headers.get("access-control-allow-origin") == origin) == is_allowed
    if is_allowed:
        allowed = answer.headers["access-control-allow-headers"]
        assert all(name in allowed for name in ("authorization", "content-type", "x-grpc-web", "grpc-timeout"))
        assert "access-control-allow-credentials" not in answer.headers


def test_pages_may_read_the_status_of_a_call(edge: Edge) -> None:
    answer = httpx.get(f"{edge.url}/v1/users:lookup?login_name=bob", headers={"origin": ORIGIN})
    exposed = answer.headers["access-control-expose-headers"]
    assert all(name in exposed for name in ("grpc-status", "grpc-message", "grpc-status-details-bin"))


@pytest.mark.parametrize("http2", [False, True])
def test_a_grpc_web_frame_arrives_while_the_response_is_open(edge: Edge, http2: bool) -> None:
    request = chat_service_pb2.SubscribeRequest(hello=chat_service_pb2.Hello(instance_id="x")).SerializeToString()
    content = b"\0" + len(request).to_bytes(4, "big") + request
    with (
        httpx.Client(http1=not http2, http2=http2, timeout=5) as client,
        client.stream(
            "POST",
            f"{edge.url}/hubbub.chat.v1.ChatService/Subscribe",
            content=content,
            headers={"content-type": "application/grpc-web+proto", "x-grpc-web": "1"},
        ) as answer,
    ):
        assert answer.headers["content-type"] == "application/grpc-web+proto"
        frame = next(answer.iter_raw())
    response = chat_service_pb2.SubscribeResponse.FromString(frame[5:])
    assert response.frame.welcome.session_id == "s1"


def test_without_a_node_everybody_is_told_to_come_again(tmp_path: Path) -> None:
    (nobody,) = ports.find_free(1)
    with running_envoy(tmp_path, node_ports=[nobody]) as (port, _):
        answer = httpx.get(f"http://127.0.0.1:{port}/v1/users:lookup?login_name=bob")
        assert answer.status_code == 503
        body = answer.json()
        assert body["code"] == 14
        assert [detail["@type"].rpartition(".")[2] for detail in body["details"]] == ["ErrorInfo", "RetryInfo"]
        assert body["details"][0]["reason"] == "ERROR_REASON_BACKEND_UNAVAILABLE"
        refused = call(port, "/hubbub.auth.v1.AuthService/Login")
        assert refused.code() == grpc.StatusCode.UNAVAILABLE
        assert "{" not in str(refused.details())


def test_a_dead_node_is_avoided_and_a_call_that_never_reached_it_is_made_again(tmp_path: Path) -> None:
    alive, dead = ports.find_free(2)
    with running_node(alive), running_envoy(tmp_path, node_ports=[alive, dead]) as (port, _):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/users:lookup?login_name=bob"))
        codes = {httpx.get(f"http://127.0.0.1:{port}/v1/users:lookup?login_name=bob").status_code for _ in range(20)}
        assert codes == {200}


def test_streaming_methods_go_to_the_port_of_streams_and_all_others_to_that_of_grpc(tmp_path: Path) -> None:
    """Issue 5: the stream edge serves nothing else, and health by Watch and reflection are not its business."""
    node_port, stream_port = ports.find_free(2)
    with (
        running_node(node_port),
        running_node(stream_port),
        running_envoy(tmp_path, node_ports=[node_port], stream_ports=[stream_port]) as (port, access_log),
        grpc.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/v1/users:lookup?login_name=bob"))
        subscribe: Any = channel.unary_stream("/hubbub.chat.v1.ChatService/Subscribe")
        subscribing = subscribe(b"", wait_for_ready=True)
        assert next(iter(subscribing))
        subscribing.cancel()
        watch: Any = channel.unary_stream("/grpc.health.v1.Health/Watch")
        watching = watch(b"")
        assert next(iter(watching))
        watching.cancel()
        upstreams = {
            "/v1/users:lookup": f"127.0.0.1:{node_port}",
            "/grpc.health.v1.Health/Watch": f"127.0.0.1:{node_port}",
            "/hubbub.chat.v1.ChatService/Subscribe": f"127.0.0.1:{stream_port}",
        }
        wait_until(lambda: len(_upstreams(access_log)) == len(upstreams))

    assert _upstreams(access_log) == upstreams


def _upstreams(access_log: Path) -> dict[str, str]:
    lines = map(json.loads, access_log.read_text().splitlines())
    return {line["path"]: line["upstream"] for line in lines if line["upstream"]}
