"""Builds records and topics for tests of the log."""

import itertools
import secrets

from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import LogRecord, NewRecord, RecordFacts

_serial = itertools.count(1)


def new_topic(*, shard: int | None = None, shards: int = 2) -> TopicId:
    """Returns a topic that no other test has, on a certain shard if asked."""
    while True:
        topic_id = TopicId("c" + secrets.token_hex(13))
        if shard is None or shard_of(topic_id, shards) == shard:
            return topic_id


def new_record(topic_id: TopicId, position: int = 1, *, body: bytes = b"body", epoch: int = 1) -> NewRecord:
    """Returns a record of one event at `position`, different from all others."""
    facts = RecordFacts(
        record_id=f"r{next(_serial)}{secrets.token_hex(4)}",
        topic_id=topic_id,
        epoch=epoch,
        first_position=position,
        last_position=position,
        commit_time_ms=1_700_000_000_000 + position,
        last_message_number=position,
        last_counted_number=position,
        kinds=frozenset({"MessageSent"}),
    )
    return NewRecord(facts=facts, body=body)


def stored(record: NewRecord, sequence: int) -> LogRecord:
    """Returns the record as readers get it."""
    return LogRecord(facts=record.facts, body=record.body, sequence=sequence)


class HeardTopic:
    """TopicListener that keeps what it hears."""

    def __init__(self) -> None:
        self.records: list[LogRecord] = []
        self.pokes: list[int] = []

    def on_record(self, record: LogRecord) -> None:
        self.records.append(record)

    def on_poke(self, position: int) -> None:
        self.pokes.append(position)
