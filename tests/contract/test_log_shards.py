"""What everyone who looks after the shards of the log relies on: bounds, all records in order, trimming by sequence."""

import asyncio
from functools import partial

import pytest

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.topic_log import Conflict, LogRecord, TopicLog
from tests.support.log_records import new_record, new_topic, stored
from tests.support.logs import LogSetup
from tests.support.waiting import until_it_answers

pytestmark = pytest.mark.asyncio

SHARD = 0


async def append(log: TopicLog, *topics: TopicId) -> list[LogRecord]:
    """Appends one record to each topic, in order; a topic may come several times."""
    heads: dict[TopicId, LogRecord] = {}
    appended: list[LogRecord] = []
    for topic_id in topics:
        before = heads.get(topic_id)
        record = new_record(topic_id, before.facts.last_position + 1 if before else 1)
        append = partial(log.append, record, after_sequence=before.sequence if before else 0)
        heads[topic_id] = stored(record, await until_it_answers(append))
        appended.append(heads[topic_id])
    return appended


async def read_all(shards: LogShards, after_sequence: int, up_to_sequence: int) -> list[LogRecord]:
    """Reads as a caller does: until there is nothing more."""
    records: list[LogRecord] = []
    while found := await shards.read_records(
        SHARD, after_sequence=records[-1].sequence if records else after_sequence, up_to_sequence=up_to_sequence
    ):
        records += found
    return records


async def test_bounds_move_with_the_log(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.shards() as shards:
        await append(log, new_topic(shard=SHARD))
        before = await shards.read_bounds(SHARD)
        (record,) = await append(log, new_topic(shard=SHARD))
        after = await shards.read_bounds(SHARD)

        assert before.epoch == after.epoch == log.epoch(SHARD)
        assert before.first_sequence == after.first_sequence >= 1
        assert before.last_sequence + 1 == after.last_sequence == record.sequence


async def test_records_of_all_topics_are_read_in_order(log_setup: LogSetup) -> None:
    one, two = new_topic(shard=SHARD), new_topic(shard=SHARD)
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, *[one, two, one] * 7)
        first, last = appended[0].sequence, appended[-1].sequence

        assert await read_all(shards, first - 1, last) == appended
        assert await read_all(shards, first, last - 1) == appended[1:-1]
        assert await read_all(shards, last, last) == []


async def test_trimming_removes_what_is_older_and_nothing_else(log_setup: LogSetup) -> None:
    """G1: by sequence; sequences and the expectations of appends go on."""
    whole, part, kept = (new_topic(shard=SHARD) for _ in range(3))
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, whole, part, part, kept)
        below = appended[2].sequence
        await shards.trim(SHARD, below_sequence=below)
        await shards.trim(SHARD, below_sequence=below - 1)
        bounds = await shards.read_bounds(SHARD)

        assert (bounds.first_sequence, bounds.last_sequence) == (below, appended[-1].sequence)
        assert await log.read_head(whole) is None
        assert await log.read_head(part) == appended[2]
        assert await log.read_next(part, after_sequence=0) == appended[2]
        assert await log.read_head(kept) == appended[3]
        heads = await log.read_heads([whole, part, kept])
        assert {topic_id: head.sequence for topic_id, head in heads.items()} == {
            part: appended[2].sequence,
            kept: appended[3].sequence,
        }
        assert await read_all(shards, 0, bounds.last_sequence) == appended[2:]


async def test_who_knew_a_topic_before_it_was_trimmed_cannot_append_on_that(log_setup: LogSetup) -> None:
    """G2: the head is 0 now, whatever it was."""
    topic_id = new_topic(shard=SHARD)
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, topic_id, topic_id)
        await shards.trim(SHARD, below_sequence=appended[-1].sequence + 1)

        with pytest.raises(Conflict):
            await log.append(new_record(topic_id, 3), after_sequence=appended[-1].sequence)
        assert await log.append(new_record(topic_id, 3), after_sequence=0) > appended[-1].sequence


async def test_shard_that_was_trimmed_wholly_has_no_heads_and_goes_on(log_setup: LogSetup) -> None:
    topics = [new_topic(shard=SHARD) for _ in range(3)]
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, *topics)
        await shards.trim(SHARD, below_sequence=appended[-1].sequence + 1)
        bounds = await shards.read_bounds(SHARD)

        assert (bounds.first_sequence, bounds.last_sequence) == (appended[-1].sequence + 1, appended[-1].sequence)
        assert await log.read_heads(topics) == {}
        assert await read_all(shards, 0, bounds.last_sequence) == []
        (after,) = await append(log, new_topic(shard=SHARD))
        assert after.sequence == appended[-1].sequence + 1
        assert await log.read_heads(topics) == {}


