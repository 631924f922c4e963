"""What every DeadLetters promises: letters in order, whole, one after the other, and no mark but them."""

import secrets

import pytest

from hubbub_server.ports.dead_letters import DeadLetters, DeadTopic, LettersMoved, LetterTooLarge
from hubbub_server.ports.record_consumer import UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord
from tests.support.log_records import new_record, new_topic, stored

pytestmark = pytest.mark.asyncio

SHARD = 3


def new_role() -> str:
    """Real servers are shared: each test is a role of its own."""
    return f"role-{secrets.token_hex(6)}"


async def add(letters: DeadLetters, role: str, *records: LogRecord | UnreadableRecord) -> list[int]:
    """Adds letters of one topic that has none; returns their numbers."""
    numbers = [0]
    for record in records:
        numbers.append(await letters.add(record, role=role, shard=SHARD, reason="why", after=numbers[-1]))
    return numbers[1:]


async def test_a_role_without_letters_has_no_dead_topics(dead_letters: DeadLetters) -> None:
    role, topic_id = new_role(), new_topic()

    assert await dead_letters.topics(role=role, shard=SHARD) == {}
    assert await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=10) == []
    assert await dead_letters.first_sequence(role=role, shard=SHARD) is None


async def test_letters_come_back_whole_and_in_order(dead_letters: DeadLetters) -> None:
    role, topic_id = new_role(), new_topic()
    records = [stored(new_record(topic_id, n, body=bytes([n]) * n), 100 + n) for n in range(1, 4)]

    numbers = await add(dead_letters, role, *records)
    found = await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=10)

    assert [letter.record for letter in found] == records
    assert [letter.number for letter in found] == numbers == sorted(numbers)
    assert {letter.reason for letter in found} == {"why"}
    ends = DeadTopic(first_place=(1, 101), last_place=(1, 103), last_number=numbers[-1])
    assert await dead_letters.topics(role=role, shard=SHARD) == {topic_id: ends}
    assert await dead_letters.first_sequence(role=role, shard=SHARD) == 101


async def test_a_read_ends_where_the_caller_wants(dead_letters: DeadLetters) -> None:
    role, topic_id = new_role(), new_topic()
    await add(dead_letters, role, *(stored(new_record(topic_id, n), n) for n in range(1, 5)))

    found = await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=2)

    assert [letter.record.sequence for letter in found] == [1, 2]


async def test_what_has_no_facts_is_kept_as_it_is(dead_letters: DeadLetters) -> None:
    """Instructions to the server are left out, so that they are not carried out again."""
    role, topic_id = new_role(), new_topic()
    headers = {"Some-Header": "some value", "Nats-Msg-Id": "x", "Nats-Rollup": "all"}
    stranger = UnreadableRecord(
        topic_id=topic_id, sequence=7, headers=headers, body=b"\x00\xff", reason="no header Hubbub-Positions"
    )

    await add(dead_letters, role, stranger)
    (letter,) = await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=10)
    (ends,) = (await dead_letters.topics(role=role, shard=SHARD)).values()

    assert ends.first_place == ends.last_place == (0, 7)
    assert isinstance(letter.record, UnreadableRecord)
    assert (letter.record.topic_id, letter.record.sequence, letter.record.body) == (topic_id, 7, b"\x00\xff")
    assert letter.record.headers == {"Some-Header": "some value"}


async def test_a_reason_of_many_lines_is_kept_in_one(dead_letters: DeadLetters) -> None:
    role, topic_id = new_role(), new_topic()
    await dead_letters.add(stored(new_record(topic_id), 1), role=role, shard=SHARD, reason="a\r\nb: c", after=0)

    (letter,) = await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=1)

    assert letter.record.sequence == 1
    assert letter.reason.split() == ["a", "b:", "c"]


async def test_a_letter_is_added_only_after_the_one_that_its_writer_knows(dead_letters: DeadLetters) -> None:
    """Else a replay could remove what came in while it read."""
    role, topic_id = new_role(), new_topic()
    first, second, third = (stored(new_record(topic_id, n), n) for n in range(1, 4))
    (number,) = await add(dead_letters, role, first)

    with pytest.raises(LettersMoved):
        await dead_letters.add(second, role=role, shard=SHARD, reason="why", after=0)
    await dead_letters.remove(topic_id, role=role, shard=SHARD, up_to=number)
    with pytest.raises(LettersMoved):
        await dead_letters.add(third, role=role, shard=SHARD, reason="why", after=number)

    assert await dead_letters.topics(role=role, shard=SHARD) == {}


async def test_letters_are_removed_up_to_a_number_and_then_the_topic_lives(dead_letters: DeadLetters) -> None:
    role, topic_id = new_role(), new_topic()
    numbers = await add(dead_letters, role, *(stored(new_record(topic_id, n), n) for n in range(1, 4)))

    await dead_letters.remove(topic_id, role=role, shard=SHARD, up_to=numbers[1])
    (left,) = await dead_letters.read(topic_id, role=role, shard=SHARD, max_letters=10)
    first_sequence = await dead_letters.first_sequence(role=role, shard=SHARD)
    await dead_letters.remove(topic_id, role=role, shard=SHARD, up_to=numbers[2])

    assert left.number == numbers[2]
    assert first_sequence == 3
    assert await dead_letters.topics(role=role, shard=SHARD) == {}
    assert await dead_letters.first_sequence(role=role, shard=SHARD) is None


async def test_roles_shards_and_topics_are_apart(dead_letters: DeadLetters) -> None:
    role, topic_id, other = new_role(), new_topic(), new_topic()
    (number,) = await add(dead_letters, role, stored(new_record(topic_id), 1))
    (other_number,) = await add(dead_letters, role, stored(new_record(other), 2))

    assert await dead_letters.topics(role=new_role(), shard=SHARD) == {}
    assert await dead_letters.topics(role=role, shard=SHARD + 1) == {}
    await dead_letters.remove(topic_id, role=role, shard=SHARD, up_to=other_number)

    assert number < other_number
    left = await dead_letters.topics(role=role, shard=SHARD)
    assert {topic_id: ends.last_number for topic_id, ends in left.items()} == {other: other_number}


async def test_what_is_too_large_is_refused_and_the_letters_go_on(dead_letters: DeadLetters) -> None:
    """One byte more than the server takes would end the connection for good."""
    role, topic_id = new_role(), new_topic()

    with pytest.raises(LetterTooLarge):
        await add(dead_letters, role, stored(new_record(topic_id, body=b"x" * ((1 << 20) + 1)), 1))

    assert await add(dead_letters, role, stored(new_record(topic_id), 1))
