"""What every MarkerStore reads: mentions between two numbers together with how far the answer is good, and readers."""

import pytest

from hubbub_server.ports.marker_store import Mention, TimedMention
from hubbub_server.ports.projection import EVERYBODY, MentionRow, ProjectionBatch
from tests.support.rows import (
    SENDER,
    applied_row,
    conversation_id,
    mention_row,
    reader_row,
    shard_row,
    user_id,
)
from tests.support.stores import OpenStore

pytestmark = pytest.mark.asyncio

ROOM, OTHER = conversation_id("croom"), conversation_id("cother")
ALICE, BOB = user_id("ualice"), user_id("ubob")
_BUCKET = 65_536


async def write(store: OpenStore, *numbers: int, of: str = ALICE) -> None:
    rows = [mention_row(ROOM, user_id(of), number) for number in numbers]
    applied = [applied_row(ROOM, max(numbers))]
    await store.projection.apply(ProjectionBatch(mentions=rows, applied=applied, shard=shard_row()))


async def read(store: OpenStore, after: int = 0, before: int = 2**40, limit: int = 1_000) -> list[int]:
    page = await store.markers.read_mentions(ROOM, ALICE, after_number=after, before_number=before, limit=limit)
    return [mention.message_number for mention in page.mentions]


async def test_nothing_is_known_of_what_was_never_applied(store: OpenStore) -> None:
    page = await store.markers.read_mentions(ROOM, ALICE, after_number=0, before_number=10, limit=1)

    assert (page.applied_number, list(page.mentions)) == (0, [])
    assert await store.markers.read_readers(ROOM) == {}


async def test_mentions_of_a_user_and_of_everybody_come_newest_first_and_once(store: OpenStore) -> None:
    await write(store, 2, 5)
    await write(store, 3, 5, 9, of=EVERYBODY)
    await write(store, 4, of=BOB)
    await store.projection.apply(
        ProjectionBatch(mentions=[mention_row(OTHER, ALICE, 6)], applied=[applied_row(ROOM, 12)], shard=shard_row())
    )
    page = await store.markers.read_mentions(ROOM, ALICE, after_number=0, before_number=100, limit=10)

    assert list(page.mentions) == [Mention(message_number=number, sender_id=SENDER) for number in (9, 5, 3, 2)]
    assert page.applied_number == 12


@pytest.mark.parametrize(
    ("after", "before", "limit", "expected"),
    [(2, 9, 10, [5, 3]), (1, 10, 10, [9, 5, 3, 2]), (1, 10, 2, [9, 5]), (9, 10, 1, []), (5, 3, 1, []), (0, 1, 1, [])],
)
async def test_both_ends_are_exclusive_and_the_newest_are_kept(
    store: OpenStore, after: int, before: int, limit: int, expected: list[int]
) -> None:
    await write(store, 2, 5)
    await write(store, 3, 9, of=EVERYBODY)

    assert await read(store, after, before, limit) == expected


async def test_mentions_may_be_far_apart(store: OpenStore) -> None:
    """Buckets of the CQL store in between are empty."""
    numbers = [1, _BUCKET - 1, _BUCKET, 4 * _BUCKET + 3]
    await write(store, *numbers)

    assert await read(store) == numbers[::-1]
    assert await read(store, limit=2) == numbers[:1:-1]
    assert await read(store, after=_BUCKET - 1, before=4 * _BUCKET + 3) == [_BUCKET]


async def test_limit_is_1_to_1000(store: OpenStore) -> None:
    for limit in (0, 1_001):
        with pytest.raises(ValueError, match="limit"):
            await read(store, limit=limit)


async def test_replay_writes_no_mention_twice(store: OpenStore) -> None:
    for _ in range(2):
        await write(store, 1, 2)

    assert await read(store) == [2, 1]


