"""Markers on nodes: coalesced, never behind, never lost; what is unread is derived and the same everywhere."""

import asyncio
from dataclasses import replace

import pytest

from hubbub_server.app.read_states import ReadState
from hubbub_server.domain.commands import (
    ChangeConversationPreferences,
    ChangePreferences,
    Marked,
    SetBlock,
)
from hubbub_server.domain.errors import ConversationNotFound, MessageNotFound, StoreUnavailable, WrongState
from hubbub_server.domain.events import ReadMarkerMoved
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.preferences import ConversationPreferences, Preferences
from hubbub_server.domain.receipts import ReceiptsMode, receipts_mode
from tests.support.app_node import (
    ALICE,
    BOB,
    CAROL,
    GROUP,
    AppCluster,
    add,
    create_group,
    remove,
    send,
    settle,
)
from tests.support.marker_steps import (
    EVERYBODY_HEARS,
    at,
    bob_read,
    group_with,
    mention,
    of,
    read,
    read_state,
    somebody,
    unread,
)
from tests.support.virtual_time import run_in_virtual_time


def moves(cluster: AppCluster, user_id: UserId) -> list[int]:
    """Returns the markers in the log of a user's topic."""
    kinds = [event.kind for event in cluster.events(user_id)]
    return [kind.marker.message_number for kind in kinds if isinstance(kind, ReadMarkerMoved)]


# ---- the numbers


@pytest.mark.asyncio
async def test_sender_has_nothing_unread_on_any_node() -> None:
    """C25."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, messages=3)

        assert [await unread(node, ALICE) for node in (one, two)] == [(0, 0)] * 2
        assert [await unread(node, BOB) for node in (one, two)] == [(3, 0)] * 2


@pytest.mark.asyncio
async def test_reading_of_one_is_no_reading_of_another() -> None:
    """C26."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, CAROL, messages=5)
        await node.markers.mark_read(BOB, read(5))

        assert await unread(node, BOB) == (0, 0)
        assert await unread(node, CAROL) == (5, 0)
        assert (await node.markers.counters(CAROL)).badge_count == 5


@pytest.mark.asyncio
async def test_unread_goes_down_one_by_one_for_who_was_away_when_it_began() -> None:
    """C30."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, messages=2)
        seen = [(await unread(two, BOB))[0]]
        for number in (1, 2):
            await two.markers.mark_read(BOB, read(number))
            seen.append((await unread(one, BOB))[0])

        assert seen == [2, 1, 0]


@pytest.mark.asyncio
async def test_late_and_repeated_calls_converge_to_the_maximum_on_all_nodes() -> None:
    """C31."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, messages=5)
        answers = await asyncio.gather(one.markers.mark_read(BOB, read(5)), two.markers.mark_read(BOB, read(4)))
        again = await two.markers.mark_read(BOB, read(4))

        assert max(answer.marker.message_number for answer in answers) == 5
        assert again.marker.message_number == 5
        assert [await unread(node, BOB) for node in (one, two)] == [(0, 0)] * 2


@pytest.mark.asyncio
async def test_newcomer_has_nothing_unread_before_joining() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, messages=4)
        await node.submit(add(BOB))
        await node.send(send(ALICE, 9))

        assert await unread(node, BOB) == (1, 0)


# ---- marking


@pytest.mark.asyncio
async def test_message_that_does_not_exist_cannot_be_read() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=1)
        with pytest.raises(MessageNotFound):
            await node.markers.mark_read(BOB, read(2))


