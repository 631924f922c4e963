"""Exact reads: what was acknowledged is in the next read on another node, while the projector is stopped.

1,000 probes: a send on node 1; then, within a second of its answer, ListMessages and SyncOnce on node 2 contain it.
Pages across the applied position, AFTER and AROUND too. 50 of the probes are read on nodes that were started after the
answer; their second begins when the node answers.
"""

import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc.aio
from hubbub.chat.v1 import chat_service_pb2_grpc, frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2 as history_pb
from hubbub.history.v1 import history_service_pb2_grpc

from bench.crowd import User, create_group, register, send
from bench.figure import percentile, write_figure
from hubbub_server.supervisor.ports import find_free
from tests.soak.api import open_channel
from tests.support.cluster import Cluster

PROBES = 1_000
PROBES_ON_NEW_NODES = 50
PROBES_A_NEW_NODE = 5
BEFORE_THE_STOP = 300
WITHIN_S = 1.0
_TIMEOUT_S = 10.0
_START_S = 30.0


@dataclass
class Tally:
    """What the probes found."""

    reads: int = 0
    wrong: int = 0
    late: int = 0
    first_wrong: str = ""

    def blame(self, what: str) -> None:
        """Notes a wrong answer."""
        self.wrong += 1
        self.first_wrong = self.first_wrong or what


class Prober:
    """Reads on one node and compares with what was acknowledged."""

    def __init__(self, channel: grpc.aio.Channel, user: User, topic: str, tally: Tally) -> None:
        """Takes a channel to the node that is asked."""
        self._history = history_service_pb2_grpc.HistoryServiceStub(channel)
        self._user = user
        self._topic = topic
        self._tally = tally

    async def probe(self, sent: frame_pb2.SendMessageResponse, acked: float, applied_number: int, kind: int) -> float:
        """Asks in every way; returns the seconds from `acked` to the last answer."""
        number = sent.message_number
        await self._expect_page(0, history_pb.PAGE_SIDE_BEFORE, number)
        await self._expect_events(sent.cursor)
        if kind % 3 == 0:
            await self._expect_page(number - 1, history_pb.PAGE_SIDE_AFTER, number)
        if kind % 3 == 1:
            await self._expect_page(number, history_pb.PAGE_SIDE_AROUND, number)
        if kind % 3 == 2:
            await self._expect_page(applied_number - 5, history_pb.PAGE_SIDE_AFTER, min(number, applied_number + 5))
        return time.monotonic() - acked

    async def _expect_page(self, anchor: int, side: history_pb.PageSide.ValueType, number: int) -> None:
        self._tally.reads += 1
        request = history_pb.ListMessagesRequest(
            conversation_id=self._topic, anchor_number=anchor, side=side, page_size=20
        )
        page = await self._history.ListMessages(request, metadata=self._user.metadata, timeout=_TIMEOUT_S)
        numbers = [message.message_number for message in page.messages]
        is_dense = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
        if number not in numbers or not is_dense or page.head.last_message_number < number:
            self._tally.blame(f"page {history_pb.PageSide.Name(side)} of {anchor}: {numbers}, not {number}")

    async def _expect_events(self, cursor: conversation_pb2.Cursor) -> None:
        self._tally.reads += 1
        start = conversation_pb2.Cursor(
            topic_id=cursor.topic_id, epoch=cursor.epoch, position=max(0, cursor.position - 10)
        )
        request = history_pb.SyncOnceRequest(request=history_pb.SyncRequest(cursors=[start]))
        positions: list[int] = []
        async for answer in self._history.SyncOnce(request, metadata=self._user.metadata, timeout=_TIMEOUT_S):
            positions += [event.position for event in answer.frame.events]
        expected = list(range(start.position + 1, cursor.position + 1))
        if positions[: len(expected)] != expected:
            self._tally.blame(f"Sync from {start.position}: {positions}, not {expected}")


