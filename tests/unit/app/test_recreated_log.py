"""C19: a shard of the log was lost and made anew; positions go on above what the store has, old cursors get Reset."""

import asyncio

import pytest

from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import CaughtUp, Gap, Heads, Reset
from hubbub_server.domain.commands import CreateGroup
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import OutcomeUnknown
from tests.support.app_node import ALICE, BOB, GROUP, AppCluster, AppNode, create_group, remove, send, until
from tests.support.fakes.topic_log import AppendFault
from tests.support.open_streams import open_stream, streams_of
from tests.unit.app.test_active_topic import ResetListener

pytestmark = pytest.mark.asyncio


async def test_conversation_goes_on_above_what_the_store_has() -> None:
    """G2, G3: numbers and positions go on, a retry of an old id gets the old answer, the old cursor a Reset."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        answers = [await one.send(send(ALICE, serial)) for serial in (1, 2, 3)]
        await cluster.project()
        await two.hub.at_head(GROUP)
        cluster.server.recreate(one.hub.topic(GROUP).shard)
        new = await two.send(send(BOB, 4))
        assert (new.message_number, new.cursor.epoch, new.cursor.position) == (4, 2, 7)
        assert [await one.send(send(ALICE, serial)) for serial in (1, 2, 3)] == answers
        assert (await one.send(send(ALICE, 5))).message_number == 5
        frames = [f async for f in two.sync.serve(BOB, [answers[-1].cursor])]
        assert [type(frame) for frame in frames] == [Reset, CaughtUp]
        frames = [f async for f in one.sync.serve(BOB, [Cursor(topic_id=GROUP, epoch=2, position=8)])]
        assert [type(frame) for frame in frames] == [CaughtUp]


async def test_cursor_below_the_first_event_of_its_epoch_gets_a_gap() -> None:
    """G4: a joining of before is told in the new epoch; what the store has from there on is of the old one."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await cluster.project()
        cluster.server.recreate(node.hub.topic(GROUP).shard)
        await node.send(send(ALICE, 2))
        gap, caught_up = [f async for f in node.sync.serve(BOB, [Cursor(topic_id=GROUP, epoch=2, position=1)])]
        assert isinstance(gap, Gap)
        assert [message.message_number for message in gap.newest_messages] == [1, 2]
        assert gap.head.cursor == Cursor(topic_id=GROUP, epoch=2, position=5)
        assert caught_up == CaughtUp(heads=(gap.head,))


@pytest.mark.parametrize("fault", [AppendFault.NEVER, AppendFault.LATE])
async def test_commit_that_was_under_way_is_never_put_into_the_new_log(fault: AppendFault) -> None:
    """G1: its outcome is unknown for ever; the sender is told so, and a retry makes it under the new epoch."""
    cluster = AppCluster()
    async with cluster.node() as node:
        node.log.append_faults.extend([fault, *[AppendFault.NEVER] * 3])
        command = CreateGroup(creator_id=ALICE, title="x", user_ids=())
        making = asyncio.create_task(node.submit(command))
        await until(lambda: len(node.log.append_faults) < 4)
        cluster.server.recreate(node.hub.topic(GROUP).shard)
        with pytest.raises(OutcomeUnknown):
            await making
        assert cluster.events() == []
        node.log.append_faults.clear()
        await node.submit(command)
        assert [(event.epoch, event.position) for event in cluster.events()] == [(2, 1), (2, 2)]


async def test_node_that_knows_the_new_epoch_decides_nothing_on_the_old_state() -> None:
    """G2: a followed topic counts as up to date, but not across epochs."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await cluster.project()
        await node.hub.subscribe(GROUP, ResetListener())
        appends = node.log.appends
        cluster.server.recreate(node.hub.topic(GROUP).shard)
        assert (await node.send(send(ALICE, 1))).cursor.epoch == 2
        assert node.log.appends == appends + 1


async def test_listener_that_comes_during_a_reload_sees_the_loaded_state() -> None:
    """G4: "no member" must not be read from a state that is being loaded again."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await cluster.project()
        await node.hub.subscribe(GROUP, ResetListener())
        topic = node.hub.topic(GROUP)
        cluster.server.recreate(topic.shard)
        await until(lambda: not topic.is_loaded)
        await node.hub.subscribe(GROUP, ResetListener())
        assert BOB in topic.state.members  # type: ignore[union-attr]
        assert topic.is_loaded


async def test_stream_covers_a_conversation_whose_leaving_was_lost_with_the_log() -> None:
    """G4: the user's own topic names it again, and no event tells of that."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await create_group(node, BOB)
        await spread(node)
        await cluster.project()
        stream = await open_stream(streams, BOB)
        await node.submit(remove(BOB))
        await spread(node)
        for topic_id in (GROUP, BOB):
            cluster.server.recreate(node.hub.topic(topic_id).shard)
        named: list[TopicHead] = []
        async with asyncio.timeout(5.0):
            while GROUP not in {head.cursor.topic_id for head in named}:
                frames = await stream.next_frames()
                named += [head for frame in frames if isinstance(frame, Heads) for head in frame.heads]
        await stream.aclose()


async def spread(node: AppNode) -> None:
    """Tells Bob's topic where he stands in the group."""
    state = (await node.hub.at_head(GROUP)).state
    assert isinstance(state, ConversationState)
    await MembershipEffects(node.hub).spread(state, [BOB])