@pytest.mark.asyncio
async def test_foreign_conversation_cannot_be_read_or_unread() -> None:
    """G5: who was removed a moment ago neither."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=1)
        await node.submit(remove(BOB))
        for user_id in (BOB, CAROL):
            with pytest.raises(ConversationNotFound):
                await node.markers.mark_read(user_id, read(1))
            with pytest.raises(ConversationNotFound):
                await node.markers.mark_unread(user_id, GROUP)


@pytest.mark.asyncio
async def test_who_was_just_added_may_read_before_the_own_topic_knows() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))

        assert (await node.markers.mark_read(BOB, read(1))).marker.message_number == 1
        assert (await node.markers.mark_unread(BOB, GROUP)).unread_mark_position == 3


@pytest.mark.asyncio
async def test_unread_mark_counts_one_in_the_badge_and_ends_with_reading() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=1)
        await node.markers.mark_read(BOB, read(1))
        marked = await node.markers.mark_unread(BOB, GROUP)
        assert (await node.markers.counters(BOB)).badge_count == 1
        assert (await read_state(node, BOB)).unread_mark_position == marked.unread_mark_position

        await node.markers.mark_read(BOB, read(1))
        assert (await node.markers.counters(BOB)).badge_count == 1
        await node.markers.mark_read(BOB, read(1, seen=marked.unread_mark_position))
        assert (await node.markers.counters(BOB)).badge_count == 0


def test_what_was_read_before_a_mark_as_unread_does_not_end_it() -> None:
    """Reading waits for the end of its window; who then marks the conversation as unread wants that to last."""

    async def run() -> tuple[ReadState, Marked, Marked]:
        cluster = AppCluster()
        async with cluster.node(window_s=2.0) as node:
            await group_with(node, BOB, messages=3)
            await node.markers.mark_read(BOB, read(1))
            reading = asyncio.create_task(node.markers.mark_read(BOB, read(3)))
            await asyncio.sleep(0.1)
            unread = await node.markers.mark_unread(BOB, GROUP)
            return await read_state(node, BOB), await reading, unread

    state, read_answer, unread_answer = run_in_virtual_time(run())

    assert state.marker.message_number == read_answer.marker.message_number == 3
    assert state.unread_mark_position == unread_answer.unread_mark_position > 0


def test_reading_on_costs_one_event_per_window_and_everybody_is_answered() -> None:
    """C33: 100 calls of one user within two seconds are two events."""

    async def run() -> tuple[list[int], list[Marked], list[float]]:
        cluster = AppCluster()
        loop = asyncio.get_running_loop()
        async with cluster.node(window_s=2.0) as node:
            await group_with(node, BOB, messages=100)
            ends: list[float] = []

            async def mark(number: int) -> Marked:
                marked = await node.markers.mark_read(BOB, read(number))
                ends.append(loop.time() - started)
                return marked

            started = loop.time()
            tasks = []
            for number in range(1, 101):
                tasks.append(asyncio.create_task(mark(number)))
                await asyncio.sleep(0.01)
            return moves(cluster, BOB) or [], await asyncio.gather(*tasks), ends

    early, answers, ends = run_in_virtual_time(run())

    assert early == [1]
    assert [answer.marker.message_number for answer in answers] == [1] + [100] * 99
    assert ends[0] < 0.1
    assert max(ends) < 2.5


def test_calls_behind_the_marker_do_not_wait_for_a_window() -> None:
    async def run() -> float:
        cluster = AppCluster()
        async with cluster.node(window_s=2.0) as node:
            await group_with(node, BOB, messages=3)
            await node.markers.mark_read(BOB, read(3))
            started = asyncio.get_running_loop().time()
            assert (await node.markers.mark_read(BOB, read(2))).marker.message_number == 3
            return asyncio.get_running_loop().time() - started

    assert run_in_virtual_time(run()) < 0.1


@pytest.mark.parametrize("how", ["drain", "end"])
def test_leaving_node_commits_what_waits(how: str) -> None:
    """Also for callers that are gone."""

    async def run() -> list[int]:
        cluster = AppCluster()
        async with cluster.node(window_s=2.0) as node:
            await group_with(node, BOB, messages=5)
            await node.markers.mark_read(BOB, read(1))
            waiting = asyncio.create_task(node.markers.mark_read(BOB, read(4)))
            await asyncio.sleep(0.1)
            waiting.cancel()
            if how == "drain":
                node.markers.drain()
                assert (await node.markers.mark_read(BOB, read(5))).marker.message_number == 5
        return moves(cluster, BOB)

    assert run_in_virtual_time(run())[-1] == (5 if how == "drain" else 4)


def test_many_users_have_windows_of_their_own() -> None:
    async def run() -> list[list[int]]:
        cluster = AppCluster()
        async with cluster.node(window_s=2.0) as node:
            await group_with(node, BOB, CAROL, messages=2)
            await asyncio.gather(
                *(node.markers.mark_read(user_id, read(number)) for user_id in (BOB, CAROL) for number in (1, 2))
            )
        return [moves(cluster, user_id) for user_id in (BOB, CAROL)]

    assert run_in_virtual_time(run()) == [[2], [2]]


# ---- mentions


@pytest.mark.parametrize("projected", [True, False, "behind"])
@pytest.mark.asyncio
async def test_mentions_are_exact_wherever_they_are(projected: bool | str) -> None:
    """In the store, in the log, or a part in each; once each, whoever is meant how often."""
    cluster = AppCluster()
    async with cluster.node() as one:
        await group_with(one, BOB, CAROL)
        await one.send(mention(of(BOB), of(BOB), serial=1))
        await one.send(mention(of(CAROL), serial=2))
        if projected == "behind":
            await cluster.project()
        await one.send(mention(EVERYBODY_HEARS, of(BOB), serial=3))
        if projected is True:
            await cluster.project()
        async with cluster.node() as two:
            assert [await unread(node, BOB) for node in (one, two)] == [(3, 2)] * 2
            assert await unread(two, CAROL) == (3, 2)
            assert await unread(two, ALICE) == (0, 0)
            await two.markers.mark_read(BOB, read(1))
            assert await unread(one, BOB) == (2, 1)
            await one.send(send(BOB, 4))
            assert await unread(two, BOB) == (0, 0)


@pytest.mark.asyncio
async def test_mentions_by_blocked_users_do_not_count_and_their_messages_do() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, CAROL)
        await node.send(mention(of(BOB), serial=1))
        await node.send(mention(of(BOB), serial=2, sender_id=CAROL))
        direct = ConversationId(TopicId("cdirect"))
        await node.submit(SetBlock(user_id=CAROL, conversation_id=direct, blocked=True), topic_id=BOB)

        assert await unread(node, BOB) == (2, 1)
        messages, _ = await node.markers.list_mentions(BOB, GROUP, page_size=0, before_number=0)
        assert [message.message_number for message in messages] == [1]


@pytest.mark.asyncio
async def test_without_the_store_only_mentions_are_unknown() -> None:
    """G8: who is not mentioned needs no store."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, CAROL)
        await node.send(mention(of(BOB), serial=1))
        cluster.store.is_unavailable = True

        assert await unread(node, CAROL) == (1, 0)
        with pytest.raises(StoreUnavailable):
            await unread(node, BOB)
        await node.markers.mark_read(BOB, read(1))
        assert await unread(node, BOB) == (0, 0)


