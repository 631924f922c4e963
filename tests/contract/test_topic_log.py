"""What every TopicLog promises: compare-and-set, exact reads, hints of life, and what an unknown outcome may become."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogRecord, NewRecord, RecordTooLarge, TopicLog
from tests.support.log_records import HeardTopic, new_record, new_topic, stored
from tests.support.logs import FaultyNode, LogSetup
from tests.support.waiting import until, until_found, until_it_answers

pytestmark = pytest.mark.asyncio

PLENTY = 1 << 30


async def append_all(log: TopicLog, records: Sequence[NewRecord], *, after_sequence: int = 0) -> list[LogRecord]:
    """Appends records of one topic, one after the other; returns them as readers get them."""
    appended: list[LogRecord] = []
    for record in records:
        after_sequence = await log.append(record, after_sequence=after_sequence)
        appended.append(stored(record, after_sequence))
    return appended


async def append_many(log: TopicLog, topics: Sequence[TopicId]) -> None:
    """Appends a first record to each of many topics."""
    gate = asyncio.Semaphore(64)

    async def append(topic_id: TopicId) -> None:
        async with gate:
            await log.append(new_record(topic_id), after_sequence=0)

    async with asyncio.TaskGroup() as tasks:
        for topic_id in topics:
            tasks.create_task(append(topic_id))


async def read_all(log: TopicLog, topic_id: TopicId) -> list[LogRecord]:
    """Reads a topic record by record."""
    records: list[LogRecord] = []
    while record := await log.read_next(topic_id, after_sequence=records[-1].sequence if records else 0):
        records.append(record)
    return records


async def test_records_come_back_unchanged_by_every_read(log_setup: LogSetup) -> None:
    """The bytes that were committed are the bytes that are read; facts are equal for every reader."""
    topic_id, other = new_topic(), new_topic()
    record = new_record(topic_id, body=bytes(range(256)) * 4)
    facts = replace(
        record.facts,
        epoch=3,
        first_position=7,
        last_position=9,
        last_message_number=6,
        last_counted_number=5,
        kinds=frozenset({"MessageSent", "MembersAdded"}),
        request_hashes=("a1", "", "b2"),
        session_id="d0123",
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    )
    bare = replace(new_record(topic_id, 10).facts, kinds=frozenset(), request_hashes=("",), record_id="bare")
    async with log_setup.node() as writer, log_setup.node() as reader:
        heard = HeardTopic()
        await reader.follow(topic_id, heard)
        first, second = await append_all(
            writer, [NewRecord(facts=facts, body=record.body), NewRecord(facts=bare, body=b"")]
        )
        await writer.append(new_record(other), after_sequence=0)
        await until(lambda: len(heard.records) == 2)

        assert first.facts == facts
        assert heard.records == [first, second]
        assert await reader.read_head(topic_id) == second
        assert await reader.read_next(topic_id, after_sequence=0) == first
        assert await reader.read_range(
            topic_id, after_sequence=0, up_to_sequence=second.sequence, max_bytes=PLENTY
        ) == [first, second]
        head = (await reader.read_heads([topic_id]))[topic_id]
        assert (head.facts, head.sequence) == (second.facts, second.sequence)


async def test_a_topic_without_records_has_no_head(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.node() as log:
        assert await log.read_head(topic_id) is None
        assert await log.read_next(topic_id, after_sequence=0) is None
        assert await log.read_heads([topic_id]) == {}


@pytest.mark.parametrize("shift", [-1, 1])
async def test_a_stale_or_wrong_expectation_is_a_conflict_and_appends_nothing(log_setup: LogSetup, shift: int) -> None:
    """G2."""
    topic_id = new_topic()
    async with log_setup.node() as log:
        (head,) = await append_all(log, [new_record(topic_id)])

        with pytest.raises(Conflict):
            await log.append(new_record(topic_id, 2), after_sequence=head.sequence + shift)

        assert await read_all(log, topic_id) == [head]


async def test_expecting_a_record_of_a_topic_without_any_is_a_conflict(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.node() as log:
        with pytest.raises(Conflict):
            await log.append(new_record(topic_id), after_sequence=1)

        assert await log.read_head(topic_id) is None


async def test_of_concurrent_appends_exactly_one_wins(log_setup: LogSetup) -> None:
    """G2: whatever the others are told, none of them is in the log."""
    topic_id = new_topic()
    async with log_setup.node() as first, log_setup.node() as second:
        head = 0
        for position in range(1, 6):
            records = [new_record(topic_id, position) for _ in range(8)]
            answers = await asyncio.gather(
                *(
                    (first, second)[index % 2].append(record, after_sequence=head)
                    for index, record in enumerate(records)
                ),
                return_exceptions=True,
            )
            won = [answer for answer in answers if isinstance(answer, int)]
            assert len(won) == 1
            assert all(isinstance(answer, int | Conflict) for answer in answers)
            head = won[0]
            winner = stored(records[answers.index(head)], head)
            assert await second.read_head(topic_id) == winner
        assert len(await read_all(first, topic_id)) == 5


async def test_the_same_record_appended_again_after_its_success_is_a_conflict(log_setup: LogSetup) -> None:
    """No record is in the log twice, however often its append is repeated."""
    topic_id = new_topic()
    record = new_record(topic_id)
    async with log_setup.node() as log:
        (head,) = await append_all(log, [record])

        with pytest.raises(Conflict):
            await log.append(record, after_sequence=0)

        assert await read_all(log, topic_id) == [head]


async def open_unknown(node: FaultyNode, record: NewRecord) -> None:
    with pytest.raises(AppendUnknown):
        await node.log.append(record, after_sequence=0)


async def test_an_append_whose_answer_was_lost_is_found(log_setup: LogSetup) -> None:
    """C06: unknown, then committed."""
    topic_id = new_topic()
    record = new_record(topic_id)
    async with log_setup.faulty_node() as node, log_setup.node() as other:
        node.lose_answers()
        await open_unknown(node, record)
        node.recover()

        found = await until_it_answers(lambda: node.log.read_next(topic_id, after_sequence=0))

        assert found is not None
        assert found == stored(record, found.sequence)
        with pytest.raises(Conflict):
            await node.log.append(record, after_sequence=0)
        assert await read_all(other, topic_id) == [found]


async def test_an_append_that_never_arrived_succeeds_when_it_is_repeated(log_setup: LogSetup) -> None:
    """C06: unknown, then committed by the same bytes."""
    topic_id = new_topic()
    record = new_record(topic_id)
    async with log_setup.faulty_node() as node:
        node.lose_requests()
        await open_unknown(node, record)
        node.recover()

        assert await until_it_answers(lambda: node.log.read_next(topic_id, after_sequence=0)) is None
        sequence = await until_it_answers(lambda: node.log.append(record, after_sequence=0))

        assert await read_all(node.log, topic_id) == [stored(record, sequence)]


async def test_a_late_append_arrives_after_a_read_that_did_not_find_it(log_setup: LogSetup) -> None:
    """C06: one read is no proof that a record will never be there."""
    topic_id = new_topic()
    record = new_record(topic_id)
    async with log_setup.faulty_node() as node, log_setup.node() as other:
        node.hold_requests()
        await open_unknown(node, record)
        assert await other.read_next(topic_id, after_sequence=0) is None
        node.recover()

        found = await until_found(lambda: other.read_head(topic_id))

        assert found == stored(record, found.sequence)


async def test_a_late_append_is_refused_when_another_record_came_first(log_setup: LogSetup) -> None:
    """C06: another record directly after the expectation settles it: never."""
    topic_id = new_topic()
    async with log_setup.faulty_node() as node, log_setup.node() as other:
        node.hold_requests()
        await open_unknown(node, new_record(topic_id))
        (winner,) = await append_all(other, [new_record(topic_id)])
        node.recover()
        await until_it_answers(lambda: node.log.read_head(topic_id))

        # The held request is before this one on the same link, so it has been answered when this one is.
        (second,) = await append_all(node.log, [new_record(topic_id, 2)], after_sequence=winner.sequence)

        assert await read_all(other, topic_id) == [winner, second]


async def test_a_cancelled_caller_does_not_cancel_the_append(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    record = new_record(topic_id)
    async with log_setup.node() as log:
        append = asyncio.create_task(log.append(record, after_sequence=0))
        await asyncio.sleep(0)
        append.cancel()
        await asyncio.wait([append])
        assert append.cancelled()

        found = await until_found(lambda: log.read_head(topic_id))

        assert found == stored(record, found.sequence)


async def test_what_was_acknowledged_survives_a_crash(log_setup: LogSetup) -> None:
    """G1: kill -9 of every server; nothing is lost, changed or reordered, and appends go on."""
    topic_id = new_topic()
    async with log_setup.node() as log:
        before = await append_all(log, [new_record(topic_id, position) for position in range(1, 31)])

        await log_setup.crash()

        assert await until_it_answers(lambda: read_all(log, topic_id)) == before
        record = new_record(topic_id, 31)
        sequence = await until_it_answers(lambda: log.append(record, after_sequence=before[-1].sequence))
        head = await log.read_head(topic_id)
        assert head == stored(record, sequence)


async def test_followers_hear_every_topic_they_follow_in_order(log_setup: LogSetup) -> None:
    topic_id, other = new_topic(), new_topic()
    async with log_setup.node() as writer, log_setup.node() as reader:
        heard, own, not_followed = HeardTopic(), HeardTopic(), HeardTopic()
        await reader.follow(topic_id, heard)
        await writer.follow(topic_id, own)
        await reader.follow(other, not_followed)
        await reader.unfollow(other)

        appended = await append_all(writer, [new_record(topic_id, position) for position in range(1, 21)])
        await writer.append(new_record(other), after_sequence=0)
        await until(lambda: len(heard.records) >= 20 and len(own.records) >= 20)

        assert heard.records == own.records == appended
        assert not_followed.records == []


async def test_unfollow_of_what_is_not_followed_does_nothing(log_setup: LogSetup) -> None:
    async with log_setup.node() as log:
        await log.unfollow(new_topic())


async def test_pokes_reach_the_followers_of_a_topic(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.node() as first, log_setup.node() as second:
        near, far = HeardTopic(), HeardTopic()
        await first.follow(topic_id, near)
        await second.follow(topic_id, far)

        await first.poke(new_topic(), 1)
        await first.poke(topic_id, 17)
        await until(lambda: bool(near.pokes and far.pokes))

        assert near.pokes == far.pokes == [17]
        assert near.records == far.records == []


async def test_what_was_missed_while_cut_off_is_announced_and_readable(log_setup: LogSetup) -> None:
    """G4: a reconnect is a disturbance, and reads have everything that was acknowledged."""
    topic_id = new_topic()
    async with log_setup.faulty_node() as node, log_setup.node() as other:
        disturbances: list[int] = []
        heard = HeardTopic()
        await node.log.follow(topic_id, heard)
        before = await append_all(other, [new_record(topic_id)])
        await until(lambda: len(heard.records) == 1)
        node.log.on_disturbance(lambda: disturbances.append(1))
        node.cut()
        missed = await append_all(other, [new_record(topic_id, 2)], after_sequence=before[-1].sequence)
        assert disturbances == []
        node.recover()
        await until(lambda: bool(disturbances))

        after = await append_all(other, [new_record(topic_id, 3)], after_sequence=missed[-1].sequence)
        await until(lambda: heard.records[-1] == after[-1])
        read = await node.log.read_range(
            topic_id, after_sequence=0, up_to_sequence=after[-1].sequence, max_bytes=PLENTY
        )

        assert read == before + missed + after


async def test_without_a_link_calls_fail_and_nothing_is_sent(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.faulty_node() as node, log_setup.node() as other:
        node.cut()

        async def notice_the_cut() -> LogUnavailable | None:
            try:
                await node.log.append(new_record(topic_id), after_sequence=0)
            except AppendUnknown:
                return None  # the link was still thought to be good
            except LogUnavailable as error:
                return error
            return None

        await until_found(notice_the_cut)
        with pytest.raises(LogUnavailable):
            await node.log.follow(topic_id, HeardTopic())
        await node.log.poke(topic_id, 1)
        node.recover()
        await until_it_answers(lambda: node.log.read_head(topic_id))

        assert await other.read_head(topic_id) is None


async def test_heads_of_many_topics(log_setup: LogSetup) -> None:
    """C14: any number of topics, newest record each, without those that have none."""
    topics = [new_topic() for _ in range(2_500)]
    absent = [new_topic() for _ in range(10)]
    async with log_setup.node() as log, log_setup.node() as reader:
        await append_many(log, topics)
        (newest,) = await append_all(
            log, [new_record(topics[0], 2)], after_sequence=(await log.read_heads(topics[:1]))[topics[0]].sequence
        )

        heads = await reader.read_heads([*topics, *absent])

        assert set(heads) == set(topics)
        assert heads[topics[0]].sequence == newest.sequence
        assert heads[topics[0]].facts == newest.facts


async def test_the_last_sequence_of_a_shard_is_that_of_its_newest_record(log_setup: LogSetup) -> None:
    """G4: heads that are read after it are as of that sequence at least, from any node."""
    topics = [new_topic() for _ in range(4)]
    async with log_setup.node() as writer, log_setup.node() as reader:
        for position in range(1, 6):
            for topic_id in topics:
                shard = shard_of(topic_id, 2)
                expected = (await writer.read_heads([topic_id])).get(topic_id)
                before = await reader.read_last_sequence(shard)
                after_sequence = expected.sequence if expected else 0
                sequence = await writer.append(new_record(topic_id, position), after_sequence=after_sequence)
                assert before < sequence <= await reader.read_last_sequence(shard)


async def test_heads_are_never_older_than_an_acknowledged_append(log_setup: LogSetup) -> None:
    """Exact reads: from any node, right after the acknowledgement."""
    topics = [new_topic() for _ in range(5)]
    async with log_setup.node() as writer, log_setup.node() as reader:
        sequences = dict.fromkeys(topics, 0)
        for position in range(1, 21):
            for topic_id in topics:
                record = new_record(topic_id, position)
                sequences[topic_id] = await writer.append(record, after_sequence=sequences[topic_id])
            heads = await reader.read_heads(topics)
            assert {topic_id: head.sequence for topic_id, head in heads.items()} == sequences
            head = await reader.read_head(topics[-1])
            assert head is not None
            assert head.sequence == sequences[topics[-1]]


async def test_a_range_is_complete_and_in_order_however_long(log_setup: LogSetup) -> None:
    """More records than one request carries."""
    topic_id, noise = new_topic(shard=0), new_topic(shard=0)
    async with log_setup.node() as log:
        appended = await append_all(log, [new_record(topic_id, position) for position in range(1, 301)])
        await append_all(log, [new_record(noise)])
        appended += await append_all(
            log, [new_record(topic_id, position) for position in range(301, 601)], after_sequence=appended[-1].sequence
        )

        whole = await log.read_range(topic_id, after_sequence=0, up_to_sequence=appended[-1].sequence, max_bytes=PLENTY)
        middle = await log.read_range(
            topic_id,
            after_sequence=appended[99].sequence,
            up_to_sequence=appended[499].sequence,
            max_bytes=PLENTY,
        )
        nothing = await log.read_range(
            topic_id, after_sequence=appended[-1].sequence, up_to_sequence=appended[-1].sequence, max_bytes=PLENTY
        )

        assert whole == appended
        assert middle == appended[100:500]
        assert nothing == []


async def test_a_range_has_more_bytes_than_one_request_carries(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.node() as log:
        body = b"x" * 700_000
        appended = await append_all(log, [new_record(topic_id, position, body=body) for position in range(1, 10)])

        whole = await log.read_range(topic_id, after_sequence=0, up_to_sequence=appended[-1].sequence, max_bytes=PLENTY)

        assert whole == appended


@pytest.mark.parametrize(("max_bytes", "expected"), [(1, 1), (999, 1), (1_000, 1), (2_000, 2), (2_999, 2), (3_000, 3)])
async def test_a_range_ends_early_at_its_bytes_but_never_empty(
    log_setup: LogSetup, max_bytes: int, expected: int
) -> None:
    topic_id = new_topic()
    async with log_setup.node() as log:
        appended = await append_all(
            log, [new_record(topic_id, position, body=b"x" * 1_000) for position in range(1, 6)]
        )

        records = await log.read_range(
            topic_id, after_sequence=0, up_to_sequence=appended[-1].sequence, max_bytes=max_bytes
        )

        assert records == appended[:expected]


async def test_a_range_up_to_a_record_that_is_not_there_is_refused(log_setup: LogSetup) -> None:
    """Never an incomplete answer."""
    topic_id = new_topic()
    async with log_setup.node() as log:
        (head,) = await append_all(log, [new_record(topic_id)])

        with pytest.raises(LogUnavailable):
            await log.read_range(topic_id, after_sequence=0, up_to_sequence=head.sequence + 1, max_bytes=PLENTY)


async def test_the_largest_record_passes_and_one_byte_more_is_refused_before_sending(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    async with log_setup.node() as log:
        heard = HeardTopic()
        await log.follow(topic_id, heard)
        record = new_record(topic_id)
        size = log_setup.largest_body_bytes(record.facts, 0)
        (largest,) = await append_all(log, [replace(record, body=b"x" * size)])

        with pytest.raises(RecordTooLarge):
            await log.append(replace(new_record(new_topic()), body=b"x" * (size + 1_000)), after_sequence=0)
        other = new_record(new_topic())
        other = replace(other, body=b"x" * (log_setup.largest_body_bytes(other.facts, 0) + 1))
        with pytest.raises(RecordTooLarge):
            await log.append(other, after_sequence=0)

        await until(lambda: bool(heard.records))
        assert heard.records == [largest]
        assert await log.read_head(topic_id) == largest
        assert await log.read_range(topic_id, after_sequence=0, up_to_sequence=largest.sequence, max_bytes=PLENTY) == [
            largest
        ]
        assert set(await log.read_heads([topic_id])) == {topic_id}


async def test_a_recreated_log_has_another_epoch_and_nothing_of_before(log_setup: LogSetup) -> None:
    """C19; followers hear the new log, whose sequences begin again."""
    topic_id = new_topic()
    shard = shard_of(topic_id, 2)
    async with log_setup.faulty_node() as node:
        disturbances: list[int] = []
        heard = HeardTopic()
        epoch = node.log.epoch(shard)
        other_epoch = node.log.epoch(1 - shard)
        await node.log.follow(topic_id, heard)
        await append_all(node.log, [new_record(topic_id, position) for position in range(1, 6)])
        await until(lambda: len(heard.records) == 5)
        node.log.on_disturbance(lambda: disturbances.append(1))

        await log_setup.recreate(shard)
        node.recover()
        await until(lambda: node.log.epoch(shard) != epoch and bool(disturbances))

        assert node.log.epoch(shard) > epoch
        assert node.log.epoch(1 - shard) == other_epoch
        assert await until_it_answers(lambda: node.log.read_head(topic_id)) is None
        record = new_record(topic_id)
        sequence = await until_it_answers(lambda: node.log.append(record, after_sequence=0))
        await until(lambda: heard.records[-1] == stored(record, sequence))


async def test_a_log_that_answers_is_live(log_setup: LogSetup) -> None:
    async with log_setup.node() as log:
        assert log.is_live()
        assert log.shards == 2
        assert all(log.epoch(shard) >= 1 for shard in range(log.shards))
