"""The composition root: the only file that names all layers. Builds a node or a worker from settings, and runs it."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import structlog

from hubbub_server.adapters import stores
from hubbub_server.adapters.crypto.argon2_password_hasher import Argon2PasswordHasher
from hubbub_server.adapters.crypto.key_files import read_key, read_signer
from hubbub_server.adapters.nats.accounts import NatsAccountStore, NatsDeviceSessionStore, ensure_buckets
from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.dead_letters import NatsDeadLetters
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
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
from hubbub_server.domain.ids import TopicId
from hubbub_server.obs.metrics_port import serve_metrics
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.process import Life, run_process
from hubbub_server.rpc.server import RpcServer, UseCases
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.workers.replay import Replay
from hubbub_server.workers.roles import Pace, shard_loops, worker_roles
from hubbub_server.workers.worker import Worker

log = structlog.get_logger()


def run_node(settings: Settings) -> None:
    """Runs one node until it is told to end."""
    run_process(partial(_node, settings), role="node", name=settings.node.name, log_level=settings.log_level)


def run_worker(settings: Settings) -> None:
    """Runs one worker until it is told to end."""
    run_process(partial(_worker, settings), role="worker", name=settings.worker.name, log_level=settings.log_level)


def run_replay(settings: Settings, topic: str | None) -> None:
    """Replays dead letters, of one topic or of all; fails if some stay."""
    run_process(partial(_replay, settings, topic), role="replay", name="replay", log_level=settings.log_level)


def migrate(settings: Settings) -> str:
    """Makes or brings up the tables of the store and says what was done. Raises StoreUnavailable."""
    return stores.migrate(_cql(settings))


async def _node(settings: Settings, life: Life) -> None:
    clock, ids = SystemClock(), RandomIds()
    node, auth = settings.node, settings.auth
    async with AsyncExitStack() as stack:
        shared = await _open_shared(stack, settings, node.name, life)
        connection, hub, reader = shared.connection, shared.hub, shared.reader
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
            hub=hub,
            authenticate=authenticate,
            clock=clock,
            ids=ids,
            drain_timeout_s=node.drain_timeout_s,
            max_opening=node.max_opening_streams,
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
            history=ReadHistory(hub=hub, reader=reader, directory=shared.directory),
            sync=Sync(hub=hub, reader=reader),
            streams=await stack.enter_async_context(streams),
        )
        server = RpcServer(
            use_cases,
            clock=clock,
            ids=ids,
            node_id=node.name,
            is_ready=lambda: not life.ended.is_set() and hub.is_live(),
            with_reflection=node.reflection,
        )
        await stack.enter_async_context(server)
        port = await server.start(f"{node.host}:{node.port}")
        metrics_port = stack.enter_context(serve_metrics(node.host, node.metrics_port))
        log.info("node serves", port=port, metrics_port=metrics_port)
        await life.ended.wait()
        log.info("node leaves", streams=len(streams))
        await streams.drain(announced_for_s=node.announce_s)
        await server.stop(node.stop_grace_s)


async def _worker(settings: Settings, life: Life) -> None:
    worker_id = RandomIds().new_id(f"{settings.worker.name}.")
    async with AsyncExitStack() as stack:
        projection = await stack.enter_async_context(stores.open_projection(settings.store.path, _cql(settings)))
        await _make_streams(settings.nats, projection, life)
        shared = await _open_shared(stack, settings, settings.worker.name, life)
        worker = Worker(
            worker_id,
            work=shard_loops(
                worker_roles(projection=projection, codec=ProtoRecordCodec(), hub=shared.hub),
                consumers=NatsRecordConsumers(shared.connection),
                letters=NatsDeadLetters(shared.connection),
                pace=Pace(lag_alarm_records=settings.worker.lag_alarm_records),
            ),
            shards=settings.nats.shards,
            leases=NatsShardLeases(shared.connection),
            now_s=SystemClock().monotonic_s,
        )
        metrics_port = stack.enter_context(serve_metrics("127.0.0.1", settings.worker.metrics_port))
        log.info("worker works", port=metrics_port, worker_id=worker_id)
        async with asyncio.TaskGroup() as group:
            working = group.create_task(worker.run(), name="worker")
            await life.ended.wait()
            working.cancel()


async def _replay(settings: Settings, topic: str | None, life: Life) -> None:
    async with AsyncExitStack() as stack:
        projection = await stack.enter_async_context(stores.open_projection(settings.store.path, _cql(settings)))
        shared = await _open_shared(stack, settings, "replay", life)
        roles = worker_roles(projection=projection, codec=ProtoRecordCodec(), hub=shared.hub)
        replay = Replay(NatsDeadLetters(shared.connection), roles=roles, shards=settings.nats.shards)
        async for done in replay.run(TopicId(topic) if topic else None):
            life.is_failed |= bool(done.reason)
            (log.error if done.reason else log.info)("dead topic replayed", **asdict(done))


async def _make_streams(nats: NatsSettings, projection: Projection, life: Life) -> None:
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
        await NatsShardLeases(connection).ensure(replicas=nats.replicas)
        await NatsDeadLetters(connection).ensure(replicas=nats.replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Shared:
    """What nodes and workers stand on."""

    connection: NatsConnection
    hub: TopicHub
    reader: TopicReader
    directory: TopicDirectory


async def _open_shared(stack: AsyncExitStack, settings: Settings, name: str, life: Life) -> _Shared:
    connection = NatsConnection(settings.nats.servers, name=name, on_closed=life.fail)
    await stack.enter_async_context(connection)
    topics = await stack.enter_async_context(NatsTopicLog(connection, shards=settings.nats.shards))
    store = await stack.enter_async_context(stores.open_stores(settings.store.path, _cql(settings)))
    codec = ProtoRecordCodec()
    hub = TopicHub(
        log=topics,
        directory=store.directory,
        messages=store.messages,
        codec=codec,
        clock=SystemClock(),
        ids=RandomIds(),
    )
    reader = TopicReader(log=topics, messages=store.messages, events=store.events, codec=codec)
    await stack.enter_async_context(hub)
    return _Shared(connection=connection, hub=hub, reader=reader, directory=store.directory)


def _cql(settings: Settings) -> dict[str, Any] | None:
    return settings.store.cql.model_dump() if settings.store.kind == "cql" else None