@pytest.mark.asyncio
async def test_mentions_are_listed_newest_first_in_pages() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB)
        for serial in range(1, 6):
            await node.send(mention(of(BOB), serial=serial) if serial != 3 else send(ALICE, serial))
        await node.send(mention(EVERYBODY_HEARS, serial=6, sender_id=BOB))  # one's own
        numbers, before = [], 0
        while True:
            page, before = await node.markers.list_mentions(BOB, GROUP, page_size=2, before_number=before)
            numbers.append([message.message_number for message in page])
            if not before:
                break

        assert numbers == [[5], [4, 2], [1]]


# ---- the badge


@pytest.mark.asyncio
async def test_muted_conversation_stays_out_of_the_badge_until_the_mute_ends() -> None:
    """C65."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB)
        await node.send(mention(of(BOB), serial=1))
        muted = ConversationPreferences(mute_end_time_ms=cluster.clock.now_ms() + 60_000)
        command = ChangeConversationPreferences(conversation_id=GROUP, preferences=muted, names=["mute_end_time_ms"])
        await node.submit(command, topic_id=BOB)

        counters = await node.markers.counters(BOB)
        assert (counters.badge_count, counters.mention_count) == (0, 0)
        assert [(c.read_state.unread_count, c.read_state.mention_count) for c in counters.conversations] == [(1, 1)]
        cluster.clock.advance(60.0)
        counters = await node.markers.counters(BOB)
        assert (counters.badge_count, counters.mention_count) == (1, 1)


@pytest.mark.asyncio
async def test_counters_leave_out_what_is_read_and_what_the_user_left() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=1)
        await node.markers.mark_read(BOB, read(1))
        assert not (await node.markers.counters(BOB)).conversations
        await node.send(send(ALICE, 2))
        counters = await node.markers.counters(BOB)
        assert [(c.conversation_id, c.position) for c in counters.conversations] == [(GROUP, 5)]
        assert counters.cursor.topic_id == BOB
        await node.submit(remove(BOB))

        assert not (await node.markers.counters(BOB)).conversations


# ---- receipts


@pytest.mark.parametrize(
    ("members", "mode"),
    [
        (2, ReceiptsMode.FULL),
        (100, ReceiptsMode.FULL),
        (101, ReceiptsMode.COUNT_ONLY),
        (1_000, ReceiptsMode.COUNT_ONLY),
        (1_001, ReceiptsMode.OFF),
    ],
)
def test_receipts_mode_is_by_size(members: int, mode: ReceiptsMode) -> None:
    """C34."""
    assert receipts_mode(members) is mode
    assert receipts_mode(members, ReceiptsMode.OFF) is ReceiptsMode.OFF
    assert receipts_mode(members, ReceiptsMode.COUNT_ONLY) is not ReceiptsMode.FULL


@pytest.mark.asyncio
async def test_small_conversation_tells_who_has_read_what() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, CAROL, messages=3)
        await node.markers.mark_read(BOB, read(3))
        await node.markers.mark_read(CAROL, read(2))
        await node.markers.mark_read(ALICE, read(1))
        await cluster.project()

        assert await node.markers.list_markers(ALICE, GROUP) == [at(BOB, 3), at(CAROL, 2)]
        assert await node.markers.list_markers(BOB, GROUP) == [at(ALICE, 1), at(CAROL, 2)]
        readers = await node.markers.list_readers(CAROL, GROUP, 3)
        assert (readers.user_ids, readers.count) == ([BOB], 1)
        readers = await node.markers.list_readers(ALICE, GROUP, 2)
        assert (readers.user_ids, readers.count) == ([BOB, CAROL], 2)
        with pytest.raises(MessageNotFound):
            await node.markers.list_readers(ALICE, GROUP, 4)


@pytest.mark.asyncio
async def test_large_conversation_tells_how_many_and_no_list() -> None:
    """C34: the query answers by the mode; the own read state works all the same. C89: nobody hears of each reader."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, *(somebody(number) for number in range(100)), messages=2)
        alice = await node.listen(user_id=ALICE)
        await node.markers.mark_read(BOB, read(2))
        await cluster.project()
        await settle()

        readers = await node.markers.list_readers(ALICE, GROUP, 2)
        assert (readers.user_ids, readers.count, readers.mode) == ((), 1, ReceiptsMode.COUNT_ONLY)
        with pytest.raises(WrongState):
            await node.markers.list_markers(ALICE, GROUP)
        assert await unread(node, BOB) == (0, 0)
        assert alice.signals == []


