"""Where a topic's state comes from: every case of "trimmed, or never made", and that doubt is never an empty state."""

from collections.abc import Sequence
from contextlib import suppress

import pytest

from hubbub_server.app.topic_fold import TopicDamaged
from hubbub_server.domain.commands import Changed, CreateGroup
from hubbub_server.domain.errors import IdReused, LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.ports.topic_states import Snapshot
from tests.support.app_node import ALICE, BOB, GROUP, create_group, send
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeTopicLog
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.group_cluster import GroupCluster, state_on

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("is_store_down", [False, True])
async def test_trimmed_topic_goes_on_at_head_plus_one(keep: int, is_store_down: bool) -> None:
    """G1, G2, G8: trimmed in part or wholly, with the store or without."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.trim(keep=keep)
    stage.store.is_unavailable = is_store_down
    async with stage.node() as node:
        state = await state_on(node)
        assert (state.position, set(state.members)) == (8, {ALICE, BOB})
        sent = await node.send(stage.fresh(BOB, 6))
        assert (sent.message_number, sent.cursor.position) == (6, 9)


async def test_topic_that_is_idle_through_several_trims_goes_on_at_head_plus_one() -> None:
    """G2: on a node that never forgot it, and on one that never knew it; each commit after a whole trim."""
    stage = GroupCluster()
    await stage.fill()
    async with stage.node() as old:
        for round_number in range(3):
            await stage.project()
            await stage.snapshot()
            stage.trim()
            async with stage.node() as new:
                numbers = [
                    (await node.send(send(ALICE, 10 + 2 * round_number + index))).message_number
                    for index, node in enumerate((old, new))
                ]
            assert numbers == [6 + 2 * round_number, 7 + 2 * round_number]


async def test_node_that_cached_a_topic_before_the_trim_cannot_commit_on_it() -> None:
    """G2: it expects a record that is gone; another one committed and was trimmed as well."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    async with stage.node() as old, stage.node() as other:
        await state_on(old)
        await other.send(send(BOB, 6))
        await stage.project()
        await stage.snapshot()
        stage.trim()
        assert (await old.send(send(ALICE, 7))).message_number == 7


@pytest.mark.parametrize("is_made", [True, False])
async def test_node_that_expects_nothing_learns_what_came_and_was_trimmed_since(is_made: bool) -> None:
    """G2: the head was 0 and is 0 again, and it is not the same: nothing but the snapshot tells."""
    stage = GroupCluster()
    if is_made:
        await stage.fill()
        await stage.project()
        await stage.snapshot()
        stage.trim()
    async with stage.node() as old, stage.node() as other:
        await state_on(old)
        assert old.hub.topic(GROUP).sequence == 0
        if not is_made:
            await create_group(other, BOB)
        await other.send(send(BOB, 6))
        known = await state_on(other)
        await stage.project()
        await stage.snapshot()
        stage.trim()
        if not is_made:
            await create_group(old, BOB)
        sent = await old.send(send(ALICE, 7))
        assert sent.cursor.position == known.position + 1
        assert sent.message_number == known.last_message_number + 1


async def test_creating_a_trimmed_conversation_again_is_the_same_conversation() -> None:
    """G3: by whoever made it, on a node that does not know it, with the store down."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.trim()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        again = CreateGroup(creator_id=ALICE, title="group", user_ids=(BOB,))
        answer = await node.submit(again)
        assert isinstance(answer, Changed)
        assert answer.cursor.position == 8
        with pytest.raises(IdReused):
            await node.submit(CreateGroup(creator_id=ALICE, title="other", user_ids=(BOB,)))
        assert stage.server.by_topic[GROUP] == []


async def test_conversation_is_made_while_the_store_is_down() -> None:
    """G8: no record, no snapshot, and the states are complete: it was never made."""
    stage = GroupCluster()
    stage.store.is_unavailable = True
    await stage.fill()
    assert stage.position() == 8


async def test_nothing_proves_that_a_topic_never_was_while_the_states_are_of_another_epoch() -> None:
    """The log was lost and made anew: what it had may be in the store alone."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    stage.server.recreate(stage.shard)
    stage.store.is_unavailable = True
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await create_group(node, BOB)


