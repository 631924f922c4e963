"""The gRPC server of a node: services, interceptors, health, reflection, and what the transport allows."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc.aio
import structlog
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.chat.v1 import (
    chat_service_pb2,
    chat_service_pb2_grpc,
    marker_service_pb2,
    marker_service_pb2_grpc,
)
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc
from hubbub.history.v1 import history_service_pb2, history_service_pb2_grpc
from hubbub.presence.v1 import presence_service_pb2, presence_service_pb2_grpc
from hubbub.user.v1 import (
    settings_service_pb2,
    settings_service_pb2_grpc,
    user_service_pb2,
    user_service_pb2_grpc,
)

from hubbub_server.app.session import CLIENT_SILENCE_S
from hubbub_server.app.use_cases import UseCases
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.rpc.interceptors.auth import Authentication
from hubbub_server.rpc.interceptors.conformance import Conformance
from hubbub_server.rpc.interceptors.deadline import UNARY_MAX_S, Deadline
from hubbub_server.rpc.interceptors.layered import Layer, LayeredInterceptor, Layers
from hubbub_server.rpc.interceptors.limits import MAX_STREAMS, MAX_UNARY, Limits
from hubbub_server.rpc.interceptors.request_log import RequestLog
from hubbub_server.rpc.servicers.auth_servicer import AuthServicer
from hubbub_server.rpc.servicers.chat_servicer import ChatServicer
from hubbub_server.rpc.servicers.conversation_servicer import ConversationServicer
from hubbub_server.rpc.servicers.history_servicer import HistoryServicer
from hubbub_server.rpc.servicers.marker_servicer import MarkerServicer
from hubbub_server.rpc.servicers.presence_servicer import PresenceServicer
from hubbub_server.rpc.servicers.settings_servicer import SettingsServicer
from hubbub_server.rpc.servicers.user_servicer import UserServicer
from hubbub_server.rpc.streaming_calls import StreamingCalls

log = structlog.get_logger()

# Our own limit for requests is 256 KiB, answered with ErrorInfo. Above this the transport refuses, without.
_RECEIVE_MAX_BYTES: Final = 1024 * 1024
_METADATA_MAX_BYTES: Final = 8 * 1024
_HEALTH_CHECK_S: Final = 0.5
_CANCEL_WITHIN_S: Final = 5.0

_OPTIONS: Final[tuple[tuple[str, Any], ...]] = (
    ("grpc.so_reuseport", 0),  # a second node on the same port must fail, not share
    ("grpc.max_receive_message_length", _RECEIVE_MAX_BYTES),
    # Equal soft and hard limits: between two different ones gRPC refuses at random.
    ("grpc.max_metadata_size", _METADATA_MAX_BYTES),
    ("grpc.absolute_max_metadata_size", _METADATA_MAX_BYTES),
    ("grpc.compression_enabled_algorithms_bitset", 1),  # identity only: no bombs
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 20_000),
    ("grpc.http2.max_ping_strikes", 2),
)

_SERVICES: Final = tuple(
    module.DESCRIPTOR.services_by_name[name].full_name
    for module, name in (
        (auth_service_pb2, "AuthService"),
        (user_service_pb2, "UserService"),
        (conversation_service_pb2, "ConversationService"),
        (chat_service_pb2, "ChatService"),
        (history_service_pb2, "HistoryService"),
        (marker_service_pb2, "MarkerService"),
        (settings_service_pb2, "SettingsService"),
        (presence_service_pb2, "PresenceService"),
    )
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerLimits:
    """Bounds, inclusive: RPCs served at once, the time of a unary call, and how long Sync waits for a request."""

    max_unary: int = MAX_UNARY
    max_streams: int = MAX_STREAMS
    unary_max_s: float = UNARY_MAX_S
    client_silence_s: float = CLIENT_SILENCE_S


class RpcServer:
    """Serves all RPCs on one address. Use as `async with`; leaving the block stops it."""

    def __init__(
        self,
        use_cases: UseCases,
        *,
        clock: Clock,
        ids: IdSource,
        node_id: str,
        is_ready: Callable[[], bool],
        with_reflection: bool = True,
        limits: ServerLimits | None = None,
        report_breach: Callable[[str], None] | None = None,
    ) -> None:
        """Takes the use cases.

        `is_ready` says whether health is SERVING, asked twice a second. `report_breach` is for tests: it hears of each
        status that breaks the error contract.
        """
        limits = limits or ServerLimits()
        outer: list[Layer] = [RequestLog(node_id=node_id)]
        if report_breach is not None:
            outer.append(Conformance(report_breach))
        self._use_cases = use_cases
        self._clock = clock
        self._client_silence_s = limits.client_silence_s
        self._is_ready = is_ready
        self._with_reflection = with_reflection
        self._layers = Layers(
            outer=outer,
            inner=[
                Limits(max_unary=limits.max_unary, max_streams=limits.max_streams),
                Authentication(use_cases.authenticate.authenticate),
            ],
            deadline=Deadline(max_s=limits.unary_max_s),
            ids=ids,
        )
        self._health = HealthServicer()
        self._server: grpc.aio.Server | None = None
        self._group = asyncio.TaskGroup()
        self._health_task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Prepares; `start` listens."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops without grace."""
        await self.stop(0.0)
        await self._group.__aexit__(kind, error, trace)

    async def start(self, *addresses: str) -> list[int]:
        """Listens on each "host:port" and returns the ports; port 0 takes a free one.

        Raises:
            RuntimeError: an address cannot be had.
        """
        server = self._server = grpc.aio.server(interceptors=[LayeredInterceptor(self._layers)], options=_OPTIONS)
        self._add_services(server)
        ports = [server.add_insecure_port(address) for address in addresses]
        await self._tell_health()
        await server.start()
        self._health_task = self._group.create_task(self._watch_health(), name="health")
        return ports

    def streaming_calls(self) -> StreamingCalls:
        """Returns the streaming methods, with the same layers and limits, for another transport."""
        cases = self._use_cases
        chat = ChatServicer(cases.conversations, cases.streams, cases.typing)
        history = self._history_servicer()
        by_name = (
            (chat_service_pb2, "ChatService", chat),
            (history_service_pb2, "HistoryService", history),
            (presence_service_pb2, "PresenceService", PresenceServicer(cases.presence)),
        )
        return StreamingCalls(
            {module.DESCRIPTOR.services_by_name[name]: servicer for module, name, servicer in by_name}, self._layers
        )

    def _history_servicer(self) -> HistoryServicer:
        cases = self._use_cases
        return HistoryServicer(cases.history, cases.sync, self._clock, client_silence_s=self._client_silence_s)

    def _add_services(self, server: grpc.aio.Server) -> None:
        cases = self._use_cases
        auth_service_pb2_grpc.add_AuthServiceServicer_to_server(AuthServicer(cases.authenticate), server)
        user_service_pb2_grpc.add_UserServiceServicer_to_server(UserServicer(cases.users), server)
        conversation_service_pb2_grpc.add_ConversationServiceServicer_to_server(
            ConversationServicer(cases.conversations), server
        )
        chat_service_pb2_grpc.add_ChatServiceServicer_to_server(
            ChatServicer(cases.conversations, cases.streams, cases.typing), server
        )
        history_service_pb2_grpc.add_HistoryServiceServicer_to_server(self._history_servicer(), server)
        marker_service_pb2_grpc.add_MarkerServiceServicer_to_server(
            MarkerServicer(cases.markers, cases.mentions), server
        )
        settings_service_pb2_grpc.add_SettingsServiceServicer_to_server(SettingsServicer(cases.settings), server)
        presence_service_pb2_grpc.add_PresenceServiceServicer_to_server(PresenceServicer(cases.presence), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        if self._with_reflection:
            names = (*_SERVICES, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name, reflection.SERVICE_NAME)
            reflection.enable_server_reflection(names, server)

    async def _watch_health(self) -> None:
        while True:
            await asyncio.sleep(_HEALTH_CHECK_S)
            await self._tell_health()

    async def _tell_health(self) -> None:
        status = (
            health_pb2.HealthCheckResponse.SERVING if self._is_ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        )
        for service in ("", *_SERVICES):
            await self._health.set(service, status)

    async def stop(self, grace_s: float) -> None:
        """Says NOT_SERVING, takes no new calls, lets those that run finish for `grace_s`, then ends them. Idempotent.

        Drain the streams first (`Streams.drain`): a stream does not end by itself.
        """
        server, self._server = self._server, None
        if server is None:
            return
        if self._health_task is not None:
            self._health_task.cancel()
        await self._health.enter_graceful_shutdown()
        try:
            async with asyncio.timeout(grace_s + _CANCEL_WITHIN_S):
                await server.stop(grace_s)
        except TimeoutError:
            log.error("server did not stop in time", grace_s=grace_s)
