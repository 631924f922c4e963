"""A client with 1,000 conversations, back after a while: how long to exact counters, and how many bytes.

In each conversation somebody spoke meanwhile, in every tenth of them they mentioned the client. Asked on a node that
has none of these topics in memory, then again, then after opening a stream there.
"""

import asyncio
import tempfile
import time
import uuid
from pathlib import Path
from typing import Final

from hubbub.chat.v1 import chat_service_pb2, chat_service_pb2_grpc, marker_service_pb2, marker_service_pb2_grpc

from bench.crowd import User, create_group, message, register
from bench.figure import write_figure
from tests.soak.api import open_channel
from tests.support.cluster import Cluster

CONVERSATIONS: Final = 1_000
MENTIONED_EVERY: Final = 10
WITHIN_S: Final = 2.0
WITHIN_BYTES: Final = 100_000
_AT_ONCE: Final = 16
_CALL_S: Final = 30.0


async def make_conversations(port: int, speaker: User, reader: User) -> None:
    """Makes the groups, with a message in each."""
    at_once = asyncio.Semaphore(_AT_ONCE)
    async with open_channel(port) as channel, asyncio.TaskGroup() as tasks:
        chat = chat_service_pb2_grpc.ChatServiceStub(channel)

        async def make(number: int) -> None:
            async with at_once:
                topic = await create_group(port, speaker, [reader])
                request = message(topic, "hello")
                if number % MENTIONED_EVERY == 0:
                    entity = request.content.text.entities.add(start=0, length=1)
                    entity.user_mention.user_id = reader.user_id
                await chat.SendMessage(request, metadata=speaker.metadata, timeout=_CALL_S)

        for number in range(CONVERSATIONS):
            tasks.create_task(make(number))


async def ask(port: int, reader: User) -> tuple[float, marker_service_pb2.GetCountersResponse]:
    """Asks for the counters; returns the seconds that it took, and the answer."""
    async with open_channel(port) as channel:
        stub = marker_service_pb2_grpc.MarkerServiceStub(channel)
        begin = time.monotonic()
        request = marker_service_pb2.GetCountersRequest()
        answer = await stub.GetCounters(request, metadata=reader.metadata, timeout=_CALL_S)
        return time.monotonic() - begin, answer


async def connect_and_ask(port: int, reader: User) -> tuple[float, marker_service_pb2.GetCountersResponse]:
    """Opens a stream until it covers everything, then asks; the time begins with the stream."""
    async with open_channel(port) as channel:
        call = chat_service_pb2_grpc.ChatServiceStub(channel).Connect(metadata=reader.metadata)
        begin = time.monotonic()
        hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
        await call.write(chat_service_pb2.ConnectRequest(hello=hello))
        async for response in call:
            if response.frame.heads.complete:
                break
        _, answer = await ask(port, reader)
        seconds = time.monotonic() - begin
        call.cancel()
        return seconds, answer


async def measure(cluster: Cluster) -> None:
    """Measures and keeps the figure."""
    first, second = (node.grpc_port for node in cluster.processes("node"))
    speaker, reader = await register(cluster.port, 2)
    await make_conversations(first, speaker, reader)
    cold_s, answer = await ask(second, reader)
    warm_s, warm = await ask(second, reader)
    connected_s, connected = await connect_and_ask(second, reader)
    exact = {(len(each.counters), each.badge_count, each.mention_count) for each in (answer, warm, connected)} == {
        (CONVERSATIONS, CONVERSATIONS, CONVERSATIONS // MENTIONED_EVERY)
    }
    size_bytes = answer.ByteSize()
    figures = {
        "conversations": CONVERSATIONS,
        "cold_node_s": round(cold_s, 3),
        "again_s": round(warm_s, 3),
        "stream_and_counters_s": round(connected_s, 3),
        "bytes": size_bytes,
        "exact": exact,
        "bound": f"{WITHIN_S} s, {WITHIN_BYTES} bytes",
    }
    holds = exact and max(cold_s, connected_s) <= WITHIN_S and size_bytes <= WITHIN_BYTES
    write_figure("counters", "python -m bench.counters", figures, holds=holds)


async def main() -> None:
    """Runs two nodes and a worker."""
    with tempfile.TemporaryDirectory(prefix="hubbub-counters-") as folder:
        async with Cluster(Path(folder), nodes=2) as cluster:
            await measure(cluster)


if __name__ == "__main__":
    asyncio.run(main())
