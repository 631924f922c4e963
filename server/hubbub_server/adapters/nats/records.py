"""Records as NATS messages: facts are headers, the body is the payload. This is a storage format: it only grows."""

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import RecordFacts

EXPECTED_SEQUENCE = "Nats-Expected-Last-Subject-Sequence"
SEQUENCE = "Nats-Sequence"
RECORD_ID = "Hubbub-Record"
POKE = "Hubbub-Poke"
"""Position of a topic's head; marks a message on a live subject as a poke."""

_EPOCH = "Hubbub-Epoch"
_POSITIONS = "Hubbub-Positions"
_COMMIT_TIME = "Hubbub-Commit-Ms"
_COUNTS = "Hubbub-Counts"
_KINDS = "Hubbub-Kinds"
_REQUEST_HASHES = "Hubbub-Hashes"
_SESSION = "Hubbub-Session"
_TRACEPARENT = "traceparent"

_VERSION_LINE = b"NATS/1.0"


class RecordUnreadable(ValueError):
    """A message without the headers of a record."""


def stream_name(shard: int) -> str:
    """Returns the name of a shard's stream."""
    return f"LOG_{shard}"


def log_subject(shard: int, topic_id: TopicId) -> str:
    """Returns the subject under which a topic's records are stored."""
    return f"log.{shard}.{topic_id}"


def live_subject(shard: int, topic_id: TopicId) -> str:
    """Returns the subject on which a topic's records are heard."""
    return f"live.{shard}.{topic_id}"


def state_stream_name(shard: int) -> str:
    """Returns the name of the stream that keeps the states of a shard's topics."""
    return f"STATE_{shard}"


def topic_of_subject(subject: str) -> TopicId:
    """Returns the topic of a log, live or state subject."""
    return TopicId(subject.rpartition(".")[2])


def encode_facts(facts: RecordFacts) -> dict[str, str]:
    """Returns the headers of a record; the topic is in its subject."""
    headers = {
        RECORD_ID: facts.record_id,
        _EPOCH: str(facts.epoch),
        _POSITIONS: f"{facts.first_position}-{facts.last_position}",
        _COMMIT_TIME: str(facts.commit_time_ms),
        _COUNTS: f"{facts.last_message_number}-{facts.last_counted_number}",
    }
    if facts.kinds:
        headers[_KINDS] = ",".join(sorted(facts.kinds))
    if facts.request_hashes:
        # Each entry ends with a comma: ("",) and () are two things.
        headers[_REQUEST_HASHES] = "".join(f"{each}," for each in facts.request_hashes)
    if facts.session_id:
        headers[_SESSION] = facts.session_id
    if facts.traceparent:
        headers[_TRACEPARENT] = facts.traceparent
    return headers


def decode_facts(topic_id: TopicId, headers: Mapping[str, str] | None) -> RecordFacts:
    """Reads the headers of a record. Raises RecordUnreadable."""
    if headers is None:
        raise RecordUnreadable("no headers")
    try:
        first_position, last_position = _pair(headers[_POSITIONS])
        last_message_number, last_counted_number = _pair(headers[_COUNTS])
        return RecordFacts(
            record_id=headers[RECORD_ID],
            topic_id=topic_id,
            epoch=int(headers[_EPOCH]),
            first_position=first_position,
            last_position=last_position,
            commit_time_ms=int(headers[_COMMIT_TIME]),
            last_message_number=last_message_number,
            last_counted_number=last_counted_number,
            kinds=_kinds(headers.get(_KINDS, "")),
            request_hashes=tuple(headers.get(_REQUEST_HASHES, "").split(",")[:-1]),
            session_id=headers.get(_SESSION, ""),
            traceparent=headers.get(_TRACEPARENT, ""),
        )
    except KeyError as error:
        raise RecordUnreadable(f"no header {error.args[0]}") from error
    except ValueError as error:
        raise RecordUnreadable(str(error)) from error


def header_block_bytes(headers: Mapping[str, str]) -> int:
    """Returns the size of headers on the wire; max_payload counts it."""
    text_bytes = len("".join(chain.from_iterable(headers.items())).encode())
    return len(_VERSION_LINE) + 4 + text_bytes + 4 * len(headers)


def parse_header_block(block: bytes) -> dict[str, str]:
    """Parses headers as they are on the wire and in the answers of the leader."""
    headers: dict[str, str] = {}
    for line in block.split(b"\r\n")[1:]:
        name, colon, value = line.partition(b":")
        if colon:
            headers[name.decode("utf-8", "replace").strip()] = value.decode("utf-8", "replace").strip()
    return headers


def _pair(text: str) -> tuple[int, int]:
    first, dash, second = text.partition("-")
    if not dash:
        raise ValueError(f"{text!r} is no pair of numbers")
    return int(first), int(second)


@lru_cache(maxsize=256)
def _kinds(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()
