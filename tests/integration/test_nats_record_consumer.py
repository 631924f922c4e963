"""What only real NATS servers show of consumers: strangers in the log, holes, deliveries to nobody."""

import asyncio
from contextlib import AsyncExitStack, suppress
from functools import partial

import pytest

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.record_consumer import NatsRecordConsumers
from hubbub_server.adapters.nats.topic_log import NatsTopicLog
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import RecordConsumer, RecordConsumers, RecordLost, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord
from tests.contract.test_record_consumer import TOLD_WITHIN_S, WAIT_S, append, fetch_exactly, new_role, skip_to_end
from tests.support.fault_proxy import Cut, Direction, FaultProxy
from tests.support.log_records import new_topic
from tests.support.logs import SHARDS, NatsLogSetup
from tests.support.services import Services, ready_nats_cluster
from tests.support.waiting import RECOVERY_TIMEOUT_S, until_found

pytestmark = pytest.mark.asyncio


async def test_a_message_that_is_no_record_is_handed_out_as_one_that_cannot_be_read() -> None:
    """In its place, as often as it comes, and it can be acknowledged like any other."""
    role = new_role()
    async with ready_nats_cluster(1) as cluster:
        setup = NatsLogSetup(cluster)
        async with setup.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
            before = await append(log, 3)
            topic_id = new_topic(shard=0)
            await connection.request(f"log.0.{topic_id}", b"no record", headers={"Some-Header": "x"})
            after = await append(log, 3)
            consumers = NatsRecordConsumers(connection)
            for _ in range(2):
                async with consumers.open(role=role, shard=0) as consumer:
                    fetched = list(await consumer.fetch(max_records=10, wait_s=WAIT_S))
                    while len(fetched) < 7:
                        fetched += await consumer.fetch(max_records=10, wait_s=WAIT_S)
                    stranger = fetched.pop(3)
                    assert fetched == [*before, *after]
                    assert isinstance(stranger, UnreadableRecord)
                    assert (stranger.topic_id, stranger.sequence, stranger.body) == (topic_id, 4, b"no record")
                    assert stranger.headers["Some-Header"] == "x"
            async with consumers.open(role=role, shard=0) as consumer:
                stranger = (await consumer.fetch(max_records=4, wait_s=WAIT_S))[-1]
                await consumer.ack(stranger)
                assert await consumer.acknowledged() == 4


async def test_a_record_that_was_lost_from_the_log_is_reported() -> None:
    """A hole is never passed over: what was acknowledged to somebody is missing."""
    async with ready_nats_cluster(1) as cluster:
        setup = NatsLogSetup(cluster)
        async with setup.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
            before = await append(log, 5)
            await connection.call("STREAM.MSG.DELETE.LOG_0", {"seq": 3})
            async with NatsRecordConsumers(connection).open(role=new_role(), shard=0) as consumer:
                assert await fetch_exactly(consumer, 2) == before[:2]
                for _ in range(2):
                    with pytest.raises(RecordLost) as lost:
                        await consumer.fetch(max_records=10, wait_s=WAIT_S)
                    assert lost.value.sequence == 3


async def test_a_trimmed_log_is_read_from_its_first_record_by_a_new_role() -> None:
    async with ready_nats_cluster(1) as cluster:
        setup = NatsLogSetup(cluster)
        async with setup.connection() as connection, NatsTopicLog(connection, shards=SHARDS) as log:
            appended = await append(log, 5)
            await connection.call("STREAM.PURGE.LOG_0", {"seq": 3})
            async with NatsRecordConsumers(connection).open(role=new_role(), shard=0) as consumer:
                assert await fetch_exactly(consumer, 3) == appended[2:]


async def test_what_was_delivered_to_a_dead_worker_comes_to_the_next_at_once(services: Services) -> None:
    """Kill -9 of a worker: nothing waits for a time-out of the server, nothing is skipped."""
    setup = NatsLogSetup(services.nats(1))
    role = new_role()
    async with (
        setup.node() as log,
        setup.consumers() as next_worker,
        FaultProxy(setup.cluster.servers[0].port) as proxy,
        setup.connection([f"nats://127.0.0.1:{proxy.port}"]) as connection,
        NatsRecordConsumers(connection).open(role=role, shard=0) as consumer,
    ):
        await skip_to_end(consumer)
        appended = await append(log, 10)
        fetched = await fetch_exactly(consumer, 10)
        await consumer.ack(fetched[3])
        assert await consumer.fetch(max_records=1, wait_s=TOLD_WITHIN_S) == []
        proxy.refuse()
        proxy.cut(Cut.RST)
        await consumer.ack(fetched[6])

        async with asyncio.timeout(10), next_worker.open(role=role, shard=0) as heir:
            assert await fetch_exactly(heir, 6) == appended[4:]


async def test_what_was_sent_over_a_link_that_broke_comes_again(services: Services) -> None:
    """The server thinks that it delivered; the last records of a shard must not wait for ack_wait either."""
    setup = NatsLogSetup(services.nats(1))
    async with (
        setup.node() as log,
        FaultProxy(setup.cluster.servers[0].port) as proxy,
        setup.connection([f"nats://127.0.0.1:{proxy.port}"]) as connection,
        NatsRecordConsumers(connection).open(role=new_role(), shard=0) as consumer,
    ):
        await skip_to_end(consumer)
        proxy.stall(Direction.FROM_TARGET)
        appended = await append(log, 5)
        proxy.cut(Cut.RST)
        proxy.flow()

        assert await fetch_exactly(consumer, 5) == appended


