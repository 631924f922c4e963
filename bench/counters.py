"""A client with 1,000 conversations, back after a while: how long to exact counters, and how many bytes.

While it is away somebody speaks in each conversation, and mentions it in every tenth. The SDK then comes back through a
proxy that counts the bytes of both directions: from its connection to exact counters. It comes back to a node that had
none of these topics in memory, and once more, warm. Beside it, what the counters alone cost on the wire.
"""

import asyncio
import secrets
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

from hubbub.chat.v1 import chat_service_pb2_grpc, marker_service_pb2, marker_service_pb2_grpc

from bench.crowd import User, create_group, message, register
from bench.figure import write_figure
from hubbub_client import HubbubClient, Registration
from tests.soak.api import open_channel
from tests.support.cluster import Cluster
from tests.support.fault_proxy import Cut, FaultProxy
from tests.support.split_channel import split_channels

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
    """The SDK behind proxies: of calls and, as by Envoy, of streams."""

    def __init__(self, client: HubbubClient, proxies: list[FaultProxy]) -> None:
        self.client, self._proxies = client, proxies

    async def read(self) -> None:
        """Reads the events, for as long as it lasts."""
        async for _ in self.client.events():
            pass

    async def until_exact(self) -> None:
        """Waits for exact counters, to some milliseconds."""
        async with asyncio.timeout(_WAIT_S):
            while not self.client.counters.is_exact:  # noqa: ASYNC110  # that it is exact is told later
                await asyncio.sleep(0.005)

    def leave(self) -> None:
        """Loses the network."""
        for proxy in self._proxies:
            proxy.refuse()
            proxy.cut(Cut.RST)

    async def come_back(self, ports: tuple[int, int]) -> tuple[float, int]:
        """Gets the network back; returns the seconds and bytes from the first connection to exact counters."""
        for proxy, port in zip(self._proxies, ports, strict=True):
            proxy.retarget(port)
            proxy.flow()
        async with asyncio.timeout(_WAIT_S):
            while not any(proxy.links for proxy in self._proxies):  # noqa: ASYNC110  # the proxy tells nobody
                await asyncio.sleep(0.001)
        begin = time.monotonic()
        await self.until_exact()
        links = [link for proxy in self._proxies for link in proxy.links]
        return time.monotonic() - begin, sum(link.forwarded_bytes for link in links)


@asynccontextmanager
async def returning(ports: tuple[int, int], sign_in: Registration) -> AsyncIterator[Returning]:
    """Runs the client, on the node with these ports of calls and of streams."""
    async with AsyncExitStack() as stack:
        proxies = [await stack.enter_async_context(FaultProxy(port)) for port in ports]
        calls, streams = (f"127.0.0.1:{proxy.port}" for proxy in proxies)
        stack.enter_context(split_channels({calls: streams}))
        client = await stack.enter_async_context(HubbubClient(calls, sign_in, keeps_counters=True))
        one = Returning(client, proxies)
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        reading = tasks.create_task(one.read())
        stack.callback(reading.cancel)
        yield one


def numbers(client: HubbubClient) -> tuple[int, int, int]:
    """What the client shows: conversations with something unread, badge, mentions."""
    counters = client.counters
    return len(counters.of_conversations), counters.badge_count, counters.mention_count


async def measure(cluster: Cluster) -> None:
    """Measures and keeps the figure."""
    first, second = cluster.processes("node")
    home, away = ((node.grpc_port, node.stream_port) for node in (first, second))
    (speaker,) = await register(cluster.port, 1)
    sign_in = Registration(f"b{secrets.token_hex(8)}", secrets.token_hex(8), "bench")
    async with returning(home, sign_in) as one:
        reader = User(one.client.user_id, one.client.credentials.access_token)
        topics = await make_conversations(first.grpc_port, speaker, reader)
        shown: list[tuple[int, int, int]] = []
        times_s: list[float] = []
        sizes_bytes: list[int] = []
        for _ in ("cold", "warm"):
            one.leave()
            await speak(first.grpc_port, speaker, reader, topics)
            seconds, size_bytes = await one.come_back(away)
            shown.append(numbers(one.client))
            times_s.append(seconds)
            sizes_bytes.append(size_bytes)
        async with open_channel(second.grpc_port) as channel:
            stub = marker_service_pb2_grpc.MarkerServiceStub(channel)
            request = marker_service_pb2.GetCountersRequest()
            answer = await stub.GetCounters(request, metadata=reader.metadata, timeout=_CALL_S)
    mentions = CONVERSATIONS // MENTIONED_EVERY
    exact = shown == [(CONVERSATIONS, count * CONVERSATIONS, count * mentions) for count in (1, 2)]
    figures = {
        "conversations": CONVERSATIONS,
        "cold_node_s": round(times_s[0], 3),
        "warm_node_s": round(times_s[1], 3),
        "cold_node_bytes": sizes_bytes[0],
        "warm_node_bytes": sizes_bytes[1],
        "answer_bytes": answer.ByteSize(),
        "exact": exact,
        "bound": f"{WITHIN_S} s, {WITHIN_BYTES} bytes, of both directions, from the first connection on",
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