@pytest.mark.parametrize("keep", [0, 1])
async def test_store_that_lost_a_trimmed_topic_cannot_deny_its_ids(keep: int) -> None:
    """G3: neither store nor log knows what was said; only the snapshot knows that something was."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.trim(keep=keep)
    stage.store = FakeStore()
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await node.send(send(ALICE, 1))
        assert (await node.send(stage.fresh(BOB, 6))).message_number == 6


async def test_lost_records_are_not_taken_for_trimmed_ones() -> None:
    """G1: the head is 0, and the log still has what came before: nobody trimmed that."""
    stage = GroupCluster()
    await stage.fill()
    await stage.snapshot()
    stage.server.by_topic[GROUP].clear()
    async with stage.node() as node:
        with pytest.raises(TopicDamaged):
            await node.send(send(ALICE, 6))


async def test_log_that_ends_before_the_snapshot_is_refused() -> None:
    """G1: it was restored from an older copy, and nobody noticed yet."""
    stage = GroupCluster()
    await stage.fill()
    await stage.snapshot()
    stage.server.forget_after(stage.shard, stage.server.by_topic[GROUP][-2].sequence)
    async with stage.node() as node:
        with pytest.raises(TopicDamaged):
            await node.send(send(ALICE, 6))


@pytest.mark.parametrize("has_snapshot", [True, False])
async def test_hole_after_what_is_stored_is_refused(has_snapshot: bool) -> None:
    """G2: a state with a hole in it is no state."""
    stage = GroupCluster()
    await stage.fill(last=1)
    if has_snapshot:
        await stage.snapshot()
    async with stage.node() as node:
        await node.send(send(ALICE, 2))
        await node.send(send(ALICE, 3))
    del stage.server.by_topic[GROUP][-2]
    async with stage.node() as node:
        with pytest.raises(TopicDamaged):
            await node.send(send(ALICE, 4))


async def test_whole_log_is_folded_where_nothing_else_is() -> None:
    """G8: data from before there were snapshots, and the store is down."""
    stage = GroupCluster()
    await stage.fill()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        assert (await node.send(send(BOB, 6))).message_number == 6


async def test_store_is_the_start_where_there_is_no_snapshot() -> None:
    """Data from before there were snapshots; only the tail is read from the log."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    async with stage.node() as one, stage.node() as two:
        await one.send(send(BOB, 6))
        topic = await two.hub.at_head(GROUP)
        assert [record.facts.first_position for record in topic.tail()] == [9]


async def test_snapshot_spares_the_store() -> None:
    """G8: while there is one the store is never asked."""
    stage = GroupCluster()
    await stage.fill()
    await stage.snapshot()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        await node.send(send(BOB, 6))
    assert stage.store.refused == 0


async def test_trim_between_two_reads_of_a_load_is_not_damage() -> None:
    """The head was read, then the topic was snapshotted and trimmed: read again, and be right."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()

    class TrimmedMeanwhile(FakeTopicLog):
        is_trimmed = False

        async def read_head(self, topic_id: TopicId) -> LogRecord | None:
            head = await super().read_head(topic_id)
            if not self.is_trimmed:
                self.is_trimmed = True
                await stage.snapshot()
                stage.trim()
            return head

        async def read_range(
            self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
        ) -> Sequence[LogRecord]:
            raise AssertionError("there is nothing to read")

    async with stage.node() as node:
        node.log.__class__ = TrimmedMeanwhile
        assert (await node.send(send(BOB, 6))).message_number == 6


async def test_head_that_is_trimmed_after_the_snapshot_was_read_is_not_missed() -> None:
    """The law on head 0 holds only in this order: the head first. The other way round this would be number 6 again."""
    stage = GroupCluster()
    await stage.fill()
    await stage.snapshot()
    async with stage.node() as other:
        await other.send(send(BOB, 6))
    await stage.project()

    class TrimmedAfterwards(FakeTopicStates):
        is_trimmed = False

        async def read(self, topic_id: TopicId) -> Snapshot | None:
            snapshot = await super().read(topic_id)
            if not self.is_trimmed:
                self.is_trimmed = True
                await stage.snapshot()
                stage.trim()
            return snapshot

    async with stage.node() as node:
        node.hub._ports.loader._states.__class__ = TrimmedAfterwards
        command = stage.fresh(ALICE, 7)
        with suppress(LogUnavailable):  # the head that was read is gone: right, and over at the next try
            assert (await node.send(command)).message_number == 7
        assert (await node.send(command)).message_number == 7


async def test_snapshot_that_is_newer_than_the_head_that_was_read_is_not_damage() -> None:
    """Another node commits and the worker writes the snapshot between the two reads."""
    stage = GroupCluster()
    await stage.fill()

    class MovedMeanwhile(FakeTopicLog):
        is_moved = False

        async def read_head(self, topic_id: TopicId) -> LogRecord | None:
            head = await super().read_head(topic_id)
            if not self.is_moved:
                self.is_moved = True
                await other.send(send(BOB, 6))
                await stage.snapshot()
            return head

    async with stage.node() as other, stage.node() as node:
        node.log.__class__ = MovedMeanwhile
        assert (await node.send(send(ALICE, 7))).message_number == 7
