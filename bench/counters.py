"""A client with 1,000 conversations, back after a while: how long to exact counters, and how many bytes.

While it is away somebody speaks in each conversation, and mentions it in every tenth. The SDK then comes back through a
proxy that counts the bytes of both directions: from the try that succeeds to exact counters. Once to nodes that were
there all the time, once to a node that has just begun, with nothing in memory, and is the only one.
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import grpc
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.chat.v1 import chat_service_pb2_grpc, marker_service_pb2, marker_service_pb2_grpc

from bench.crowd import User, create_group, message, register
from bench.figure import write_figure
from hubbub_client import Disconnected, HubbubClient, Registration
from tests.soak.api import open_channel
from tests.support.cluster import Cluster, Process
from tests.support.fault_proxy import Cut, FaultProxy

CONVERSATIONS: Final = 1_000
MENTIONED_EVERY: Final = 10
WITHIN_S: Final = 2.0
WITHIN_BYTES: Final = 100_000
_AT_ONCE: Final = 16
_CALL_S: Final = 30.0
_WAIT_S: Final = 120.0


async def make_conversations(port: int, speaker: User, reader: User) -> list[str]:
    """Makes the groups."""
    at_once = asyncio.Semaphore(_AT_ONCE)

    async def make() -> str:
        async with at_once:
            return await create_group(port, speaker, [reader])

    return await asyncio.gather(*(make() for _ in range(CONVERSATIONS)))


async def speak(port: int, speaker: User, reader: User, topics: list[str]) -> None:
    """Says something in each."""
    at_once = asyncio.Semaphore(_AT_ONCE)
    async with open_channel(port) as channel:
        chat = chat_service_pb2_grpc.ChatServiceStub(channel)

        async def say(number: int, topic: str) -> None:
            request = message(topic, "hello")
            if number % MENTIONED_EVERY == 0:
                entity = request.content.text.entities.add(start=0, length=1)
                entity.user_mention.user_id = reader.user_id
            async with at_once:
                await chat.SendMessage(request, metadata=speaker.metadata, timeout=_CALL_S)

        await asyncio.gather(*(say(number, topic) for number, topic in enumerate(topics)))


class Returning:
    """The SDK behind a proxy in front of Envoy."""

    def __init__(self, client: HubbubClient, proxy: FaultProxy) -> None:
        self.client, self._proxy = client, proxy
        self._tries_at_s = 0.0

    async def read(self) -> None:
        """Reads the events, for as long as it lasts."""
        async for event in self.client.events():
            if isinstance(event, Disconnected):
                self._tries_at_s = time.monotonic() + event.retry_in_s

    async def until_exact(self) -> None:
        """Waits for exact counters, to some milliseconds."""
        async with asyncio.timeout(_WAIT_S):
            while not self.client.counters.is_exact:  # noqa: ASYNC110  # that it is exact is told later
                await asyncio.sleep(0.005)

    def leave(self) -> None:
        """Loses the network."""
        self._proxy.refuse()
        self._proxy.cut(Cut.RST)

    async def come_back(self) -> tuple[float, int]:
        """Gets the network back; returns the seconds and bytes to exact counters.

        The time begins when there is a connection and the pause between two tries is over.
        """
        self._proxy.flow()
        async with asyncio.timeout(_WAIT_S):
            while not self._proxy.links:  # noqa: ASYNC110  # the proxy tells nobody
                await asyncio.sleep(0.001)
        begin = time.monotonic()
        await self.until_exact()
        return time.monotonic() - max(begin, self._tries_at_s), sum(link.forwarded_bytes for link in self._proxy.links)


@asynccontextmanager
async def returning(port: int, sign_in: Registration) -> AsyncIterator[Returning]:
    """Runs the client."""
    async with (
        FaultProxy(port) as proxy,
        HubbubClient(f"127.0.0.1:{proxy.port}", sign_in, keeps_counters=True) as client,
        asyncio.TaskGroup() as tasks,
    ):
        one = Returning(client, proxy)
        reading = tasks.create_task(one.read())
        yield one
        reading.cancel()


def numbers(client: HubbubClient) -> tuple[int, int, int]:
    """What the client shows: conversations with something unread, badge, mentions."""
    counters = client.counters
    return len(counters.of_conversations), counters.badge_count, counters.mention_count


async def ask(port: int, reader: User) -> int:
    """Returns the size of the answer to GetCounters."""
    async with open_channel(port) as channel:
        stub = marker_service_pb2_grpc.MarkerServiceStub(channel)
        request = marker_service_pb2.GetCountersRequest()
        answer = await stub.GetCounters(request, metadata=reader.metadata, timeout=_CALL_S)
        return answer.ByteSize()


async def leave_a_new_node(cluster: Cluster) -> None:
    """Kills the second node and waits until it is back; then the first one, for good."""
    first, second = cluster.processes("node")
    cluster.kill(second)
    await is_back(cluster, second)
    cluster.hold(first.name)
    cluster.kill(first)
    async with asyncio.timeout(_WAIT_S):  # until Envoy asks the other one
        await asyncio.gather(*(ask_for_nobody(cluster.port) for _ in range(_AT_ONCE)))


async def is_back(cluster: Cluster, dead: Process) -> None:
    """Waits until another process has its place and answers."""
    async with asyncio.timeout(_WAIT_S):
        while dead.pid in {process.pid for process in cluster.processes("node")}:  # noqa: ASYNC110  # it is read
            await asyncio.sleep(0.05)
        await ask_for_nobody(dead.grpc_port)


async def ask_for_nobody(port: int) -> None:
    """Makes a call that needs no topic, until it is answered."""
    async with open_channel(port) as channel:
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        request = auth_service_pb2.RefreshTokenRequest(refresh_token="none")  # noqa: S106  # it is none
        while True:
            try:
                await stub.RefreshToken(request, timeout=_CALL_S, wait_for_ready=True)
            except grpc.aio.AioRpcError as error:
                if error.code() is not grpc.StatusCode.UNAVAILABLE:
                    return
                await asyncio.sleep(0.05)


async def measure(cluster: Cluster) -> None:
    """Measures and keeps the figure."""
    (speaker,) = await register(cluster.port, 1)
    sign_in = Registration(f"b{secrets.token_hex(8)}", secrets.token_hex(8), "bench")
    shown: list[tuple[int, int, int]] = []
    times_s: list[float] = []
    sizes_bytes: list[int] = []
    async with returning(cluster.port, sign_in) as one:
        reader = User(one.client.user_id, one.client.credentials.access_token)
        topics = await make_conversations(cluster.port, speaker, reader)
        for is_cold in (False, True):
            await one.until_exact()
            one.leave()
            await speak(cluster.port, speaker, reader, topics)
            if is_cold:
                await leave_a_new_node(cluster)
            seconds, size_bytes = await one.come_back()
            shown.append(numbers(one.client))
            times_s.append(seconds)
            sizes_bytes.append(size_bytes)
        answer_bytes = await ask(cluster.port, reader)
    mentions = CONVERSATIONS // MENTIONED_EVERY
    exact = shown == [(CONVERSATIONS, count * CONVERSATIONS, count * mentions) for count in (1, 2)]
    figures = {
        "conversations": CONVERSATIONS,
        "s": round(times_s[0], 3),
        "bytes": sizes_bytes[0],
        "new_node_s": round(times_s[1], 3),
        "new_node_bytes": sizes_bytes[1],
        "answer_bytes": answer_bytes,
        "exact": exact,
        "bound": f"{WITHIN_S} s, {WITHIN_BYTES} bytes, of both directions, from the try that finds a connection",
    }
    holds = exact and max(times_s) <= WITHIN_S and max(sizes_bytes) <= WITHIN_BYTES
    write_figure("counters", "python -m bench.counters", figures, holds=holds)


async def main() -> None:
    """Runs two nodes and a worker."""
    with tempfile.TemporaryDirectory(prefix="hubbub-counters-") as folder:
        async with Cluster(Path(folder), nodes=2) as cluster:
            await measure(cluster)


if __name__ == "__main__":
    asyncio.run(main())
