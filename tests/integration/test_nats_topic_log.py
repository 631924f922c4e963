"""What only real NATS servers show: leaders that die or freeze, replicas that lag, links that fill up, full disks."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from nats.aio.client import Client

from hubbub_server.adapters.nats import connection as nats_connection
from hubbub_server.adapters.nats import log_reader
from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.log_reader import LogReader
from hubbub_server.adapters.nats.records import encode_facts
from hubbub_server.adapters.nats.streams import ensure_streams, read_stream
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogFull, NewRecord, TopicLog
from tests.support.fault_proxy import FaultProxy
from tests.support.log_records import HeardTopic, new_record, new_topic, stored
from tests.support.logs import SHARDS, NatsLogSetup
from tests.support.services import NatsCluster, NatsServer, Services, ready_nats_cluster
from tests.support.waiting import until, until_found, until_it_answers

BURST = 10_000

pytestmark = [
    pytest.mark.asyncio,
    # nats-py forgets the socket of an attempt to connect that failed; the garbage collector closes it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def one(services: Services) -> NatsLogSetup:
    """A log on one server, shared by all tests."""
    return NatsLogSetup(services.nats(1))


@pytest.fixture
def three(services: Services) -> NatsLogSetup:
    """A log on three servers, shared by all tests."""
    return NatsLogSetup(services.nats(3))


async def leader_of(connection: NatsConnection, shard: int) -> str:
    """Returns the name of the server that leads a shard."""

    async def look() -> str | None:
        try:
            content = await connection.call(f"STREAM.INFO.LOG_{shard}")
        except LogUnavailable:
            return None
        leader: str | None = content["cluster"].get("leader")
        return leader

    return await until_found(look)


def server_named(cluster: NatsCluster, name: str) -> NatsServer:
    return cluster.servers[int(name.removeprefix("n"))]


async def settle(log: TopicLog, record: NewRecord, after_sequence: int) -> int:
    """Appends a record whatever happens: unknown outcomes are settled as the committer does it."""
    while True:
        try:
            return await log.append(record, after_sequence=after_sequence)
        except (AppendUnknown, Conflict):
            found = await until_it_answers(lambda: log.read_next(record.facts.topic_id, after_sequence=after_sequence))
            if found is not None:
                assert found.facts.record_id == record.facts.record_id
                return found.sequence
        except LogUnavailable:
            await asyncio.sleep(0.05)


async def append_until(log: TopicLog, topic_id: TopicId, stop: asyncio.Event) -> list[tuple[NewRecord, int]]:
    """Appends to one topic, one record after the other."""
    appended: list[tuple[NewRecord, int]] = []
    while not stop.is_set():
        record = new_record(topic_id, len(appended) + 1)
        appended.append((record, await settle(log, record, appended[-1][1] if appended else 0)))
    return appended


@pytest.mark.parametrize("fault", ["kill", "freeze"])
async def test_a_leader_that_dies_or_freezes_costs_seconds_and_no_record(three: NatsLogSetup, fault: str) -> None:
    """G1, failure matrix "NATS leader": a pause of 4-8 s (killed) or up to 12 s (frozen), then the same log goes on."""
    topic_id = new_topic(shard=0)
    async with three.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
        disturbances: list[float] = []
        log.on_disturbance(lambda: disturbances.append(asyncio.get_running_loop().time()))
        leader = server_named(three.cluster, await leader_of(connection, 0))
        stop = asyncio.Event()
        try:
            async with asyncio.timeout(60), asyncio.TaskGroup() as tasks:
                appending = tasks.create_task(append_until(log, topic_id, stop))
                await until_it_answers(lambda: log.append(new_record(new_topic(shard=0)), after_sequence=0))
                getattr(leader, fault)()
                await settle(log, new_record(new_topic(shard=0)), 0)
                stop.set()
        finally:
            if fault == "freeze":
                leader.thaw()
            three.cluster.start()
            await three.cluster.wait_ready()
        appended = appending.result()
        await until(lambda: bool(disturbances))

        head = await until_it_answers(lambda: log.read_head(topic_id))
        assert head == stored(*appended[-1])
        records = await until_it_answers(
            lambda: log.read_range(topic_id, after_sequence=0, up_to_sequence=head.sequence, max_bytes=1 << 30)
        )
        assert records == [stored(*each) for each in appended]


async def test_a_replica_that_lags_never_makes_a_read_stale(three: NatsLogSetup) -> None:
    """Exact reads from a node on a server that slept."""
    topics = [new_topic(shard=0) for _ in range(50)]
    async with three.connection() as connection:
        names = {"n0", "n1", "n2"} - {await leader_of(connection, 0)}
    follower = server_named(three.cluster, min(names))
    others = [server.url for server in three.cluster.servers if server is not follower]
    async with (
        three.connection(others) as near,
        NatsTopicLog(near, shards=SHARDS) as writer,
        three.connection([follower.url]) as far,
        NatsTopicLog(far, shards=SHARDS) as reader,
    ):
        heads = dict.fromkeys(topics, 0)
        for position in range(1, 21):
            if position == 2:
                follower.freeze()
            try:
                for topic_id in topics:
                    record = new_record(topic_id, position)
                    heads[topic_id] = await writer.append(record, after_sequence=heads[topic_id])
            except BaseException:
                follower.thaw()
                raise
        follower.thaw()

        found = await until_it_answers(lambda: reader.read_heads(topics))
        records = await until_it_answers(
            lambda: reader.read_range(topics[0], after_sequence=0, up_to_sequence=heads[topics[0]], max_bytes=1 << 30)
        )

        assert {topic_id: head.sequence for topic_id, head in found.items()} == heads
        assert [record.facts.first_position for record in records] == list(range(1, 21))


async def test_a_server_that_slept_is_not_believed_at_once(one: NatsLogSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exact reads: others may have elected a leader while it slept, and it does not know yet."""
    monkeypatch.setattr(nats_connection, "SLEPT_S", 1.0)
    monkeypatch.setattr(nats_connection, "PING_INTERVAL_S", 0.5)
    topic_id = new_topic()
    async with one.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
        head = await log.append(new_record(topic_id), after_sequence=0)
        server = one.cluster.servers[0]
        server.freeze()
        try:
            await until(lambda: connection.silent_for_s() > nats_connection.SLEPT_S)
        finally:
            server.thaw()

        with pytest.raises(LogUnavailable, match="slept"):
            await connection.call("STREAM.INFO.LOG_0")
        found = await log.read_head(topic_id)

        assert found is not None
        assert found.sequence == head