@pytest.mark.asyncio
async def test_hidden_reading_is_told_to_nobody() -> None:
    """Enforced at the commit, for what is stored and for what is told live."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=3)
        alice, bob = await node.listen(user_id=ALICE), await node.listen(user_id=BOB)
        await node.markers.mark_read(BOB, read(1))
        hide = ChangePreferences(preferences=Preferences(sends_read_receipts=False), names=["sends_read_receipts"])
        await node.submit(hide, topic_id=BOB)
        await node.markers.mark_read(BOB, read(2))
        await cluster.project()
        await settle()
        assert alice.signals == [bob_read(1)]
        assert await node.markers.list_markers(ALICE, GROUP) == [at(BOB, 1)]
        assert await unread(node, BOB) == (1, 0)

        await node.submit(replace(hide, preferences=Preferences()), topic_id=BOB)
        await node.markers.mark_read(BOB, read(3))
        await cluster.project()
        await settle()
        assert alice.signals == [bob_read(1), bob_read(3)]
        assert bob.signals == []
        assert await node.markers.list_markers(ALICE, GROUP) == [at(BOB, 3)]


@pytest.mark.asyncio
async def test_reading_is_told_live_on_all_nodes_once() -> None:
    """C26: what moves nothing is told to nobody."""
    cluster = AppCluster()
    async with cluster.node() as node, cluster.node() as other:
        await group_with(node, BOB, messages=3)
        alice = await other.listen(user_id=ALICE)
        for number in (2, 2, 1, 3):
            await node.markers.mark_read(BOB, read(number))
        await settle()

        assert alice.signals == [bob_read(2), bob_read(3)]


@pytest.mark.asyncio
async def test_storage_of_markers_is_one_row_a_member() -> None:
    """C33: not one a message and member."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, CAROL, messages=20)
        for number in range(1, 21):
            for user_id in (BOB, CAROL):
                await node.markers.mark_read(user_id, read(number))
        await cluster.project()

        assert len(await cluster.store.read_readers(GROUP)) == 2
