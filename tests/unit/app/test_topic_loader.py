"""Where a topic's state comes from: every case of "trimmed, or never made", and that doubt is never an empty state."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

import pytest

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.app.topic_loader import TopicDamaged
from hubbub_server.domain.commands import Changed, CreateGroup, SendMessage
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import IdReused, LogUnavailable, OutcomeUnknown, StoreUnavailable
from hubbub_server.domain.ids import TopicId, UserId, shard_of
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.ports.topic_states import Snapshot
from tests.support.app_node import (
    ALICE,
    BOB,
    CAROL,
    GROUP,
    AppCluster,
    AppNode,
    add,
    create_group,
    message_id,
    remove,
    send,
    until,
)
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import AppendFault, FakeTopicLog, LiveFault
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.loaders import fake_loader

pytestmark = pytest.mark.asyncio

EIGHT_DAYS_S = 8 * 24 * 3600.0


class Stage(AppCluster):
    """A cluster whose shards can be trimmed as the trimmer does: the snapshot first."""

    @property
    def shard(self) -> int:
        return shard_of(GROUP, self.server.shards)

    async def snapshot(self) -> None:
        log = self.server.connect()
        states = FakeTopicStates(self.server, log)
        await TakeSnapshots(loader=fake_loader(self.server, log, self.store), states=states).take(GROUP)
        self.server.nodes.remove(log)

    def trim(self, *, keep: int = 0) -> None:
        """Removes all records of the group's shard but the newest `keep` of the group, and lets days pass."""
        log = self.server.by_topic[GROUP]
        below = log[-keep].sequence if keep else self.server.last_sequences[self.shard] + 1
        self.server.trim(self.shard, below_sequence=below)
        self.clock.advance(EIGHT_DAYS_S)

    def position(self) -> int:
        """Position of the group's newest record; fails when it is trimmed."""
        return self.server.by_topic[GROUP][-1].facts.last_position


async def filled(stage: Stage, messages: int = 5) -> None:
    """Fills the group with Bob and messages 1 to `messages` of Alice's."""
    async with stage.node() as node:
        await create_group(node, BOB)
        for serial in range(1, messages + 1):
            await node.send(send(ALICE, serial))


def fresh(stage: Stage, sender_id: UserId, serial: int) -> SendMessage:
    """Returns a command with an id of now."""
    return replace(send(sender_id, serial), client_message_id=message_id(serial, time_ms=stage.clock.now_ms()))


async def state_on(node: AppNode) -> ConversationState:
    """Returns the group's state at its head."""
    state = (await node.hub.at_head(GROUP)).state
    assert isinstance(state, ConversationState)
    return state


@pytest.mark.parametrize("keep", [0, 1, 3])
@pytest.mark.parametrize("is_store_down", [False, True])
async def test_trimmed_topic_goes_on_at_head_plus_one(keep: int, is_store_down: bool) -> None:
    """G1, G2, G8: trimmed in part or wholly, with the store or without."""
    stage = Stage()
    await filled(stage)
    await stage.project()
    await stage.snapshot()
    stage.trim(keep=keep)
    stage.store.is_unavailable = is_store_down
    async with stage.node() as node:
        state = await state_on(node)
        assert (state.position, set(state.members)) == (8, {ALICE, BOB})
        sent = await node.send(fresh(stage, BOB, 6))
        assert (sent.message_number, sent.cursor.position) == (6, 9)


async def test_topic_that_is_idle_through_several_trims_goes_on_at_head_plus_one() -> None:
    """G2: on a node that never forgot it, and on one that never knew it; each commit after a whole trim."""
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    if is_made:
        await filled(stage)
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
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    stage.store.is_unavailable = True
    await filled(stage)
    assert stage.position() == 8


async def test_nothing_proves_that_a_topic_never_was_while_the_states_are_of_another_epoch() -> None:
    """The log was lost and made anew: what it had may be in the store alone."""
    stage = Stage()
    await filled(stage)
    await stage.project()
    stage.server.recreate(stage.shard)
    stage.store.is_unavailable = True
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await create_group(node, BOB)


@pytest.mark.parametrize("keep", [0, 1])
async def test_store_that_lost_a_trimmed_topic_cannot_deny_its_ids(keep: int) -> None:
    """G3: neither store nor log knows what was said; only the snapshot knows that something was."""
    stage = Stage()
    await filled(stage)
    await stage.project()
    await stage.snapshot()
    stage.trim(keep=keep)
    stage.store = FakeStore()
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await node.send(send(ALICE, 1))
        assert (await node.send(fresh(stage, BOB, 6))).message_number == 6


async def test_lost_records_are_not_taken_for_trimmed_ones() -> None:
    """G1: the head is 0, and the log still has what came before: nobody trimmed that."""
    stage = Stage()
    await filled(stage)
    await stage.snapshot()
    stage.server.by_topic[GROUP].clear()
    async with stage.node() as node:
        with pytest.raises(TopicDamaged):
            await node.send(send(ALICE, 6))


