"""The topic log on real servers that are killed and frozen while three nodes contend for the same topics.

Meanwhile no head that is read may be older than what was acknowledged. Afterwards every acknowledged record must be
there unchanged and once, positions dense, live records in order and none that the log does not have, and a consumer
that was opened again and again must have seen everything in order.
"""

import asyncio
import random
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial

import pytest

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.record_consumer import RecordConsumer
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogRecord, NewRecord, TopicLog
from tests.support.log_records import HeardTopic, new_record, new_topic, stored
from tests.support.logs import SHARDS, NatsLogSetup
from tests.support.services import NatsCluster, ready_nats_cluster
from tests.support.waiting import until_it_answers

pytestmark = [
    pytest.mark.asyncio,
    # nats-py forgets the socket of an attempt to connect that failed; the garbage collector closes it.
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

NODES = 3
TOPICS = 6
FAULTS_FOR_S = 10.0


@dataclass
class Run:
    """What happened."""

    setup: NatsLogSetup
    seed: int
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    committed: dict[TopicId, dict[int, NewRecord]] = field(default_factory=dict)
    consumed: list[list[LogRecord]] = field(default_factory=lambda: [[] for _ in range(SHARDS)])
    counts: Counter[str] = field(default_factory=Counter)


async def commit(log: TopicLog, record: NewRecord, after_sequence: int, counts: Counter[str]) -> int:
    """Appends a record and settles an unknown outcome; raises Conflict when it never was appended."""
    is_unknown = False
    while True:
        try:
            sequence = await log.append(record, after_sequence=after_sequence)
            counts["appended again" if is_unknown else "appended"] += 1
            return sequence
        except Conflict:
            if not is_unknown:
                raise
        except AppendUnknown:
            is_unknown = True
            counts["unknown"] += 1
        except LogUnavailable:
            if not is_unknown:
                raise
        read = partial(log.read_next, record.facts.topic_id, after_sequence=after_sequence)
        following = await until_it_answers(read)
        if following is not None and following.facts.record_id != record.facts.record_id:
            counts["never appended"] += 1
            raise Conflict("another record came first")
        if following is not None:
            counts["found"] += 1
            return following.sequence


async def write(run: Run, log: TopicLog, topic_id: TopicId, dice: random.Random) -> None:
    """Commits one record after the other to a topic that other nodes write too."""
    while not run.stop.is_set():
        head = await until_it_answers(lambda: log.read_head(topic_id))
        sequence, position = (head.sequence, head.facts.last_position) if head else (0, 0)
        try:
            while not run.stop.is_set():
                record = new_record(topic_id, position + 1)
                sequence = await commit(log, record, sequence, run.counts)
                assert sequence not in run.committed[topic_id]
                run.committed[topic_id][sequence] = record
                position += 1
                await asyncio.sleep(dice.random() * 0.02)
        except Conflict:
            run.counts["conflict"] += 1
        except LogUnavailable:
            run.counts["unavailable"] += 1


async def read(run: Run, log: TopicLog, topics: list[TopicId]) -> None:
    """Reads heads all the time: none is older than what was acknowledged to anybody before the question."""
    while not run.stop.is_set():
        for topic_id in topics:
            acknowledged = {each: max(run.committed[each], default=0) for each in topics}
            try:
                head = await log.read_head(topic_id)
                heads = await log.read_heads(topics)
            except LogUnavailable:
                continue
            assert (head.sequence if head else 0) >= acknowledged[topic_id]
            for each, sequence in acknowledged.items():
                assert (heads[each].sequence if each in heads else 0) >= sequence
            run.counts["heads read"] += 1
        await asyncio.sleep(0.01)


async def consume(run: Run, shard: int, dice: random.Random) -> None:
    """Consumes a shard with a consumer that is opened anew now and then, and acknowledges not everything."""
    while not run.stop.is_set():
        try:
            async with run.setup.consumers() as consumers, consumers.open(role="chaos", shard=shard) as consumer:
                for _ in range(dice.randrange(3, 40)):
                    await take(run, shard, consumer, max_records=dice.choice((1, 7, 100)), acks=dice.random() < 0.7)
        except LogUnavailable:
            run.counts["consumer unavailable"] += 1


async def take(run: Run, shard: int, consumer: RecordConsumer, *, max_records: int, acks: bool) -> None:
    records = await consumer.fetch(max_records=max_records, wait_s=0.2)
    seen = run.consumed[shard]
    for record in records:
        assert isinstance(record, LogRecord)
        # Again after a restart or a crash, but never past one that was not seen.
        assert record.sequence <= len(seen) + 1
        if record.sequence == len(seen) + 1:
            seen.append(record)
        assert seen[record.sequence - 1] == record
    if records and acks:
        await consumer.ack(records[-1])


async def break_things(run: Run, cluster: NatsCluster, dice: random.Random) -> None:
    """Kills and freezes servers, then gives the log time to come back."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + FAULTS_FOR_S
    while loop.time() < end_s:
        await asyncio.sleep(dice.uniform(1, 3))
        server = dice.choice(cluster.servers)
        fault = dice.choice(("kill", "kill", "freeze", "kill all"))
        run.counts[fault] += 1
        if fault == "freeze":
            server.freeze()
            await asyncio.sleep(dice.uniform(0.5, 7))
            server.thaw()
        else:
            (cluster if fault == "kill all" else server).kill()
            await asyncio.sleep(dice.uniform(0.1, 1))
            cluster.start()
            await cluster.wait_ready()
    for shard in range(SHARDS):
        topic_id = new_topic(shard=shard)
        async with run.setup.node() as log:
            run.committed[topic_id] = {}
            record = new_record(topic_id)
            sequence = await until_it_answers(partial(commit, log, record, 0, run.counts))
            run.committed[topic_id][sequence] = record
    run.stop.set()


async def verify_topic(run: Run, log: TopicLog, topic_id: TopicId, heard: list[HeardTopic]) -> None:
    head = await until_it_answers(lambda: log.read_head(topic_id))
    assert head is not None
    records = await until_it_answers(
        lambda: log.read_range(topic_id, after_sequence=0, up_to_sequence=head.sequence, max_bytes=1 << 30)
    )
    there = {record.sequence: record for record in records}
    assert [record.facts.first_position for record in records] == list(range(1, len(records) + 1))
    assert len({record.facts.record_id for record in records}) == len(records)
    assert there == {sequence: stored(record, sequence) for sequence, record in run.committed[topic_id].items()}
    for each in heard:
        sequences = [record.sequence for record in each.records]
        assert sequences == sorted(sequences)
        assert all(there[record.sequence] == record for record in each.records)
        run.counts["live missed"] += len(records) - len(set(sequences))


async def verify_consumer(run: Run, shard: int) -> None:
    async with run.setup.consumers() as consumers, consumers.open(role="chaos", shard=shard) as consumer:
        while await until_it_answers(consumer.lag):
            await until_it_answers(lambda: take(run, shard, consumer, max_records=500, acks=True))
    seen = {record.sequence: record for record in run.consumed[shard]}
    for topic_id, committed in run.committed.items():
        if shard_of(topic_id, SHARDS) == shard:
            assert all(seen[sequence] == stored(record, sequence) for sequence, record in committed.items())


@pytest.mark.timeout(180)
@pytest.mark.parametrize(("servers", "seed"), [(1, 1), (3, 2)])
async def test_nothing_acknowledged_is_lost_doubled_or_reordered(servers: int, seed: int) -> None:
    """G1, G2, G8."""
    dice = random.Random(seed)
    async with ready_nats_cluster(servers) as cluster, AsyncExitStack() as stack:
        run = Run(setup=NatsLogSetup(cluster), seed=seed)
        nodes = [await stack.enter_async_context(run.setup.node()) for _ in range(NODES)]
        heard: dict[TopicId, list[HeardTopic]] = {}
        for topic_id in (new_topic(shard=index % SHARDS) for index in range(TOPICS)):
            run.committed[topic_id] = {}
            heard[topic_id] = [HeardTopic() for _ in nodes]
            for node, listener in zip(nodes, heard[topic_id], strict=True):
                await node.follow(topic_id, listener)

        async with asyncio.TaskGroup() as tasks:
            for node in nodes:
                for topic_id in heard:
                    tasks.create_task(write(run, node, topic_id, random.Random(dice.random())))
                tasks.create_task(read(run, node, list(heard)))
            for shard in range(SHARDS):
                tasks.create_task(consume(run, shard, random.Random(dice.random())))
            tasks.create_task(break_things(run, cluster, dice))

        for topic_id in run.committed:
            await verify_topic(run, nodes[0], topic_id, heard.get(topic_id, []))
        for shard in range(SHARDS):
            await verify_consumer(run, shard)
        print(f"seed {seed}: {dict(run.counts)}")
        assert run.counts["unknown"] > 0
        assert run.counts["conflict"] > 0
