"""Streams that come and go for an hour, straight to a node's edge: its resident memory must not grow with them.

`python -m bench.reconnects --minutes 60`. Each cycle opens a stream and ends it in one of the ways that clients have:
cancelled when it was live or at once, half-closed, by a deadline, refused, or with its connection. The rate is low, so
that other things may run beside: what counts is how many cycles there were. Memory is looked at when all is quiet.
"""

import argparse
import asyncio
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import cycle
from pathlib import Path
from typing import Final

import httpx
from hubbub.chat.v1 import chat_service_pb2

from bench.crowd import User, create_group, register
from bench.figure import write_figure
from bench.process import cpu_s, resident_bytes
from tests.support.cluster import Cluster, Process
from tests.support.h2_peer import SocketPeer, grpc_headers

RATE_PER_S: Final = 60.0
WORKERS: Final = 6
USERS: Final = 5
CYCLES_A_CONNECTION: Final = 60
TOKEN_S: Final = 420.0
"""Tokens live for ten minutes."""
WARM_UP_PART: Final = 1 / 6
QUIET_S: Final = 5.0
SAMPLES_A_MINUTE: Final = 6
GROWTH_MAX_BYTES: Final = 8 * 2**20
"""A stream that left 40 bytes behind would be seen after an hour."""
FAILED_MAX_PART: Final = 0.001
_CONNECT: Final = "/hubbub.chat.v1.ChatService/Connect"
_CANCEL: Final = 8
_GAUGES: Final = {"hubbub_streams": 0, "hubbub_edge_connections": 4}
_MIB: Final = 2**20


def _hello() -> bytes:
    hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    return chat_service_pb2.ConnectRequest(hello=hello).SerializeToString()


async def _go_live(peer: SocketPeer, token: str, *, end_stream: bool = False) -> int:
    """Opens a stream that covers all topics of its user."""
    stream = peer.call(grpc_headers(_CONNECT, token=token), _hello(), end_stream=end_stream)

    def is_live() -> bool:
        frames = (chat_service_pb2.ConnectResponse.FromString(each).frame for each in peer.messages(stream))
        return any(frame.heads.complete for frame in frames)

    await peer.until(is_live)
    return stream


async def _cancel_live(peer: SocketPeer, token: str) -> None:
    stream = await _go_live(peer, token)
    peer.h2.reset_stream(stream, _CANCEL)
    peer.flush()


async def _cancel_at_once(peer: SocketPeer, token: str) -> None:
    stream = peer.call(grpc_headers(_CONNECT, token=token), _hello())
    peer.flush()
    peer.h2.reset_stream(stream, _CANCEL)
    peer.flush()


async def _half_close(peer: SocketPeer, token: str) -> None:
    stream = await _go_live(peer, token)
    peer.h2.end_stream(stream)
    await peer.until(lambda: stream in peer.trailers)


async def _pass_a_deadline(peer: SocketPeer, token: str) -> None:
    stream = peer.call(grpc_headers(_CONNECT, ("grpc-timeout", "20m"), token=token), _hello())
    await peer.until(lambda: stream in peer.trailers)


async def _be_refused(peer: SocketPeer, _token: str) -> None:
    stream = peer.call(grpc_headers(_CONNECT, token="none"), _hello())  # noqa: S106  # a bad one
    await peer.until(lambda: stream in peer.trailers)


async def _lose_the_connection(peer: SocketPeer, token: str) -> None:
    for _ in range(2):
        await _go_live(peer, token)
    raise ConnectionAbortedError


_WAYS: Final[tuple[Callable[[SocketPeer, str], Awaitable[None]], ...]] = (
    *(_cancel_live, _cancel_live, _cancel_at_once, _half_close, _pass_a_deadline, _be_refused),
    *(_cancel_live, _cancel_live, _cancel_at_once, _lose_the_connection),
)


