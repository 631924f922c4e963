"""DeadLetters as a JetStream stream: `dead.<role>.<shard>.<topic>`, on disk like the log, for any time.

A letter is the message that lay in the log, with its headers and body, and two headers more. Headers that NATS itself
reads (`Nats-…`) stay behind: they were instructions to the server. Everything is read from the leader: letters are few,
and one that is overlooked would let its topic go on with a hole.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.records import (
    EXPECTED_SEQUENCE,
    RecordUnreadable,
    decode_facts,
    encode_facts,
    header_block_bytes,
    parse_header_block,
    topic_of_subject,
)
from hubbub_server.adapters.nats.streams import ensure_stream, get_message, read_stream_info, stream_config
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.dead_letters import DeadTopic, Letter, LettersMoved, LetterTooLarge, place_of
from hubbub_server.ports.record_consumer import AnyRecord, UnreadableRecord, topic_of
from hubbub_server.ports.topic_log import LogRecord

_STREAM: Final = "DEAD_LETTERS"
_SEQUENCE: Final = "Hubbub-Dead-Sequence"
_REASON: Final = "Hubbub-Dead-Reason"
_OWN_HEADERS: Final = (_SEQUENCE, _REASON)
_REASON_MAX_CHARACTERS: Final = 200


class NatsDeadLetters:
    """DeadLetters over an open connection."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection; `ensure` makes the stream."""
        self._connection = connection

    async def ensure(self, *, replicas: int) -> None:
        """Makes the stream if it is missing. Raises LogUnavailable."""
        await ensure_stream(self._connection, stream_config(_STREAM, "dead.>", replicas=replicas))

    async def topics(self, *, role: str, shard: int) -> Mapping[TopicId, DeadTopic]:
        """Returns the dead topics."""
        query = {"subjects_filter": _subject(role, shard, ">")}
        info = await self._connection.retry(partial(read_stream_info, self._connection, _STREAM, query))
        found: dict[TopicId, DeadTopic] = {}
        for subject in info["state"].get("subjects") or {}:
            topic_id = topic_of_subject(subject)
            first = await self._read_stored({"seq": 1, "next_by_subj": subject})
            last = await self._read_stored({"last_by_subj": subject})
            if first is not None and last is not None:  # else it was replayed meanwhile
                found[topic_id] = DeadTopic(
                    first_place=place_of(_letter(topic_id, first).record),
                    last_place=place_of(_letter(topic_id, last).record),
                    last_number=last["seq"],
                )
        return found

    async def add(self, record: AnyRecord, *, role: str, shard: int, reason: str, after: int) -> int:
        """Adds a letter if the last one of its topic has the number `after`."""
        headers, topic_id = _headers(record), topic_of(record)
        headers |= {_SEQUENCE: str(record.sequence), _REASON: _one_line(reason), EXPECTED_SEQUENCE: str(after)}
        if header_block_bytes(headers) + len(record.body) > self._connection.max_payload_bytes:
            raise LetterTooLarge(f"record {record.sequence} is larger than a letter can be")
        subject = _subject(role, shard, topic_id)

        async def attempt() -> int:
            answer = json.loads((await self._connection.request(subject, record.body, headers=headers)).data)
            if "error" not in answer:
                return int(answer["seq"])
            refusal = ApiRefusal.of(answer["error"])
            if not refusal.is_conflict:
                raise refusal
            last = await self._read_stored({"last_by_subj": subject})
            if (last["seq"] if last else 0) == after:
                raise LogUnavailable("another letter of the topic is in flight")
            if last is not None and _own(last, _SEQUENCE) == str(record.sequence):
                return int(last["seq"])
            raise LettersMoved(f"the letters of {topic_id} do not end with {after}")

        return await self._connection.retry(attempt)

    async def read(self, topic_id: TopicId, *, role: str, shard: int, max_letters: int) -> Sequence[Letter]:
        """Reads the first letters of a topic, in order."""
        letters: list[Letter] = []
        start = 1
        while len(letters) < max_letters:
            message = await self._read_stored({"seq": start, "next_by_subj": _subject(role, shard, topic_id)})
            if message is None:
                break
            letters.append(_letter(topic_id, message))
            start = letters[-1].number + 1
        return letters

    async def remove(self, topic_id: TopicId, *, role: str, shard: int, up_to: int) -> None:
        """Removes the letters of a topic up to a number, inclusive."""
        query = {"filter": _subject(role, shard, topic_id), "seq": up_to + 1}
        await self._connection.retry(partial(self._connection.call, f"STREAM.PURGE.{_STREAM}", query))

    async def first_sequence(self, *, role: str, shard: int) -> int | None:
        """Returns the sequence in the log of the oldest letter's record."""
        first = await self._read_stored({"seq": 1, "next_by_subj": _subject(role, shard, ">")})
        return int(_own(first, _SEQUENCE)) if first is not None else None

    async def _read_stored(self, query: Mapping[str, Any]) -> dict[str, Any] | None:
        return await self._connection.retry(partial(get_message, self._connection, _STREAM, query))


def _subject(role: str, shard: int, topic: str) -> str:
    return f"dead.{role}.{shard}.{topic}"


def _headers(record: AnyRecord) -> dict[str, str]:
    if isinstance(record, LogRecord):
        return encode_facts(record.facts)
    return {name: value for name, value in record.headers.items() if not name.lower().startswith("nats-")}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_MAX_CHARACTERS]


def _own(message: Mapping[str, Any], name: str) -> str:
    return parse_header_block(base64.b64decode(message.get("hdrs", "")))[name]


def _letter(topic_id: TopicId, message: Mapping[str, Any]) -> Letter:
    headers = parse_header_block(base64.b64decode(message.get("hdrs", "")))
    sequence, reason = int(headers[_SEQUENCE]), headers[_REASON]
    body = base64.b64decode(message.get("data", ""))
    record: AnyRecord
    try:
        record = LogRecord(facts=decode_facts(topic_id, headers), body=body, sequence=sequence)
    except RecordUnreadable as error:
        kept = {
            name: value
            for name, value in headers.items()
            if name not in _OWN_HEADERS and not name.lower().startswith("nats-")
        }
        record = UnreadableRecord(topic_id=topic_id, sequence=sequence, headers=kept, body=body, reason=str(error))
    return Letter(number=message["seq"], record=record, reason=reason)
