"""Opens what every program of the server stands on: NATS, the store, and the core over both."""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import structlog

from hubbub_server.adapters import stores
from hubbub_server.adapters.nats.accounts import ensure_buckets
from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.dead_letters import NatsDeadLetters
from hubbub_server.adapters.nats.log_shards import NatsLogShards
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers, ensure_floors
from hubbub_server.adapters.nats.shard_leases import NatsShardLeases
from hubbub_server.adapters.nats.signal_bus import NatsSignalBus
from hubbub_server.adapters.nats.streams import ensure_streams
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.adapters.nats.topic_states import NatsTopicStates
from hubbub_server.adapters.redis.connection import RedisConnection
from hubbub_server.adapters.redis.node_registry import RedisNodeRegistry
from hubbub_server.adapters.redis.presence_registry import RedisPresenceRegistry
from hubbub_server.adapters.system.clock import SystemClock, WrongClock
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.active_topic import Interest
from hubbub_server.app.epoch_guard import EpochGuard
from hubbub_server.app.new_epoch import NewEpoch
from hubbub_server.app.presence import NoPresenceRegistry, Presence
from hubbub_server.app.registered_node import RegisteredNode
from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.app.topic_hub import TopicHub, TopicPorts
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.app.verify_log import VerifyLog
from hubbub_server.config import EdgeSettings, NatsSettings, Settings, StoreSettings
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.marker_store import MarkerStore
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.signal_bus import SignalBus
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.rpc.server import RpcServer
from hubbub_server.rpc.streaming_calls import StreamingCalls
from hubbub_server.wire.presence import encode_update
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from hubbub_server.workers.handled_records import HandledRecords
from hubbub_server.workers.roles import ROLES, Pace, shard_loops, trimmers, worker_roles
from hubbub_server.workers.worker import NewWork

if TYPE_CHECKING:
    from hubbub_server.edge.server import StreamEdge

log = structlog.get_logger()

_ANY_ADDRESS: Final = ("0.0.0.0", "::")


@dataclass(frozen=True, slots=True, kw_only=True)
class Core:
    """Open adapters."""

    clock: Clock
    shards: int
    connection: NatsConnection
    log: NatsTopicLog
    log_shards: NatsLogShards
    states: NatsTopicStates
    consumers: NatsRecordConsumers
    letters: NatsDeadLetters
    directory: TopicDirectory
    messages: MessageStore
    events: EventStore
    markers: MarkerStore
    codec: RecordCodec
    loader: TopicLoader


async def open_core(
    stack: AsyncExitStack,
    settings: Settings,
    name: str,
    on_closed: Callable[[], None],
    *,
    codec: RecordCodec | None = None,
) -> Core:
    """Opens a connection and the store for reading. `on_closed` hears that the connection is gone for good."""
    connection = NatsConnection(settings.nats.servers, name=name, on_closed=on_closed)
    await stack.enter_async_context(connection)
    shards, codec = settings.nats.shards, codec or ProtoRecordCodec()
    log = await stack.enter_async_context(NatsTopicLog(connection, shards=shards))
    store = await stack.enter_async_context(stores.open_stores(settings.store.path, cql_fields(settings.store)))
    log_shards = NatsLogShards(connection)
    states = NatsTopicStates(connection, shards=shards, codec=ProtoSnapshotCodec())
    return Core(
        clock=WrongClock(settings.clock_shifts / name) if settings.clock_shifts else SystemClock(),
        shards=shards,
        connection=connection,
        log=log,
        log_shards=log_shards,
        states=states,
        consumers=NatsRecordConsumers(connection),
        letters=NatsDeadLetters(connection),
        directory=store.directory,
        messages=store.messages,
        events=store.events,
        markers=store.markers,
        codec=codec,
        loader=TopicLoader(log=log, shards=log_shards, states=states, directory=store.directory, codec=codec),
    )


async def open_guard(
    stack: AsyncExitStack, core: Core, *, on_refused: Callable[[int], Awaitable[object]] | None = None
) -> EpochGuard:
    """Opens the guard of all shards; see EpochGuard."""
    guard = EpochGuard(
        log_shards=core.log_shards,
        states=core.states,
        directory=core.directory,
        shards=core.shards,
        on_refused=on_refused,
    )
    await stack.enter_async_context(guard)
    core.connection.on_reconnect(guard.recheck)
    return guard


async def open_bus(stack: AsyncExitStack, core: Core) -> SignalBus:
    """Opens the signals between nodes."""
    return await stack.enter_async_context(NatsSignalBus(core.connection))


async def open_hub(
    stack: AsyncExitStack, core: Core, guard: EpochGuard, *, interest: Interest | None = None
) -> TopicHub:
    """Opens the topics of this process."""
    hub = TopicHub(
        TopicPorts(
            log=core.log,
            guard=guard,
            loader=core.loader,
            directory=core.directory,
            messages=core.messages,
            codec=core.codec,
            clock=core.clock,
            ids=RandomIds(),
        ),
        interest=interest,
    )
    return await stack.enter_async_context(hub)


async def open_redis(stack: AsyncExitStack, settings: Settings) -> RedisConnection | None:
    """Opens the connection to Redis or Valkey, where there is one, without waiting for it."""
    if not settings.redis.url:
        return None
    return await stack.enter_async_context(RedisConnection(settings.redis.url, name=settings.node.name))


async def open_presence(
    stack: AsyncExitStack, core: Core, hub: TopicHub, bus: SignalBus, redis: RedisConnection | None
) -> Presence:
    """Opens the presence of this node; `register_node` makes others believe in it."""
    presence = Presence(
        hub=hub,
        registry=RedisPresenceRegistry(redis) if redis is not None else NoPresenceRegistry(),
        bus=bus,
        clock=core.clock,
        encode=encode_update,
    )
    return await stack.enter_async_context(presence)