async def test_first_young_record_is_found_by_the_age_of_records(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.shards() as shards:
        old, *_ = await append(log, *[new_topic(shard=SHARD)] * 3)
        await asyncio.sleep(0.6)
        young, last = await append(log, *[new_topic(shard=SHARD)] * 2)
        found = await shards.find_younger(SHARD, age_s=0.5)
        bounds = await shards.read_bounds(SHARD)

        assert old.sequence < found <= young.sequence
        assert await shards.find_younger(SHARD, age_s=3_600) == bounds.first_sequence
        assert await shards.find_younger(SHARD, age_s=-60) == last.sequence + 1


async def test_another_epoch_is_noticed_by_nodes(log_setup: LogSetup) -> None:
    """G4: C19; the records stay."""
    topic_id = new_topic(shard=1)
    async with log_setup.shards() as shards, log_setup.node() as before:
        await append(before, topic_id)
        epoch = before.epoch(1)
        await shards.set_epoch(1, epoch + 1)
        async with log_setup.node() as after:
            head = await after.read_head(topic_id)

            assert after.epoch(1) == epoch + 1
            assert head is not None
            assert (await shards.read_bounds(1)).epoch == epoch + 1
        await shards.set_epoch(1, epoch)


async def test_trimmed_log_lost_nothing(log_setup: LogSetup) -> None:
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, *[new_topic(shard=SHARD)] * 3)
        await shards.accept_losses(SHARD)
        await shards.trim(SHARD, below_sequence=appended[1].sequence)
        assert (await shards.read_bounds(SHARD)).lost_sequence is None
        await shards.trim(SHARD, below_sequence=appended[2].sequence + 1)
        assert (await shards.read_bounds(SHARD)).lost_sequence is None
        await append(log, new_topic(shard=SHARD))
        assert (await shards.read_bounds(SHARD)).lost_sequence is None


async def test_record_that_is_gone_and_was_not_trimmed_is_lost(log_setup: LogSetup) -> None:
    """G1: until somebody accepts it; then the next one is."""
    async with log_setup.node() as log, log_setup.shards() as shards:
        appended = await append(log, *[new_topic(shard=SHARD)] * 4)
        await shards.accept_losses(SHARD)
        await log_setup.lose(SHARD, appended[1].sequence)
        assert (await shards.read_bounds(SHARD)).lost_sequence == appended[1].sequence
        await shards.accept_losses(SHARD)
        assert (await shards.read_bounds(SHARD)).lost_sequence is None
        more = await append(log, *[new_topic(shard=SHARD)] * 3)
        await log_setup.lose(SHARD, more[1].sequence)
        assert (await shards.read_bounds(SHARD)).lost_sequence == more[1].sequence
        await shards.accept_losses(SHARD)


async def test_oldest_records_that_were_not_trimmed_are_lost(log_setup: LogSetup) -> None:
    """G1, G2: a server that misses a block file says "nothing before 63" as one does whose log was trimmed."""
    async with log_setup.node() as log, log_setup.shards() as shards:
        await shards.accept_losses(SHARD)
        appended = await append(log, *[new_topic(shard=SHARD)] * 4)
        await shards.trim(SHARD, below_sequence=appended[1].sequence)
        await log_setup.lose_below(SHARD, appended[3].sequence)
        bounds = await shards.read_bounds(SHARD)
        assert (bounds.first_sequence, bounds.lost_sequence) == (appended[3].sequence, appended[1].sequence)
        await shards.accept_losses(SHARD)
        assert (await shards.read_bounds(SHARD)).lost_sequence is None


async def test_epoch_never_goes_back(log_setup: LogSetup) -> None:
    """Of two that begin one, the one who is late must not undo the other's."""
    async with log_setup.shards() as shards:
        epoch = (await shards.read_bounds(SHARD)).epoch
        await shards.set_epoch(SHARD, epoch + 2)
        await shards.set_epoch(SHARD, epoch + 1)
        assert (await shards.read_bounds(SHARD)).epoch == epoch + 2