async def test_readers_are_where_their_newest_event_put_them(store: OpenStore) -> None:
    """C33: one row a member, whatever order the events come in."""
    for position, number in ((3, 7), (2, 5), (3, 7)):
        row = reader_row(ROOM, ALICE, position, number)
        await store.projection.apply(ProjectionBatch(readers=[row], shard=shard_row()))
    await store.projection.apply(ProjectionBatch(readers=[reader_row(ROOM, BOB, 1, 2)], shard=shard_row()))

    assert await store.markers.read_readers(ROOM) == {ALICE: 7, BOB: 2}
    assert await store.markers.read_readers(OTHER) == {}


async def test_deliveries_are_kept_beside_readers(store: OpenStore) -> None:
    """As readers: one row a member, whatever order the events come in; neither moves the other."""
    for position, number in ((3, 7), (2, 5), (3, 7)):
        row = reader_row(ROOM, ALICE, position, number)
        await store.projection.apply(ProjectionBatch(deliveries=[row], shard=shard_row()))
    await store.projection.apply(ProjectionBatch(readers=[reader_row(ROOM, ALICE, 4, 2)], shard=shard_row()))

    assert await store.markers.read_deliveries(ROOM) == {ALICE: 7}
    assert await store.markers.read_readers(ROOM) == {ALICE: 2}
    assert await store.markers.read_deliveries(OTHER) == {}


def timed(*rows: MentionRow) -> list[TimedMention]:
    return [
        TimedMention(
            commit_time_ms=row.commit_time_ms,
            conversation_id=row.conversation_id,
            message_number=row.message_number,
            sender_id=row.sender_id,
        )
        for row in rows
    ]


async def test_mentions_of_years_come_by_time_page_by_page(store: OpenStore) -> None:
    """Many of one day and none of months between them, whatever a store does to keep its partitions small."""
    day_ms = 24 * 3_600_000
    days = [0, 0, 0, 29, 30, 30, 31, 400, 400, 20_000, 20_001]
    rows = [mention_row(ROOM, ALICE, n, time_ms=day * day_ms + n) for n, day in enumerate(days, start=1)]
    await store.projection.apply(ProjectionBatch(mentions=rows, shard=shard_row()))
    expected = timed(*reversed(rows))

    for limit in (1, 2, 3, 1_000):
        found: list[TimedMention] = []
        while page := await store.markers.read_mentions_by_time(
            ALICE, before=found[-1] if found else None, limit=limit
        ):
            found += page
        assert found == expected, limit


async def test_mentions_of_a_user_come_by_time_over_all_conversations(store: OpenStore) -> None:
    """Of one time by conversation and number; those of everybody are found under their conversation."""
    ordered = [
        mention_row(OTHER, ALICE, 9, time_ms=50),
        mention_row(ROOM, ALICE, 3, time_ms=40),
        mention_row(ROOM, ALICE, 2, time_ms=40),
        mention_row(OTHER, ALICE, 8, time_ms=40),
        mention_row(ROOM, ALICE, 1, time_ms=30),
    ]
    others = [mention_row(ROOM, BOB, 7, time_ms=45), mention_row(ROOM, EVERYBODY, 5, time_ms=44)]
    for rows in (ordered[::-1] + others, ordered):
        await store.projection.apply(ProjectionBatch(mentions=rows, shard=shard_row()))
    expected = timed(*ordered)

    assert await store.markers.read_mentions_by_time(ALICE, before=None, limit=1_000) == expected
    for start in range(5):
        page = await store.markers.read_mentions_by_time(ALICE, before=expected[start], limit=2)
        assert page == expected[start + 1 : start + 3]
    assert await store.markers.read_mentions_by_time(ROOM, before=None, limit=9) == timed(others[1])
    assert await store.markers.read_mentions_by_time(OTHER, before=None, limit=9) == []
    for limit in (0, 1_001):
        with pytest.raises(ValueError, match="limit"):
            await store.markers.read_mentions_by_time(ALICE, before=None, limit=limit)
