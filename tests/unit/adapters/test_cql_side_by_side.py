"""Many calls of a CQL session at a time, and not too many."""

import asyncio
from typing import cast

import pytest

from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.adapters.cql.side_by_side import AT_ONCE, side_by_side
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId
from tests.unit.domain.builders import ALICE

pytestmark = pytest.mark.asyncio


async def test_each_item_has_its_call_and_at_most_sixteen_are_under_way() -> None:
    done: list[int] = []
    under_way: set[int] = set()
    most = 0

    async def call(item: int) -> None:
        nonlocal most
        under_way.add(item)
        most = max(most, len(under_way))
        await asyncio.sleep(0)
        under_way.discard(item)
        done.append(item)

    await side_by_side(call, range(100))

    assert (sorted(done), most) == (list(range(100)), AT_ONCE)


async def test_failed_call_is_told_as_it_is_and_no_other_goes_on() -> None:
    """Whoever calls this knows no groups of errors, and may call again at once."""
    begun: list[int] = []
    cancelled: list[int] = []

    async def call(item: int) -> None:
        begun.append(item)
        if item == 3:
            raise StoreUnavailable("down")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.append(item)
            raise

    with pytest.raises(StoreUnavailable, match="down"):
        await side_by_side(call, range(100))

    assert len(begun) <= AT_ONCE
    assert sorted(cancelled) == [item for item in begun if item != 3]


class _CrowdedSession:
    """Answers reads of client ids only when sixteen are under way: one after the other they would wait for ever."""

    def __init__(self) -> None:
        self._barrier = asyncio.Barrier(AT_ONCE)

    async def read(self, select: str, *values: object) -> list[Row]:
        if "message_ids" not in select:
            return [(7,)]
        await self._barrier.wait()
        return [(1, "hash", 1, 2, 3)] if values[-1] == "id-5" else []


async def test_ids_are_looked_up_side_by_side() -> None:
    """A crowd of retries after an outage waits for one read of the store, not for all of them in turn."""
    store = CqlMessageStore(cast(CqlSession, _CrowdedSession()))
    keys = [(ALICE, ClientMessageId(f"id-{n}")) for n in range(2 * AT_ONCE)]

    async with asyncio.timeout(5):
        lookup = await store.find_ids(ConversationId(TopicId("croom")), keys)

    assert (lookup.applied_position, lookup.keys) == (7, frozenset(keys))
    assert list(lookup.found) == [(ALICE, "id-5")]
