"""A topic that is trimmed under nodes that have it: what they know, what listeners hear, how open outcomes end."""

import asyncio

import pytest

from hubbub_server.domain.errors import LogUnavailable, OutcomeUnknown
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, add, create_group, remove, send, until
from tests.support.fakes.topic_log import AppendFault, LiveFault
from tests.support.group_cluster import GroupCluster, state_on

pytestmark = pytest.mark.asyncio


async def test_members_who_left_before_the_snapshot_stay_out() -> None:
    """G5: former members and roles are part of it."""
    stage = GroupCluster()
    async with stage.node() as node:
        await create_group(node, BOB, CAROL)
        await node.submit(remove(BOB))
        await node.submit(add(BOB))
        await node.submit(remove(CAROL))
        before = await state_on(node)
    await stage.project()
    await stage.snapshot()
    stage.trim()
    async with stage.node() as node:
        after = await state_on(node)
    assert (after.members, after.former_members) == (before.members, before.former_members)


async def test_listener_of_a_topic_hears_on_over_a_whole_trim() -> None:
    """G4: nothing twice, nothing left out, and no Reset: the epoch is the same."""
    stage = GroupCluster()
    await stage.fill()
    async with stage.node() as one, stage.node() as two:
        listener = await two.listen()
        await stage.project()
        await stage.snapshot()
        stage.trim()
        await one.send(send(BOB, 6))
        await until(lambda: listener.positions == [9])
        await two.hub.at_head(GROUP)
        assert listener.reset_count == 0


async def test_listener_that_missed_what_was_trimmed_is_told_to_start_over() -> None:
    """G4: days without a live record and without a head check; a hole is never passed over in silence."""
    stage = GroupCluster()
    await stage.fill()
    async with stage.node() as one, stage.node() as two:
        listener = await two.listen()
        two.log.live_faults.append(LiveFault.LOST)
        await one.send(send(BOB, 6))
        await stage.project()
        await stage.snapshot()
        stage.trim()
        await one.send(send(BOB, 7))
        await until(lambda: listener.reset_count == 1)
        assert two.hub.topic(GROUP).head.cursor.position == 10


async def test_unknown_outcome_is_not_settled_by_what_follows_a_trim() -> None:
    """G1: our record was there and is trimmed; the first record that is left is not the one that took its place."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    async with stage.node() as one, stage.node() as two:
        await state_on(one)
        one.log.append_faults.append(AppendFault.ACK_LOST)
        sending = asyncio.create_task(one.send(send(ALICE, 6)))
        await until(lambda: stage.position() == 9)
        one.log.cut()
        await two.send(send(BOB, 7))
        await stage.project()
        await stage.snapshot()
        stage.server.trim(stage.shard, below_sequence=stage.server.by_topic[GROUP][-1].sequence)
        one.log.heal()
        with pytest.raises(OutcomeUnknown):
            await sending
        assert (await one.send(send(ALICE, 6))).message_number == 6


async def test_unknown_outcome_on_a_topic_that_was_trimmed_wholly_is_told_as_unknown() -> None:
    """G1: the record that it expects is gone, so it can never be appended."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    async with stage.node() as node:
        await state_on(node)
        node.log.append_faults.extend([AppendFault.NEVER] * 100)
        sending = asyncio.create_task(node.send(send(ALICE, 6)))
        await until(lambda: len(node.log.append_faults) < 100)
        await stage.snapshot()
        stage.server.trim(stage.shard, below_sequence=stage.server.last_sequences[stage.shard] + 1)
        node.log.append_faults.clear()
        with pytest.raises(OutcomeUnknown):
            await sending
        assert (await node.send(send(ALICE, 6))).message_number == 6


async def test_outcome_that_is_unknown_for_very_long_is_given_up() -> None:
    """G2: after days "it is not there" would mean "trimmed", and appending again would make it twice."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.trim()
    async with stage.node() as one, stage.node() as two:
        await state_on(one)
        one.log.append_faults.append(AppendFault.ACK_LOST)
        sending = asyncio.create_task(one.send(send(ALICE, 6)))
        await until(lambda: bool(stage.server.by_topic[GROUP]))
        one.log.cut()
        await two.send(send(BOB, 7))
        await stage.project()
        await stage.snapshot()
        stage.trim()
        one.log.heal()
        with pytest.raises((OutcomeUnknown, LogUnavailable)):
            await sending
        assert (await one.send(send(ALICE, 6))).message_number == 6
        assert (await one.send(send(ALICE, 8))).message_number == 8
