"""A TCP proxy that fails on demand: delays, stalls, goes silent, cuts by FIN or RST; one connection or all of them.

Theory of operation. Each accepted connection is a `Link` with two pumps, one a direction. A pump reads a chunk, waits
for its gate, waits for the delay, then writes; a chunk that was read before a stall began waits like all others.

* *stall*: nothing is forwarded, both sockets stay open and nothing is lost: after `flow()` everything arrives. Once the
  buffers are full the sender blocks, as with a peer that hangs.
* *silence*: what arrives is thrown away, both sockets stay open: a peer that vanished without a packet. A link that was
  silent cannot be repaired, only cut.
* *cut*: FIN closes in order, RST resets.

`FaultProxy` applies a fault to all its links and, where it says so, to those that come.
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterable
from enum import Enum
from types import TracebackType
from typing import Self

_CHUNK_BYTES = 64 * 1024
_CONNECT_TIMEOUT_S = 5.0
_FIN_LINGER_S = 1.0
_NO_LINGER = struct.pack("ii", 1, 0)


class Direction(Enum):
    """What a fault applies to, seen from the proxy's client."""

    BOTH = "both"
    TO_TARGET = "to_target"
    FROM_TARGET = "from_target"


class Cut(Enum):
    """How a connection ends."""

    FIN = "fin"
    RST = "rst"


class _Valve:
    """The state of one direction of one link."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.delay_s = 0.0
        self.is_silent = False


class Link:
    """One connection through the proxy. Its methods act at once and never wait."""

    def __init__(
        self,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        target: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        """Takes both sides, connected."""
        self._client = client
        self._target = target
        self._valves = {Direction.TO_TARGET: _Valve(), Direction.FROM_TARGET: _Valve()}
        self._cut = asyncio.Event()
        self._cut_by = Cut.FIN
        self.forwarded_bytes = 0

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Stops forwarding; nothing is lost."""
        for valve in self._chosen(direction):
            valve.gate.clear()

    def flow(self) -> None:
        """Ends stalls and delays."""
        for valve in self._valves.values():
            valve.delay_s = 0.0
            valve.gate.set()

    def delay(self, delay_s: float, direction: Direction = Direction.BOTH) -> None:
        """Holds every chunk back for `delay_s`; chunks behind it wait too."""
        for valve in self._chosen(direction):
            valve.delay_s = delay_s

    def silence(self, direction: Direction = Direction.BOTH) -> None:
        """Throws away what arrives, for good."""
        for valve in self._chosen(direction):
            valve.is_silent = True

    def cut(self, how: Cut) -> None:
        """Ends both sides."""
        self._cut_by = how
        self._cut.set()

    def _chosen(self, direction: Direction) -> Iterable[_Valve]:
        return self._valves.values() if direction is Direction.BOTH else (self._valves[direction],)

    async def run(self) -> None:
        """Forwards until both sides have ended or the link is cut; closes both sides."""
        to_target, from_target = self._valves[Direction.TO_TARGET], self._valves[Direction.FROM_TARGET]
        try:
            async with asyncio.TaskGroup() as tasks:
                pumps = [
                    tasks.create_task(self._pump(self._client[0], self._target[1], to_target)),
                    tasks.create_task(self._pump(self._target[0], self._client[1], from_target)),
                ]
                cut = tasks.create_task(self._cut.wait())
                both = tasks.create_task(_all_done(pumps))
                await asyncio.wait((cut, both), return_when=asyncio.FIRST_COMPLETED)
                for task in (*pumps, cut, both):
                    task.cancel()
            if self._cut.is_set() and self._cut_by is Cut.FIN:
                await self._linger()
        finally:
            for _, writer in (self._client, self._target):
                if self._cut.is_set() and self._cut_by is Cut.RST:
                    _reset(writer)
                writer.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, valve: _Valve) -> None:
        try:
            while True:
                await valve.gate.wait()
                chunk = await reader.read(_CHUNK_BYTES)
                await valve.gate.wait()
                if valve.delay_s:
                    await asyncio.sleep(valve.delay_s)
                if valve.is_silent:
                    if not chunk:
                        await asyncio.Event().wait()  # the end is not told either; only a cut ends this
                    continue
                if not chunk:
                    break
                writer.write(chunk)
                await writer.drain()
                self.forwarded_bytes += len(chunk)
            if writer.can_write_eof():
                writer.write_eof()
        except OSError:
            self.cut(Cut.RST)  # one side reset: so does the other

    async def _linger(self) -> None:
        """Sends FIN to both and reads on for a moment: closing with unread bytes would send RST instead."""
        with contextlib.suppress(OSError, TimeoutError):
            for _, writer in (self._client, self._target):
                writer.write_eof()
            async with asyncio.timeout(_FIN_LINGER_S):
                for reader, _ in (self._client, self._target):
                    while await reader.read(_CHUNK_BYTES):
                        pass