async def test_a_full_link_to_a_frozen_server_does_not_keep_a_node_from_the_others(
    three: NatsLogSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-py waits until the old socket is closed, which never happens while bytes wait for a frozen peer."""
    monkeypatch.setattr(nats_connection, "PING_INTERVAL_S", 0.5)
    async with three.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
        url = connection.client.connected_url
        assert url is not None
        frozen = next(server for server in three.cluster.servers if server.port == url.port)
        frozen.freeze()
        try:
            body = b"x" * 900_000
            lost = await asyncio.gather(
                *(log.append(new_record(new_topic(), body=body), after_sequence=0) for _ in range(20)),
                return_exceptions=True,
            )
            assert all(isinstance(outcome, AppendUnknown) for outcome in lost)

            async with asyncio.timeout(40):
                await settle(log, new_record(new_topic()), 0)
        finally:
            frozen.thaw()


async def test_a_burst_that_the_loop_had_no_time_for_is_heard_whole(one: NatsLogSetup) -> None:
    """It waits in the socket. nats-py's own subscriptions would have dropped what is beyond their queue."""
    async with one.node() as log, one.node() as other:
        topic_id, heard = new_topic(), HeardTopic()
        await log.follow(topic_id, heard)

        await asyncio.gather(*(other.poke(topic_id, position) for position in range(BURST)))
        await until(lambda: len(heard.pokes) == BURST)

        assert heard.pokes == list(range(BURST))


async def test_a_listener_that_fails_costs_the_others_nothing(one: NatsLogSetup) -> None:
    class FailingTopic(HeardTopic):
        def on_poke(self, position: int) -> None:
            raise RuntimeError("on purpose")

    async with one.node() as log:
        failing, sound, heard = new_topic(), new_topic(), HeardTopic()
        await log.follow(failing, FailingTopic())
        await log.follow(sound, heard)

        await log.poke(failing, 1)
        await log.poke(sound, 2)
        await until(lambda: bool(heard.pokes))

        assert heard.pokes == [2]


async def test_a_full_log_refuses_and_forgets_nothing() -> None:
    async with (
        ready_nats_cluster(1) as cluster,
        NatsConnection(cluster.urls, name="test", on_closed=lambda: None) as connection,
    ):
        await make_streams(connection, max_bytes=50_000)
        async with NatsTopicLog(connection, shards=1) as log:
            appended: dict[TopicId, int] = {}

            async def fill() -> None:
                while True:
                    topic_id = new_topic()
                    record = new_record(topic_id, body=b"x" * 1_000)
                    appended[topic_id] = await log.append(record, after_sequence=0)

            with pytest.raises(LogFull):
                await fill()

            heads = await log.read_heads(list(appended))
            assert {topic_id: head.sequence for topic_id, head in heads.items()} == appended


async def make_streams(
    connection: NatsConnection, *, max_bytes: int = -1, shards: int = 1, epochs: dict[int, int] | None = None
) -> None:
    await ensure_streams(
        connection,
        shards=shards,
        replicas=1,
        max_bytes=max_bytes,
        known_epochs=epochs or {},
        timeout_s=10,
    )


@asynccontextmanager
async def own_server() -> AsyncIterator[NatsConnection]:
    async with (
        ready_nats_cluster(1) as cluster,
        NatsConnection(cluster.urls, name="test", on_closed=lambda: None) as connection,
    ):
        yield connection


async def test_a_new_stream_has_the_epoch_after_the_known_one_and_an_old_one_keeps_its_own() -> None:
    """C19."""
    async with own_server() as connection:
        await make_streams(connection, shards=2, epochs={0: 6})
        assert [(await read_stream(connection, shard)).epoch for shard in (0, 1)] == [7, 1]

        await make_streams(connection, shards=2, epochs={0: 9, 1: 9})
        assert [(await read_stream(connection, shard)).epoch for shard in (0, 1)] == [7, 1]


async def test_another_number_of_shards_is_refused() -> None:
    """Topics would be looked for where they are not."""
    async with own_server() as connection:
        await make_streams(connection, shards=2)

        with pytest.raises(ValueError, match="2 shards"):
            await make_streams(connection, shards=3)


async def test_a_log_that_lost_records_refuses_appends(monkeypatch: pytest.MonkeyPatch) -> None:
    """C19, a log restored from an older copy: its epoch is the same, its records are not."""
    monkeypatch.setattr("hubbub_server.adapters.nats.topic_log._WATCH_AGAIN_S", 0.05)
    async with own_server() as connection:
        await make_streams(connection)
        async with NatsTopicLog(connection, shards=1) as log:
            head = 0
            topic_id = new_topic()
            for position in range(1, 501):
                head = await log.append(new_record(topic_id, position), after_sequence=head)
            config = (await connection.call("STREAM.INFO.LOG_0"))["config"]
            await connection.call("STREAM.DELETE.LOG_0")
            await connection.call("STREAM.CREATE.LOG_0", config)
            await connection.client.force_reconnect()

            async def refusal() -> str | None:
                try:
                    await log.append(new_record(new_topic()), after_sequence=0)
                except LogUnavailable as error:
                    return str(error) if "lost records" in str(error) else None
                return None  # not noticed yet; far fewer records come back than were lost

            assert "LOG_0" in await until_found(refusal)


async def test_without_a_quorum_no_read_is_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Failure matrix "two of three NATS": the one that is left may not know what the others acknowledged."""
    monkeypatch.setattr(nats_connection, "RETRY_FOR_S", 1.0)
    monkeypatch.setattr(log_reader, "RETRY_FOR_S", 1.0)
    topic_id = new_topic(shard=0)
    async with ready_nats_cluster(3) as cluster:
        setup = NatsLogSetup(cluster)
        async with setup.connection() as connection:
            sleeper = server_named(cluster, min({"n0", "n1", "n2"} - {await leader_of(connection, 0)}))
        others = [server for server in cluster.servers if server is not sleeper]
        async with (
            setup.connection([server.url for server in others]) as connection,
            NatsTopicLog(connection, shards=SHARDS) as log,
        ):
            head = await settle(log, new_record(topic_id), 0)
            sleeper.kill()
            head = await settle(log, new_record(topic_id, 2), head)
        for server in others:
            server.kill()
        sleeper.start()

        async with NatsConnection([sleeper.url], name="test", on_closed=lambda: None, open_timeout_s=20) as connection:
            reader = LogReader(connection, shards=SHARDS)
            with pytest.raises(LogUnavailable):
                await reader.read_head(topic_id)
            with pytest.raises(LogUnavailable):
                await reader.read_heads([topic_id])
            for server in others:
                server.start()
            heads = await until_it_answers(lambda: reader.read_heads([topic_id]))
            assert heads[topic_id].sequence == head


async def test_live_records_that_come_late_are_not_heard_out_of_order(one: NatsLogSetup) -> None:
    """A leader that was frozen sends what it still had after its successor sent newer ones."""
    topic_id = new_topic(shard=0)
    records = [new_record(topic_id, position) for position in range(1, 5)]
    async with one.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
        heard = HeardTopic()
        await log.follow(topic_id, heard)

        for position in (1, 3, 2, 3, 4):
            record = records[position - 1]
            headers = encode_facts(record.facts) | {"Nats-Sequence": str(position)}
            await connection.publish(f"live.0.{topic_id}", record.body, headers=headers)
        await connection.echo()
        await until(lambda: heard.records[-1].sequence == 4)

        assert [record.sequence for record in heard.records] == [1, 3, 3, 4]


async def test_a_message_that_is_no_record_is_never_skipped() -> None:
    """A read that meets one fails; it does not answer as if the record were not there."""
    topic_id = new_topic()
    async with own_server() as connection, AsyncExitStack() as stack:
        await make_streams(connection)
        log = await stack.enter_async_context(NatsTopicLog(connection, shards=1))
        heard = HeardTopic()
        await log.follow(topic_id, heard)
        head = await log.append(new_record(topic_id), after_sequence=0)
        answer = await connection.request(f"log.0.{topic_id}", b"no record")
        stray = json.loads(answer.data)["seq"]
        await until(lambda: bool(heard.records))

        for read in (
            log.read_head(topic_id),
            log.read_next(topic_id, after_sequence=head),
            log.read_heads([topic_id]),
            log.read_range(topic_id, after_sequence=0, up_to_sequence=stray, max_bytes=1 << 20),
        ):
            with pytest.raises(LogUnavailable, match=str(stray)):
                await read
        assert len(heard.records) == 1


async def test_a_silent_link_is_not_live(one: NatsLogSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    """C83: a link that forwards nothing looks like a good one; only echoes tell."""
    monkeypatch.setattr(nats_connection, "LIVE_FOR_S", 1.0)
    monkeypatch.setattr(nats_connection, "PING_INTERVAL_S", 0.2)
    async with (
        FaultProxy(one.cluster.servers[0].port) as proxy,
        one.connection([f"nats://127.0.0.1:{proxy.port}"]) as connection,
        NatsTopicLog(connection, shards=SHARDS) as log,
    ):
        assert log.is_live()
        proxy.silence()
        await until(lambda: not log.is_live())
        proxy.flow()  # links that come are good; nats-py gives the silent one up by itself
        await until(log.is_live, timeout_s=20)


async def test_a_connection_that_is_closed_for_good_is_reported(one: NatsLogSetup) -> None:
    """nats-py does that after a protocol error: the process has to end."""
    closed: list[int] = []
    async with NatsConnection(one.cluster.urls, name="test", on_closed=lambda: closed.append(1)) as connection:
        too_large = {"Filler": "x" * (connection.max_payload_bytes + 1)}
        await connection.client.publish("some.subject", b"", headers=too_large)
        await until(lambda: bool(closed))

        assert not connection.client.is_connected
        with pytest.raises(LogUnavailable):
            await connection.echo()


async def test_a_deliberate_end_is_not_reported(one: NatsLogSetup) -> None:
    closed: list[int] = []
    async with NatsConnection(one.cluster.urls, name="test", on_closed=lambda: closed.append(1)):
        pass

    assert closed == []


async def test_without_a_server_opening_fails_in_time() -> None:
    async with FaultProxy(1) as proxy:
        proxy.refuse()
        connection = NatsConnection(
            [f"nats://127.0.0.1:{proxy.port}"], name="test", on_closed=lambda: None, open_timeout_s=0.5
        )

        with pytest.raises(LogUnavailable):
            await connection.__aenter__()


async def test_an_unexpected_error_does_not_end_the_reconnecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """uvloop raises RuntimeError for a write to a closed socket; a soak found a node that was cut off for good."""
    init = Client._process_connect_init
    refusals = [RuntimeError("the handler is closed")] * 2

    async def refuse_twice(client: Client) -> None:
        if refusals:
            raise refusals.pop()
        await init(client)

    async with own_server() as connection:
        monkeypatch.setattr(Client, "_process_connect_init", refuse_twice)
        await connection.client.force_reconnect()
        await until(lambda: not refusals and connection.client.is_connected)
        await connection.echo()
