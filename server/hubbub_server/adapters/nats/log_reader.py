"""Exact reads of the topic log.

A direct get may be answered by a replica that lags, so it is never proof of absence. One record is read from the
leader. Many are read with direct gets and checked: heads against the last sequence that the leader had before, ranges
by the sequence of their known last record and by their dense positions. What fails the check three times is read from
the leader, record by record.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from nats.aio.msg import Msg

from hubbub_server.adapters.nats.connection import RETRY_FOR_S, NatsConnection
from hubbub_server.adapters.nats.direct_get import MAX_BYTES, MAX_SUBJECTS, Stale, read_latest
from hubbub_server.adapters.nats.errors import map_errors
from hubbub_server.adapters.nats.records import (
    SEQUENCE,
    RecordUnreadable,
    decode_facts,
    log_subject,
    parse_header_block,
    stream_name,
    topic_of_subject,
)
from hubbub_server.adapters.nats.streams import get_message, read_stream
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import LogRecord, RecordHead

_DIRECT_TRIES = 3
_DIRECT_PAUSE_S = 0.01
_RECORDS_A_REQUEST = 256


class LogReader:
    """Reads records and heads of topics. Raises LogUnavailable after five seconds: a call, or a thousand heads."""

    def __init__(self, connection: NatsConnection, *, shards: int) -> None:
        """Reads over an open connection; `shards` as the streams were made."""
        self._connection = connection
        self._shards = shards

    async def read_head(self, topic_id: TopicId) -> LogRecord | None:
        """Reads the newest record of a topic from the leader."""
        return await self._read_from_leader(topic_id, {"last_by_subj": self._subject(topic_id)})

    async def read_next(self, topic_id: TopicId, *, after_sequence: int) -> LogRecord | None:
        """Reads the first record of a topic with a larger sequence from the leader."""
        query = {"seq": after_sequence + 1, "next_by_subj": self._subject(topic_id)}
        return await self._read_from_leader(topic_id, query)

    async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
        """Reads the newest records of many topics without their bodies."""
        by_shard: dict[int, list[TopicId]] = {}
        for topic_id in dict.fromkeys(topic_ids):
            by_shard.setdefault(shard_of(topic_id, self._shards), []).append(topic_id)
        heads: dict[TopicId, RecordHead] = {}
        for shard, topics in by_shard.items():
            stream = await self._connection.retry(partial(read_stream, self._connection, shard))
            if stream.last_sequence < stream.first_sequence:
                continue
            for start in range(0, len(topics), MAX_SUBJECTS):
                chunk = topics[start : start + MAX_SUBJECTS]
                heads.update(await self._read_chunk(shard, chunk, stream.last_sequence))
        return heads

    async def _read_chunk(self, shard: int, topics: Sequence[TopicId], reached: int) -> dict[TopicId, RecordHead]:
        async with _bounded():
            for _ in range(_DIRECT_TRIES):
                try:
                    return await self._read_chunk_directly(shard, topics, reached)
                except LogUnavailable:
                    await asyncio.sleep(_DIRECT_PAUSE_S)
            heads = {topic_id: await self.read_head(topic_id) for topic_id in topics}
            return {t: RecordHead(facts=head.facts, sequence=head.sequence) for t, head in heads.items() if head}

    async def _read_chunk_directly(
        self, shard: int, topics: Sequence[TopicId], reached: int
    ) -> dict[TopicId, RecordHead]:
        subjects = [log_subject(shard, topic_id) for topic_id in topics]
        if witness := await self._read_subject(shard, reached):
            subjects.append(witness)  # topics that are all trimmed would give an answer that proves nothing
        messages = await read_latest(self._connection, stream_name(shard), subjects, reached=reached)
        found = {record.facts.topic_id: record for record in map(read_message, messages)}
        heads = {topic_id: found[topic_id] for topic_id in topics if topic_id in found}
        return {t: RecordHead(facts=head.facts, sequence=head.sequence) for t, head in heads.items()}

    async def _read_subject(self, shard: int, sequence: int) -> str | None:
        message = await get_message(self._connection, stream_name(shard), {"seq": sequence})
        return message["subject"] if message else None

    async def read_range(
        self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        """Reads records of a topic, checked dense and complete, or up to where the bodies exceed `max_bytes`."""
        records: list[LogRecord] = []
        size, last = 0, after_sequence
        async with _bounded():
            while last < up_to_sequence:
                for record in await self._read_batch(topic_id, last, up_to_sequence, max_bytes - size):
                    if records and record.facts.first_position != records[-1].facts.last_position + 1:
                        raise LogUnavailable(f"a record is missing before sequence {record.sequence}")
                    size += len(record.body)
                    if size > max_bytes and records:
                        return records
                    records.append(record)
                    last = record.sequence
        return records

    async def _read_batch(self, topic_id: TopicId, last: int, up_to: int, max_bytes: int) -> Sequence[LogRecord]:
        for _ in range(_DIRECT_TRIES):
            try:
                return await self._read_batch_directly(topic_id, last, up_to, max_bytes)
            except LogUnavailable:
                await asyncio.sleep(_DIRECT_PAUSE_S)
        record = await self.read_next(topic_id, after_sequence=last)
        if record is None or record.sequence > up_to:
            raise LogUnavailable(f"record {up_to} of the topic is not in the log")
        return [record]

    async def _read_batch_directly(
        self, topic_id: TopicId, last: int, up_to: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        query = {
            "seq": last + 1,
            "next_by_subj": self._subject(topic_id),
            "batch": _RECORDS_A_REQUEST,
            # At least one record always comes. Headers count here and not for the caller, so more may be needed.
            "max_bytes": min(max(max_bytes, 1), MAX_BYTES),
        }
        messages, end = await self._connection.collect(f"DIRECT.GET.{self._stream(topic_id)}", query)
        records = [record for record in map(read_message, messages) if record.sequence <= up_to]
        position = records[0].facts.first_position if records else 0
        for record in records:
            if record.facts.first_position != position:
                raise Stale(f"a record is missing before sequence {record.sequence}")
            position = record.facts.last_position + 1
        reached_end = bool(records) and records[-1].sequence == up_to
        if not records or (not reached_end and int(end.get("Nats-Num-Pending", "0")) == 0):
            raise Stale("a replica lags")
        return records

    async def _read_from_leader(self, topic_id: TopicId, query: Mapping[str, Any]) -> LogRecord | None:
        stream = self._stream(topic_id)
        message = await self._connection.retry(partial(get_message, self._connection, stream, query))
        return read_stored(message) if message else None

    def _stream(self, topic_id: TopicId) -> str:
        return stream_name(shard_of(topic_id, self._shards))

    def _subject(self, topic_id: TopicId) -> str:
        return log_subject(shard_of(topic_id, self._shards), topic_id)


@asynccontextmanager
async def _bounded() -> AsyncIterator[None]:
    with map_errors():
        async with asyncio.timeout(RETRY_FOR_S):
            yield


def read_message(message: Msg) -> LogRecord:
    """Reads an answer to a direct get (its subject is a header). Raises LogUnavailable when it is no record."""
    headers = message.headers or {}
    try:
        topic_id = topic_of_subject(headers["Nats-Subject"])
        return LogRecord(facts=decode_facts(topic_id, headers), body=message.data, sequence=int(headers[SEQUENCE]))
    except (KeyError, RecordUnreadable) as error:
        raise LogUnavailable(f"record {headers.get(SEQUENCE)} cannot be read: {error}") from error


def read_stored(message: Mapping[str, Any]) -> LogRecord:
    """Reads a message as the leader describes it. Raises LogUnavailable when it is no record."""
    try:
        headers = parse_header_block(base64.b64decode(message.get("hdrs", "")))
        return LogRecord(
            facts=decode_facts(topic_of_subject(message["subject"]), headers),
            body=base64.b64decode(message.get("data", "")),
            sequence=message["seq"],
        )
    except RecordUnreadable as error:
        raise LogUnavailable(f"record {message['seq']} cannot be read: {error}") from error
