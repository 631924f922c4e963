"""The layers around every RPC, through a real channel to methods that misbehave in every way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest
import structlog
from google.rpc import code_pb2, error_details_pb2, status_pb2

from hubbub_server.app.authenticate import Caller
from hubbub_server.domain.errors import (
    BadCredentials,
    ConversationNotFound,
    CredentialsExpired,
    HubbubError,
    LogUnavailable,
    RateLimited,
)
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.rpc.call import current_call
from hubbub_server.rpc.interceptors.auth import Authentication
from hubbub_server.rpc.interceptors.conformance import Conformance
from hubbub_server.rpc.interceptors.deadline import Deadline
from hubbub_server.rpc.interceptors.layered import LayeredInterceptor, Layers
from hubbub_server.rpc.interceptors.limits import Limits
from hubbub_server.rpc.interceptors.request_log import RequestLog
from tests.support.fakes.clock import FakeIds
from tests.support.live_client import end_of, reason_of, status_of_error
from tests.support.node import WITHIN_S, until

pytestmark = pytest.mark.asyncio

_SECRET = "a secret of the server"
_TOKEN = "an.access.token"
_AUTH = (("authorization", f"Bearer {_TOKEN}"),)
Act = Callable[[], Awaitable[None]]
Unary = Callable[..., Awaitable[bytes]]


class _Edge:
    """A server with one unary and one streaming method that do what `act` says."""

    def __init__(self) -> None:
        self.act: Act = _nothing
        self.breaches: list[str] = []
        self.callers: list[Caller | None] = []
        self.channel: grpc.aio.Channel

    async def unary(self, request: bytes, context: object) -> bytes:
        """Serves the unary method."""
        self.callers.append(current_call().caller)
        await self.act()
        return b"done"

    async def stream(self, request_iterator: object, context: object) -> None:
        """Serves the streaming method: one message, then what `act` says."""
        await current_call().write(b"first")
        await self.act()

    def call(self, *, timeout: float | None = None, metadata: Any = _AUTH, request: bytes = b"") -> Awaitable[bytes]:
        """Calls the unary method."""
        method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary("/hubbub.test.v1.Test/Unary")
        return method(request, timeout=timeout, metadata=metadata)

    def open(self, *, metadata: Any = _AUTH) -> "grpc.aio.StreamStreamCall[bytes, bytes]":
        """Calls the streaming method."""
        method: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = self.channel.stream_stream(
            "/hubbub.test.v1.Test/Stream"
        )
        return method(metadata=metadata)


async def _nothing() -> None:
    pass


def _authenticate(token: str) -> Caller:
    if token == "expired":
        raise CredentialsExpired("the access token ended")
    if token != _TOKEN:
        raise BadCredentials
    return Caller(
        user_id=UserId(TopicId("ualice")),
        device_session_id=DeviceSessionId("d1"),
        token_expire_time_ms=1_900_000_000_000,
    )


@asynccontextmanager
async def _edge(*, max_unary: int = 10, max_streams: int = 10, unary_max_s: float = 10.0) -> AsyncIterator[_Edge]:
    edge = _Edge()
    layers = Layers(
        outer=[RequestLog(node_id="n1"), Conformance(edge.breaches.append)],
        inner=[Limits(max_unary=max_unary, max_streams=max_streams), Authentication(_authenticate)],
        deadline=Deadline(max_s=unary_max_s),
        ids=FakeIds(),
    )
    server = grpc.aio.server(interceptors=[LayeredInterceptor(layers)])
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "Unary": grpc.unary_unary_rpc_method_handler(edge.unary, request_deserializer=bytes),
        "Stream": grpc.stream_stream_rpc_method_handler(edge.stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("hubbub.test.v1.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as edge.channel:
            yield edge
    finally:
        await server.stop(None)
    assert edge.breaches == []


def _raising(error: BaseException) -> Act:
    async def act() -> None:
        raise error

    return act


async def _for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def _unary_status(edge: _Edge, **arguments: Any) -> status_pb2.Status:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await edge.call(**arguments)
    return status_of_error(failure.value)


async def _stream_status(edge: _Edge, **arguments: Any) -> status_pb2.Status:
    return await end_of(edge.open(**arguments))


# ---- errors


async def test_an_error_of_ours_becomes_its_status_unary_and_streaming() -> None:
    async with _edge() as edge:
        edge.act = _raising(ConversationNotFound())

        assert await _unary_status(edge) == await _stream_status(edge)
        assert reason_of(await _unary_status(edge)) == "CONVERSATION_NOT_FOUND"


async def test_a_fault_tells_nothing_but_its_request_id_and_is_logged_with_its_stack() -> None:
    async with _edge() as edge:
        edge.act = _raising(RuntimeError(_SECRET))
        with structlog.testing.capture_logs() as logs:
            status = await _unary_status(edge, metadata=(*_AUTH, ("x-request-id", "r-7")))

        info = error_details_pb2.ErrorInfo()
        assert status.code == code_pb2.INTERNAL
        assert status.details[0].Unpack(info)
        assert dict(info.metadata) == {"request_id": "r-7"}
        assert _SECRET not in str(status)
        assert [entry["request_id"] for entry in logs if "exc_info" in entry] == ["r-7"]


async def test_a_stray_cancellation_never_hangs_a_client() -> None:
    """TRAPS 1.2: grpc.aio sends no status when a CancelledError comes out of a handler."""
    async with _edge() as edge:
        edge.act = _raising(asyncio.CancelledError())
        async with asyncio.timeout(WITHIN_S):
            assert reason_of(await _unary_status(edge)) == "INTERNAL"
            assert reason_of(await _stream_status(edge)) == "INTERNAL"


async def test_a_cancelled_subtask_never_hangs_a_client() -> None:
    async def act() -> None:
        task = asyncio.ensure_future(_for_ever())
        task.cancel()
        await task

    async with _edge() as edge:
        edge.act = act
        async with asyncio.timeout(WITHIN_S):
            assert reason_of(await _stream_status(edge)) == "INTERNAL"


async def test_the_error_that_a_task_group_wraps_is_what_the_client_hears() -> None:
    async def act() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(_raising(LogUnavailable("the log is away"))())  # type: ignore[arg-type]  # a coroutine

    async with _edge() as edge:
        edge.act = act

        assert reason_of(await _unary_status(edge)) == "BACKEND_UNAVAILABLE"


async def test_a_group_with_a_fault_in_it_is_a_fault() -> None:
    async with _edge() as edge:
        edge.act = _raising(ExceptionGroup("", [LogUnavailable("away"), RuntimeError(_SECRET)]))

        assert reason_of(await _unary_status(edge)) == "INTERNAL"


async def test_retry_info_is_always_positive() -> None:
    """C78."""
    async with _edge() as edge:
        for delay_s in (-1.0, 0.0, 0.0001, 2.5):
            edge.act = _raising(RateLimited("too fast", retry_after_s=delay_s))
            status = await _unary_status(edge)
            retry = error_details_pb2.RetryInfo()
            assert status.details[1].Unpack(retry)
            assert retry.retry_delay.ToTimedelta().total_seconds() == max(delay_s, 0.001)


# ---- authentication


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (None, "INVALID_CREDENTIALS"),
        ("", "INVALID_CREDENTIALS"),
        (_TOKEN, "INVALID_CREDENTIALS"),
        (f"Basic {_TOKEN}", "INVALID_CREDENTIALS"),
        ("Bearer ", "INVALID_CREDENTIALS"),
        ("Bearer forged", "INVALID_CREDENTIALS"),
        ("Bearer expired", "TOKEN_EXPIRED"),
    ],
)
async def test_a_call_without_a_good_token_is_refused_and_not_begun(header: str | None, reason: str) -> None:
    metadata = () if header is None else (("authorization", header),)
    async with _edge() as edge:
        assert reason_of(await _unary_status(edge, metadata=metadata)) == reason
        assert reason_of(await _stream_status(edge, metadata=metadata)) == reason
        assert edge.callers == []


async def test_the_scheme_is_read_in_any_case_and_the_caller_is_known() -> None:
    async with _edge() as edge:
        await edge.call(metadata=(("authorization", f"bEARER {_TOKEN}"),))

        assert [caller and caller.user_id for caller in edge.callers] == ["ualice"]


async def test_a_malformed_session_id_is_refused() -> None:
    async with _edge() as edge:
        await edge.call(metadata=(*_AUTH, ("hubbub-session-id", "s" * 64)))

        for bad in ("s" * 65, "s.*", "S1"):
            status = await _unary_status(edge, metadata=(*_AUTH, ("hubbub-session-id", bad)))
            assert reason_of(status) == "INVALID_FIELD"


# ---- deadline


async def test_a_unary_call_ends_at_the_cap_even_without_a_deadline() -> None:
    async with _edge(unary_max_s=0.05) as edge:
        edge.act = _for_ever

        status = await _unary_status(edge)

        assert (status.code, reason_of(status)) == (code_pb2.DEADLINE_EXCEEDED, "BACKEND_UNAVAILABLE")


async def test_our_status_arrives_before_the_deadline_of_the_client() -> None:
    async with _edge() as edge:
        edge.act = _for_ever

        status = await _unary_status(edge, timeout=2.0)

        assert reason_of(status) == "BACKEND_UNAVAILABLE"


async def test_a_time_out_inside_is_a_fault_and_not_the_deadline() -> None:
    async with _edge() as edge:
        edge.act = _raising(TimeoutError(_SECRET))

        assert reason_of(await _unary_status(edge)) == "INTERNAL"


async def test_streams_have_no_cap() -> None:
    async def act() -> None:
        await asyncio.sleep(0.05)  # five times what a unary call may take

    async with _edge(unary_max_s=0.01) as edge:
        edge.act = act

        assert (await _stream_status(edge)).code == code_pb2.OK


# ---- limits


async def test_streams_and_unary_calls_have_budgets_of_their_own_and_give_back() -> None:
    async with _edge(max_unary=1, max_streams=1) as edge:
        edge.act = _for_ever
        first = edge.open()
        await first.read()

        refused = await _stream_status(edge)
        edge.act = _nothing
        unary = await edge.call()
        first.cancel()
        async with asyncio.timeout(WITHIN_S):
            while (await _stream_status(edge)).code != 0:
                pass

        assert reason_of(refused) == "BACKEND_UNAVAILABLE"
        assert unary == b"done"


# ---- log


async def test_each_rpc_leaves_one_line_without_its_token() -> None:
    async with _edge() as edge:
        with structlog.testing.capture_logs() as logs:
            await edge.call(request=_SECRET.encode())
            edge.act = _raising(HubbubError(_SECRET))
            await _stream_status(edge)
            await until(lambda: any(entry["event"] == "stream closed" for entry in logs))  # after the client knows

    lines = [entry for entry in logs if entry["event"] in ("rpc finished", "stream closed")]
    assert [(line["rpc"], line["code"], line["reason"]) for line in lines] == [
        ("/hubbub.test.v1.Test/Unary", "OK", ""),
        ("/hubbub.test.v1.Test/Stream", "INTERNAL", "ERROR_REASON_INTERNAL"),
    ]
    assert all(line["user_id"] == "ualice" and line["node"] == "n1" and line["request_id"] for line in lines)
    assert _TOKEN not in str(logs)
    assert _SECRET not in str(lines)


async def test_a_client_that_goes_is_logged_as_cancelled() -> None:
    async with _edge() as edge:
        edge.act = _for_ever
        with structlog.testing.capture_logs() as logs:
            call = edge.open()
            await call.read()
            call.cancel()
            await until(lambda: bool(logs))

    assert [(entry["event"], entry["code"]) for entry in logs] == [("stream closed", "CANCELLED")]


# ---- conformance


async def test_a_status_without_error_info_is_reported() -> None:
    async with _edge() as edge:

        async def act() -> None:
            await current_call().context.abort(grpc.StatusCode.NOT_FOUND, "made by hand")

        edge.act = act
        await _unary_status(edge)

        await until(lambda: bool(edge.breaches))  # the client may know the status first
        assert edge.breaches == ["/hubbub.test.v1.Test/Unary ended with NOT_FOUND and 0 ErrorInfo instead of one"]
        edge.breaches.clear()
