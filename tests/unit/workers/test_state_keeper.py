"""The state keeper: a snapshot at each occasion, none in between, and nothing that holds up the shard."""

from dataclasses import replace
from itertools import count

import pytest
from structlog.testing import capture_logs

from hubbub_server.domain.commands import AddMembers
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import TopicId
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.shard_loop import LeaseLost
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
    keeper = StateKeeper(0, snapshots=stage.snapshots, backoff=Backoff(first_s=0.001, max_s=0.002))
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
