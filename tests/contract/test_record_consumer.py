"""What every RecordConsumer promises: all records of a shard in order, none lost, from the last acknowledged on."""

import asyncio
import secrets
from functools import partial

import pytest

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import RecordConsumer
from hubbub_server.ports.topic_log import LogRecord, TopicLog
from tests.support.log_records import new_record, new_topic, stored
from tests.support.logs import LogSetup
from tests.support.waiting import until_it_answers

pytestmark = pytest.mark.asyncio

SHARD = 0
WAIT_S = 10.0
NOTHING_COMES_S = 0.05
TOLD_WITHIN_S = 1.5


def new_role() -> str:
    """Real servers are shared: each test is a role of its own."""
    return f"test-{secrets.token_hex(6)}"


async def append(log: TopicLog, count: int, *, topics: int = 3) -> list[LogRecord]:
    """Appends records to new topics of the shard, turn by turn."""
    names = [new_topic(shard=SHARD) for _ in range(topics)]
    heads = dict.fromkeys(names, 0)
    appended: list[LogRecord] = []
    for index in range(count):
        topic_id = names[index % topics]
        record = new_record(topic_id, index // topics + 1)
        heads[topic_id] = await until_it_answers(partial(log.append, record, after_sequence=heads[topic_id]))
        appended.append(stored(record, heads[topic_id]))
    return appended


async def skip_to_end(consumer: RecordConsumer) -> None:
    """Acknowledges what earlier tests left in the shard."""
    while await consumer.lag():
        if records := await consumer.fetch(max_records=1_000, wait_s=WAIT_S):
            await consumer.ack(records[-1])


async def fetch_exactly(consumer: RecordConsumer, count: int, *, batch: int = 1_000) -> list[LogRecord]:
    """Fetches until `count` records came."""
    fetched: list[LogRecord] = []
    async with asyncio.timeout(60):
        while len(fetched) < count:
            wanted = min(batch, count - len(fetched))
            for record in await until_it_answers(partial(consumer.fetch, max_records=wanted, wait_s=WAIT_S)):
                assert isinstance(record, LogRecord)
                fetched.append(record)
    return fetched


async def test_a_new_role_starts_at_the_first_record(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.consumers() as consumers, log_setup.shards() as shards:
        appended = await append(log, 5)
        first = (await shards.read_bounds(SHARD)).first_sequence
        async with consumers.open(role=new_role(), shard=SHARD) as consumer:
            everything = await fetch_exactly(consumer, appended[-1].sequence + 1 - first)

        sequences = [record.sequence for record in everything]
        assert sequences == list(range(first, appended[-1].sequence + 1))
        assert everything[-5:] == appended


async def test_a_forgotten_role_starts_at_the_first_record_again(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.consumers() as consumers, log_setup.shards() as shards:
        role = new_role()
        appended = await append(log, 5)
        bounds = await shards.read_bounds(SHARD)
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)

        await consumers.forget(role=role, shard=SHARD)
        async with consumers.open(role=role, shard=SHARD) as consumer:
            acknowledged, lag = await consumer.acknowledged(), await consumer.lag()
            (first,) = await fetch_exactly(consumer, 1, batch=1)

        assert first.sequence == bounds.first_sequence
        assert acknowledged == bounds.first_sequence - 1
        assert lag == appended[-1].sequence + 1 - bounds.first_sequence


async def test_a_consumer_says_what_was_acknowledged_last(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        role = new_role()
        appended = await append(log, 3)
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            after_ack = await consumer.acknowledged()
            await append(log, 1)
            await fetch_exactly(consumer, 1)
        async with consumers.open(role=role, shard=SHARD) as consumer:
            after_opening = await consumer.acknowledged()

        assert after_ack == after_opening == appended[-1].sequence


async def test_how_far_a_role_is_can_be_read_beside_its_open_consumer(log_setup: LogSetup) -> None:
    """The trimmer asks; the worker that reads must not notice."""
    async with log_setup.node() as log, log_setup.consumers() as consumers, log_setup.consumers() as others:
        role = new_role()
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            appended = await append(log, 6)
            fetched = await fetch_exactly(consumer, 4)
            await consumer.ack(fetched[1])
            rest = await fetch_exactly(consumer, 2)
            assert await consumer.fetch(max_records=1, wait_s=TOLD_WITHIN_S) == []
            acknowledged = await others.acknowledged(role=role, shard=SHARD)
            unknown = await others.acknowledged(role=new_role(), shard=SHARD)

        assert acknowledged == appended[1].sequence
        assert fetched + rest == appended
        assert unknown == 0


async def test_consumers_go_on_when_what_they_are_past_is_trimmed(log_setup: LogSetup) -> None:
    """G1: an open one, a reopened and a new one: what is left is not passed over, what is gone is not missed."""
    async with log_setup.node() as log, log_setup.consumers() as consumers, log_setup.shards() as shards:
        role = new_role()
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            before = await append(log, 4)
            fetched = await fetch_exactly(consumer, 4)
            await consumer.ack(fetched[2])
            await shards.trim(SHARD, below_sequence=before[3].sequence)
            after = await append(log, 2)
            went_on = await fetch_exactly(consumer, 2)
        async with consumers.open(role=role, shard=SHARD) as consumer:
            reopened = await fetch_exactly(consumer, 3)
            await consumer.ack(reopened[-1])
            await shards.trim(SHARD, below_sequence=after[-1].sequence + 1)
            last = await append(log, 1)
        async with (
            consumers.open(role=role, shard=SHARD) as consumer,
            consumers.open(role=new_role(), shard=SHARD) as newcomer,
        ):
            assert await fetch_exactly(consumer, 1) == last
            assert await fetch_exactly(newcomer, 1) == last

        assert went_on == after
        assert reopened == [before[3], *after]


async def test_a_role_that_is_unknown_can_be_forgotten(log_setup: LogSetup) -> None:
    async with log_setup.node(), log_setup.consumers() as consumers:
        await consumers.forget(role=new_role(), shard=SHARD)


async def test_records_come_in_order_in_batches_as_they_are_appended(log_setup: LogSetup) -> None:
    async with (
        log_setup.node() as log,
        log_setup.consumers() as consumers,
        consumers.open(role=new_role(), shard=SHARD) as consumer,
    ):
        await skip_to_end(consumer)
        async with asyncio.TaskGroup() as tasks:
            appending = tasks.create_task(append(log, 60))
            fetched = await fetch_exactly(consumer, 60, batch=7)

        assert fetched == appending.result()
        assert await consumer.fetch(max_records=10, wait_s=NOTHING_COMES_S) == []


async def test_a_fetch_returns_at_most_what_was_asked_for(log_setup: LogSetup) -> None:
    async with (
        log_setup.node() as log,
        log_setup.consumers() as consumers,
        consumers.open(role=new_role(), shard=SHARD) as consumer,
    ):
        await skip_to_end(consumer)
        appended = await append(log, 5)

        first = await consumer.fetch(max_records=2, wait_s=WAIT_S)
        rest = await fetch_exactly(consumer, 5 - len(first))

        assert 1 <= len(first) <= 2
        assert [*first, *rest] == appended


async def test_what_was_not_acknowledged_comes_again_at_once_after_a_restart(log_setup: LogSetup) -> None:
    """G8: from the first unacknowledged record on, without waiting for a time-out of the server."""
    role = new_role()
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            appended = await append(log, 10)
            fetched = await fetch_exactly(consumer, 10)
            await consumer.ack(fetched[3])
            assert await consumer.lag() == 6

        async with asyncio.timeout(10), consumers.open(role=role, shard=SHARD) as consumer:
            again = await fetch_exactly(consumer, 6)
            await consumer.ack(again[-1])
            assert again == appended[4:]
            assert await consumer.lag() == 0


async def test_one_acknowledgement_covers_everything_before_it(log_setup: LogSetup) -> None:
    role = new_role()
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            await append(log, 10)
            fetched = await fetch_exactly(consumer, 10)
            await consumer.ack(fetched[-1])

        async with consumers.open(role=role, shard=SHARD) as consumer:
            assert await consumer.fetch(max_records=10, wait_s=NOTHING_COMES_S) == []
            assert await consumer.lag() == 0


async def test_roles_and_shards_are_apart(log_setup: LogSetup) -> None:
    first_role, second_role = new_role(), new_role()
    async with (
        log_setup.node() as log,
        log_setup.consumers() as consumers,
        consumers.open(role=first_role, shard=SHARD) as first,
        consumers.open(role=second_role, shard=SHARD) as second,
        consumers.open(role=first_role, shard=1) as elsewhere,
    ):
        for consumer in (first, second, elsewhere):
            await skip_to_end(consumer)
        appended = await append(log, 4)
        await first.ack((await fetch_exactly(first, 4))[-1])

        assert await fetch_exactly(second, 4) == appended
        assert await elsewhere.fetch(max_records=10, wait_s=NOTHING_COMES_S) == []
        assert (await first.lag(), await second.lag(), await elsewhere.lag()) == (0, 4, 0)


async def test_a_crash_of_the_log_loses_and_reorders_nothing(log_setup: LogSetup) -> None:
    """G8: kill -9 of all servers between two fetches, and again for a worker that starts after it."""
    role = new_role()
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            appended = await append(log, 20)
            fetched = await fetch_exactly(consumer, 8)
            await consumer.ack(fetched[3])

            await log_setup.crash()
            appended += await append(log, 10)
            fetched += await fetch_exactly(consumer, 22)
            await until_it_answers(lambda: consumer.ack(fetched[14]))

            assert fetched == appended

        async with consumers.open(role=role, shard=SHARD) as consumer:
            assert await fetch_exactly(consumer, 15) == appended[15:]


async def test_a_recreated_log_is_read_from_its_beginning(log_setup: LogSetup) -> None:
    """C19: nothing that was acknowledged of the lost log counts for the new one."""
    role = new_role()
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            await append(log, 5)
            old = await fetch_exactly(consumer, 5)
            await consumer.ack(old[1])

            await log_setup.recreate(SHARD)
            appended = await append(log, 3)
            fetched = await fetch_exactly(consumer, 3)

            assert fetched == appended
            for record in (old[0], old[-1]):
                with pytest.raises(LogUnavailable):
                    await consumer.ack(record)
            await consumer.ack(fetched[0])

        async with consumers.open(role=role, shard=SHARD) as consumer:
            assert await fetch_exactly(consumer, 2) == appended[1:]


async def test_what_a_role_acknowledged_before_it_ended_does_not_count_for_a_log_that_was_recreated(
    log_setup: LogSetup,
) -> None:
    """C19: also when the new log is as long as the old one by the time that somebody looks."""
    role = new_role()
    async with log_setup.node() as log, log_setup.consumers() as consumers:
        async with consumers.open(role=role, shard=SHARD) as consumer:
            await skip_to_end(consumer)
            await append(log, 2)
            await consumer.ack((await fetch_exactly(consumer, 2))[-1])

        await log_setup.recreate(SHARD)
        appended = await append(log, 20)

        async with consumers.open(role=role, shard=SHARD) as consumer:
            assert await fetch_exactly(consumer, 20) == appended
