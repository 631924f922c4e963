"""The stream edge of a node: listens, owns the tasks of calls, lets time pass, and leaves in order."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import grpc
import grpc.aio
import structlog
from grpc_health.v1 import health_pb2

from hubbub_server.domain.errors import HubbubError
from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.limits import EdgeLimits
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.obs import metrics
from hubbub_server.rpc.call import Call, Proceed
from hubbub_server.rpc.streaming_calls import StreamingCalls, StreamingMethod, read_only_request

_TICK_S: Final = 1.0
_BACKLOG: Final = 1_024
_HEALTH_PATH: Final = "/grpc.health.v1.Health/Check"
_CUT_WITHIN_S: Final = 2.0

log = structlog.get_logger()


class StreamEdge:
    """Serves the streaming methods, and health, on one address. Use as `async with`; leaving the block stops it."""

    def __init__(self, calls: StreamingCalls, *, limits: EdgeLimits, is_ready: Callable[[], bool]) -> None:
        """`is_ready` says whether health is SERVING, asked at each check."""
        self._calls = calls
        self._limits = limits
        self._is_ready = is_ready
        self._connections: set[EdgeConnection] = set()
        self._server: asyncio.Server | None = None
        self._group = asyncio.TaskGroup()
        self._calls_running: set[asyncio.Task[None]] = set()
        self._ticker: asyncio.Task[None] | None = None
        self._is_empty = asyncio.Event()

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

    @property
    def is_serving(self) -> bool:
        """Tells whether it listens: part of the node's readiness."""
        return self._server is not None and self._server.is_serving()

    def __len__(self) -> int:
        """Number of open connections."""
        return len(self._connections)

    async def start(self, host: str, port: int, *, tls: ssl.SSLContext | None = None) -> int:
        """Listens and returns the port; port 0 takes a free one. With `tls` only HTTP/2 by ALPN is spoken.

        Raises:
            OSError: the address cannot be had.
        """
        if tls is not None:
            tls.set_alpn_protocols(["h2"])
        self._server = await asyncio.get_running_loop().create_server(
            lambda: EdgeConnection(self, self._limits, needs_alpn=tls is not None),
            host,
            port,
            ssl=tls,
            ssl_handshake_timeout=None if tls is None else self._limits.preface_within_s,
            ssl_shutdown_timeout=None if tls is None else self._limits.finish_within_s,
            backlog=_BACKLOG,
        )
        self._ticker = self._group.create_task(self._tick_for_ever(), name="edge")
        chosen: int = self._server.sockets[0].getsockname()[1]
        return chosen

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self, *, ahead_s: float = 0.0) -> None:
        """Lets time pass for all connections; tests look `ahead_s`."""
        now_s = asyncio.get_running_loop().time() + ahead_s
        for connection in tuple(self._connections):
            connection.tick(now_s)

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, tells the peers, lets calls finish for `grace_s`, then ends them. Idempotent.

        Drain the streams first (`Streams.drain`): a stream does not end by itself.
        """
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in tuple(self._connections):
            connection.leave()
        await self._wait_empty(grace_s)
        if self._ticker is not None:
            self._ticker.cancel()
        for connection in tuple(self._connections):
            connection.cut()
        await self._wait_empty(_CUT_WITHIN_S)
        for task in tuple(self._calls_running):
            task.cancel()

    async def _wait_empty(self, timeout_s: float) -> None:
        """Waits until no connection is open, or for a time; looks often, since connections end by `tick`."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._connections:
                    self._is_empty.clear()
                    await self._is_empty.wait()
        except TimeoutError:
            pass

    # ---- Host

    def admit(self, connection: EdgeConnection) -> bool:
        """See Host."""
        self._connections.add(connection)
        metrics.edge_connections.set(len(self._connections))
        return len(self._connections) <= self._limits.max_connections and self._server is not None

    def forget(self, connection: EdgeConnection) -> None:
        """See Host."""
        self._connections.discard(connection)
        metrics.edge_connections.set(len(self._connections))
        if not self._connections:
            self._is_empty.set()

    def serve(self, stream: EdgeStream, path: str) -> bool:
        """See Host."""
        method = self._calls.find(path)
        if method is not None:
            self._start(stream, self._serve_method(method))
        elif path == _HEALTH_PATH:
            self._start(stream, self._check_health)
        else:
            return False
        return True

    def _start(self, stream: EdgeStream, behaviour: Callable[[EdgeStream], Awaitable[None]]) -> None:
        task = self._group.create_task(stream.serve(behaviour))
        self._calls_running.add(task)
        task.add_done_callback(self._calls_running.discard)

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        """See Host. Such a task waits for nobody, and `stop` does not cancel it: it forgets the stream."""
        self._group.create_task(stream.serve(lambda _: self._calls.finish(call, behave), is_rest=True))

    def _serve_method(self, method: StreamingMethod) -> Callable[[EdgeStream], Awaitable[None]]:
        async def serve(stream: EdgeStream) -> None:
            await self._calls.serve(method, stream, stream.pump)

        return serve

    async def _check_health(self, stream: EdgeStream) -> None:
        """Answers for the node as a whole and for each service that streams; of others it knows nothing."""
        try:
            request = await read_only_request(stream, health_pb2.HealthCheckRequest.FromString)
        except HubbubError as error:
            await stream.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        if request.service and request.service not in self._calls.services:
            await stream.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        serving = health_pb2.HealthCheckResponse.SERVING
        status = serving if self._is_ready() else health_pb2.HealthCheckResponse.NOT_SERVING
        await stream.write(health_pb2.HealthCheckResponse(status=status).SerializeToString())
