"""Delivered markers on nodes: few events, told to those who may know, and to nobody else."""

import asyncio

import pytest

from hubbub_server.app.frames import ReadUpTo, ReceivedUpTo
from hubbub_server.domain.commands import ChangePreferences, CreateDirect, RecordBlock
from hubbub_server.domain.errors import ConversationNotFound, MessageNotFound
from hubbub_server.domain.events import DeliveredMarkerMoved, SourcePlace
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.preferences import Preferences, Status, StatusState
from hubbub_server.domain.signals import DeliveredMarker, ReadMarker
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, send, settle
from tests.support.marker_steps import at, group_with, read, somebody
from tests.support.virtual_time import run_in_virtual_time


def received(number: int, conversation_id: ConversationId = GROUP) -> ReceivedUpTo:
    return ReceivedUpTo(conversation_id=conversation_id, message_number=number)


def moves(cluster: AppCluster, user_id: UserId) -> list[int]:
    """Returns the delivered markers in the log of a user's topic."""
    kinds = [event.kind for event in cluster.events(user_id)]
    return [kind.marker.message_number for kind in kinds if isinstance(kind, DeliveredMarkerMoved)]


def test_devices_that_receive_at_once_cost_one_event_and_others_hear_of_it_on_all_nodes() -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node, cluster.node() as other:
            await group_with(node, BOB, messages=5)
            alice, bob = await other.listen(user_id=ALICE), await other.listen(user_id=BOB)
            answers = await asyncio.gather(
                *(node.markers.mark_delivered(BOB, received(number)) for number in (1, 3, 2, 5, 4))
            )
            await settle()

            assert {each.message_number for each in answers} == {5}
            assert moves(cluster, BOB) == [5]
            assert [signal.kind for signal in alice.signals] == [DeliveredMarker(message_number=5)]
            assert bob.signals == []
            await cluster.project()
            assert await other.markers.list_markers(ALICE, GROUP) == [at(BOB, 0, 5)]
            assert len(await cluster.store.read_deliveries(GROUP)) == 1

    run_in_virtual_time(run())


def test_what_is_read_within_the_window_costs_no_event_of_its_own() -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node:
            await group_with(node, BOB, messages=5)
            alice = await node.listen(user_id=ALICE)
            marks = node.markers.mark_delivered(BOB, received(5)), node.markers.mark_read(BOB, read(5))
            delivered, _ = await asyncio.gather(*marks)
            await settle()

            assert (delivered.message_number, moves(cluster, BOB)) == (5, [])
            assert [signal.kind for signal in alice.signals] == [ReadMarker(message_number=5)]
            await cluster.project()
            assert await node.markers.list_markers(ALICE, GROUP) == [at(BOB, 5)]

    run_in_virtual_time(run())


@pytest.mark.parametrize("how", ["drain", "end"])
def test_leaving_node_commits_what_waits(how: str) -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node:
            await group_with(node, BOB, messages=2)
            waiting = asyncio.create_task(node.markers.mark_delivered(BOB, received(2)))
            await settle()
            assert moves(cluster, BOB) == []
            if how == "drain":
                node.markers.drain()
                assert (await waiting).message_number == 2
        assert (await waiting).message_number == 2
        assert moves(cluster, BOB) == [2]

    run_in_virtual_time(run())


def test_large_conversation_keeps_no_deliveries() -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node:
            await group_with(node, BOB, *(somebody(number) for number in range(99)), messages=2)
            alice = await node.listen(user_id=ALICE)
            assert (await node.markers.mark_delivered(BOB, received(2))).message_number == 0
            assert (moves(cluster, BOB), alice.signals) == ([], [])

    run_in_virtual_time(run())


def test_invisible_user_receives_unseen() -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node:
            await group_with(node, BOB, messages=2)
            alice = await node.listen(user_id=ALICE)
            hide = Preferences(status=Status(state=StatusState.INVISIBLE))
            await node.submit(ChangePreferences(preferences=hide, names=["status"]), topic_id=BOB)
            await node.markers.mark_delivered(BOB, received(2))
            await cluster.project()
            await settle()

            assert (moves(cluster, BOB), alice.signals) == ([], [])
            assert await node.markers.list_markers(ALICE, GROUP) == []

    run_in_virtual_time(run())


def test_with_a_block_the_two_of_a_direct_conversation_learn_nothing_of_each_other() -> None:
    """Neither live nor by asking, and nothing of what was told before."""

    async def run() -> None:
        direct = ConversationId(TopicId("cdirect"))
        cluster = AppCluster()
        async with cluster.node() as node:
            await node.submit(CreateDirect(creator_id=ALICE, other_id=BOB), topic_id=direct)
            await node.submit(send(ALICE, 1), topic_id=direct)
            await node.markers.mark_read(BOB, ReadUpTo(conversation_id=direct, message_number=1))
            await cluster.project()
            assert await node.markers.list_markers(ALICE, direct) == [at(BOB, 1)]
            alice = await node.listen(direct, user_id=ALICE)
            block = RecordBlock(blocker_id=BOB, user_id=ALICE, blocked=True, source=SourcePlace(1, 9))
            await node.submit(block, topic_id=direct)
            await node.markers.mark_delivered(BOB, received(1, direct))
            await cluster.project()
            await settle()

            assert alice.signals == []
            assert await node.markers.list_markers(ALICE, direct) == ()
            assert (await node.markers.list_readers(ALICE, direct, 1)).count == 0

    run_in_virtual_time(run())


@pytest.mark.asyncio
async def test_only_messages_of_own_conversations_are_received() -> None:
    async with AppCluster().node() as node:
        await group_with(node, BOB, messages=1)
        with pytest.raises(MessageNotFound):
            await node.markers.mark_delivered(BOB, received(2))
        for group in (GROUP, ConversationId(TopicId("cnone"))):
            with pytest.raises(ConversationNotFound):
                await node.markers.mark_delivered(CAROL, received(1, group))
