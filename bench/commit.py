"""Serial commit: how long one send takes when the next begins after its answer; straight to the node, no Envoy."""

import asyncio
import tempfile
import time
from pathlib import Path
from statistics import median

from hubbub.chat.v1 import chat_service_pb2_grpc

from bench.crowd import create_group, register, send
from bench.figure import percentile, write_figure
from tests.soak.api import open_channel
from tests.support.cluster import Cluster

SENDS = 2_000
WARM_UP = 200
ROUNDS = 3


async def measure(cluster: Cluster) -> None:
    """Measures and keeps the figure."""
    users = await register(cluster.port, 2)
    topic = await create_group(cluster.port, users[0], users[1:])
    port = cluster.processes("node")[0].grpc_port
    rounds: list[tuple[float, float]] = []
    async with open_channel(port) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        for _ in range(WARM_UP):
            await send(stub, users[0], topic, "warm")
        for _ in range(ROUNDS):
            taken_ms = []
            for number in range(SENDS):
                begin = time.perf_counter()
                await send(stub, users[0], topic, f"message {number}")
                taken_ms.append((time.perf_counter() - begin) * 1000)
            rounds.append((percentile(taken_ms, 0.5), percentile(taken_ms, 0.99)))
    write_figure(
        "serial_commit",
        "python -m bench.commit",
        {
            "what": "unary SendMessage to the node, one after the other, one conversation, sync_interval always",
            "sends": SENDS,
            "rounds": ROUNDS,
            "p50_ms": round(median(p50 for p50, _ in rounds), 2),
            "p99_ms": round(median(p99 for _, p99 in rounds), 2),
        },
    )


async def main() -> None:
    """Runs an instance and measures."""
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            await measure(cluster)


if __name__ == "__main__":
    asyncio.run(main())
