"""A worker, and what a node reads, on real servers in this process."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.log_shards import NatsLogShards
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers
from hubbub_server.adapters.nats.streams import ensure_streams
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.adapters.nats.topic_states import NatsTopicStates
from hubbub_server.adapters.sqlite.event_store import SqliteEventStore
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.adapters.sqlite.topic_directory import SqliteTopicDirectory
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.adapters.system.ids import RandomIds
from hubbub_server.app.topic_hub import TopicHub, TopicPorts
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.domain.commands import Command
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from hubbub_server.workers.projector import Projector
from tests.support.loaders import OpenGuard
from tests.support.program import Program, running
from tests.support.services import NatsCluster
from tests.support.waiting import until_found

SHARDS = 2


ANSWER_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What a node has of the core, in this process; `store` is as empty as the worker left it."""

    hub: TopicHub
    log: NatsTopicLog
    directory: SqliteTopicDirectory
    messages: SqliteMessageStore
    events: SqliteEventStore
    consumers: NatsRecordConsumers

    async def submit(self, topic_id: TopicId, command: Command) -> None:
        """Commits a command."""
        await self.hub.submit(topic_id, command, timeout_s=ANSWER_S)

    async def until_applied(self, topic_id: TopicId) -> None:
        """Waits until the store is at the head of a topic's log."""

        async def look() -> bool | None:
            head = await self.log.read_head(topic_id)
            if head is None:  # an effect that the relay has still to write
                return None
            try:
                applied = await self.directory.read_applied(topic_id)
            except StoreUnavailable:
                return None
            return True if applied and applied.position == head.facts.last_position else None

        await until_found(look)

    async def until_remembered(self, topic_id: TopicId) -> None:
        """Waits until it is written that the projector came to the head of a topic's log."""
        head = await self.log.read_head(topic_id)
        assert head is not None

        async def look() -> bool | None:
            done = await self.consumers.acknowledged(role=Projector.role, shard=shard_of(topic_id, SHARDS))
            return True if done >= head.sequence else None

        await until_found(look)


@asynccontextmanager
async def open_node(cluster: NatsCluster, store: Path) -> AsyncIterator[Node]:
    async with NatsConnection(cluster.urls, name="test", on_closed=lambda: None) as connection:
        await ensure_streams(
            connection, shards=SHARDS, replicas=cluster.replicas, max_bytes=-1, known_epochs={}, timeout_s=30
        )
        async with NatsTopicLog(connection, shards=SHARDS) as log, open_reader(store) as reader:
            directory, messages = SqliteTopicDirectory(reader), SqliteMessageStore(reader)
            loader = TopicLoader(
                log=log,
                shards=NatsLogShards(connection),
                states=NatsTopicStates(connection, shards=SHARDS, codec=ProtoSnapshotCodec()),
                directory=directory,
                codec=ProtoRecordCodec(),
            )
            async with TopicHub(
                TopicPorts(
                    log=log,
                    guard=OpenGuard(),
                    loader=loader,
                    directory=directory,
                    messages=messages,
                    codec=ProtoRecordCodec(),
                    clock=SystemClock(),
                    ids=RandomIds(),
                )
            ) as hub:
                yield Node(
                    hub=hub,
                    log=log,
                    directory=directory,
                    messages=messages,
                    events=SqliteEventStore(reader),
                    consumers=NatsRecordConsumers(connection),
                )


def worker_settings(cluster: NatsCluster, store: Path) -> dict[str, str]:
    """Returns the environment of a worker, or of a command that works like one."""
    return {
        "HUBBUB_NATS__SERVERS": json.dumps(cluster.urls),
        "HUBBUB_NATS__SHARDS": str(SHARDS),
        "HUBBUB_NATS__REPLICAS": str(cluster.replicas),
        "HUBBUB_STORE__PATH": str(store),
        "HUBBUB_WORKER__METRICS_PORT": "0",
        "HUBBUB_WORKER__BEGINS_EPOCHS": "true",
    }


@asynccontextmanager
async def working(cluster: NatsCluster, store: Path, *, name: str = "worker-1") -> AsyncIterator[Program]:
    """Runs a worker process; leaving the block kills it with SIGKILL."""
    settings = worker_settings(cluster, store) | {"HUBBUB_WORKER__NAME": name}
    async with running("worker", settings, until_logged="worker works") as worker:
        yield worker
