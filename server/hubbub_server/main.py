"""The composition root. Builds a node, a worker or a tool from settings, and runs it.

A process ends by SIGTERM or SIGINT (exit 0), or when its NATS connection was given up for good (exit 1): what runs it
starts it again.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import Any

import structlog

from hubbub_server.adapters.crypto.argon2_password_hasher import Argon2PasswordHasher
from hubbub_server.adapters.crypto.key_files import read_key, read_signer
from hubbub_server.adapters.nats.accounts import NatsAccountStore, NatsDeviceSessionStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.authenticate import Authenticate
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.streams import Streams
from hubbub_server.app.sync import Sync
from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.users import Users
from hubbub_server.config import Settings
from hubbub_server.obs.logging import set_up_logging
from hubbub_server.obs.metrics_port import serve_metrics
from hubbub_server.rpc.server import RpcServer, UseCases
from hubbub_server.wiring import make_streams, new_epoch, open_core, open_guard, open_hub, verify_log
from hubbub_server.workers.worker import Pace, Worker

log = structlog.get_logger()


class _Life:
    """Why this process ends. `ended` is set by a signal, or by a NATS connection that is gone for good."""

    def __init__(self) -> None:
        self.ended = asyncio.Event()
        self.is_failed = False
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self.ended.set)

    def fail(self) -> None:
        """Ends the process with an error."""
        log.error("nats connection closed for good")
        self.is_failed = True
        self.ended.set()


def run_node(settings: Settings) -> None:
    """Runs one node until it is told to end."""
    _run(settings, "node", settings.node.name, _node)


def run_worker(settings: Settings) -> None:
    """Runs the worker until it is told to end."""
    _run(settings, "worker", "worker", _worker)


def run_log_verify(settings: Settings, say: Callable[[str], None]) -> bool:
    """Compares log and store, says what it finds, and tells whether that was nothing."""
    set_up_logging(settings.log_level, role="verify", name="verify")
    return asyncio.run(_verify(settings, say))


def run_log_new_epoch(settings: Settings, shards: Sequence[int], say: Callable[[str], None]) -> None:
    """Begins another epoch of these shards, without any of those that are refused; says what was done."""
    set_up_logging(settings.log_level, role="new-epoch", name="new-epoch")
    asyncio.run(_begin_epochs(settings, shards, say))


def _run(settings: Settings, role: str, name: str, live: Callable[[Settings], Coroutine[Any, Any, bool]]) -> None:
    set_up_logging(settings.log_level, role=role, name=name)
    with asyncio.Runner(loop_factory=_new_event_loop) as runner:
        raise SystemExit(1 if runner.run(live(settings)) else 0)


def _new_event_loop() -> asyncio.AbstractEventLoop:
    try:
        import uvloop  # noqa: PLC0415  # faster, and not there on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _node(settings: Settings) -> bool:
    life = _Life()
    clock, ids = SystemClock(), RandomIds()
    node, auth = settings.node, settings.auth
    async with AsyncExitStack() as stack:
        core = await open_core(stack, settings, node.name, life.fail)
        hub = await open_hub(stack, core, await open_guard(stack, core))
        reader = TopicReader(log=core.log, messages=core.messages, events=core.events, codec=core.codec)
        accounts = NatsAccountStore(core.connection)
        authenticate = await stack.enter_async_context(
            Authenticate(
                accounts=accounts,
                sessions=NatsDeviceSessionStore(core.connection),
                hasher=await stack.enter_async_context(Argon2PasswordHasher()),
                signer=read_signer(auth.secrets, issuer=auth.issuer, audience=auth.audience, clock=clock),
                clock=clock,
                ids=ids,
            )
        )
        streams = Streams(
            hub=hub, authenticate=authenticate, clock=clock, ids=ids, drain_timeout_s=node.drain_timeout_s
        )
        use_cases = UseCases(
            authenticate=authenticate,
            users=Users(accounts=accounts),
            conversations=Conversations(
                hub=hub,
                reader=reader,
                effects=MembershipEffects(hub),
                accounts=accounts,
                id_key=read_key(auth.secrets / "id_key"),
            ),
            history=ReadHistory(hub=hub, reader=reader),
            sync=Sync(hub=hub, reader=reader),
            streams=await stack.enter_async_context(streams),
        )
        server = RpcServer(
            use_cases,
            clock=clock,
            ids=ids,
            node_id=node.name,
            is_ready=lambda: not life.ended.is_set(),
            with_reflection=node.reflection,
        )
        await stack.enter_async_context(server)
        port = await server.start(f"{node.host}:{node.port}")
        metrics_port = stack.enter_context(serve_metrics(node.host, node.metrics_port))
        log.info("node serves", port=port, metrics_port=metrics_port)
        await life.ended.wait()
        log.info("node leaves", streams=len(streams))
        await streams.drain()
        await server.stop(node.stop_grace_s)
    return life.is_failed


async def _worker(settings: Settings) -> bool:
    life = _Life()
    async with AsyncExitStack() as stack:
        projection = await stack.enter_async_context(SqliteProjection(settings.store.path))
        await make_streams(settings.nats, projection, life.fail)
        core = await open_core(stack, settings, "worker", life.fail)
        begin = new_epoch(core).begin if settings.worker.begins_epochs else None
        guard = await open_guard(stack, core, on_refused=begin)
        worker = Worker(
            consumers=core.consumers,
            projection=projection,
            codec=core.codec,
            hub=await open_hub(stack, core, guard),
            log_shards=core.log_shards,
            snapshots=TakeSnapshots(loader=core.loader, states=core.states),
            shards=core.shards,
            pace=Pace(kept_s=settings.worker.log_kept_days * 24 * 3600),
        )
        log.info("worker works", port=stack.enter_context(serve_metrics("127.0.0.1", settings.worker.metrics_port)))
        async with asyncio.TaskGroup() as group:
            working = group.create_task(worker.run(), name="worker")
            await life.ended.wait()
            working.cancel()
    return life.is_failed


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
