"""What every MessageStore reads: ranges by number, and client ids together with how far the answer is good."""

import pytest

from hubbub_server.domain.id_window import IdEntry
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.projection import ProjectionBatch
from tests.support.rows import (
    SENDER,
    applied_row,
    client_id,
    conversation_id,
    event_row,
    message_row,
    messages_batch,
    shard_row,
    user_id,
)
from tests.support.stores import OpenStore

pytestmark = pytest.mark.asyncio

ROOM = conversation_id("croom")


async def read_numbers(store: OpenStore, first: int, last: int) -> list[int]:
    return [m.message_number for m in await store.messages.read_range(ROOM, first_number=first, last_number=last)]


async def test_range_includes_both_ends_in_ascending_order(store: OpenStore) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 11)))

    assert await read_numbers(store, 3, 6) == [3, 4, 5, 6]


@pytest.mark.parametrize(
    ("first", "last", "expected"),
    [
        (1, 1, [1]),
        (10, 10, [10]),
        (10, 14, [10]),
        (11, 20, []),
        (-5, 2, [1, 2]),
        (0, 0, []),
        (5, 4, []),
    ],
)
async def test_range_ends_where_the_messages_end(store: OpenStore, first: int, last: int, expected: list[int]) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 11)))

    assert await read_numbers(store, first, last) == expected


async def test_range_takes_200_messages_and_refuses_201(store: OpenStore) -> None:
    await store.projection.apply(messages_batch(ROOM, range(1, 302)))

    assert await read_numbers(store, 51, 250) == list(range(51, 251))
    with pytest.raises(ValueError, match="200"):
        await read_numbers(store, 51, 251)


@pytest.mark.parametrize("border", [4095, 4096, 4097, 8192])
async def test_range_crosses_the_borders_of_4096(store: OpenStore, border: int) -> None:
    """Stores that partition a conversation do it by number // 4096."""
    await store.projection.apply(messages_batch(ROOM, range(border - 3, border + 4)))

    assert await read_numbers(store, border - 2, border + 2) == list(range(border - 2, border + 3))


async def test_message_comes_back_as_it_was_written(store: OpenStore) -> None:
    row = message_row(ROOM, 7, position=9, body=bytes(range(256)))
    await store.projection.apply(
        ProjectionBatch(messages=[row], applied=[applied_row(ROOM, 9, last_message_number=7)], shard=shard_row())
    )

    assert await store.messages.read_range(ROOM, first_number=7, last_number=7) == [
        StoredMessage(
            message_number=7,
            counted_number=7,
            sender_id=row.sender_id,
            change_position=9,
            commit_time_ms=row.commit_time_ms,
            body=bytes(range(256)),
        )
    ]


async def test_conversations_do_not_mix(store: OpenStore) -> None:
    """C22: also one whose id begins with the other's."""
    longer = conversation_id(ROOM + "2")
    await store.projection.apply(messages_batch(ROOM, [1, 2]))
    await store.projection.apply(messages_batch(longer, [1, 2, 3]))

    assert await read_numbers(store, 1, 10) == [1, 2]
    assert (await store.messages.find_ids(ROOM, [(SENDER, client_id(3))])).found == {}


async def test_id_is_found_with_all_that_a_repeated_answer_needs(store: OpenStore) -> None:
    """G3: same number, same answer."""
    row = message_row(ROOM, 7, position=9, epoch=2)
    await store.projection.apply(
        ProjectionBatch(
            messages=[row], applied=[applied_row(ROOM, 9, epoch=2, last_message_number=7)], shard=shard_row(epoch=2)
        )
    )

    lookup = await store.messages.find_ids(ROOM, [(SENDER, client_id(7))])

    assert lookup.found == {
        (SENDER, client_id(7)): IdEntry(
            message_number=7,
            content_hash=row.content_hash,
            epoch=2,
            position=9,
            commit_time_ms=row.commit_time_ms,
        )
    }


async def test_lookup_says_which_ids_it_asked_for_and_how_far_it_saw(store: OpenStore) -> None:
    """G3: absence counts only up to `applied_position`, which counts events, not messages."""
    await store.projection.apply(
        ProjectionBatch(
            events=[event_row(ROOM, 1), event_row(ROOM, 2)],
            messages=[message_row(ROOM, 1, position=1)],
            applied=[applied_row(ROOM, 2, last_message_number=1)],
            shard=shard_row(),
        )
    )
    keys = {(SENDER, client_id(1)), (SENDER, client_id(2)), (user_id("uother"), client_id(1))}

    lookup = await store.messages.find_ids(ROOM, keys)

    assert lookup.applied_position == 2
    assert lookup.keys == keys
    assert set(lookup.found) == {(SENDER, client_id(1))}


async def test_lookup_in_an_unknown_conversation_has_seen_nothing(store: OpenStore) -> None:
    lookup = await store.messages.find_ids(ROOM, [(SENDER, client_id(1))])

    assert (lookup.applied_position, lookup.found) == (0, {})


async def test_lookup_of_no_ids_is_allowed(store: OpenStore) -> None:
    assert (await store.messages.find_ids(ROOM, [])).keys == frozenset()
