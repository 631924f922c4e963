"""Every implementation of the log's ports, for the contract suites, with the faults that they must survive.

A *setup* is one log for many nodes. A new adapter joins by one entry in LOGS.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.log_shards import NatsLogShards
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers, ensure_floors
from hubbub_server.adapters.nats.records import EXPECTED_SEQUENCE, encode_facts, header_block_bytes, stream_name
from hubbub_server.adapters.nats.streams import ensure_streams
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.adapters.nats.topic_states import NatsTopicStates
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.record_consumer import RecordConsumers
from hubbub_server.ports.topic_log import RecordFacts, TopicLog
from hubbub_server.ports.topic_states import TopicStates
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.record_consumers import FakeRecordConsumers
from tests.support.fakes.topic_log import AppendFault, FakeLogServer, FakeTopicLog
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.fault_proxy import Cut, Direction, FaultProxy
from tests.support.services import NatsCluster, Services
from tests.support.waiting import RECOVERY_TIMEOUT_S, until_it_answers

SHARDS = 2
APPEND_TIMEOUT_S = 0.5


class FaultyNode(Protocol):
    """A node whose link to the log fails on demand; `recover` makes it good again."""

    @property
    def log(self) -> TopicLog:
        """The log as this node sees it."""

    def lose_answers(self) -> None:
        """From now on requests arrive and answers do not."""

    def lose_requests(self) -> None:
        """From now on requests do not arrive, ever."""

    def hold_requests(self) -> None:
        """From now on requests arrive only after `recover`."""

    def cut(self) -> None:
        """Takes the link away."""

    def recover(self) -> None:
        """Lets what was held arrive and gives the node a good link again."""


class LogSetup(Protocol):
    """One log, and nodes that use it."""

    def node(self) -> AbstractAsyncContextManager[TopicLog]:
        """Opens the log as one more node sees it."""

    def faulty_node(self) -> AbstractAsyncContextManager[FaultyNode]:
        """Opens a node with a link that can fail."""

    def consumers(self) -> AbstractAsyncContextManager[RecordConsumers]:
        """Opens the consumers of one more worker."""

    def shards(self) -> AbstractAsyncContextManager[LogShards]:
        """Opens what looks after the shards."""

    def states(self) -> AbstractAsyncContextManager[TopicStates]:
        """Opens the states of topics as one more node sees them."""

    def largest_body_bytes(self, facts: RecordFacts, after_sequence: int) -> int:
        """Returns the size of the largest body that fits into a record with these facts."""

    async def crash(self) -> None:
        """Kills the log's servers with SIGKILL and starts them again."""

    async def recreate(self, shard: int) -> None:
        """Loses a shard with everything in it and makes it anew."""

    async def lose(self, shard: int, sequence: int) -> None:
        """Loses one record that nobody trimmed."""

    async def lose_below(self, shard: int, sequence: int) -> None:
        """Loses the oldest records, which nobody trimmed, as a server does that finds a block file no more."""


class FakeFaultyNode:
    """FaultyNode of the fake: faults are announced to the log before the append that they hit."""

    def __init__(self, log: FakeTopicLog, server: FakeLogServer) -> None:
        self.log = log
        self._server = server

    def lose_answers(self) -> None:
        self.log.append_faults.append(AppendFault.ACK_LOST)

    def lose_requests(self) -> None:
        self.log.append_faults.append(AppendFault.NEVER)

    def hold_requests(self) -> None:
        self.log.append_faults.append(AppendFault.LATE)

    def cut(self) -> None:
        self.log.cut()

    def recover(self) -> None:
        self._server.release_late()
        self.log.heal()


class FakeLogSetup:
    """LogSetup in memory."""

    def __init__(self, _services: Services) -> None:
        self._server = FakeLogServer(shards=SHARDS)

    @asynccontextmanager
    async def node(self) -> AsyncIterator[TopicLog]:
        yield self._server.connect()

    @asynccontextmanager
    async def faulty_node(self) -> AsyncIterator[FakeFaultyNode]:
        yield FakeFaultyNode(self._server.connect(), self._server)

    @asynccontextmanager
    async def consumers(self) -> AsyncIterator[RecordConsumers]:
        yield FakeRecordConsumers(self._server)

    @asynccontextmanager
    async def shards(self) -> AsyncIterator[LogShards]:
        yield FakeLogShards(self._server, self._server.connect())

    @asynccontextmanager
    async def states(self) -> AsyncIterator[TopicStates]:
        yield FakeTopicStates(self._server, self._server.connect())

    def largest_body_bytes(self, facts: RecordFacts, after_sequence: int) -> int:
        return self._server.max_record_bytes

    async def crash(self) -> None:
        for node in self._server.nodes:
            node.cut()
            node.heal()

    async def recreate(self, shard: int) -> None:
        self._server.recreate(shard)

    async def lose(self, shard: int, sequence: int) -> None:
        self._server.lose(shard, sequence)

    async def lose_below(self, shard: int, sequence: int) -> None:
        self._server.lose(shard, *range(1, sequence))


