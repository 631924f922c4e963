"""Connections of the edge without sockets, and a host of one method that does what a test says."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import grpc.aio

from hubbub_server.edge.connection import EdgeConnection
from hubbub_server.edge.limits import STRANGERS, EdgeLimits
from hubbub_server.edge.stream import EdgeStream
from hubbub_server.rpc.call import Call, Proceed
from tests.support.h2_peer import H2Peer, Pipe, grpc_headers

CALL = grpc_headers("/t.T/Call")
Behaviour = Callable[[EdgeStream], Awaitable[None]]


async def echo(stream: EdgeStream) -> None:
    """Answers each message with itself."""
    while (message := await stream.read()) is not grpc.aio.EOF:
        await stream.write(message)


async def wait(stream: EdgeStream) -> None:
    """Never ends by itself."""
    await asyncio.get_running_loop().create_future()


def later(pipe: Pipe, seconds: float) -> None:
    """Lets a connection see a later time."""
    assert isinstance(pipe.protocol, EdgeConnection)
    pipe.protocol.tick(asyncio.get_running_loop().time() + seconds)


class Bench:
    """A host whose one method does what a test says, and connections of it."""

    def __init__(self) -> None:
        self.limits: EdgeLimits = STRANGERS
        self.behaviour: Behaviour = echo
        self.streams: list[EdgeStream] = []
        self.ended: list[str] = []
        self._tasks: list[asyncio.Task[None]] = []

    def connect(self, **windows: int) -> tuple[H2Peer, Pipe]:
        """Connects a peer with such windows."""
        peer = H2Peer(**windows)
        return peer, Pipe(EdgeConnection(self, self.limits, needs_alpn=False), peer)

    @property
    def running(self) -> int:
        """Number of tasks that have not ended."""
        return sum(not task.done() for task in self._tasks)

    def serve(self, stream: EdgeStream, path: str) -> bool:
        """Begins a call; False: there is no such method."""
        if path != "/t.T/Call":
            return False
        self.streams.append(stream)
        self._tasks.append(asyncio.create_task(self._run(stream)))
        return True

    def finish(self, stream: EdgeStream, call: Call, behave: Proceed) -> None:
        """Runs what is left of a call."""
        self._tasks.append(asyncio.create_task(stream.serve(lambda _: behave(), is_rest=True)))

    async def _run(self, stream: EdgeStream) -> None:
        async def behave(stream: EdgeStream) -> None:
            try:
                await self.behaviour(stream)
            except asyncio.CancelledError:
                self.ended.append("cancelled")
                raise
            self.ended.append("returned")

        await stream.serve(behave)

    def admit(self, connection: EdgeConnection) -> bool:
        """Takes every connection."""
        return True

    def forget(self, connection: EdgeConnection) -> None:
        """Has nothing to forget."""

    async def close(self) -> None:
        """Ends all calls."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
