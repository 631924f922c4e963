"""The projector: waits for its store, survives crashes, stops at poison, and passes over nothing."""

import asyncio
from copy import deepcopy
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hubbub_server.ports.projection import ProjectionBatch, ShardRow
from hubbub_server.workers.roles import ROLES
from tests.support.fakes.store import FakeStore
from tests.support.waiting import until, until_found
from tests.unit.domain.builders import BOB
from tests.unit.workers.stage import Stage, gauge

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_every_shard_is_stored(stage: Stage) -> None:
    rooms = [stage.make_group(0, BOB), stage.make_group(1, BOB)]
    for room in rooms:
        stage.send(room, 1, 2, 3)

    async with stage.working():
        await stage.until_caught_up(0, 1)

    for room in rooms:
        assert await stage.stored_numbers(room) == [1, 2, 3]


async def test_records_that_come_later_are_stored_too(stage: Stage) -> None:
    room = stage.make_group(0)

    async with stage.working():
        await stage.until_caught_up(0)
        stage.send(room, 1, 2)
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1, 2]


async def test_store_that_is_down_is_waited_for_with_the_same_batch(stage: Stage) -> None:
    """G8: nothing is lost, and nothing is given back."""
    room = stage.make_group(0)
    stage.send(room, 1, 2, 3)
    stage.store.fail_applies = 20

    async with stage.working():
        await until(lambda: stage.store.fail_applies <= 5)
        waiting_floor = stage.consumers.floor("projector", 0)
        await stage.until_caught_up(0)

    assert waiting_floor == 0
    assert await stage.stored_numbers(room) == [1, 2, 3]


async def test_store_that_is_down_at_the_start_is_waited_for(stage: Stage) -> None:
    """G8: the worker may start first."""
    room = stage.make_group(0)
    stage.send(room, 1)
    stage.store.is_unavailable = True

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: sum(line["event"] == "store unavailable" for line in logs) > 5)
            stage.store.is_unavailable = False
            await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1]


async def test_log_that_is_away_is_waited_for(stage: Stage) -> None:
    room = stage.make_group(0)
    stage.consumers.is_unavailable = True

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: sum(line["event"] == "log unavailable" for line in logs) > 5)
            stage.consumers.is_unavailable = False
            await stage.until_caught_up(0)
            stage.consumers.is_unavailable = True
            stage.send(room, 1)
            seen = len(logs)
            await until(lambda: len(logs) > seen + 5)
            stage.consumers.is_unavailable = False
            await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1]


async def test_lost_acknowledgement_is_covered_by_the_next_one(stage: Stage) -> None:
    room = stage.make_group(0)
    stage.consumers.fail_acks = 2

    async with stage.working():
        await until(lambda: stage.consumers.fail_acks == 0)
        stage.send(room, 1)
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1]


async def test_crash_between_storing_and_acknowledging_leaves_no_duplicates(stage: Stage) -> None:
    """G1, C43: the next worker gets the same records again and ends in the same rows."""
    room = stage.make_group(0, BOB)
    stage.send(room, *range(1, 51))
    stage.consumers.fail_acks = 1_000_000
    async with stage.working():
        await until(lambda: stage.store.applies > 0)
    before = (await stage.store.load(room), await stage.store.read_after(room, after_position=0, limit=1_000))
    assert stage.consumers.floor("projector", 0) == 0
    stage.consumers.fail_acks = 0

    async with stage.working():
        await stage.until_caught_up(0)

    assert stage.store.applies > 1
    assert await stage.stored_numbers(room) == list(range(1, 51))
    assert (await stage.store.load(room), await stage.store.read_after(room, after_position=0, limit=1_000)) == before


async def test_crash_before_storing_loses_nothing(stage: Stage) -> None:
    """G1."""
    room = stage.make_group(0)
    stage.send(room, *range(1, 11))
    stage.store.fail_applies = 1_000_000
    async with stage.working():
        await until(lambda: stage.store.fail_applies < 1_000_000)
    stage.store.fail_applies = 0

    async with stage.working():
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == list(range(1, 11))


async def test_store_without_what_was_acknowledged_is_made_again(stage: Stage) -> None:
    """Deleted, or an older copy: going on would leave a hole in history that nobody sees."""
    room = stage.make_group(0)
    stage.send(room, 1, 2, 3)
    async with stage.working():
        await stage.until_caught_up(0, 1)
    stage.store = FakeStore()

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: stage.store.applies >= 2)
            await stage.until_caught_up(0, 1)

    assert await stage.stored_numbers(room) == [1, 2, 3]
    assert [line["event"] for line in logs].count("shard starts over") == 2
    assert gauge("stopped", "projector", 0) == 0


