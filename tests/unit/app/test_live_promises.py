"""What listeners are promised: G4 (nothing is missed, the last event included) and G8 (the store may be down)."""

import asyncio
import random

import pytest

from hubbub_server.app.frames import CaughtUp, Events
from hubbub_server.app.read_history import PageSide
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import StoreUnavailable
from tests.support.app_node import ALICE, BOB, CODEC, GROUP, AppCluster, AppNode, create_group, remove, send, until
from tests.support.fakes.topic_log import FakeLogServer, LiveFault

pytestmark = pytest.mark.asyncio


async def test_the_last_live_record_is_found_by_comparing_heads() -> None:
    """G4, C23: nothing comes after the lost record, so only the head can tell."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node(head_check_interval_s=0.01) as two:
        await create_group(one, BOB)
        listener = await two.listen()
        await one.send(send(ALICE, 1))
        await until(lambda: listener.positions[-1:] == [4])
        two.log.live_faults.append(LiveFault.LOST)
        await one.send(send(ALICE, 2))
        await until(lambda: listener.positions[-1:] == [5])
        assert listener.positions == [4, 5]


async def test_a_reconnect_compares_heads_at_once() -> None:
    """G4: what was sent while the node could not hear the log comes when it can again."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        listener = await two.listen()
        two.log.cut()
        for serial in range(1, 4):
            await one.send(send(ALICE, serial))
        two.log.heal()
        await until(lambda: listener.positions == [4, 5, 6])


async def test_a_hole_in_live_delivery_is_filled_before_what_follows() -> None:
    """G4, C15: lost, doubled and late live records; each listener hears each position once and in order."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        listener = await two.listen()
        two.log.live_faults.extend([None, LiveFault.LOST, LiveFault.LOST, LiveFault.TWICE, LiveFault.LOST, None])
        for serial in range(1, 7):
            await one.send(send(ALICE, serial))
        await until(lambda: listener.positions[-1:] == [9])
        assert listener.positions == [4, 5, 6, 7, 8, 9]
        assert [head.cursor.position for head in listener.heads] == [4, 5, 6, 7, 8, 9]


async def test_a_listener_hears_everything_after_the_head_it_was_given() -> None:
    """G4: subscribing while others commit leaves no hole between the head and the first event."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await two.listen()
        for serial in range(1, 20):
            await one.send(send(ALICE, serial))
            late = await two.listen()
            start = two.hub.topic(GROUP).head.cursor.position
            await one.send(send(ALICE, serial + 100))
            await until(lambda heard=late, first=start: heard.positions[:1] == [first + 1])  # type: ignore[misc]


async def _send_one_by_one(node: AppNode, first: int) -> None:
    for serial in range(first, first + 20):
        await node.send(send(ALICE, serial))


async def test_reading_the_head_while_others_commit_resets_nothing() -> None:
    """G4: the answer to a read may be older than what was heard meanwhile; that is no other log (seen in a soak)."""
    chance = random.Random(3)
    cluster = AppCluster(server=FakeLogServer(turns=lambda: chance.randint(1, 9)))
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        listener = await two.listen()
        sending = asyncio.gather(*(one.send(send(ALICE, serial)) for serial in range(1, 101)))
        others = asyncio.gather(*(_send_one_by_one(one, serial) for serial in range(1_000, 6_000, 1_000)))
        while not (sending.done() and others.done()):
            await two.hub.at_head(GROUP)
        await until(lambda: listener.positions[-1:] == [203])
        assert listener.reset_count == 0
        assert listener.positions == list(range(4, 204))


async def test_a_conversation_that_no_node_has_takes_sends_while_the_store_is_down() -> None:
    """G8: what a decision needs is in the log."""
    cluster = AppCluster()
    async with cluster.node() as one:
        await create_group(one, BOB)
        await one.send(send(ALICE, 1))
    cluster.store.is_unavailable = True
    async with cluster.node() as two, cluster.node() as three:
        listener = await three.listen()
        assert (await two.send(send(BOB, 2))).message_number == 2
        await until(lambda: listener.positions == [5])


async def test_history_is_exact_while_the_projector_is_stopped() -> None:
    """G8: what was acknowledged is in the next page and the next Sync, on a node that was not there at the send."""
    cluster = AppCluster()
    async with cluster.node() as one:
        await create_group(one, BOB)
        for serial in range(1, 11):
            await one.send(send(ALICE, serial))
        await cluster.project()
        cluster.store.is_frozen = True
        for serial in range(11, 301):
            await one.send(send(ALICE, serial))
        async with cluster.node() as two:
            before = await two.history.list_messages(BOB, GROUP, anchor_number=0, side=PageSide.BEFORE, page_size=200)
            across = await two.history.list_messages(BOB, GROUP, anchor_number=5, side=PageSide.AFTER, page_size=20)
            around = await two.history.list_messages(BOB, GROUP, anchor_number=10, side=PageSide.AROUND, page_size=10)
            frames = [f async for f in two.sync.serve(BOB, [Cursor(topic_id=GROUP, epoch=1, position=5)])]
    assert [m.message_number for m in before.messages] == list(range(101, 301))
    assert [m.message_number for m in across.messages] == list(range(6, 26))
    assert {m.message_number for m in around.messages} >= set(range(6, 15))
    bodies = [frame.body for frame in frames if isinstance(frame, Events)]
    positions = [d.event.position for body in bodies for d in CODEC.decode(body)]
    assert positions == list(range(6, 304))
    assert isinstance(frames[-1], CaughtUp)


async def test_what_only_the_store_has_is_refused_while_it_is_down_and_there_again_afterwards() -> None:
    """G8: trimmed records are read from the store; it says so when it cannot."""
    cluster = AppCluster()
    async with cluster.node() as one:
        await create_group(one, BOB)
        for serial in range(1, 6):
            await one.send(send(ALICE, serial))
    await cluster.project()
    for shard, last in enumerate(cluster.server.last_sequences):
        cluster.server.trim(shard, below_sequence=last)
    async with cluster.node() as two:
        cluster.store.is_unavailable = True
        with pytest.raises(StoreUnavailable):
            await two.history.list_messages(BOB, GROUP, anchor_number=0, side=PageSide.BEFORE, page_size=50)
        cluster.store.is_unavailable = False
        page = await two.history.list_messages(BOB, GROUP, anchor_number=0, side=PageSide.BEFORE, page_size=50)
        assert [m.message_number for m in page.messages] == [1, 2, 3, 4, 5]


async def test_an_ex_member_reads_up_to_the_removal_and_nothing_after_it() -> None:
    """G5: Sync ends at the removal."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await one.send(send(ALICE, 1))
        await one.submit(remove(BOB))
        await one.send(send(ALICE, 2))
        frames = [f async for f in two.sync.serve(BOB, [Cursor(topic_id=GROUP, epoch=1, position=0)])]
    bodies = [frame.body for frame in frames if isinstance(frame, Events)]
    assert [d.event.position for body in bodies for d in CODEC.decode(body)] == [1, 2, 3, 4, 5]
