"""Slow readers: 100 of 200 streams stop reading while 20,000 events go to all of them.

The node's resident memory grows by less than 64 MiB and returns; the others' p99 from send to receipt stays below twice
what it was when everybody read; each stopped reader gets Goodbye, or its transport is reset, and resumes complete.
"""

import asyncio
import tempfile
import time
from pathlib import Path
from typing import Any

from hubbub.chat.v1 import chat_service_pb2_grpc

from bench.crowd import User, create_group, register, send
from bench.crowd_process import ClientProcess, listening
from bench.figure import percentile, write_figure
from bench.listeners import ListenerPlan
from bench.process import resident_bytes
from tests.soak.api import open_channel
from tests.support.cluster import Cluster, Process

STREAMS, STOPPED = 200, 100
EVENTS, BURST, BURST_PAUSE_S = 20_000, 50, 0.3
USERS = 20
GROWTH_MAX_BYTES = 64 * 2**20
P99_RATIO_MAX = 2.0
RETURN_TRIES, RETURN_PAUSE_S = 20, 1.0
_MIB = 2**20


class Memory:
    """Watches the resident memory of the node."""

    def __init__(self, pid: int) -> None:
        """Starts at what it is now."""
        self._pid = pid
        self.start = self.peak = resident_bytes(pid)

    async def watch(self) -> None:
        """Keeps the peak."""
        while True:
            self.peak = max(self.peak, resident_bytes(self._pid))
            await asyncio.sleep(0.05)

    def now(self) -> int:
        """Resident memory at the moment."""
        return resident_bytes(self._pid)


async def _send_bursts(node: Process, user: User, topic: str, events: int) -> int:
    """Sends bursts of messages at once; returns the position of the last one."""
    position = 0
    async with open_channel(node.grpc_port) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        for _ in range(events // BURST):
            begin = time.monotonic()
            sends = (send(stub, user, topic, f"{time.monotonic():.6f} {'x' * 80}") for _ in range(BURST))
            position = max(answer.cursor.position for answer in await asyncio.gather(*sends))
            await asyncio.sleep(max(0.0, BURST_PAUSE_S - (time.monotonic() - begin)))
    return position


async def _p99_ms(process: ClientProcess, position: int) -> float:
    """Waits until all streams of a process are at the position; returns the p99 since the last time."""
    async with asyncio.timeout(60):
        latencies: list[float] = []
        while True:
            counted = await process.ask(op="count")
            latencies += counted["latencies"]
            if counted["ended"]:
                raise RuntimeError(f"streams that read on were ended: {counted['ended'][:3]}")
            if counted["least"] >= position:
                return percentile(latencies, 0.99) * 1000
            await asyncio.sleep(0.1)


async def measure(cluster: Cluster) -> None:
    """Measures and keeps the figure."""
    users = await register(cluster.port, USERS)
    topic = await create_group(cluster.port, users[0], users[1:])
    (node,) = cluster.processes("node")
    tokens = tuple(user.token for user in users)
    plans = [
        ListenerPlan(node.grpc_port, topic, tokens, STOPPED),
        ListenerPlan(node.grpc_port, topic, tokens, STREAMS - STOPPED),
    ]
    async with listening(plans) as (stopping, reading):
        position = await _send_bursts(node, users[0], topic, EVENTS // 10)
        await _p99_ms(stopping, position)
        all_read_ms = await _p99_ms(reading, position)
        memory = Memory(node.pid)
        async with asyncio.TaskGroup() as tasks:
            watch = tasks.create_task(memory.watch())
            await stopping.ask(op="stop_reading")
            position = await _send_bursts(node, users[0], topic, EVENTS)
            some_read_ms = await _p99_ms(reading, position)
            watch.cancel()
        answer = await stopping.ask(op="read_on", position=position)
        returned = await _returns(memory)
    _keep(all_read_ms, some_read_ms, memory, returned, answer["ends"])


async def _returns(memory: Memory) -> int:
    """Gives the node time to let go; returns the lowest that its memory came to."""
    lowest = memory.now()
    for _ in range(RETURN_TRIES):
        await asyncio.sleep(RETURN_PAUSE_S)
        lowest = min(lowest, memory.now())
    return lowest


def _keep(all_ms: float, some_ms: float, memory: Memory, returned: int, ends: list[dict[str, Any]]) -> None:
    complete = sum(end["resumed"] in ("stream", "events", "gap") for end in ends)
    growth = memory.peak - memory.start
    write_figure(
        "slow_readers",
        "python -m bench.slow_readers",
        {
            "what": f"{STOPPED} of {STREAMS} streams stop reading, {EVENTS} events go to all, in bursts of {BURST}",
            "node_rss_start_mib": round(memory.start / _MIB, 1),
            "node_rss_growth_mib": round(growth / _MIB, 1),
            "node_rss_afterwards_mib": round((returned - memory.start) / _MIB, 1),
            "p99_ms_all_read": round(all_ms, 1),
            "p99_ms_of_the_others": round(some_ms, 1),
            "stopped": len(ends),
            "with_goodbye": sum(end["goodbye"] == "GOODBYE_REASON_SLOW_READER" for end in ends),
            "reset": sum(not end["goodbye"] and bool(end["end"]) for end in ends),
            "resumed_complete": complete,
            "not_complete": [end for end in ends if end["resumed"] not in ("stream", "events", "gap")][:5],
        },
        holds=growth < GROWTH_MAX_BYTES
        and returned - memory.start < GROWTH_MAX_BYTES // 2
        and some_ms < P99_RATIO_MAX * all_ms
        and complete == len(ends) == STOPPED,
    )


async def main() -> None:
    """Runs an instance of one node and measures."""
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            await measure(cluster)


if __name__ == "__main__":
    asyncio.run(main())