async def test_log_that_ends_before_the_snapshot_is_refused() -> None:
    """G1: it was restored from an older copy, and nobody noticed yet."""
    stage = Stage()
    await filled(stage)
    await stage.snapshot()
    stage.server.forget_after(stage.shard, stage.server.by_topic[GROUP][-2].sequence)
    async with stage.node() as node:
        with pytest.raises(TopicDamaged):
            await node.send(send(ALICE, 6))


@pytest.mark.parametrize("has_snapshot", [True, False])
async def test_hole_after_what_is_stored_is_refused(has_snapshot: bool) -> None:
    """G2: a state with a hole in it is no state."""
    stage = Stage()
    await filled(stage, 1)
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
    stage = Stage()
    await filled(stage)
    stage.store.is_unavailable = True
    async with stage.node() as node:
        assert (await node.send(send(BOB, 6))).message_number == 6


async def test_store_is_the_start_where_there_is_no_snapshot() -> None:
    """Data from before there were snapshots; only the tail is read from the log."""
    stage = Stage()
    await filled(stage)
    await stage.project()
    async with stage.node() as one, stage.node() as two:
        await one.send(send(BOB, 6))
        topic = await two.hub.at_head(GROUP)
        assert [record.facts.first_position for record in topic.tail()] == [9]


async def test_snapshot_spares_the_store() -> None:
    """G8: while there is one the store is never asked."""
    stage = Stage()
    await filled(stage)
    await stage.snapshot()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        await node.send(send(BOB, 6))
    assert stage.store.refused == 0


async def test_trim_between_two_reads_of_a_load_is_not_damage() -> None:
    """The head was read, then the topic was snapshotted and trimmed: read again, and be right."""
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    await filled(stage)
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
        node.hub._loader._states.__class__ = TrimmedAfterwards
        command = fresh(stage, ALICE, 7)
        with suppress(LogUnavailable):  # the head that was read is gone: right, and over at the next try
            assert (await node.send(command)).message_number == 7
        assert (await node.send(command)).message_number == 7


async def test_snapshot_that_is_newer_than_the_head_that_was_read_is_not_damage() -> None:
    """Another node commits and the worker writes the snapshot between the two reads."""
    stage = Stage()
    await filled(stage)

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


# ---- ids


async def test_retry_of_an_id_from_before_the_snapshot_is_one_message() -> None:
    """G3: the window is empty; the store's rows answer, from any node, also after a trim."""
    stage = Stage()
    await filled(stage)
    async with stage.node() as node:
        first = await node.send(send(ALICE, 6))
    await stage.project()
    await stage.snapshot()
    stage.trim()
    async with stage.node() as node:
        assert await node.send(send(ALICE, 6)) == first
        with pytest.raises(IdReused):
            await node.send(send(ALICE, 6, "other"))
        assert stage.server.by_topic[GROUP] == []


@pytest.mark.parametrize("is_store_down", [False, True])
async def test_recent_ids_are_taken_from_the_log(is_store_down: bool) -> None:
    """G3, G8: a node that starts anew answers retries, and takes ids of slow clocks, without the store."""
    stage = Stage()
    async with stage.node() as node:
        await create_group(node, BOB)
        first = [await node.send(send(ALICE, serial)) for serial in range(1, 300)]
    await stage.snapshot()
    stage.store.is_unavailable = is_store_down
    stage.store.is_frozen = True
    async with stage.node() as node:
        stage.store.lookups = stage.store.refused = 0
        assert [await node.send(send(ALICE, serial)) for serial in range(60, 300)] == first[59:]
        assert stage.store.lookups == stage.store.refused == 0


async def test_store_that_is_behind_cannot_deny_an_id() -> None:
    """G3: it is asked, has not applied the message yet, and must not let it become two: the log has it."""
    stage = Stage()
    async with stage.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await stage.project()
        first = [await node.send(send(ALICE, serial)) for serial in range(2, 300)]
    await stage.snapshot()
    async with stage.node() as node:
        assert await node.send(send(ALICE, 2)) == first[0]
        assert stage.store.lookups == 1
        assert (await node.send(send(ALICE, 1))).message_number == 1
        assert await node.send(send(ALICE, 299)) == first[-1]
        assert (await node.send(send(BOB, 1))).message_number == 300


async def test_id_that_only_the_store_could_know_waits_for_it() -> None:
    """G3, G8: UNAVAILABLE for that one command, the others go on."""
    stage = Stage()
    await filled(stage)
    await stage.project()
    await stage.snapshot()
    stage.trim()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await node.send(send(ALICE, 1))
        assert (await node.send(fresh(stage, ALICE, 6))).message_number == 6
        stage.store.is_unavailable = False
        assert (await node.send(send(ALICE, 1))).message_number == 1


# ---- live


async def test_members_who_left_before_the_snapshot_stay_out() -> None:
    """G5: former members and roles are part of it."""
    stage = Stage()
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
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    await filled(stage)
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


# ---- unknown outcomes


async def test_unknown_outcome_is_not_settled_by_what_follows_a_trim() -> None:
    """G1: our record was there and is trimmed; the first record that is left is not the one that took its place."""
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    await filled(stage)
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
    stage = Stage()
    await filled(stage)
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
