"""What every EventStore reads: events by position, byte for byte."""

import pytest

from hubbub_server.ports.projection import ProjectionBatch
from tests.support.rows import applied_row, conversation_id, event_row, messages_batch, shard_row, user_id
from tests.support.stores import OpenStore

pytestmark = pytest.mark.asyncio

ROOM = conversation_id("croom")


async def test_events_come_ascending_after_the_position(store: OpenStore) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 6)))

    assert await store.events.read_after(ROOM, after_position=2, limit=100) == [
        event_row(ROOM, 3),
        event_row(ROOM, 4),
        event_row(ROOM, 5),
    ]


@pytest.mark.parametrize(("after", "limit", "expected"), [(0, 1, [1]), (4, 1, [5]), (5, 1, []), (99, 1_000, [])])
async def test_page_edges(store: OpenStore, after: int, limit: int, expected: list[int]) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 6)))

    rows = await store.events.read_after(ROOM, after_position=after, limit=limit)

    assert [row.position for row in rows] == expected


async def test_limit_takes_1_to_1000(store: OpenStore) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 1_102)))

    rows = await store.events.read_after(ROOM, after_position=50, limit=1_000)

    assert [row.position for row in rows] == list(range(51, 1_051))
    for limit in (0, -1, 1_001):
        with pytest.raises(ValueError, match="limit"):
            await store.events.read_after(ROOM, after_position=0, limit=limit)


@pytest.mark.parametrize("border", [4095, 4096, 4097])
async def test_events_cross_the_borders_of_4096(store: OpenStore, border: int) -> None:
    """Stores that partition a topic do it by position // 4096."""
    await store.projection.apply(messages_batch(ROOM, range(border - 3, border + 4)))

    rows = await store.events.read_after(ROOM, after_position=border - 2, limit=4)

    assert [row.position for row in rows] == list(range(border - 1, border + 3))


async def test_topics_do_not_mix(store: OpenStore) -> None:
    """C22: also one whose id begins with the other's, and a user's topic."""
    own = user_id("uroom")
    await store.projection.apply(
        ProjectionBatch(
            events=[event_row(ROOM, 1), event_row(conversation_id("croom2"), 2), event_row(own, 3)],
            applied=[applied_row(ROOM, 1), applied_row(conversation_id("croom2"), 2), applied_row(own, 3)],
            shard=shard_row(),
        )
    )

    assert [row.position for row in await store.events.read_after(ROOM, after_position=0, limit=10)] == [1]
    assert [row.position for row in await store.events.read_after(own, after_position=0, limit=10)] == [3]


async def test_unknown_topic_has_no_events(store: OpenStore) -> None:
    assert await store.events.read_after(ROOM, after_position=0, limit=10) == []
