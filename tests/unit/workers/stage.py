"""A worker on a log, a store and users' topics in memory, with retries that take a millisecond."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.domain.commands import Answer, CreateGroup, RecordBlock, RecordMembership
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, shard_of
from hubbub_server.obs import metrics
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.workers.handled_records import HandledRecords
from hubbub_server.workers.roles import ROLES, NewRole, Pace, shard_loops, trimmers, worker_roles
from hubbub_server.workers.worker import Worker
from tests.support.fakes.dead_letters import FakeDeadLetters
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.record_consumers import FakeRecordConsumers
from tests.support.fakes.shard_leases import FakeLeaseServer, FakeShardLeases
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeLogServer
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.loaders import fake_loader
from tests.support.records import LogWriter
from tests.support.waiting import until
from tests.unit.domain.builders import ALICE, send, uuid4

SHARDS = 2
PACE = Pace(first_retry_s=0.001, max_retry_s=0.002, lag_alarm_records=1_000)


class FakeHub:
    """Commits memberships to the log at once. `failures` are raised first; `most_at_once` counts parallel calls."""

    def __init__(self, writer: LogWriter) -> None:
        self.failures: list[Exception] = []
        self.submitted: list[tuple[TopicId, RecordMembership | RecordBlock]] = []
        self.most_at_once = 0
        self._writer = writer
        self._at_once = 0

    async def submit(self, topic_id: TopicId, command: RecordMembership | RecordBlock, *, timeout_s: float) -> Answer:
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await asyncio.sleep(0)
            if self.failures:
                raise self.failures.pop(0)
            self.submitted.append((topic_id, command))
            return self._writer.run(topic_id, command)
        finally:
            self._at_once -= 1


class Stage:
    """Everything that a worker needs."""

    def __init__(self) -> None:
        self.server = FakeLogServer(shards=SHARDS)
        self.writer = LogWriter(self.server)
        self.consumers = FakeRecordConsumers(self.server)
        self.store = FakeStore()
        self.hub = FakeHub(self.writer)
        self.log = self.server.connect()
        self.states = FakeTopicStates(self.server, self.log)
        self.log_shards = FakeLogShards(self.server, self.log)
        self.letters = FakeDeadLetters()
        self.lease_server = FakeLeaseServer()
        self.pace = PACE
        metrics.worker_stopped.clear()  # metrics are the process's; each test starts without alarms
        metrics.worker_dead_topics.clear()
        self._lives = count(1)

    def roles(self) -> dict[str, NewRole]:
        """Returns the roles on this stage's store and hub."""
        return worker_roles(projection=self.store, codec=ProtoRecordCodec(), hub=self.hub, snapshots=self.snapshots)

    def worker(self) -> Worker:
        """Makes a worker, a new life of the one before."""
        return Worker(
            f"worker.{next(self._lives)}",
            work=shard_loops(self.roles(), consumers=self.consumers, letters=self.letters, pace=self.pace)
            | trimmers(log_shards=self.log_shards, handled=self.handled, snapshots=self.snapshots, pace=self.pace),
            shards=SHARDS,
            leases=FakeShardLeases(self.lease_server),
            now_s=time.monotonic,
        )

    @property
    def handled(self) -> HandledRecords:
        """Tells what all roles have handled."""
        return HandledRecords(roles=ROLES, consumers=self.consumers, letters=self.letters, projection=self.store)

    @property
    def snapshots(self) -> TakeSnapshots:
        """Takes snapshots, with the store as it is now."""
        loader = fake_loader(self.server, self.log, self.store)
        return TakeSnapshots(loader=loader, states=self.states)

    @asynccontextmanager
    async def working(self) -> AsyncIterator[asyncio.Task[None]]:
        """Runs a worker; leaving the block ends it wherever it is."""
        running = asyncio.create_task(self.worker().run())
        try:
            yield running
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)

    def make_group(self, shard: int, *user_ids: UserId) -> ConversationId:
        """Makes a group of Alice's whose topic is in `shard`."""
        topic_id = next(
            topic_id
            for topic_id in (ConversationId(TopicId(f"cgroup{n}")) for n in range(1_000))
            if shard_of(topic_id, SHARDS) == shard and topic_id not in self.writer.states
        )
        self.writer.run(topic_id, CreateGroup(creator_id=ALICE, title="tea", user_ids=user_ids))
        return topic_id

    def send(self, topic_id: ConversationId, *numbers: int) -> None:
        """Commits messages of Alice's with these client ids."""
        for number in numbers:
            self.writer.run(topic_id, send(ALICE, uuid4(number)))

    def is_caught_up(self, role: str, shard: int) -> bool:
        """Tells whether a role has acknowledged all of a shard."""
        return self.consumers.floor(role, shard) == self.server.last_sequences[shard]

    async def until_caught_up(self, *shards: int) -> None:
        """Waits until all roles have acknowledged all of these shards."""
        await until(lambda: all(self.is_caught_up(role, s) for role in ROLES for s in shards))

    async def stored_numbers(self, topic_id: ConversationId) -> list[int]:
        """Returns the numbers of the stored messages."""
        return [m.message_number for m in await self.store.read_range(topic_id, first_number=1, last_number=200)]


def gauge(name: str, role: str, shard: int) -> float:
    """Returns a gauge of a worker, 0 while it has none."""
    metric = {
        "stopped": metrics.worker_stopped,
        "lag": metrics.worker_lag_records,
        "dead_topics": metrics.worker_dead_topics,
    }[name]
    (samples,) = (m.samples for m in metric.collect())
    return next((s.value for s in samples if s.labels == {"role": role, "shard": str(shard)}), 0.0)
