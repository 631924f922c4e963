"""The composition root: builds a node or a worker from settings, on what wiring.py opens, and runs it."""

import asyncio
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

import structlog

from hubbub_server.adapters import stores
from hubbub_server.adapters.crypto.argon2_password_hasher import Argon2PasswordHasher
from hubbub_server.adapters.crypto.key_files import read_key, read_signer
from hubbub_server.adapters.nats.accounts import NatsAccountStore, NatsDeviceSessionStore
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.authenticate import Authenticate
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.use_cases import NodeBounds, NodeParts, UseCases, open_use_cases
from hubbub_server.config import AuthSettings, NodeSettings, Settings
from hubbub_server.obs.metrics_port import serve_metrics
from hubbub_server.process import Life, run_process
from hubbub_server.rpc.server import RpcServer
from hubbub_server.wire.decoded_records import DecodedRecords
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from hubbub_server.wiring import (
    Core,
    cql_fields,
    make_streams,
    new_epoch,
    open_bus,
    open_core,
    open_edge,
    open_guard,
    open_hub,
    open_presence,
    open_redis,
    register_node,
    start_serving,
    stop_serving,
    work_of_shards,
)
from hubbub_server.workers.roles import Pace
from hubbub_server.workers.worker import Worker

if TYPE_CHECKING:
    from hubbub_server.edge.server import StreamEdge

log = structlog.get_logger()


def run_node(settings: Settings) -> None:
    """Runs one node until it is told to end."""
    run_process(partial(_node, settings), role="node", name=settings.node.name, log_level=settings.log_level)


def run_worker(settings: Settings) -> None:
    """Runs one worker until it is told to end."""
    run_process(partial(_worker, settings), role="worker", name=settings.worker.name, log_level=settings.log_level)


async def _node(settings: Settings, life: Life) -> None:
    async with AsyncExitStack() as stack:
        core = await open_core(stack, settings, settings.node.name, life.fail)
        redis = await open_redis(stack, settings)
        node = await _open_parts(stack, settings, core, redis)
        use_cases = await open_use_cases(stack, node, _bounds(settings.node))
        server, edge = await _open_transports(stack, settings, node, use_cases, life)
        port, stream_port = await start_serving(settings, server, edge)
        metrics_port = stack.enter_context(serve_metrics(settings.node.host, settings.node.metrics_port))
        await register_node(stack, settings, core, redis, node.presence, port)
        log.info("node serves", port=port, stream_port=stream_port, metrics_port=metrics_port)
        await life.ended.wait()
        log.info("node leaves", streams=len(use_cases.streams))
        use_cases.markers.drain()
        await use_cases.streams.drain(announced_for_s=settings.node.announce_s)
        node.presence.streams.drain()
        await stop_serving(server, edge, settings.node.stop_grace_s)
        await node.presence.tracker.leave()


async def _open_parts(
    stack: AsyncExitStack, settings: Settings, core: Core, redis: RedisConnection | None
) -> NodeParts:
    bus = await open_bus(stack, core)
    signals = ConversationSignals(bus=bus, codec=ProtoSignalCodec(), clock=core.clock)
    hub = await open_hub(stack, core, await open_guard(stack, core), interest=signals)
    accounts = NatsAccountStore(core.connection)
    return NodeParts(
        hub=hub,
        reader=TopicReader(
            log=core.log, messages=core.messages, events=core.events, markers=core.markers, codec=core.codec
        ),
        directory=core.directory,
        letters=core.letters,
        accounts=accounts,
        authenticate=await _open_authenticate(stack, settings.auth, core, accounts),
        signals=signals,
        presence=await open_presence(stack, core, hub, bus, redis),
        clock=core.clock,
        ids=RandomIds(),
        id_key=read_key(settings.auth.secrets / "id_key"),
    )


def _bounds(node: NodeSettings) -> NodeBounds:
    return NodeBounds(
        group_max_members=node.group_max_members,
        typing_max_members=node.typing_max_members,
        max_opening_streams=node.max_opening_streams,
        drain_timeout_s=node.drain_timeout_s,
    )


async def _open_transports(
    stack: AsyncExitStack, settings: Settings, node: NodeParts, use_cases: UseCases, life: Life
) -> "tuple[RpcServer, StreamEdge | None]":
    edge: StreamEdge | None = None

    def is_ready() -> bool:
        return not life.ended.is_set() and node.hub.is_live() and (edge is None or edge.is_serving)

    server = RpcServer(
        use_cases,
        clock=node.clock,
        ids=node.ids,
        node_id=settings.node.name,
        is_ready=is_ready,
        with_reflection=settings.node.reflection,
    )
    await stack.enter_async_context(server)
    edge = await open_edge(stack, settings.edge, server.streaming_calls(), is_ready)
    return server, edge


async def _open_authenticate(
    stack: AsyncExitStack, auth: AuthSettings, core: Core, accounts: NatsAccountStore
) -> Authenticate:
    authenticate = Authenticate(
        accounts=accounts,
        sessions=NatsDeviceSessionStore(core.connection),
        hasher=await stack.enter_async_context(Argon2PasswordHasher()),
        signer=read_signer(auth.secrets, issuer=auth.issuer, audience=auth.audience, clock=core.clock),
        clock=core.clock,
        ids=RandomIds(),
    )
    return await stack.enter_async_context(authenticate)


async def _worker(settings: Settings, life: Life) -> None:
    name = settings.worker.name
    worker_id = RandomIds().new_id(f"{name}.")
    async with AsyncExitStack() as stack:
        projection = await stack.enter_async_context(
            stores.open_projection(settings.store.path, cql_fields(settings.store))
        )
        await make_streams(settings.nats, projection, life.fail)
        core = await open_core(stack, settings, name, life.fail, codec=DecodedRecords(ProtoRecordCodec()))
        begin = new_epoch(core).begin if settings.worker.begins_epochs else None
        hub = await open_hub(stack, core, await open_guard(stack, core, on_refused=begin))
        pace = Pace(
            lag_alarm_records=settings.worker.lag_alarm_records, kept_s=settings.worker.log_kept_days * 24 * 3600
        )
        worker = Worker(
            worker_id,
            work=work_of_shards(core, projection=projection, hub=hub, pace=pace),
            shards=core.shards,
            leases=NatsShardLeases(core.connection),
            now_s=core.clock.monotonic_s,
        )
        metrics_port = stack.enter_context(serve_metrics(settings.worker.metrics_host, settings.worker.metrics_port))
        log.info("worker works", port=metrics_port, worker_id=worker_id)
        async with asyncio.TaskGroup() as group:
            working = group.create_task(worker.run(), name="worker")
            await life.ended.wait()
            working.cancel()
