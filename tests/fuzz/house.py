"""A node without sockets: the streaming methods of a real one on fakes, two of its own, and whatever goes wrong in it.

Echo answers each message with itself, Much answers each with more than a window takes.
"""

import asyncio
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, MutableMapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import grpc.aio
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hubbub_server.adapters.crypto.jose_token_signer import JoseTokenSigner
from hubbub_server.app.streams import Streams
from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.rpc.call import Call, Proceed
from hubbub_server.rpc.server import RpcServer
from hubbub_server.rpc.streaming_calls import StreamingCalls
from tests.support.node import NodeCluster

ECHO, MUCH = "/fuzz.Fuzz/Echo", "/fuzz.Fuzz/Much"
MUCH_BYTES: Final = 200_000
_TURNS_MAX: Final = 30_000


class House:
    """Implements Host. `token` and `conversation_id` are good ones."""

    token = ""
    conversation_id = ""

    def __init__(self, calls: StreamingCalls, streams: Streams, faults: list[str]) -> None:
        """Made by `open_house`. `faults` is what no peer may bring about."""
        self.faults = faults
        self.own: dict[int, str] = {}
        """Streams on which Echo and Much were asked since `begin`."""
        self._calls = calls
        self._streams = streams
        self._running: set[asyncio.Task[None]] = set()
        self._connections: set[EdgeConnection] = set()
        self._loop: Any = asyncio.get_running_loop()
        self._own_timers = 0

    def admit(self, connection: EdgeConnection) -> bool:
        """See Host."""
        self._connections.add(connection)
        return True

    def forget(self, connection: EdgeConnection) -> None:
        """See Host."""
        self._connections.discard(connection)

    def serve(self, stream: EdgeStream, path: str) -> bool:
        """See Host."""
        behaviour = self._find(path)
        if behaviour is None:
            return False
        if path in (ECHO, MUCH):
            self.own[stream.stream_id] = path
        self._run(stream.serve(behaviour))
        return True

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        """See Host."""
        self._run(stream.serve(lambda _: self._calls.finish(call, behave), is_rest=True))

    def _run(self, serving: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(serving)
        self._running.add(task)
        task.add_done_callback(self._forget_call)

    def _find(self, path: str) -> Callable[[EdgeStream], Awaitable[None]] | None:
        if path in (ECHO, MUCH):
            return _echo if path == ECHO else _answer_much
        method = self._calls.find(path)
        if method is None:
            return None

        async def serve(stream: EdgeStream) -> None:
            await self._calls.serve(method, stream, stream.pump)

        return serve

    def _forget_call(self, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults.append(f"a call raised {error!r}")

    async def settle(self) -> None:
        """Turns the loop until nothing is left to do at this time."""
        for _ in range(_TURNS_MAX):
            await asyncio.sleep(0)
            if not self._loop._ready:
                return
        self.faults.append("it never comes to rest")

    def begin(self) -> None:
        """A connection comes; what is there now is the node's own."""
        self.own.clear()
        self._own_timers = self._timers()

    def look_for_leftovers(self) -> None:
        """Everything of connections must be gone when none is open."""
        leftovers = {
            "calls": len(self._running),
            "connections": len(self._connections),
            "sessions": len(self._streams),
            "timers": max(0, self._timers() - self._own_timers),
        }
        self.faults += [f"{count} {name} are left" for name, count in leftovers.items() if count]

    def _timers(self) -> int:
        return sum(not timer.cancelled() for timer in self._loop._scheduled)


async def _echo(stream: EdgeStream) -> None:
    while (message := await stream.read()) is not grpc.aio.EOF:
        await stream.write(message)


async def _answer_much(stream: EdgeStream) -> None:
    while await stream.read() is not grpc.aio.EOF:
        await stream.write(b"x" * MUCH_BYTES)


@contextmanager
def _errors_heard(hear: Callable[[str], None]) -> Iterator[None]:
    """Gives what is logged as an error to `hear`, and nothing to anybody else."""

    def take(_logger: Any, method: str, event: MutableMapping[str, Any]) -> Any:
        if method in ("error", "exception", "critical"):
            error = sys.exception()
            where = "".join(traceback.format_exception(error)[-3:]) if error else ""
            hear(f"logged: {event.get('event')} {where}")
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(processors=[take], wrapper_class=structlog.BoundLogger, cache_logger_on_first_use=False)
    try:
        yield
    finally:
        structlog.configure(**before)


@asynccontextmanager
async def open_house() -> AsyncIterator[House]:
    """Runs the node in the running loop."""
    cluster = NodeCluster(transport="edge")
    cluster.signer = JoseTokenSigner(
        signing_key=Ed25519PrivateKey.from_private_bytes(b"k" * 32),  # so that tokens are always the same
        refresh_key=b"k" * 32,
        issuer="test",
        audience="test",
        clock=cluster.clock,
    )
    faults: list[str] = []

    def hear_loop(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        faults.append(f"in the loop: {context.get('exception') or context['message']!r}")

    asyncio.get_running_loop().set_exception_handler(hear_loop)
    with _errors_heard(faults.append):
        async with cluster.app() as (_, hub, use_cases):
            alice, bob = [await cluster.sign_up(name) for name in ("alice", "bob")]
            view = await use_cases.conversations.create_direct(alice.user_id, bob.user_id)
            server = RpcServer(
                use_cases,
                clock=cluster.clock,
                ids=cluster.ids,
                node_id="fuzz",
                is_ready=hub.is_live,
                report_breach=lambda breach: faults.append(f"a status broke the contract: {breach}"),
            )
            house = House(server.streaming_calls(), use_cases.streams, faults)
            house.token, house.conversation_id = alice.access_token, view.conversation_id
            await house.settle()
            yield house
