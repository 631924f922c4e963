"""Another epoch: what is stored anywhere is kept, positions go on above it, old cursors are worth nothing."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hubbub.chat.v1 import event_pb2

from hubbub_server.app.frames import CaughtUp, Reset
from hubbub_server.app.new_epoch import Loss, NewEpoch, NewEpochReport
from hubbub_server.app.take_snapshots import UnknownEvents
from hubbub_server.app.verify_log import Finding, VerifyLog
from hubbub_server.domain.commands import AddMembers
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.wire.record_codec import EVENTS_TAG
from hubbub_server.wire.varint import encode_varint
from tests.support.app_node import ALICE, BOB, CAROL, CODEC, GROUP, AppCluster, create_group, message_id, send
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.record_consumers import FakeRecordConsumers
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.group_cluster import GroupCluster

pytestmark = pytest.mark.asyncio

SHARD = shard_of(GROUP, 2)


class Stage(GroupCluster):
    """A cluster, and the tools that look after its log."""

    def new_epoch(self) -> NewEpoch:
        log = self.server.connect()
        return NewEpoch(
            log=log,
            log_shards=FakeLogShards(self.server, log),
            states=FakeTopicStates(self.server, log),
            directory=self.store,
            consumers=FakeRecordConsumers(self.server),
            codec=CODEC,
            roles=("projector", "relay"),
        )

    async def begin(self) -> NewEpochReport:
        return await self.new_epoch().begin(SHARD)

    async def verify(self) -> list[str]:
        log = self.server.connect()
        tool = VerifyLog(
            log_shards=FakeLogShards(self.server, log),
            states=FakeTopicStates(self.server, log),
            directory=self.store,
            events=self.store,
            codec=CODEC,
            shards=2,
        )
        return sorted([str(finding) async for finding in tool.compare(SHARD) if isinstance(finding, Finding)])

    def log_of_group(self) -> list[LogRecord]:
        return self.server.by_topic[GROUP]

    def lose(self, *indexes: int) -> None:
        """Loses records of the group, by their place in its log."""
        log = self.log_of_group()
        lost = [log[index] for index in indexes]
        log[:] = [record for record in log if record not in lost]
        self.server.records[SHARD] = [record for record in self.server.records[SHARD] if record not in lost]


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.mark.parametrize("is_store_down_later", [False, True])
async def test_lost_log_goes_on_above_what_the_store_has(stage: Stage, is_store_down_later: bool) -> None:
    """C19, G2, G3, G8: afterwards the store is not needed for it."""
    await stage.fill()
    await stage.project()
    stage.server.recreate(SHARD)
    report = await stage.begin()
    stage.store.is_unavailable = is_store_down_later
    async with stage.node() as node:
        new = await node.send(replace(send(BOB, 6), client_message_id=message_id(6, time_ms=1_800_000_000_001)))
    assert (report.epoch, report.topics, report.losses) == (2, 1, [])
    assert (new.message_number, new.cursor.epoch, new.cursor.position) == (6, 2, 9)


async def test_log_from_an_older_copy_goes_on_above_what_the_store_has(stage: Stage) -> None:
    """G1, G2: the log says position 5, the store 8: the next is 9, after the records that are there."""
    await stage.fill()
    await stage.project()
    stage.server.forget_after(SHARD, stage.log_of_group()[2].sequence)
    await stage.begin()
    async with stage.node() as node:
        new = await node.send(send(BOB, 7))
        assert (new.message_number, new.cursor.epoch, new.cursor.position) == (6, 2, 9)
        assert (await node.send(send(ALICE, 5))).message_number == 5
        frames = [f async for f in node.sync.serve(BOB, [Cursor(topic_id=GROUP, epoch=1, position=8)])]
        assert [type(frame) for frame in frames] == [Reset, CaughtUp]


async def test_log_goes_on_above_a_state_that_the_store_never_had(stage: Stage) -> None:
    """G1, G2: it was written from records that are lost, so they were committed."""
    await stage.fill()
    await stage.snapshot()
    stage.server.recreate(SHARD)
    await stage.begin()
    async with stage.node() as node:
        await stage.project()
        state = (await node.hub.at_head(GROUP)).state
        assert isinstance(state, ConversationState)
        assert (state.epoch, state.position, state.last_message_number, set(state.members)) == (2, 8, 5, {ALICE, BOB})


async def test_what_only_the_log_has_is_kept(stage: Stage) -> None:
    """G1: the store was restored from an older copy, or is new."""
    await stage.fill()
    report = await stage.begin()
    async with stage.node() as node:
        assert (await node.send(send(BOB, 6))).cursor.position == 9
        page = await node.history.get_message(ALICE, GROUP, 3)
        assert page.message.message_number == 3
    assert report.losses == []


async def test_lost_records_are_named_and_passed_over(stage: Stage) -> None:
    """G1: nobody has them; the next positions are above them, so no number is given twice."""
    await stage.fill()
    stage.lose(1, 2)
    report = await stage.begin()
    assert report.losses == [Loss(topic_id=GROUP, first=4, last=5)]
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await node.send(send(BOB, 6))  # the id is older than the newest message: the store must be asked
    await stage.project()
    async with stage.node() as node:
        new = await node.send(send(BOB, 6))
        assert (new.message_number, new.cursor.position) == (6, 9)


async def test_record_that_cannot_be_read_is_named_as_lost(stage: Stage) -> None:
    await stage.fill()
    log = stage.log_of_group()
    log[2] = replace(log[2], body=b"\xff")
    report = await stage.begin()
    assert report.losses == [Loss(topic_id=GROUP, first=5, last=5)]


async def test_record_of_a_node_that_had_not_heard_is_kept(stage: Stage) -> None:
    """G1: it committed under the old epoch, behind the switch, and was told so."""
    await stage.fill()
    await stage.project()
    tool = stage.new_epoch()
    settle = tool._settle
    late: list[Sequence[str]] = []

    async def commit_meanwhile(topic_id: TopicId, epoch: int) -> list[Loss]:
        losses = await settle(topic_id, epoch)
        if not late:
            late.append("once")
            head = stage.log_of_group()[-1]
            async with AppCluster().node() as other:
                await create_group(other, BOB)
                for serial in range(1, 7):
                    await other.send(send(ALICE, serial))
                record = other.log._server.by_topic[GROUP][-1]
            stage.server.append(record, head.sequence)  # type: ignore[arg-type]  # facts and body are all that counts
        return losses

    tool._settle = commit_meanwhile  # type: ignore[method-assign]
    await tool.begin(SHARD)
    async with stage.node() as node:
        new = await node.send(send(BOB, 7))
        assert (new.message_number, new.cursor.epoch, new.cursor.position) == (7, 2, 10)


async def test_two_who_begin_an_epoch_at_once_leave_a_shard_that_goes_on(stage: Stage) -> None:
    """G1, G2: two workers noticed the same."""
    await stage.fill()
    await stage.project()
    stage.server.recreate(SHARD)
    reports = await asyncio.gather(stage.begin(), stage.begin())
    async with stage.node() as node:
        new = await node.send(send(BOB, 6))
    assert [report.epoch for report in reports] == [2, 2]
    assert (new.message_number, new.cursor.epoch, new.cursor.position) == (6, 2, 9)
    assert stage.server.complete_epochs[SHARD] == stage.server.epochs[SHARD] == 2


async def test_states_are_not_complete_for_an_epoch_that_is_over_already(stage: Stage) -> None:
    """G2: who is late declares nothing, or the newer epoch would be refused for ever."""
    await stage.fill()
    await stage.project()
    stage.server.recreate(SHARD)
    tool = stage.new_epoch()
    settle = tool._settle

    async def overtaken(topic_id: TopicId, epoch: int) -> list[Loss]:
        losses = await settle(topic_id, epoch)
        stage.server.set_epoch(SHARD, 3)
        stage.server.complete_epochs[SHARD] = 3
        return losses

    tool._settle = overtaken  # type: ignore[method-assign]
    with pytest.raises(LogUnavailable):
        await tool.begin(SHARD)
    assert stage.server.complete_epochs[SHARD] == 3


async def test_members_are_those_of_the_newest_state(stage: Stage) -> None:
    """G5: also when the log that is left ends before the change."""
    await stage.fill()
    async with stage.node() as node:
        await node.submit(AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
    await stage.project()
    stage.server.forget_after(SHARD, stage.log_of_group()[-2].sequence)
    await stage.begin()
    async with stage.node() as node:
        assert (await node.send(send(CAROL, 9))).message_number == 6


async def test_epoch_is_above_every_epoch_that_was_ever_seen(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    epochs = [(await stage.begin()).epoch for _ in range(3)]
    stage.server.recreate(SHARD)
    assert epochs == [2, 3, 4]
    assert (await stage.begin()).epoch == 5
    assert stage.server.complete_epochs[SHARD] == 5


async def test_workers_start_over(stage: Stage) -> None:
    """Sequences may have begun anew below what they acknowledged: such records would never come to them."""
    await stage.fill()
    stage.server.ack_floors = {("projector", SHARD): 5, ("relay", SHARD): 4, ("relay", 1 - SHARD): 3}
    await stage.begin()
    assert stage.server.ack_floors == {("relay", 1 - SHARD): 3}


async def test_epoch_that_could_not_be_finished_is_not_declared(stage: Stage) -> None:
    """The shard stays refused; run again, it is finished."""
    await stage.fill()
    await stage.project()
    stage.server.recreate(SHARD)
    stage.store.is_unavailable = True
    with pytest.raises(StoreUnavailable):
        await stage.begin()
    assert stage.server.complete_epochs[SHARD] == 1
    stage.store.is_unavailable = False
    assert (await stage.begin()).epoch == 2
    assert stage.server.complete_epochs[SHARD] == 2


async def test_topic_with_events_of_a_newer_version_is_left_to_that_version(stage: Stage) -> None:
    """Its state without them would let this version decide."""
    await stage.fill()
    log = stage.log_of_group()
    pb = event_pb2.Event(topic_id=GROUP, epoch=1, position=8)
    encoded = pb.SerializeToString()
    log[-1] = replace(log[-1], body=EVENTS_TAG + encode_varint(len(encoded)) + encoded)
    with pytest.raises(UnknownEvents):
        await stage.begin()
    assert stage.server.complete_epochs[SHARD] == 1


async def test_node_commits_nothing_in_an_epoch_that_is_not_finished(stage: Stage) -> None:
    """Its topics have a state of the new epoch or of the old one, and neither is enough."""
    await stage.fill()
    await stage.snapshot()
    stage.store.is_unavailable = True
    stage.server.recreate(SHARD)
    async with stage.node() as node:
        with pytest.raises((LogUnavailable, StoreUnavailable)):
            await node.send(send(ALICE, 6))


# ---- verify


async def test_whole_log_and_store_agree(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    assert await stage.verify() == []


async def test_trimmed_log_agrees_with_the_store(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.server.trim(SHARD, below_sequence=stage.log_of_group()[3].sequence)
    assert await stage.verify() == []
    stage.server.trim(SHARD, below_sequence=stage.server.last_sequences[SHARD] + 1)
    assert await stage.verify() == []


async def test_what_the_log_lost_is_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    stage.lose(1, 2)
    assert await stage.verify() == ["topic cgroup, positions 4 to 5: the log lost them, the store has them"]


async def test_newest_records_that_the_log_lost_are_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    stage.lose(-1, -2)
    assert await stage.verify() == ["topic cgroup, positions 7 to 8: the log lost them, the store has them"]


async def test_what_the_store_lost_is_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    del stage.store._events[GROUP][5]
    assert await stage.verify() == ["topic cgroup, position 5: the store lost them, the log has them"]


async def test_what_nobody_has_is_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    stage.lose(2)
    del stage.store._events[GROUP][5]
    assert await stage.verify() == ["topic cgroup, position 5: neither log nor store has them"]


async def test_flipped_bit_is_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    log = stage.log_of_group()
    changed = replace(log[2], body=log[2].body.replace(b"text 2", b"text 3"))
    assert changed != log[2]
    stage.server.records[SHARD] = [changed if r == log[2] else r for r in stage.server.records[SHARD]]
    log[2] = changed
    assert await stage.verify() == ["topic cgroup, position 5: log and store differ"]


async def test_record_that_cannot_be_read_is_named(stage: Stage) -> None:
    await stage.fill()
    await stage.project()
    log = stage.log_of_group()
    changed = replace(log[2], body=b"\xff")
    stage.server.records[SHARD] = [changed if r == log[2] else r for r in stage.server.records[SHARD]]
    (line,) = await stage.verify()
    assert line.startswith("topic cgroup, position 5: cannot be read")


async def test_topic_that_the_log_lost_wholly_is_named_by_its_head(stage: Stage) -> None:
    """Its older records may have been trimmed; the newest one that the store has applied was not."""
    await stage.fill()
    await stage.project()
    stage.lose(*range(len(stage.log_of_group())))
    stage.server.records[SHARD] = []
    stage.server.last_sequences[SHARD] = 3
    stage.server.whole_from[SHARD] = 2
    assert await stage.verify() == ["topic cgroup, position 8: the log lost them, the store has them"]