async def until_told(consumer: RecordConsumer, others: RecordConsumers, role: str, record: LogRecord) -> None:
    """Fetches, as a worker does when nothing new comes, until what was acknowledged is known to others."""
    async with asyncio.timeout(RECOVERY_TIMEOUT_S):
        while await others.acknowledged(role=role, shard=0) != record.sequence:
            with suppress(LogUnavailable):
                assert await consumer.fetch(max_records=10, wait_s=0.05) == []


async def test_floor_that_could_not_be_written_is_written_when_the_log_is_back(services: Services) -> None:
    """C87: the log was away when a worker was done with the last records of a shard; nothing may follow in it."""
    setup = NatsLogSetup(services.nats(1))
    role = new_role()
    async with (
        setup.node() as log,
        setup.consumers() as others,
        FaultProxy(setup.cluster.servers[0].port) as proxy,
        setup.connection([f"nats://127.0.0.1:{proxy.port}"]) as connection,
        NatsRecordConsumers(connection).open(role=role, shard=0) as consumer,
    ):
        await skip_to_end(consumer)
        fetched = await fetch_exactly(consumer, len(await append(log, 5)))
        proxy.refuse()
        proxy.cut(Cut.RST)
        await consumer.ack(fetched[-1])
        with pytest.raises(LogUnavailable):
            await consumer.fetch(max_records=10, wait_s=2 * TOLD_WITHIN_S)
        proxy.flow()

        await until_told(consumer, others, role, fetched[-1])


async def test_worker_whose_floor_is_taken_back_begins_again_at_the_first_record(services: Services) -> None:
    """`hubbub log new-epoch` makes all roles start over, whoever has the consumer open; so does a newer worker."""
    setup = NatsLogSetup(services.nats(1))
    role = new_role()
    async with (
        setup.node() as log,
        setup.consumers() as consumers,
        setup.consumers() as others,
        consumers.open(role=role, shard=0) as consumer,
    ):
        await skip_to_end(consumer)
        appended = await append(log, 5)
        fetched = await fetch_exactly(consumer, 5)
        await consumer.ack(fetched[2])
        await until_told(consumer, others, role, fetched[2])

        await others.forget(role=role, shard=0)
        await consumer.ack(fetched[-1])
        with pytest.raises(LogUnavailable):
            await consumer.fetch(max_records=10, wait_s=2 * TOLD_WITHIN_S)
        again = await consumer.fetch(max_records=1_000_000, wait_s=WAIT_S)

        assert await others.acknowledged(role=role, shard=0) == 0
        assert again[0].sequence < appended[0].sequence or len(again) == 5


async def test_reader_that_somebody_deleted_is_made_again_and_misses_nothing(services: Services) -> None:
    """C85: a worker that only waits would be silent for ever."""
    setup = NatsLogSetup(services.nats(1))
    role = new_role()
    async with (
        setup.node() as log,
        setup.connection() as connection,
        NatsRecordConsumers(connection).open(role=role, shard=0) as consumer,
    ):
        await skip_to_end(consumer)
        before = await fetch_exactly(consumer, len(await append(log, 3)))
        names = (await connection.call("CONSUMER.NAMES.LOG_0"))["consumers"]
        for reader in names:  # others make theirs again, too
            await connection.call(f"CONSUMER.DELETE.LOG_0.{reader}")
        after = await append(log, 3)

        assert await fetch_exactly(consumer, 3) == after
        await consumer.ack(before[-1])
        await consumer.ack(after[-1])
        assert await consumer.lag() == 0


async def readers(connection: NatsConnection) -> int | None:
    """Counts what reads the shard at the server; None: nothing."""
    return len((await connection.call("CONSUMER.NAMES.LOG_0"))["consumers"] or []) or None


async def test_roles_of_one_process_read_their_shard_once() -> None:
    """Who waits hears what another one reads; who goes away while it reads takes nothing from the others."""
    async with ready_nats_cluster(1) as cluster, AsyncExitStack() as stack:
        setup = NatsLogSetup(cluster)
        connection = await stack.enter_async_context(setup.connection())
        log = await stack.enter_async_context(NatsTopicLog(connection, shards=SHARDS))
        consumers = NatsRecordConsumers(connection)
        opened = [await stack.enter_async_context(consumers.open(role=f"role{n}", shard=0)) for n in range(3)]
        going = asyncio.create_task(fetch_exactly(opened[0], 1))  # the first one is who reads on
        waiting = [asyncio.create_task(fetch_exactly(consumer, 300, batch=7)) for consumer in opened[1:]]
        await until_found(partial(readers, connection))
        going.cancel()
        appended = await append(log, 300)

        assert await asyncio.gather(*waiting) == [appended, appended]
        assert await fetch_exactly(opened[0], 300) == appended
        assert await readers(connection) == 1


async def test_role_that_is_far_behind_the_others_goes_its_own_way_until_it_is_near() -> None:
    """A role that waits for its store must not hold up the others, nor miss what they let go."""
    async with ready_nats_cluster(1) as cluster, AsyncExitStack() as stack:
        setup = NatsLogSetup(cluster)
        connection = await stack.enter_async_context(setup.connection())
        log = await stack.enter_async_context(NatsTopicLog(connection, shards=SHARDS))
        consumers = NatsRecordConsumers(connection)
        fast = await stack.enter_async_context(consumers.open(role="fast", shard=0))
        slow = await stack.enter_async_context(consumers.open(role="slow", shard=0))
        appended = await append(log, 2_500)
        assert await fetch_exactly(fast, 2_500) == appended

        assert await fetch_exactly(slow, 100) == appended[:100]
        assert await readers(connection) == 2
        assert await fetch_exactly(slow, 2_400) == appended[100:]
        more = await append(log, 10)
        assert await fetch_exactly(slow, 10) == more
        assert await fetch_exactly(fast, 10) == more
        assert await readers(connection) == 1
