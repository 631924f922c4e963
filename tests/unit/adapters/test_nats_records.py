"""Records as NATS messages: a storage format. What was written once must be read for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.adapters.nats.records import (
    RecordUnreadable,
    decode_facts,
    encode_facts,
    header_block_bytes,
    parse_header_block,
)
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import RecordFacts

TOPIC = TopicId("croom")
NUMBERS = st.integers(min_value=0, max_value=1 << 53)
WORDS = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters=","), min_size=1, max_size=40)

FACTS = st.builds(
    RecordFacts,
    record_id=WORDS,
    topic_id=st.just(TOPIC),
    epoch=NUMBERS,
    first_position=NUMBERS,
    last_position=NUMBERS,
    commit_time_ms=NUMBERS,
    last_message_number=NUMBERS,
    last_counted_number=NUMBERS,
    kinds=st.frozensets(WORDS, max_size=5),
    request_hashes=st.lists(st.just("") | WORDS, max_size=5).map(tuple),
    session_id=st.just("") | WORDS,
    traceparent=st.just("") | WORDS,
)

STORED = {
    "Hubbub-Record": "r1",
    "Hubbub-Epoch": "2",
    "Hubbub-Positions": "7-9",
    "Hubbub-Commit-Ms": "1700000000000",
    "Hubbub-Counts": "6-5",
    "Hubbub-Kinds": "MembersAdded,MessageSent",
    "Hubbub-Hashes": "a1,,b2,",
    "Hubbub-Session": "d01",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
}
READ = RecordFacts(
    record_id="r1",
    topic_id=TOPIC,
    epoch=2,
    first_position=7,
    last_position=9,
    commit_time_ms=1_700_000_000_000,
    last_message_number=6,
    last_counted_number=5,
    kinds=frozenset({"MembersAdded", "MessageSent"}),
    request_hashes=("a1", "", "b2"),
    session_id="d01",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def block_of(headers: dict[str, str]) -> bytes:
    """Writes headers as nats-py does."""
    return b"NATS/1.0\r\n" + b"".join(f"{name}: {value}\r\n".encode() for name, value in headers.items()) + b"\r\n"


def test_the_format_is_this_one() -> None:
    """Changing it makes every stored record unreadable."""
    assert encode_facts(READ) == STORED
    assert decode_facts(TOPIC, STORED) == READ


@given(FACTS)
def test_facts_survive_headers(facts: RecordFacts) -> None:
    headers = encode_facts(facts)
    block = block_of(headers)

    assert decode_facts(TOPIC, headers) == facts
    assert decode_facts(TOPIC, parse_header_block(block)) == facts
    assert header_block_bytes(headers) == len(block)


def test_headers_of_others_are_ignored() -> None:
    assert decode_facts(TOPIC, {**STORED, "Nats-Sequence": "5", "Hubbub-Later": "x"}) == READ


@pytest.mark.parametrize(
    "name", ["Hubbub-Record", "Hubbub-Epoch", "Hubbub-Positions", "Hubbub-Commit-Ms", "Hubbub-Counts"]
)
def test_a_record_without_one_of_these_is_unreadable(name: str) -> None:
    headers = {each: value for each, value in STORED.items() if each != name}

    with pytest.raises(RecordUnreadable, match=name):
        decode_facts(TOPIC, headers)


@pytest.mark.parametrize(
    ("name", "value"),
    [("Hubbub-Epoch", "two"), ("Hubbub-Positions", "7"), ("Hubbub-Positions", "7-x"), ("Hubbub-Counts", "")],
)
def test_a_record_with_broken_numbers_is_unreadable(name: str, value: str) -> None:
    with pytest.raises(RecordUnreadable):
        decode_facts(TOPIC, {**STORED, name: value})


def test_a_message_without_headers_is_no_record() -> None:
    with pytest.raises(RecordUnreadable):
        decode_facts(TOPIC, None)
