"""The core on a real log and a real store, in this process: nodes, and a worker that trims as soon as it may."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hubbub_server import wiring
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.epoch_guard import EpochGuard
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.config import NatsSettings, Settings, StoreSettings
from hubbub_server.domain.commands import Command
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.wiring import Core
from hubbub_server.workers.roles import ROLES, Pace
from hubbub_server.workers.worker import Worker
from tests.support.services import NatsCluster
from tests.support.waiting import until_found, until_it_answers

SHARDS = 2
ANSWER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RealNode:
    """What a node has of the core."""

    core: Core
    guard: EpochGuard
    hub: TopicHub
    history: ReadHistory

    async def submit(self, topic_id: TopicId, command: Command) -> object:
        """Commits a command and returns its answer."""
        return await self.hub.submit(topic_id, command, timeout_s=ANSWER_S)


class RealInstance:
    """One log and one store."""

    def __init__(self, cluster: NatsCluster, store: Path) -> None:
        """Takes running servers, and a file that may not exist yet."""
        self.settings = Settings(
            nats=NatsSettings(servers=cluster.urls, shards=SHARDS, replicas=cluster.replicas),
            store=StoreSettings(path=store),
        )

    async def make(self) -> None:
        """Makes streams and store."""
        async with SqliteProjection(self.settings.store.path) as projection:
            await wiring.make_streams(self.settings.nats, projection, _must_not_close)

    async def _open_core(self, stack: AsyncExitStack) -> Core:
        """Tries again while the log is unavailable, as the supervisor does who starts a node again."""
        return await until_it_answers(lambda: wiring.open_core(stack, self.settings, "test", _must_not_close))

    @asynccontextmanager
    async def core(self) -> AsyncIterator[Core]:
        """Opens the adapters."""
        async with AsyncExitStack() as stack:
            yield await self._open_core(stack)

    @asynccontextmanager
    async def node(self) -> AsyncIterator[RealNode]:
        """Runs one more node."""
        async with AsyncExitStack() as stack:
            core = await self._open_core(stack)
            guard = await wiring.open_guard(stack, core)
            hub = await wiring.open_hub(stack, core, guard)
            reader = TopicReader(
                log=core.log, messages=core.messages, events=core.events, markers=core.markers, codec=core.codec
            )
            history = ReadHistory(hub=hub, reader=reader, directory=core.directory)
            yield RealNode(core=core, guard=guard, hub=hub, history=history)

    @asynccontextmanager
    async def worker(self, *, kept_s: float) -> AsyncIterator[None]:
        """Runs a worker that keeps records for `kept_s` only. Nodes that it trims under must not be idle as long."""
        async with AsyncExitStack() as stack:
            projection = await stack.enter_async_context(SqliteProjection(self.settings.store.path))
            core = await wiring.open_core(stack, self.settings, "test-worker", _must_not_close)
            hub = await wiring.open_hub(stack, core, await wiring.open_guard(stack, core))
            pace = Pace(kept_s=kept_s, trim_interval_s=0.2)
            worker = Worker(
                RandomIds().new_id("test."),
                work=wiring.work_of_shards(core, projection=projection, hub=hub, pace=pace),
                shards=SHARDS,
                leases=NatsShardLeases(core.connection),
                now_s=time.monotonic,
            )
            running = asyncio.create_task(worker.run())
            try:
                yield
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)

    async def until_caught_up(self) -> None:
        """Waits until a worker has handled everything."""

        async with self.core() as core:

            async def look() -> bool | None:
                for shard in range(SHARDS):
                    last = (await core.log_shards.read_bounds(shard)).last_sequence
                    for role in ROLES:
                        if await core.consumers.acknowledged(role=role, shard=shard) < last:
                            return None
                return True

            await until_found(look)

    async def until_trimmed(self) -> None:
        """Waits until nothing is left in the log."""

        async with self.core() as core:

            async def look() -> bool | None:
                for shard in range(SHARDS):
                    bounds = await core.log_shards.read_bounds(shard)
                    if bounds.first_sequence <= bounds.last_sequence:
                        return None
                return True

            await until_found(look)


def shard_of_topic(topic_id: TopicId) -> int:
    """Returns the shard of a topic in such an instance."""
    return shard_of(topic_id, SHARDS)


def _must_not_close() -> None:
    raise AssertionError("nats-py gave the connection up")
