"""The state keeper: a snapshot at each occasion, none in between, and nothing that holds up the shard."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import count

import pytest
from structlog.testing import capture_logs

from hubbub_server.app.topic_fold import LoadedTopic
from hubbub_server.app.topic_loader import TopicLoader
from hubbub_server.domain.commands import AddMembers
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_loop import LeaseLost
from hubbub_server.workers.shard_role import Batch
from hubbub_server.workers.state_keeper import StateKeeper
from tests.support.waiting import until
from tests.unit.domain.builders import ALICE, BOB, CAROL
from tests.unit.workers.stage import Stage

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def position(stage: Stage, topic_id: TopicId) -> int:
    snapshot = await stage.states.read(topic_id)
    return snapshot.state.position if snapshot else 0


async def test_new_topic_gets_a_snapshot_also_a_user_s_own(stage: Stage) -> None:
    room = stage.make_group(0, BOB)

    async with stage.working():
        await until(lambda: all(t in stage.server.states for t in (room, ALICE, BOB)))

    assert await position(stage, room) == 3


async def test_every_256_positions_get_a_snapshot_and_fewer_do_not(stage: Stage) -> None:
    room = stage.make_group(0)
    async with stage.working():
        await stage.until_caught_up(0)
        stage.send(room, *range(1, 254))
        await stage.until_caught_up(0)
        before = await position(stage, room)
        stage.send(room, 254)
        await stage.until_caught_up(0)

    assert (before, await position(stage, room)) == (2, 256)


async def test_change_of_access_gets_a_snapshot(stage: Stage) -> None:
    room = stage.make_group(0)
    async with stage.working():
        await stage.until_caught_up(0)
        stage.send(room, 1)
        stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
        await stage.until_caught_up(0)

    snapshot = await stage.states.read(room)
    assert snapshot is not None
    assert isinstance(snapshot.state, ConversationState)
    assert set(snapshot.state.members) == {ALICE, CAROL}
    assert snapshot.state.position == stage.writer.states[room].position


async def test_topics_of_one_batch_get_one_snapshot_each(stage: Stage) -> None:
    """A conversation of thousands of messages a second must not become hundreds of snapshots a second."""
    room = stage.make_group(0)
    stage.send(room, *range(1, 90))

    async with stage.working():
        await stage.until_caught_up(0)

    assert await position(stage, room) == 91
    assert stage.states.writes <= 3


async def test_topic_that_is_damaged_does_not_hold_up_the_others(stage: Stage) -> None:
    damaged, room = stage.make_group(0, BOB), stage.make_group(0)
    del stage.server.by_topic[damaged][1]
    stage.store.is_unavailable = True

    async with stage.working():
        await until(lambda: room in stage.server.states)

    assert damaged not in stage.server.states


async def test_poison_in_one_topic_does_not_hold_up_the_others(stage: Stage) -> None:
    poisoned, room = stage.make_group(0), stage.make_group(0)
    log = stage.server.by_topic[poisoned]
    log[0] = replace(log[0], body=b"\xff")
    stage.store.is_unavailable = True

    async with stage.working():
        await until(lambda: room in stage.server.states)

    assert poisoned not in stage.server.states


async def test_snapshots_are_taken_while_the_store_is_down(stage: Stage) -> None:
    """G8: a long outage must not leave long tails behind."""
    room = stage.make_group(0)
    stage.store.is_unavailable = True

    async with stage.working():
        await until(lambda: room in stage.server.states)
        stage.send(room, *range(1, 260))
        await until(lambda: stage.is_caught_up("state", 0))

    assert await position(stage, room) == 261


async def test_log_that_is_away_is_waited_for(stage: Stage) -> None:
    room = stage.make_group(0)
    stage.log.cut()

    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: sum(line["event"] == "log unavailable" for line in logs) > 3)
            assert stage.server.states == {}
            stage.log.heal()
            await until(lambda: room in stage.server.states)


async def test_lease_that_is_lost_while_many_snapshots_wait_ends_them_all_as_one(stage: Stage) -> None:
    """The loop knows LeaseLost; a group of them would end the worker, and with it all other shards."""
    rooms = [stage.make_group(0) for _ in range(5)]
    keeper = StateKeeper(
        0, snapshots=stage.snapshots, codec=ProtoRecordCodec(), backoff=Backoff(first_s=0.001, max_s=0.002)
    )
    looks = count(1)

    def require_lease() -> None:
        if next(looks) > 1:
            raise LeaseLost

    stage.log.cut()

    with pytest.raises(LeaseLost):
        await keeper.replay([stage.server.by_topic[room][0] for room in rooms], require_lease)


async def test_record_without_facts_marks_its_topic_for_the_state_keeper_and_the_others_get_snapshots(
    stage: Stage,
) -> None:
    """G8: the same rule for every role."""
    bad, room = stage.make_group(0), stage.make_group(0)
    stage.send(bad, 1)
    stage.consumers.unreadable.add((0, stage.server.last_sequences[0]))

    async with stage.working():
        await stage.until_caught_up(0)
        dead = await stage.letters.topics(role="state", shard=0)

    assert set(dead) == {bad}
    assert await position(stage, room) == 2


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[TopicId]:
    """Which topics were read from the log."""
    loaded: list[TopicId] = []
    load = TopicLoader.load

    async def noted(loader: TopicLoader, topic_id: TopicId, *, from_store: bool = False) -> LoadedTopic:
        loaded.append(topic_id)
        return await load(loader, topic_id, from_store=from_store)

    monkeypatch.setattr(TopicLoader, "load", noted)
    return loaded


async def test_snapshots_of_a_busy_topic_are_those_of_its_log_and_it_is_read_once(
    stage: Stage, loads: list[TopicId]
) -> None:
    room = stage.make_group(0, BOB)
    async with stage.working():
        await stage.until_caught_up(0)
        for start in range(1, 1_000, 50):
            stage.send(room, *range(start, start + 50))
            await stage.until_caught_up(0)
        stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
        await stage.until_caught_up(0)
    kept = await stage.states.read(room)
    reads = loads.count(room)
    del stage.server.states[room]
    stage.store.is_unavailable = True  # so that all of it is folded from the log

    await stage.snapshots.take(room)

    assert kept is not None
    assert kept.state.position == stage.writer.states[room].position
    assert kept.recent_ids is not None
    assert kept.recent_ids.position > kept.state.position - 258
    assert kept == await stage.states.read(room)
    assert reads == 1


async def test_topic_whose_records_do_not_follow_what_is_kept_is_read_from_its_log(
    stage: Stage, loads: list[TopicId]
) -> None:
    room = stage.make_group(0)
    keeper = StateKeeper(0, snapshots=stage.snapshots, codec=ProtoRecordCodec(), backoff=Backoff())
    log = stage.server.by_topic[room]
    first, last = log[0], len(log)
    await keeper.handle(_batch([first]), _is_held)
    stage.send(room, *range(1, 300))

    await keeper.handle(_batch(log[last + 1 :]), _is_held)  # one is missing before these

    assert loads == [room, room]
    assert await position(stage, room) == stage.writer.states[room].position


async def test_topic_of_another_epoch_is_read_from_its_log(stage: Stage, loads: list[TopicId]) -> None:
    room = stage.make_group(0)
    keeper = StateKeeper(0, snapshots=stage.snapshots, codec=ProtoRecordCodec(), backoff=Backoff())
    log = stage.server.by_topic[room]
    await keeper.handle(_batch(log), _is_held)
    last = len(log)
    stage.send(room, *range(1, 300))
    strange = [replace(each, facts=replace(each.facts, epoch=each.facts.epoch + 1)) for each in log[last:]]

    await keeper.handle(_batch(strange), _is_held)

    assert loads == [room, room]


async def test_states_of_few_topics_are_kept(stage: Stage, loads: list[TopicId]) -> None:
    rooms = [stage.make_group(0) for _ in range(65)]
    keeper = StateKeeper(0, snapshots=stage.snapshots, codec=ProtoRecordCodec(), backoff=Backoff())
    await keeper.handle(_batch([stage.server.by_topic[room][0] for room in rooms]), _is_held)
    loads.clear()
    for room in (rooms[0], rooms[-1]):
        start = len(stage.server.by_topic[room])
        stage.send(room, *range(1, 300))
        await keeper.handle(_batch(stage.server.by_topic[room][start:]), _is_held)

    assert loads == [rooms[0]]


def _is_held() -> None:
    """Says that the lease is held."""


def _batch(records: Sequence[LogRecord]) -> Batch:
    return Batch(first_sequence=records[0].sequence, last_sequence=records[-1].sequence, records=records)
