"""Builds and runs what operators use beside nodes and workers: migrations, replays, a look at the log."""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import asdict
from functools import partial

import structlog

from hubbub_server.adapters import stores
from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import RedisNodeRegistry
from hubbub_server.config import Settings
from hubbub_server.domain.ids import TopicId
from hubbub_server.obs.logging import set_up_logging
from hubbub_server.process import Life, run_process
from hubbub_server.wiring import cql_fields, new_epoch, open_core, open_guard, open_hub, take_snapshots, verify_log
from hubbub_server.workers.replay import Replay
from hubbub_server.workers.roles import worker_roles

log = structlog.get_logger()


def migrate(settings: Settings) -> str:
    """Makes or brings up the tables of the store and says what was done. Raises StoreUnavailable."""
    return stores.migrate(cql_fields(settings.store))


def run_replay(settings: Settings, topic: str | None) -> None:
    """Replays dead letters, of one topic or of all; fails if some stay."""
    run_process(partial(_replay, settings, topic), role="replay", name="replay", log_level=settings.log_level)


def run_log_verify(settings: Settings, say: Callable[[str], None]) -> bool:
    """Compares log and store, says what it finds, and tells whether that was nothing."""
    set_up_logging(settings.log_level, role="verify", name="verify")
    return asyncio.run(_verify(settings, say))


def run_log_new_epoch(settings: Settings, shards: Sequence[int], say: Callable[[str], None]) -> None:
    """Begins another epoch of these shards, without any of those that are refused; says what was done."""
    set_up_logging(settings.log_level, role="new-epoch", name="new-epoch")
    asyncio.run(_begin_epochs(settings, shards, say))


def run_nodes(settings: Settings, say: Callable[[str], None]) -> None:
    """Says which nodes live, and which are gone and not settled yet.

    Raises:
        RegistryUnavailable: the registry does not answer.
        ValueError: there is none.
    """
    if not settings.redis.url:
        raise ValueError("HUBBUB_REDIS__URL is not set: there is no registry")
    asyncio.run(_list_nodes(settings, say))


async def _replay(settings: Settings, topic: str | None, life: Life) -> None:
    async with AsyncExitStack() as stack:
        projection = await stack.enter_async_context(
            stores.open_projection(settings.store.path, cql_fields(settings.store))
        )
        core = await open_core(stack, settings, "replay", life.fail)
        hub = await open_hub(stack, core, await open_guard(stack, core))
        snapshots = take_snapshots(core)
        roles = worker_roles(projection=projection, codec=core.codec, hub=hub, snapshots=snapshots)
        replay = Replay(core.letters, roles=roles, shards=core.shards)
        async for done in replay.run(TopicId(topic) if topic else None):
            life.is_failed |= bool(done.reason)
            (log.error if done.reason else log.info)("dead topic replayed", **asdict(done))


async def _list_nodes(settings: Settings, say: Callable[[str], None]) -> None:
    async with RedisConnection(settings.redis.url, name="nodes") as connection:
        table = await RedisNodeRegistry(connection).read()
    for state, lives in (("alive", table.alive), ("gone", table.gone)):
        for life in lives:
            say(f"{state}  {life.node_id}  {life.address}  {life.life_id}")


async def _verify(settings: Settings, say: Callable[[str], None]) -> bool:
    is_sound = True
    async with AsyncExitStack() as stack:
        core = await open_core(stack, settings, "verify", _closed_for_good)
        for shard in range(core.shards):
            async for finding in verify_log(core).compare(shard):
                say(str(finding))
                is_sound = False
    return is_sound


async def _begin_epochs(settings: Settings, shards: Sequence[int], say: Callable[[str], None]) -> None:
    async with AsyncExitStack() as stack:
        core = await open_core(stack, settings, "new-epoch", _closed_for_good)
        if any(shard >= core.shards for shard in shards):
            raise ValueError(f"shards are 0 to {core.shards - 1}")
        if not shards:
            guard = await open_guard(stack, core)
            for shard, reason in guard.refused().items():
                say(f"shard {shard} is refused: {reason}")
            shards = list(guard.refused())
        for shard in shards:
            report = await new_epoch(core).begin(shard)
            say(f"shard {shard}: epoch {report.epoch}, {report.topics} topics; nodes notice within 30 s")
            for loss in report.losses:
                say(f"topic {loss.topic_id}, positions {loss.first} to {loss.last}: lost")


def _closed_for_good() -> None:
    log.error("nats connection closed for good")