async def test_older_copy_that_is_put_in_the_place_of_the_store_is_filled(stage: Stage) -> None:
    """G1: while the worker runs, which knows from memory how far the store was."""
    room = stage.make_group(0)
    stage.send(room, 1)
    async with stage.working():
        await stage.until_caught_up(0)
        older = deepcopy(vars(stage.store))
        stage.send(room, 2, 3)
        await stage.until_caught_up(0)
        vars(stage.store).update(older)
        stage.send(room, 4)

        async def is_filled() -> bool | None:
            return await stage.stored_numbers(room) == [1, 2, 3, 4] or None

        await until_found(is_filled)

    assert await stage.stored_numbers(room) == [1, 2, 3, 4]


async def test_older_copy_of_the_store_is_filled_although_the_log_was_recreated_since(stage: Stage) -> None:
    """Its sequences of the epoch before are larger than all of the new one, and prove nothing."""
    stage.server.recreate(0)
    room = stage.make_group(0)
    stage.send(room, 1, 2, 3)
    async with stage.working():
        await stage.until_caught_up(0, 1)
    stage.store = FakeStore()
    await stage.store.apply(ProjectionBatch(shard=ShardRow(shard=0, epoch=1, sequence=1_000)))
    stage.send(room, 4)

    async with stage.working():
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1, 2, 3, 4]


async def test_record_that_was_lost_from_the_log_stops_its_shard_alone_and_raises_the_alarm(stage: Stage) -> None:
    """Nobody knows of which topic it was, so no topic can be marked instead."""
    bad, good = stage.make_group(0), stage.make_group(1)
    stage.send(bad, 1, 2)
    stage.consumers.lost.add((0, 4))

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: gauge("stopped", "projector", 0) == 1)
            stage.send(good, *range(1, 11))
            await stage.until_caught_up(1)

    assert await stage.stored_numbers(bad) == [1]
    assert stage.consumers.floor("projector", 0) == 3
    assert await stage.stored_numbers(good) == list(range(1, 11))
    assert gauge("stopped", "projector", 1) == 0
    alarms = [line for line in logs if line["log_level"] == "error"]
    assert {(line["event"], line["shard"]) for line in alarms} == {("shard stopped", 0)}
    assert "sequence 4 is missing" in alarms[0]["reason"]


async def test_alarm_is_over_once_the_cause_is(stage: Stage) -> None:
    room = stage.make_group(0)
    stage.send(room, 1)
    stage.consumers.lost.add((0, 3))
    async with stage.working():
        await until(lambda: gauge("stopped", "projector", 0) == 1)
    stage.consumers.lost.clear()

    async with stage.working():
        await stage.until_caught_up(0)

    assert gauge("stopped", "projector", 0) == 0
    assert await stage.stored_numbers(room) == [1]


async def test_alarm_goes_with_the_unit(stage: Stage) -> None:
    """Who takes the unit raises it again; a worker that has it no more must not keep on alarming."""
    stage.send(stage.make_group(0), 1)
    stage.consumers.lost.add((0, 3))
    async with stage.working():
        await until(lambda: gauge("stopped", "projector", 0) == 1)

    assert gauge("stopped", "projector", 0) == 0


async def test_store_that_the_log_cannot_fill_stops_the_shard(stage: Stage) -> None:
    """The store was lost, and the log has been trimmed: a person is asked."""
    room = stage.make_group(0)
    stage.send(room, 1)
    stage.server.trim(0, below_sequence=3)

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: gauge("stopped", "projector", 0) == 1)

    assert await stage.store.read_applied(room) is None
    (alarm,) = [line for line in logs if line["log_level"] == "error"]
    assert "up to 0" in alarm["reason"]
    assert "begins with 3" in alarm["reason"]
    assert [line["event"] for line in logs].count("shard starts over") == 1


async def test_older_copy_of_the_store_from_before_another_log_that_was_trimmed_stops_the_shard(stage: Stage) -> None:
    """The sequences of two logs tell nothing of one another: what was trimmed may be what the store has not."""
    stage.server.recreate(0)
    room = stage.make_group(0)
    stage.send(room, 1, 2, 3)
    stage.server.trim(0, below_sequence=3)
    await stage.store.apply(ProjectionBatch(shard=ShardRow(shard=0, epoch=1, sequence=1_000)))

    async with stage.working():
        await until(lambda: gauge("stopped", "projector", 0) == 1)

    assert await stage.store.read_applied(room) is None


