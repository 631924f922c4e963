"""The read floor of a larger group: told when it moves, to all, and never further than all have shown to have read."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.read_floors import FLOOR_WINDOW_S
from hubbub_server.domain.commands import ChangePreferences, LimitReceipts
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.preferences import Preferences
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.signals import ReadFloor
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, Listener, remove, send, settle
from tests.support.marker_steps import group_with, read
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.domain.builders import group


async def window(cluster: AppCluster) -> None:
    """Waits, on the clock of the test, until open windows are over; the store is as far as the log by then."""
    await cluster.project()
    await asyncio.sleep(FLOOR_WINDOW_S + 0.1)
    await settle()


def floors(listener: Listener) -> list[int]:
    """Returns what was told; it is told of nobody."""
    assert all(signal.user_id is None and isinstance(signal.kind, ReadFloor) for signal in listener.signals)
    return [signal.kind.message_number for signal in listener.signals if isinstance(signal.kind, ReadFloor)]


def with_group(run: Callable[[AppCluster, AppNode, AppNode], Awaitable[None]], mode: ReceiptsMode) -> None:
    """Runs a test with a group of three that tells so much of reading, with four messages of Alice's, on two nodes."""

    async def play() -> None:
        cluster = AppCluster()
        async with cluster.node() as node, cluster.node() as other:
            await group_with(node, BOB, CAROL, messages=4)
            await node.submit(LimitReceipts(actor_id=ALICE, limit=mode))
            await run(cluster, node, other)

    run_in_virtual_time(play())


def test_floor_is_told_once_when_it_has_moved_and_to_all_on_all_nodes() -> None:
    async def run(cluster: AppCluster, node: AppNode, other: AppNode) -> None:
        listeners = [await each.listen(user_id=user_id) for each in (node, other) for user_id in (ALICE, BOB, CAROL)]
        await node.markers.mark_read(BOB, read(3))
        await window(cluster)
        assert [floors(each) for each in listeners] == [[]] * 6

        await other.markers.mark_read(CAROL, read(2))
        await node.markers.mark_read(BOB, read(4))
        await window(cluster)
        assert [floors(each) for each in listeners] == [[2]] * 6
        readers = await other.markers.list_readers(ALICE, GROUP, 1)
        assert (readers.count, readers.floor_number) == (2, 2)

        await node.send(send(ALICE, 5))
        await node.markers.mark_read(BOB, read(5))
        await window(cluster)
        assert [floors(each) for each in listeners] == [[2]] * 6
        await other.markers.mark_read(CAROL, read(5))
        await window(cluster)
        assert [floors(each) for each in listeners] == [[2, 5]] * 6

    with_group(run, ReceiptsMode.COUNT_ONLY)


def test_many_readers_at_once_cost_one_signal() -> None:
    async def run(cluster: AppCluster, node: AppNode, _: AppNode) -> None:
        alice = await node.listen(user_id=ALICE)
        for number in (1, 2, 3, 4):
            for user_id in (BOB, CAROL):
                await node.markers.mark_read(user_id, read(number))
        before = len(cluster.signal_server.published)
        await window(cluster)
        assert floors(alice) == [4]
        assert len(cluster.signal_server.published) == before + 1

    with_group(run, ReceiptsMode.COUNT_ONLY)


def test_who_hides_reading_holds_the_floor_until_they_send_or_leave() -> None:
    async def run(cluster: AppCluster, node: AppNode, _: AppNode) -> None:
        alice = await node.listen(user_id=ALICE)
        hide = ChangePreferences(preferences=Preferences(sends_read_receipts=False), names=["sends_read_receipts"])
        await node.submit(hide, topic_id=CAROL)
        await node.markers.mark_read(CAROL, read(4))
        await node.markers.mark_read(BOB, read(4))
        await window(cluster)
        assert floors(alice) == []

        await node.send(send(CAROL, 5))
        await node.send(send(ALICE, 6))
        await node.markers.mark_read(BOB, read(6))
        await window(cluster)
        assert floors(alice) == [5]
        await node.submit(remove(CAROL))
        assert (await node.markers.list_readers(ALICE, GROUP, 1)).floor_number == 6

    with_group(run, ReceiptsMode.COUNT_ONLY)


def test_floor_is_told_where_receipts_are_counted_only() -> None:
    async def full(cluster: AppCluster, node: AppNode, _: AppNode) -> None:
        alice = await node.listen(user_id=ALICE)
        for user_id in (BOB, CAROL):
            await node.markers.mark_read(user_id, read(4))
        await window(cluster)
        assert not any(isinstance(signal.kind, ReadFloor) for signal in alice.signals)
        assert (await node.markers.list_readers(ALICE, GROUP, 1)).floor_number == 4

    async def off(cluster: AppCluster, node: AppNode, _: AppNode) -> None:
        alice = await node.listen(user_id=ALICE)
        for user_id in (BOB, CAROL):
            await node.markers.mark_read(user_id, read(4))
        await window(cluster)
        assert alice.signals == []

    with_group(full, ReceiptsMode.FULL)
    with_group(off, ReceiptsMode.OFF)


def test_without_the_store_nothing_is_told_until_it_is_back() -> None:
    async def run(cluster: AppCluster, node: AppNode, _: AppNode) -> None:
        alice = await node.listen(user_id=ALICE)
        await node.markers.mark_read(CAROL, read(4))
        await cluster.project()
        cluster.store.is_unavailable = True
        await node.markers.mark_read(BOB, read(3))
        await asyncio.sleep(2 * FLOOR_WINDOW_S)
        assert alice.signals == []
        cluster.store.is_unavailable = False
        await node.markers.mark_read(BOB, read(4))
        await window(cluster)
        assert floors(alice) == [4]

    with_group(run, ReceiptsMode.COUNT_ONLY)


@given(st.dictionaries(st.sampled_from([ALICE, BOB, CAROL]), st.integers(0, 20)), st.lists(st.integers(0, 9)))
def test_floor_is_the_smallest_of_what_members_show(shown: dict[str, int], sent: list[int]) -> None:
    """Somebody who left holds nothing, and nothing is read that was not said."""
    state: ConversationState = group(BOB, CAROL)
    members = [ALICE, BOB, CAROL]
    marks = {user_id: MemberMark(message_number=number) for user_id, number in zip(members, sent, strict=False)}
    state = replace(state, marks=MemberMarks(marks), last_message_number=9)
    readers = {**shown, "uleft": 0}
    numbers = [max(shown.get(u, 0), marks[u].message_number if u in marks else 0) for u in members]
    assert state.read_floor(readers) == min(*numbers, 9)  # type: ignore[arg-type]  # ids of users
