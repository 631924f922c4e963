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
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.authenticate import Authenticate
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import BlockEffects, MembershipEffects
from hubbub_server.app.markers import Markers
from hubbub_server.app.own_mentions import OwnMentions
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.resume import ResumeTokens
from hubbub_server.app.settings import UserSettings
from hubbub_server.app.streams import Streams
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.app.users import Users
from hubbub_server.config import AuthSettings, Settings
from hubbub_server.obs.metrics_port import serve_metrics
from hubbub_server.process import Life, run_process
from hubbub_server.rpc.server import RpcServer, UseCases
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
    ids = RandomIds()
    node, auth = settings.node, settings.auth
    async with AsyncExitStack() as stack:
        core = await open_core(stack, settings, node.name, life.fail)
        clock = core.clock
        bus = await open_bus(stack, core)
        signals = ConversationSignals(bus=bus, codec=ProtoSignalCodec(), clock=clock)
        hub = await open_hub(stack, core, await open_guard(stack, core), interest=signals)
        typing = TypingSignals(hub=hub, signals=signals, clock=clock, max_members=node.typing_max_members)
        reader = TopicReader(
            log=core.log, messages=core.messages, events=core.events, markers=core.markers, codec=core.codec
        )
        accounts = NatsAccountStore(core.connection)
        authenticate = await _open_authenticate(stack, auth, core, accounts, ids)
        id_key = read_key(auth.secrets / "id_key")
        read_states = ReadStates(hub=hub, reader=reader)
        memberships = MembershipEffects(hub)
        markers = Markers(
            hub=hub,
            reader=reader,
            read_states=read_states,
            effects=memberships,
            clock=clock,
            news=signals,
        )
        redis = await open_redis(stack, settings)
        presence = await open_presence(stack, core, hub, bus, redis)
        streams = Streams(
            hub=hub,
            authenticate=authenticate,
            clock=clock,
            ids=ids,
            resume_tokens=ResumeTokens(id_key, clock),
            markers=await stack.enter_async_context(markers),
            typing=typing,
            drain_timeout_s=node.drain_timeout_s,
            max_opening=node.max_opening_streams,
            tracker=presence.tracker,
        )
        use_cases = UseCases(
            authenticate=authenticate,
            users=Users(accounts=accounts),
            conversations=Conversations(
                hub=hub,
                reader=reader,
                read_states=read_states,
                effects=memberships,
                accounts=accounts,
                id_key=id_key,
                group_max_members=node.group_max_members,
            ),
            history=ReadHistory(hub=hub, reader=reader, directory=core.directory),
            sync=Sync(hub=hub, reader=reader),
            markers=markers,
            mentions=OwnMentions(
                hub=hub,
                reader=reader,
                read_states=read_states,
                directory=core.directory,
                letters=core.letters,
                id_key=id_key,
            ),
            settings=UserSettings(
                hub=hub,
                read_states=read_states,
                membership_effects=memberships,
                block_effects=BlockEffects(hub),
                accounts=accounts,
                id_key=id_key,
            ),
            streams=await stack.enter_async_context(streams),
            typing=typing,
            presence=presence,
        )
        edge: StreamEdge | None = None

        def is_ready() -> bool:
            return not life.ended.is_set() and hub.is_live() and (edge is None or edge.is_serving)

        server = RpcServer(
            use_cases,
            clock=clock,
            ids=ids,
            node_id=node.name,
            is_ready=is_ready,
            with_reflection=node.reflection,
        )
        await stack.enter_async_context(server)
        edge = await open_edge(stack, settings.edge, server.streaming_calls(), is_ready)
        port, stream_port = await start_serving(settings, server, edge)
        metrics_port = stack.enter_context(serve_metrics(node.host, node.metrics_port))
        await register_node(stack, settings, core, redis, presence, port)
        log.info("node serves", port=port, stream_port=stream_port, metrics_port=metrics_port)
        await life.ended.wait()
        log.info("node leaves", streams=len(streams))
        markers.drain()
        await streams.drain(announced_for_s=node.announce_s)
        presence.streams.drain()
        await stop_serving(server, edge, node.stop_grace_s)
        await presence.tracker.leave()


async def _open_authenticate(
    stack: AsyncExitStack, auth: AuthSettings, core: Core, accounts: NatsAccountStore, ids: RandomIds
) -> Authenticate:
    authenticate = Authenticate(
        accounts=accounts,
        sessions=NatsDeviceSessionStore(core.connection),
        hasher=await stack.enter_async_context(Argon2PasswordHasher()),
        signer=read_signer(auth.secrets, issuer=auth.issuer, audience=auth.audience, clock=core.clock),
        clock=core.clock,
        ids=ids,
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