async def test_new_epoch_of_a_log_that_was_trimmed_wholly_goes_on(stage: Stage) -> None:
    """C19: its next record follows what the store has, whatever epoch that is of."""
    room = stage.make_group(0)
    stage.send(room, 1)
    async with stage.working():
        await stage.until_caught_up(0, 1)
    stage.server.trim(0, below_sequence=4)
    stage.server.set_epoch(0, 2)
    for role in ROLES:
        await stage.consumers.forget(role=role, shard=0)
    stage.writer.states[room] = replace(stage.writer.states[room], epoch=2)
    stage.send(room, 2)

    async with stage.working():
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(room) == [1, 2]
    assert await stage.store.read_shard(0) == ShardRow(shard=0, epoch=2, sequence=4)


async def test_record_of_an_epoch_that_is_over_takes_nothing_back(stage: Stage) -> None:
    """A node that had not heard of the new epoch appended behind it: the store is as far as the log."""
    late, room = stage.make_group(0), stage.make_group(0)
    stage.server.set_epoch(0, 2)
    stage.writer.states[room] = replace(stage.writer.states[room], epoch=2)
    stage.send(room, 1)
    async with stage.working():
        await stage.until_caught_up(0)
        stage.send(late, 1)
        await stage.until_caught_up(0)

    assert await stage.store.read_shard(0) == ShardRow(shard=0, epoch=2, sequence=stage.server.last_sequences[0])


async def test_recreated_log_goes_on_from_its_first_record(stage: Stage) -> None:
    """A new epoch begins at sequence 1, below what the store has of the old one."""
    stage.send(stage.make_group(0), 1, 2, 3)
    async with stage.working():
        await stage.until_caught_up(0)
    stage.server.recreate(0)
    stage.writer.states.clear()
    room = stage.make_group(0)

    async with stage.working():
        await stage.until_caught_up(0)

    applied = await stage.store.read_applied(room)
    assert applied is not None
    assert (applied.epoch, applied.sequence) == (2, 2)


async def test_batches_continue_one_another(stage: Stage) -> None:
    """In order, without holes, at most 100 records each."""
    room = stage.make_group(0)
    stage.send(room, *range(1, 251))
    spans: list[tuple[int, int]] = []

    def note(batch: ProjectionBatch) -> None:
        if batch.shard.shard == 0:
            spans.append((batch.events[0].position, batch.events[-1].position))

    stage.store.on_apply = note
    async with stage.working():
        await stage.until_caught_up(0)

    assert spans == [(1, 100), (101, 200), (201, 252)]


async def test_lag_is_reported(stage: Stage) -> None:
    room = stage.make_group(0)
    stage.send(room, *range(1, 31))
    stage.consumers.fail_acks = 1_000_000

    async with stage.working():
        await until(lambda: stage.store.applies > 0)
        stage.consumers.fail_acks = 0
        stage.send(room, 99)
        await stage.until_caught_up(0)
        await until(lambda: gauge("lag", "projector", 0) == 0)


async def test_lag_is_reported_while_the_store_is_down_and_raises_an_alarm_once(stage: Stage) -> None:
    """G8: the one time when somebody needs to know it."""
    stage.pace = replace(stage.pace, lag_alarm_records=50)
    stage.send(stage.make_group(0), *range(1, 101))
    stage.store.is_unavailable = True

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: gauge("lag", "projector", 0) == 102)
            await until(lambda: stage.store.refused > 20)
            stage.store.is_unavailable = False
            await stage.until_caught_up(0)
            await until(lambda: gauge("lag", "projector", 0) == 0)

    lines = [
        (line["event"], line["lag_records"])
        for line in logs
        if line.get("role") == "projector" and "lag_records" in line
    ]
    assert lines == [("shard lags", 102), ("shard caught up", 0)]


async def test_worker_ends_at_once_when_it_is_cancelled(stage: Stage) -> None:
    """Also in the middle of waiting for a store."""
    stage.make_group(0)
    stage.store.is_unavailable = True

    async with stage.working() as running:
        await until(lambda: stage.store.refused > 0)
        running.cancel()
        async with asyncio.timeout(1):
            await asyncio.gather(running, return_exceptions=True)

    assert running.cancelled()