async def _all_done(tasks: Iterable["asyncio.Task[None]"]) -> None:
    await asyncio.wait(list(tasks))


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):  # the other side was faster: the socket is closed
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    writer.transport.abort()


class FaultProxy:
    """Forwards a local port to a target. `async with` opens the port and at the end closes everything."""

    def __init__(self, target_port: int, *, target_host: str = "127.0.0.1", port: int = 0) -> None:
        """Names the target; `port` 0 takes a free one, see `port` once open."""
        self._target = (target_host, target_port)
        self.port = port
        self.links: list[Link] = []
        self._stalled: Direction | None = None
        self._is_silent = False
        self._refuses = False
        self._delay_s = 0.0

    async def __aenter__(self) -> Self:
        """Opens the port."""
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._serving: set[asyncio.Task[None]] = set()
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Resets every connection and closes the port."""
        self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        await self._tasks.__aexit__(kind, error, trace)

    def retarget(self, target_port: int) -> None:
        """Sends connections that come from now on to another port."""
        self._target = (self._target[0], target_port)

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Stalls all links, also those that come, until `flow`."""
        self._stalled = direction
        for link in self.links:
            link.stall(direction)

    def delay(self, delay_s: float) -> None:
        """Delays all links, also those that come, until `flow`."""
        self._delay_s = delay_s
        for link in self.links:
            link.delay(delay_s)

    def silence(self) -> None:
        """Silences all links, also those that come until `flow`. Those that were silent stay so: cut them."""
        self._is_silent = True
        for link in self.links:
            link.silence()

    def refuse(self) -> None:
        """Resets connections that come, until `flow`."""
        self._refuses = True

    def flow(self) -> None:
        """Forwards again."""
        self._stalled, self._is_silent, self._refuses, self._delay_s = None, False, False, 0.0
        for link in self.links:
            link.flow()

    def cut(self, how: Cut) -> int:
        """Cuts all links there are; returns how many."""
        for link in self.links:
            link.cut(how)
        return len(self.links)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._tasks.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self._refuses:
                raise ConnectionRefusedError
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                target = await asyncio.open_connection(*self._target)
        except OSError:  # TimeoutError is one too
            _reset(writer)
            return
        link = Link((reader, writer), target)
        if self._stalled is not None:
            link.stall(self._stalled)
        if self._is_silent:
            link.silence()
        link.delay(self._delay_s)
        self.links.append(link)
        try:
            await link.run()
        finally:
            self.links.remove(link)


class ProxyGroup:
    """Proxies on which every fault falls at once, in the order of their targets."""

    def __init__(self, proxies: list[FaultProxy]) -> None:
        """Takes open proxies."""
        self.proxies = proxies

    def stall(self, direction: Direction = Direction.BOTH) -> None:
        """Stalls them until `flow`."""
        for proxy in self.proxies:
            proxy.stall(direction)

    def delay(self, delay_s: float) -> None:
        """Delays them until `flow`."""
        for proxy in self.proxies:
            proxy.delay(delay_s)

    def silence(self) -> None:
        """Silences them; those that were silent stay so until they are cut."""
        for proxy in self.proxies:
            proxy.silence()

    def refuse(self) -> None:
        """Resets connections that come, until `flow`."""
        for proxy in self.proxies:
            proxy.refuse()

    def flow(self) -> None:
        """Forwards again."""
        for proxy in self.proxies:
            proxy.flow()

    def cut(self, how: Cut) -> int:
        """Cuts all connections there are; returns how many."""
        return sum(proxy.cut(how) for proxy in self.proxies)