@asynccontextmanager
async def new_node(cluster: Cluster) -> AsyncIterator[int]:
    """Starts one more node of the instance and yields its port when it answers."""
    port, metrics_port = find_free(2)
    password = (cluster.data / "secrets" / "nats_password").read_text().strip()
    environment = {
        **os.environ,
        "HUBBUB_NATS__SERVERS": json.dumps([f"nats://hubbub:{password}@127.0.0.1:{cluster.nats_ports[0]}"]),
        "HUBBUB_AUTH__SECRETS": str(cluster.data / "secrets"),
        "HUBBUB_STORE__PATH": str(cluster.data / "store.db"),
        "HUBBUB_NODE__NAME": f"late-{port}",
        "HUBBUB_NODE__PORT": str(port),
        "HUBBUB_NODE__METRICS_PORT": str(metrics_port),
        "HUBBUB_EDGE__PORT": "0",
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hubbub_server", "node"), env=environment, stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(_START_S), open_channel(port) as channel:
            await channel.channel_ready()
        yield port
    finally:
        process.kill()
        await process.wait()


async def _worker_idles(cluster: Cluster) -> None:
    """Waits until the projector has applied everything."""
    (worker,) = cluster.processes("worker")
    while True:
        page = await cluster.read_metrics(worker)
        lags = [line for line in page.splitlines() if line.startswith("hubbub_worker_lag_records{")]
        if lags and all(float(line.rpartition(" ")[2]) == 0 for line in lags):
            return
        await asyncio.sleep(0.2)


async def measure(cluster: Cluster) -> None:
    """Probes and keeps the figure."""
    owner, reader = await register(cluster.port, 2)
    topic = await create_group(cluster.port, owner, [reader])
    writing, reading = (node.grpc_port for node in cluster.processes("node"))
    (worker,) = cluster.processes("worker")
    tally = Tally()
    taken_s: list[float] = []
    async with open_channel(writing) as writer_channel, open_channel(reading) as reader_channel:
        chat = chat_service_pb2_grpc.ChatServiceStub(writer_channel)
        say = _sender(chat, owner, topic)
        for _ in range(BEFORE_THE_STOP - 1):
            await say()
        applied = await say()
        async with asyncio.timeout(_START_S):
            await asyncio.sleep(2.5)  # the lag is read once a second
            await _worker_idles(cluster)
        os.kill(worker.pid, signal.SIGSTOP)
        try:
            prober = Prober(reader_channel, reader, topic, tally)
            for kind in range(PROBES - PROBES_ON_NEW_NODES):
                sent = await say()
                taken_s.append(await prober.probe(sent, time.monotonic(), applied.message_number, kind))
            for _ in range(PROBES_ON_NEW_NODES // PROBES_A_NEW_NODE):
                batch = [await say() for _ in range(PROBES_A_NEW_NODE)]
                async with new_node(cluster) as port, open_channel(port) as late_channel:
                    late = Prober(late_channel, reader, topic, tally)
                    for kind, sent in enumerate(batch):
                        taken_s.append(await late.probe(sent, time.monotonic(), applied.message_number, kind))
        finally:
            os.kill(worker.pid, signal.SIGCONT)
    tally.late = sum(taken > WITHIN_S for taken in taken_s)
    write_figure(
        "exact_reads",
        "python -m bench.exact_reads",
        {
            "what": "after each ack: newest page, Sync, and AFTER, AROUND or a page across the applied position",
            "probes": len(taken_s),
            "on_nodes_started_after_the_ack": PROBES_ON_NEW_NODES,
            "reads": tally.reads,
            "wrong": tally.wrong,
            "first_wrong": tally.first_wrong,
            "later_than_1_s": tally.late,
            "p50_ms": round(percentile(taken_s, 0.5) * 1000, 1),
            "max_ms": round(max(taken_s) * 1000, 1),
        },
        holds=tally.wrong == 0 and tally.late == 0 and len(taken_s) == PROBES,
    )


def _sender(
    chat: chat_service_pb2_grpc.ChatServiceStub, user: User, topic: str
) -> Callable[[], Awaitable[frame_pb2.SendMessageResponse]]:
    async def say() -> frame_pb2.SendMessageResponse:
        return await send(chat, user, topic, f"probe {time.monotonic()}")

    return say


async def main() -> None:
    """Runs an instance of two nodes and probes."""
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=2) as cluster:
            await measure(cluster)


if __name__ == "__main__":
    asyncio.run(main())