class NatsFaultyNode:
    """FaultyNode behind a proxy."""

    def __init__(self, log: NatsTopicLog, proxy: FaultProxy) -> None:
        self.log = log
        self._proxy = proxy
        self._holds = False

    def lose_answers(self) -> None:
        self._proxy.stall(Direction.FROM_TARGET)

    def lose_requests(self) -> None:
        self._proxy.silence()

    def hold_requests(self) -> None:
        self._proxy.stall(Direction.TO_TARGET)
        self._holds = True

    def cut(self) -> None:
        self._proxy.refuse()
        self._proxy.cut(Cut.RST)

    def recover(self) -> None:
        if not self._holds:
            self._proxy.cut(Cut.RST)
        self._proxy.flow()


class NatsLogSetup:
    """LogSetup on one or three real servers, which all tests of a run share: topics must be new in each test."""

    def __init__(self, cluster: NatsCluster) -> None:
        self.cluster = cluster
        self.epochs: dict[int, int] = {}

    @asynccontextmanager
    async def connection(self, urls: list[str] | None = None) -> AsyncIterator[NatsConnection]:
        """Opens a connection; the streams are there."""
        async with NatsConnection(
            urls or self.cluster.urls, name="test", on_closed=_must_not_close, open_timeout_s=RECOVERY_TIMEOUT_S
        ) as connection:
            await self.ensure_streams(connection)
            yield connection

    async def ensure_streams(self, connection: NatsConnection) -> None:
        """Makes the streams that are missing."""
        await ensure_streams(
            connection,
            shards=SHARDS,
            replicas=self.cluster.replicas,
            max_bytes=-1,
            known_epochs=self.epochs,
            timeout_s=RECOVERY_TIMEOUT_S,
        )
        await ensure_floors(connection, replicas=self.cluster.replicas)

    @asynccontextmanager
    async def node(self) -> AsyncIterator[TopicLog]:
        async with self.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
            yield log

    @asynccontextmanager
    async def faulty_node(self) -> AsyncIterator[NatsFaultyNode]:
        async with (
            FaultProxy(self.cluster.servers[0].port) as proxy,
            self.connection([f"nats://127.0.0.1:{proxy.port}"]) as connection,
            NatsTopicLog(connection, shards=SHARDS, append_timeout_s=APPEND_TIMEOUT_S) as log,
        ):
            yield NatsFaultyNode(log, proxy)

    @asynccontextmanager
    async def consumers(self) -> AsyncIterator[RecordConsumers]:
        async with self.connection() as connection:
            yield NatsRecordConsumers(connection)

    @asynccontextmanager
    async def shards(self) -> AsyncIterator[LogShards]:
        async with self.connection() as connection:
            yield NatsLogShards(connection)

    @asynccontextmanager
    async def states(self) -> AsyncIterator[TopicStates]:
        async with self.connection() as connection:
            yield NatsTopicStates(connection, shards=SHARDS, codec=ProtoSnapshotCodec())

    def largest_body_bytes(self, facts: RecordFacts, after_sequence: int) -> int:
        headers = encode_facts(facts) | {EXPECTED_SEQUENCE: str(after_sequence)}
        return (1 << 20) - header_block_bytes(headers)

    async def crash(self) -> None:
        self.cluster.kill()
        self.cluster.start()
        await self.cluster.wait_ready()

    async def recreate(self, shard: int) -> None:
        async with self.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
            self.epochs[shard] = log.epoch(shard)

            async def delete() -> None:
                try:
                    await connection.call(f"STREAM.DELETE.{stream_name(shard)}")
                except ApiRefusal as refusal:
                    if not refusal.is_no_stream:  # deleted by a call whose answer was late
                        raise

            await until_it_answers(delete)
            await self.ensure_streams(connection)

    async def lose(self, shard: int, sequence: int) -> None:
        async with self.connection() as connection:
            await connection.call(f"STREAM.MSG.DELETE.{stream_name(shard)}", {"seq": sequence, "no_erase": True})

    async def lose_below(self, shard: int, sequence: int) -> None:
        async with self.connection() as connection:
            await connection.call(f"STREAM.PURGE.{stream_name(shard)}", {"seq": sequence})


def _must_not_close() -> None:
    raise AssertionError("nats-py gave the connection up")


LOGS: dict[str, Callable[[Services], LogSetup]] = {
    "fake": FakeLogSetup,
    "nats-r1": lambda services: NatsLogSetup(services.nats(1)),
    "nats-r3": lambda services: NatsLogSetup(services.nats(3)),
}
