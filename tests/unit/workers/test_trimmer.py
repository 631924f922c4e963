"""The trimmer: nothing goes that anybody needs, and no topic loses a record that its snapshot does not have."""

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.ports.projection import ProjectionBatch, ShardRow
from hubbub_server.workers.roles import ROLES
from hubbub_server.workers.trimmer import Prepared, Trimmer
from tests.support.fakes.store import FakeStore
from tests.support.loaders import fake_loader
from tests.support.waiting import until
from tests.unit.domain.builders import BOB
from tests.unit.workers.stage import Stage

pytestmark = pytest.mark.asyncio

KEPT_S = 7 * 24 * 3600.0
SHARD = 0


class TrimStage(Stage):
    """A stage whose time is moved by hand, and a trimmer of shard 0."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self.is_held = True
        self.server.clock_s = lambda: self.now_s

    def trimmer(self, *, interval_s: float = 0.001) -> Trimmer:
        return Trimmer(
            SHARD,
            log_shards=self.log_shards,
            handled=self.handled,
            snapshots=self.snapshots,
            is_held=lambda: self.is_held,
            kept_s=KEPT_S,
            interval_s=interval_s,
        )

    async def work(self) -> None:
        """Lets a worker do everything that there is to do."""
        async with self.working():
            await self.until_caught_up(0, 1)

    async def trim(self) -> Prepared:
        """Prepares and trims once."""
        trimmer = self.trimmer()
        prepared = await trimmer.prepare()
        await trimmer.trim(prepared)
        return prepared

    @property
    def sequences(self) -> list[int]:
        """What is left in the shard."""
        return [record.sequence for record in self.server.records[SHARD]]


@pytest.fixture
def stage() -> TrimStage:
    return TrimStage()


async def test_old_records_go_young_ones_stay(stage: TrimStage) -> None:
    room = stage.make_group(SHARD)
    stage.send(room, 1, 2)
    stage.now_s = 1_000.0
    stage.send(room, 3, 4)
    await stage.work()
    stage.now_s = KEPT_S + 999.0

    await stage.trim()

    assert stage.sequences == [5, 6]


async def test_last_record_of_a_topic_goes_only_after_its_snapshot(stage: TrimStage) -> None:
    """The law on head 0: whoever finds no record finds the snapshot, and it is at the head."""
    room = stage.make_group(SHARD, BOB)
    await stage.work()
    stage.send(room, 1, 2)
    await stage.work()
    behind = await stage.states.read(room)
    stage.now_s = KEPT_S + 1

    await stage.trim()

    snapshot = await stage.states.read(room)
    assert behind is not None
    assert snapshot is not None
    assert (behind.state.position, snapshot.state.position) == (3, 5)
    assert stage.server.by_topic[room] == []


async def test_part_of_a_topic_goes_only_after_its_snapshot(stage: TrimStage) -> None:
    """G8: what is left must continue something that is not the store."""
    room = stage.make_group(SHARD)
    stage.send(room, *range(1, 41))
    stage.now_s = 1_000.0
    stage.send(room, 41)
    await stage.work()
    stage.now_s = KEPT_S + 999.0

    await stage.trim()

    assert len(stage.server.by_topic[room]) == 1
    stage.store.is_unavailable = True
    loaded = await fake_loader(stage.server, stage.log, stage.store).load(room)
    assert loaded.state.position == stage.writer.states[room].position


async def test_nothing_is_removed_in_the_pass_that_prepares_it(stage: TrimStage) -> None:
    """A node may still be answered by a server that does not know the snapshot yet."""
    stage.send(stage.make_group(SHARD), 1)
    await stage.work()
    stage.now_s = KEPT_S + 1

    prepared = await stage.trimmer().prepare()

    assert prepared.below_sequence == 4
    assert stage.sequences == [1, 2, 3]


@pytest.mark.parametrize("role", ROLES)
async def test_what_a_role_has_not_handled_stays(stage: TrimStage, role: str) -> None:
    """G1: every one of them must have it."""
    stage.send(stage.make_group(SHARD), 1, 2)
    await stage.work()
    stage.server.ack_floors[role, SHARD] = 2
    stage.now_s = KEPT_S + 1

    await stage.trim()

    assert stage.sequences == [3, 4]


@pytest.mark.parametrize("role", ROLES)
async def test_what_a_role_put_aside_stays_with_all_that_follows(stage: TrimStage, role: str) -> None:
    """G1: a replay, or a program that can handle it, may need the log again."""
    room = stage.make_group(SHARD)
    stage.send(room, 1, 2)
    await stage.work()
    records = await stage.log_shards.read_records(SHARD, after_sequence=0, up_to_sequence=4)
    number = await stage.letters.add(records[2], role=role, shard=SHARD, reason="poison", after=0)
    stage.now_s = KEPT_S + 1

    await stage.trim()
    assert stage.sequences == [3, 4]

    await stage.letters.remove(room, role=role, shard=SHARD, up_to=number)
    await stage.trim()
    assert stage.sequences == []


async def test_worker_that_lost_the_shard_trims_it_no_more(stage: TrimStage) -> None:
    stage.send(stage.make_group(SHARD), 1)
    await stage.work()
    stage.now_s = KEPT_S + 1
    stage.is_held = False

    await stage.trimmer().run(asyncio.TaskGroup())

    assert stage.sequences == [1, 2, 3]


@pytest.mark.parametrize(("row", "left"), [(None, 4), ((1, 2), 2), ((2, 4), 4)])
async def test_what_the_store_says_counts_more_than_what_was_acknowledged(
    stage: TrimStage, row: tuple[int, int] | None, left: int
) -> None:
    """G1: the store was restored from an older copy, or lost: the log must still be able to fill it."""
    stage.send(stage.make_group(SHARD), 1, 2)
    await stage.work()
    stage.store = FakeStore()
    if row is not None:
        shard = ShardRow(shard=SHARD, epoch=row[0], sequence=row[1])
        await stage.store.apply(ProjectionBatch(shard=shard))
    stage.now_s = KEPT_S + 1

    await stage.trim()

    assert len(stage.sequences) == left


async def test_nothing_is_trimmed_while_the_store_is_down(stage: TrimStage) -> None:
    stage.send(stage.make_group(SHARD), 1)
    await stage.work()
    stage.now_s = KEPT_S + 1
    stage.store.is_unavailable = True

    with pytest.raises(StoreUnavailable):
        await stage.trim()

    assert stage.sequences == [1, 2, 3]


async def test_topic_without_a_snapshot_that_can_be_kept_stops_the_trim_before_it(stage: TrimStage) -> None:
    """G1: damage, poison, a state that is too large: a person is asked, and nothing of it goes."""
    first, damaged, last = (stage.make_group(SHARD) for _ in range(3))
    stage.send(first, 1)
    await stage.work()
    log = stage.server.by_topic[damaged]
    log[:] = [replace(log[0], body=b"\xff"), *log[1:]]
    stage.server.states.clear()
    shard = ShardRow(shard=SHARD, epoch=1, sequence=stage.server.last_sequences[SHARD])
    stage.store = FakeStore()
    await stage.store.apply(ProjectionBatch(shard=shard))
    stage.now_s = KEPT_S + 1

    with capture_logs() as logs:
        await stage.trim()

    assert stage.sequences[0] == log[0].sequence
    assert [line["topic_id"] for line in logs if line["event"] == "topic not trimmed"] == [damaged]
    assert stage.server.by_topic[first] != [] != stage.server.by_topic[last]


async def test_log_that_was_made_anew_meanwhile_is_left_alone(stage: TrimStage) -> None:
    """G1: the sequences of the new one are small again, and say nothing about what was prepared."""
    stage.send(stage.make_group(SHARD), 1)
    await stage.work()
    stage.now_s = KEPT_S + 1
    trimmer = stage.trimmer()
    prepared = await trimmer.prepare()
    stage.server.recreate(SHARD)
    stage.writer.states.clear()
    stage.send(stage.make_group(SHARD), 1, 2)

    await trimmer.trim(prepared)

    assert stage.sequences == [1, 2, 3, 4]


async def test_log_that_lost_records_is_not_trimmed(stage: TrimStage) -> None:
    """G1: a trim would hide it: what is gone below it counts as trimmed."""
    stage.send(stage.make_group(SHARD), 1, 2)
    await stage.work()
    stage.now_s = KEPT_S + 1
    prepared = await stage.trimmer().prepare()
    stage.server.lose(SHARD, 2)

    await stage.trimmer().trim(prepared)

    assert stage.sequences == [1, 3, 4]


async def test_store_that_was_put_back_meanwhile_can_still_be_filled(stage: TrimStage) -> None:
    """G1: what was handled when it was prepared is not handled any more."""
    stage.send(stage.make_group(SHARD), 1, 2)
    await stage.work()
    stage.now_s = KEPT_S + 1
    prepared = await stage.trimmer().prepare()
    stage.store = FakeStore()
    await stage.store.apply(ProjectionBatch(shard=ShardRow(shard=SHARD, epoch=1, sequence=2)))

    await stage.trimmer().trim(prepared)

    assert stage.sequences == [3, 4]


async def test_shard_that_was_lost_while_the_last_look_was_taken_is_not_trimmed(stage: TrimStage) -> None:
    """G8: a worker that was frozen and woken does not act on what it knew before."""
    stage.send(stage.make_group(SHARD), 1)
    await stage.work()
    stage.now_s = KEPT_S + 1
    trimmer = stage.trimmer()
    prepared = await trimmer.prepare()
    stage.is_held = False

    await trimmer.trim(prepared)

    assert stage.sequences == [1, 2, 3]


async def test_snapshot_of_an_older_epoch_does_not_count(stage: TrimStage) -> None:
    """C19: it speaks of another log."""
    stage.make_group(SHARD)
    await stage.work()
    stage.server.recreate(SHARD)
    stage.writer.states.clear()
    room = stage.make_group(SHARD)
    await stage.work()
    stage.now_s = KEPT_S + 1

    await stage.trim()

    snapshot = await stage.states.read(room)
    assert snapshot is not None
    assert snapshot.state.epoch == 2
    assert stage.sequences == []


async def test_trimmer_runs_pass_after_pass_and_outlives_trouble(stage: TrimStage) -> None:
    room = stage.make_group(SHARD)
    stage.send(room, 1)
    await stage.work()
    stage.now_s = KEPT_S + 1
    stage.log.cut()
    tasks = asyncio.TaskGroup()
    running = asyncio.create_task(stage.trimmer().run(tasks))
    try:
        with capture_logs() as logs:
            await until(lambda: sum(line["event"] == "shard not trimmed" for line in logs) > 3)
        stage.log.heal()
        await until(lambda: stage.sequences == [])
        stage.send(room, 2)
        await stage.work()
        assert len(stage.sequences) == 1
        stage.now_s += KEPT_S
        await until(lambda: stage.sequences == [])
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_whole_life_of_a_topic_without_the_store(stage: TrimStage) -> None:
    """G8: made, spoken in, trimmed, idle, opened by a worker that never saw it: the state is what it was."""
    room = stage.make_group(SHARD, BOB)
    for number in range(5):
        stage.send(room, *range(100 * number, 100 * number + 17))
        await stage.work()
        stage.now_s += KEPT_S + 1
        await stage.trim()
        assert stage.sequences == []
    stage.store.is_unavailable = True

    loaded = await fake_loader(stage.server, stage.server.connect(), stage.store).load(room)

    expected, found = stage.writer.states[room], loaded.state
    assert isinstance(expected, ConversationState)
    assert isinstance(found, ConversationState)
    assert found == replace(expected, window=found.window)
    assert loaded.sequence == 0
    with capture_logs() as logs:
        await TakeSnapshots(loader=fake_loader(stage.server, stage.log, stage.store), states=stage.states).take(room)
    assert logs == []