async def register_node(
    stack: AsyncExitStack, settings: Settings, core: Core, redis: RedisConnection | None, presence: Presence, port: int
) -> None:
    """Says from now to the end of the stack that this node lives, where there is a registry. Never waits for it."""
    if redis is None:
        return
    node = settings.node
    host = socket.gethostname() if node.host in _ANY_ADDRESS else node.host
    registered = RegisteredNode(
        RedisNodeRegistry(redis),
        node_id=node.name,
        address=f"{host}:{port}",
        clock=core.clock,
        ids=RandomIds(),
        on_gone=presence.tracker.settle,
    )
    presence.tracker.node = await stack.enter_async_context(registered)


async def open_edge(
    stack: AsyncExitStack, settings: EdgeSettings, calls: StreamingCalls, is_ready: Callable[[], bool]
) -> "StreamEdge | None":
    """Opens the stream edge, which does not listen yet; None: it is switched off, or ngh2 is not installed."""
    if not settings.enabled:
        return None
    try:
        from hubbub_server.edge.limits import STRANGERS, TRUSTED_PROXY  # noqa: PLC0415  # may not be installed
        from hubbub_server.edge.server import StreamEdge  # noqa: PLC0415
    except ImportError as error:
        if not (error.name or "").startswith("ngh2"):
            raise
        log.warning("grpcio serves the streams, for much more work: ngh2 is not installed", error=str(error))
        return None
    limits = TRUSTED_PROXY if settings.peers == "proxy" else STRANGERS
    return await stack.enter_async_context(StreamEdge(calls, limits=limits, is_ready=is_ready))


async def start_serving(settings: Settings, server: RpcServer, edge: "StreamEdge | None") -> tuple[int, int]:
    """Listens on the ports of gRPC and of streams, and returns them.

    Raises:
        OSError, RuntimeError: a port cannot be had, or the files of TLS.
    """
    host, port, stream_port = settings.node.host, settings.node.port, settings.edge.port
    certificate, key = settings.edge.tls_certificate, settings.edge.tls_key
    if edge is None:
        if certificate is not None:
            raise RuntimeError("without the stream edge there is no TLS: take away HUBBUB_EDGE__TLS_CERTIFICATE")
        port, stream_port = await server.start(f"{host}:{port}", f"{host}:{stream_port}")
        return port, stream_port
    tls = None
    if certificate is not None:
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(certificate, key)
    stream_port = await edge.start(host, stream_port, tls=tls)  # first: it is part of what the server's health says
    (port,) = await server.start(f"{host}:{port}")
    return port, stream_port


async def stop_serving(server: RpcServer, edge: "StreamEdge | None", grace_s: float) -> None:
    """Takes no new calls; those that run may finish for `grace_s`."""
    async with asyncio.TaskGroup() as group:
        group.create_task(server.stop(grace_s))
        if edge is not None:
            group.create_task(edge.stop(grace_s))


def take_snapshots(core: Core) -> TakeSnapshots:
    """Returns what writes states beside the log."""
    return TakeSnapshots(loader=core.loader, states=core.states)


def work_of_shards(core: Core, *, projection: Projection, hub: TopicHub, pace: Pace) -> dict[str, NewWork]:
    """Returns what workers do with each shard."""
    snapshots = take_snapshots(core)
    roles = worker_roles(projection=projection, codec=core.codec, hub=hub, snapshots=snapshots)
    loops = shard_loops(roles, consumers=core.consumers, letters=core.letters, pace=pace)
    handled = HandledRecords(roles=ROLES, consumers=core.consumers, letters=core.letters, projection=projection)
    return loops | trimmers(log_shards=core.log_shards, handled=handled, snapshots=snapshots, pace=pace)


def new_epoch(core: Core) -> NewEpoch:
    """Returns what begins epochs."""
    return NewEpoch(
        log=core.log,
        log_shards=core.log_shards,
        states=core.states,
        directory=core.directory,
        consumers=core.consumers,
        codec=core.codec,
        roles=ROLES,
    )


def verify_log(core: Core) -> VerifyLog:
    """Returns what compares log and store."""
    return VerifyLog(
        log_shards=core.log_shards,
        states=core.states,
        directory=core.directory,
        events=core.events,
        codec=core.codec,
        shards=core.shards,
    )


async def make_streams(nats: NatsSettings, projection: Projection, on_closed: Callable[[], None]) -> None:
    """Makes what is missing in NATS, before anything reads it. A log made anew gets an epoch above the store's."""
    rows = [await projection.read_shard(shard) for shard in range(nats.shards)]
    async with NatsConnection(nats.servers, name="worker", on_closed=on_closed) as connection:
        await ensure_streams(
            connection,
            shards=nats.shards,
            replicas=nats.replicas,
            max_bytes=nats.shard_max_bytes,
            known_epochs={row.shard: row.epoch for row in rows if row},
            timeout_s=30.0,
        )
        await ensure_buckets(connection, replicas=nats.replicas)
        await ensure_floors(connection, replicas=nats.replicas)
        await NatsShardLeases(connection).ensure(replicas=nats.replicas)
        await NatsDeadLetters(connection).ensure(replicas=nats.replicas)


def cql_fields(store: StoreSettings) -> dict[str, Any] | None:
    """Returns what `adapters.stores` takes for a CQL store, None for SQLite."""
    return store.cql.model_dump() if store.kind == "cql" else None
