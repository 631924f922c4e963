"""Two nodes, and people with the SDK, each behind a proxy of their own: the stage of scenarios."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self, TypeVar

from hubbub_client import (
    Connected,
    Credentials,
    Event,
    HubbubClient,
    JsonCursorStore,
    Message,
    MessageReceived,
    PageSide,
)
from hubbub_server.app.authenticate import Credentials as ServerCredentials
from tests.support.fault_proxy import Cut, FaultProxy, ProxyGroup
from tests.support.node import Node, NodeCluster
from tests.support.split_channel import split_channels
from tests.support.waiting import until

_Kind = TypeVar("_Kind")


@dataclass(eq=False)
class Person:
    """A client that reads everything it gets into `events`. Each `async with` opens a new one."""

    world: "World"
    credentials: Credentials
    cursors: JsonCursorStore | None
    reads: bool
    keeps_counters: bool = False
    marks_delivered: bool = True
    events: list[Event] = field(default_factory=list)

    async def __aenter__(self) -> Self:
        """Connects and reads."""
        async with AsyncExitStack() as stack:
            ports = ports_of(self.world.nodes[0])
            proxies = [await stack.enter_async_context(FaultProxy(port)) for port in ports]
            self.proxy = ProxyGroup(proxies)
            target, *others = [f"127.0.0.1:{proxy.port}" for proxy in proxies]
            if others:
                self.world.streams_at[target] = others[0]
            self.client = await stack.enter_async_context(
                HubbubClient(
                    target,
                    self.credentials,
                    cursor_store=self.cursors,
                    keeps_counters=self.keeps_counters,
                    marks_delivered=self.marks_delivered,
                )
            )
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            if self.reads:
                reading = tasks.create_task(self._read())
                stack.callback(reading.cancel)
                # What is said before a client without cursors is connected is history to it, not news.
                await self.until_count(Connected, len(self.of(Connected)) + 1)
            self.loop = asyncio.get_running_loop()
            self._stack = stack.pop_all()
        return self

    def another(self) -> "Person":
        """Another device of the same person, without cursors."""
        return replace(self, cursors=None, events=[])

    async def __aexit__(self, *_: object) -> None:
        """Leaves."""
        await self._stack.aclose()

    async def _read(self) -> None:
        async for event in self.client.events():
            self.events.append(event)

    def move(self, node: Node, how: Cut = Cut.RST) -> None:
        """Cuts the connection; the next one goes to this node."""
        for proxy, port in zip(self.proxy.proxies, ports_of(node), strict=True):
            proxy.retarget(port)
        self.proxy.flow()
        self.proxy.cut(how)

    @property
    def user_id(self) -> str:
        return self.credentials.user_id

    def of(self, kind: type[_Kind]) -> list[_Kind]:
        """Everything of one kind that came, in the order in which it came."""
        return [event for event in self.events if isinstance(event, kind)]

    def heard(self, conversation_id: str) -> list[Message]:
        """The messages that came of one conversation."""
        return [one.message for one in self.of(MessageReceived) if one.message.conversation_id == conversation_id]

    def numbers(self, conversation_id: str) -> list[int]:
        """Their numbers."""
        return [message.message_number for message in self.heard(conversation_id)]

    async def until_heard(self, conversation_id: str, last_number: int) -> None:
        """Waits for a message."""
        await until(lambda: (self.numbers(conversation_id) or [0])[-1] >= last_number, timeout_s=20.0)

    async def until_count(self, kind: type[Event], count: int) -> None:
        """Waits for so many events of a kind."""
        await until(lambda: len(self.of(kind)) >= count, timeout_s=20.0)


@dataclass
class World:
    """What a scenario plays with. Everybody starts on the first node."""

    cluster: NodeCluster
    nodes: tuple[Node, Node]
    folder: Path
    streams_at: dict[str, str]
    """See `split_channels`."""

    async def person(
        self,
        login_name: str,
        *,
        keeps_cursors: bool = False,
        reads: bool = True,
        keeps_counters: bool = False,
        marks_delivered: bool = True,
    ) -> Person:
        """Makes an account; use the person with `async with`. Who does not read leaves the events to the test."""
        account: ServerCredentials = await self.cluster.sign_up(login_name)
        credentials = Credentials(
            user_id=account.user_id,
            device_session_id="d1",
            # Signed by hand: it outlives every jump of the cluster's clock.
            access_token=self.cluster.token(account.user_id, expires_in_s=400 * 86_400),
            refresh_token=account.refresh_token,
            access_expire_time=datetime.now(UTC) + timedelta(days=1),
        )
        store = JsonCursorStore(self.folder / f"{login_name}.json") if keeps_cursors else None
        return Person(self, credentials, store, reads, keeps_counters, marks_delivered)

    def rows(self) -> int:
        """Records in the log: what reading must not change."""
        return self.cluster.log_server.commits


def ports_of(node: Node) -> list[int]:
    """The port of a node, and that of its stream edge if it has one."""
    addresses = [node.address] if node.edge is None else [node.address, node.stream_address]
    return [int(address.rpartition(":")[2]) for address in addresses]


async def history(client: HubbubClient, conversation_id: str) -> list[Message]:
    """Every message of a conversation, by pages."""
    messages: list[Message] = []
    while True:
        anchor = messages[-1].message_number if messages else 0
        page = await client.list_messages(conversation_id, anchor_number=anchor, side=PageSide.AFTER, page_size=200)
        messages.extend(page.messages)
        if not page.newer_available:
            return messages


@asynccontextmanager
async def open_world(folder: Path, *, transport: str) -> AsyncIterator[World]:
    """Starts two nodes on one log; `transport` as in NodeCluster."""
    streams_at: dict[str, str] = {}
    async with AsyncExitStack() as stack:
        stack.enter_context(split_channels(streams_at))
        cluster = NodeCluster(transport=transport)
        first = await stack.enter_async_context(cluster.node())
        second = await stack.enter_async_context(cluster.node())
        yield World(cluster, (first, second), folder, streams_at)
    assert cluster.breaches == []
