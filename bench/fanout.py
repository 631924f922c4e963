"""Fan-out on both transports: CPU of the node for each event that reaches a stream, with 200 and 1,000 streams.

The node's CPU comes from its /proc/<pid>/stat alone; deliveries are counted at the clients, in other processes; what a
steady send costs the node is in it. Streams go straight to the node, 50 to a connection, as behind Envoy.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path
from statistics import median

from hubbub.chat.v1 import chat_service_pb2_grpc

from bench.crowd import User, create_group, pace, register, send
from bench.crowd_process import ClientProcess, listening
from bench.figure import write_figure
from bench.listeners import ListenerPlan
from bench.process import cpu_s
from tests.soak.api import open_channel
from tests.support.cluster import Cluster

CASES = ((200, 30.0), (1_000, 6.0))
USERS = 20
CLIENT_PROCESSES = 2
WINDOW_S = 31.0
WARM_UP_S = 5.0
ROUNDS = 3
CLIENT_CPU_MAX = 0.7


async def measure(cluster: Cluster, users: list[User], transport: str, streams: int, rate_per_s: float) -> None:
    """Measures one case and keeps the figure."""
    topic = await create_group(cluster.port, users[0], users[1:])
    node = cluster.processes("node")[0]
    tokens = tuple(user.token for user in users)
    port = node.stream_port if transport == "edge" else node.grpc_port
    plan = ListenerPlan(port, topic, tokens, streams // CLIENT_PROCESSES)
    rounds: list[dict[str, float]] = []
    async with listening([plan] * CLIENT_PROCESSES) as processes, asyncio.TaskGroup() as tasks:
        stop = asyncio.Event()
        sender = tasks.create_task(_send_steadily(node.grpc_port, users[0], topic, rate_per_s, stop))
        await asyncio.sleep(WARM_UP_S)
        for _ in range(ROUNDS):
            rounds.append(await _window(processes, node.pid))
        stop.set()
        await sender
    busiest = max(each["client_cpu"] for each in rounds)
    write_figure(
        f"fan_out_{streams}" if transport == "grpc.aio" else f"fan_out_{streams}_{transport}",
        "python -m bench.fanout",
        {
            "what": f"{streams} streams on {transport}, {rate_per_s:g} messages/s to all of them, straight to the node",
            "cpu_us_per_delivery": round(median(each["cpu_us"] for each in rounds), 1),
            "deliveries_per_s": round(median(each["deliveries_per_s"] for each in rounds)),
            "node_cpu": round(median(each["node_cpu"] for each in rounds), 2),
            "busiest_client_cpu": round(busiest, 2),
            "window_s": WINDOW_S,
            "rounds": [round(each["cpu_us"], 1) for each in rounds],
        },
        holds=busiest < CLIENT_CPU_MAX,
    )


async def _window(processes: list[ClientProcess], node_pid: int) -> dict[str, float]:
    before = [await process.ask(op="count") for process in processes]
    node_before, begin = cpu_s(node_pid), time.monotonic()
    await asyncio.sleep(WINDOW_S)
    node_s, elapsed_s = cpu_s(node_pid) - node_before, time.monotonic() - begin
    after = [await process.ask(op="count") for process in processes]
    deliveries = sum(b["events"] - a["events"] for a, b in zip(before, after, strict=True))
    client_s = [b["cpu_s"] - a["cpu_s"] for a, b in zip(before, after, strict=True)]
    return {
        "cpu_us": node_s / deliveries * 1e6,
        "deliveries_per_s": deliveries / elapsed_s,
        "node_cpu": node_s / elapsed_s,
        "client_cpu": max(client_s) / elapsed_s,
    }


async def _send_steadily(port: int, user: User, topic: str, rate_per_s: float, stop: asyncio.Event) -> None:
    text = "x" * 100
    async with open_channel(port) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        due = time.monotonic()
        while not stop.is_set():
            await send(stub, user, topic, text)
            due = max(due + 1 / rate_per_s, time.monotonic() - 1)
            if (wait_s := due - time.monotonic()) > 0:
                await pace(1 / wait_s, stop)


async def main() -> None:
    """Runs an instance for each number of streams and measures both transports on it."""
    print(f"{os.cpu_count()} cores", flush=True)
    for streams, rate_per_s in CASES:
        with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
            async with Cluster(Path(folder), nodes=1) as cluster:
                users = await register(cluster.port, USERS)
                for transport in ("grpc.aio", "edge"):
                    await measure(cluster, users, transport, streams, rate_per_s)


if __name__ == "__main__":
    asyncio.run(main())
