"""The composition root: the only file that names all layers. Builds a node or a worker from settings, and runs it.

A process ends by SIGTERM or SIGINT (exit 0), or when its NATS connection was given up for good (exit 1): what runs it
starts it again.
"""

import asyncio
import signal
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import structlog

from hubbub_server.adapters import stores
from hubbub_server.adapters.crypto.argon2_password_hasher import Argon2PasswordHasher
from hubbub_server.adapters.crypto.key_files import read_key, read_signer
from hubbub_server.adapters.nats.accounts import NatsAccountStore, NatsDeviceSessionStore, ensure_buckets
from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers
from hubbub_server.adapters.nats.streams import ensure_streams
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.authenticate import Authenticate
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.streams import Streams
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.users import Users
from hubbub_server.config import NatsSettings, Settings
from hubbub_server.obs.logging import set_up_logging
from hubbub_server.obs.metrics_port import serve_metrics
from hubbub_server.ports.projection import Projection
from hubbub_server.rpc.server import RpcServer, UseCases
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.workers.worker import Worker

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


def migrate(settings: Settings) -> str:
    """Makes or brings up the tables of the store and says what was done. Raises StoreUnavailable."""
    return stores.migrate(_cql(settings))


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
        connection, hub, reader = await _open_shared(stack, settings, node.name, life)
        accounts = NatsAccountStore(connection)
        authenticate = await stack.enter_async_context(
            Authenticate(
                accounts=accounts,
                sessions=NatsDeviceSessionStore(connection),
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
        projection = await stack.enter_async_context(stores.open_projection(settings.store.path, _cql(settings)))
        await _make_streams(settings.nats, projection, life)
        connection, hub, _ = await _open_shared(stack, settings, "worker", life)
        worker = Worker(
            consumers=NatsRecordConsumers(connection),
            projection=projection,
            codec=ProtoRecordCodec(),
            hub=hub,
            shards=settings.nats.shards,
        )
        log.info("worker works", port=stack.enter_context(serve_metrics("127.0.0.1", settings.worker.metrics_port)))
        async with asyncio.TaskGroup() as group:
            working = group.create_task(worker.run(), name="worker")
            await life.ended.wait()
            working.cancel()
    return life.is_failed


async def _make_streams(nats: NatsSettings, projection: Projection, life: _Life) -> None:
    """Makes what is missing in NATS, before anything reads it. A stream made anew gets an epoch above the store's."""
    rows = [await projection.read_shard(shard) for shard in range(nats.shards)]
    async with NatsConnection(nats.servers, name="worker", on_closed=life.fail) as connection:
        await ensure_streams(
            connection,
            shards=nats.shards,
            replicas=nats.replicas,
            max_bytes=nats.shard_max_bytes,
            known_epochs={row.shard: row.epoch for row in rows if row},
            timeout_s=30.0,
        )
        await ensure_buckets(connection, replicas=nats.replicas)


async def _open_shared(
    stack: AsyncExitStack, settings: Settings, name: str, life: _Life
) -> tuple[NatsConnection, TopicHub, TopicReader]:
    """Opens what both roles stand on."""
    connection = NatsConnection(settings.nats.servers, name=name, on_closed=life.fail)
    await stack.enter_async_context(connection)
    topics = await stack.enter_async_context(NatsTopicLog(connection, shards=settings.nats.shards))
    store = await stack.enter_async_context(stores.open_stores(settings.store.path, _cql(settings)))
    hub = TopicHub(
        log=topics,
        directory=store.directory,
        messages=store.messages,
        codec=ProtoRecordCodec(),
        clock=SystemClock(),
        ids=RandomIds(),
    )
    reader = TopicReader(log=topics, messages=store.messages, events=store.events, codec=ProtoRecordCodec())
    return connection, await stack.enter_async_context(hub), reader


def _cql(settings: Settings) -> dict[str, Any] | None:
    return settings.store.cql.model_dump() if settings.store.kind == "cql" else None