class Crowd:
    """Clients that come and go. `cycles` counts streams that ended, `failed` those that did not as they should."""

    def __init__(self, address: str, port: int) -> None:
        """Takes where the node's edge is, and Envoy for accounts."""
        self.cycles: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self._address = address
        self._port = port
        self._users: list[User] = []

    async def sign_up(self) -> None:
        """Gets accounts whose tokens live long enough, in a conversation of their own."""
        users = await register(self._port, USERS)
        await create_group(self._port, users[0], users[1:])
        self._users = users

    async def come_and_go(self, seconds: float) -> None:
        """Opens and ends streams at the steady rate."""
        end_s = time.monotonic() + seconds
        async with asyncio.timeout(seconds + 60.0), asyncio.TaskGroup() as tasks:
            for number in range(WORKERS):
                tasks.create_task(self._work(number, end_s))

    async def _work(self, number: int, end_s: float) -> None:
        ways = cycle(_WAYS[number:] + _WAYS[:number])
        due_s = time.monotonic()
        while time.monotonic() < end_s:
            try:
                async with SocketPeer(self._address) as peer:
                    for way in (next(ways) for _ in range(CYCLES_A_CONNECTION)):
                        due_s = max(due_s + WORKERS / RATE_PER_S, time.monotonic() - 1.0)
                        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
                        if time.monotonic() >= end_s:
                            return
                        await way(peer, self._users[number % USERS].token)
                        self.cycles[way.__name__.strip("_")] += 1
            except* ConnectionAbortedError:
                self.cycles["lose_the_connection"] += 2
            except* (TimeoutError, OSError) as errors:
                self.failed[repr(errors.exceptions[0])] += 1


async def _is_quiet(node: Process) -> bool:
    """Tells whether the node has no stream, and no connection to its edge but Envoy's."""
    async with httpx.AsyncClient() as http:
        lines = (await http.get(f"http://127.0.0.1:{node.metrics_port}/metrics")).text.splitlines()
    gauges = {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines) if name in _GAUGES}
    return len(gauges) == len(_GAUGES) and all(gauges[name] <= most for name, most in _GAUGES.items())


async def _quiet_bytes(node: Process) -> int:
    """Waits until nothing is open and returns the node's resident memory."""
    async with asyncio.timeout(60.0):
        await asyncio.sleep(QUIET_S)
        while not await _is_quiet(node):  # noqa: ASYNC110  # processes tell nobody
            await asyncio.sleep(0.2)
    return resident_bytes(node.pid)


async def measure(cluster: Cluster, minutes: float) -> None:
    """Measures and keeps the figure."""
    (node,) = cluster.processes("node")
    crowd = Crowd(f"127.0.0.1:{node.stream_port}", cluster.port)
    await crowd.sign_up()
    await crowd.come_and_go(60 * minutes * WARM_UP_PART)
    await crowd.sign_up()  # the warm-up may have been as long as tokens live
    before = await _quiet_bytes(node)
    warm_up = crowd.cycles.total()
    begin_s, begin_cpu_s = time.monotonic(), cpu_s(node.pid)
    samples = []
    signed_up_s = time.monotonic()
    slice_s = 60 / SAMPLES_A_MINUTE
    for _ in range(round(minutes * SAMPLES_A_MINUTE)):
        if time.monotonic() - signed_up_s > TOKEN_S:
            await crowd.sign_up()
            signed_up_s = time.monotonic()
        await crowd.come_and_go(slice_s)
        samples.append(resident_bytes(node.pid))
    elapsed_s = time.monotonic() - begin_s
    node_cpu = (cpu_s(node.pid) - begin_cpu_s) / elapsed_s
    after = await _quiet_bytes(node)
    cycles, failed = crowd.cycles.total() - warm_up, crowd.failed.total()
    write_figure(
        "reconnects",
        f"python -m bench.reconnects --minutes {minutes:g}",
        {
            "what": f"streams that are opened and ended, {RATE_PER_S:g} a second, after a warm-up of {warm_up}",
            "minutes": round(elapsed_s / 60, 1),
            "cycles": cycles,
            "ways": dict(crowd.cycles),
            "failed": dict(crowd.failed),
            "node_rss_before_mib": round(before / _MIB, 1),
            "node_rss_after_mib": round(after / _MIB, 1),
            "node_rss_growth_mib": round((after - before) / _MIB, 2),
            "growth_bytes_per_cycle": round((after - before) / cycles, 1),
            "node_rss_each_tenth_mib": [round(rss / _MIB, 1) for rss in samples[:: max(1, len(samples) // 10)]],
            "node_cpu": round(node_cpu, 2),
        },
        holds=after - before < GROWTH_MAX_BYTES and failed <= FAILED_MAX_PART * cycles,
    )


async def main() -> None:
    """Runs an instance of one node and measures."""
    parser = argparse.ArgumentParser(prog="python -m bench.reconnects", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0)
    minutes = parser.parse_args().minutes
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            await measure(cluster, minutes)


if __name__ == "__main__":
    asyncio.run(main())
