"""What every TopicStates promises: the newest state of each topic, whoever writes, in whatever order."""

import asyncio
import random
from functools import partial

import pytest

from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_states import SnapshotTooLarge
from tests.support.log_records import new_topic
from tests.support.logs import SHARDS, LogSetup
from tests.support.snapshots import conversation_snapshot, user_snapshot
from tests.support.waiting import until_it_answers

pytestmark = pytest.mark.asyncio


async def test_topic_without_a_snapshot_has_none(log_setup: LogSetup) -> None:
    async with log_setup.states() as states:
        assert await states.read(new_topic()) is None


async def test_snapshot_comes_back_as_it_was_written_on_any_node(log_setup: LogSetup) -> None:
    conversation = conversation_snapshot(new_topic())
    user = user_snapshot(TopicId("u" + new_topic()[1:]))
    async with log_setup.states() as writer, log_setup.states() as reader:
        await writer.write(conversation)
        await writer.write(user)

        assert await reader.read(conversation.topic_id) == conversation
        assert await reader.read(user.topic_id) == user


@pytest.mark.parametrize(("first", "second"), [((1, 8), (1, 7)), ((2, 7), (1, 9)), ((1, 7), (1, 7))])
async def test_late_writer_never_overwrites_a_newer_snapshot(
    log_setup: LogSetup, first: tuple[int, int], second: tuple[int, int]
) -> None:
    """Newer is by epoch, then by position; the same place has one state, so it is left alone."""
    topic_id = new_topic()
    newer = conversation_snapshot(topic_id, first[1], epoch=first[0], title="newer")
    async with log_setup.states() as states:
        await states.write(newer)
        await states.write(conversation_snapshot(topic_id, second[1], epoch=second[0], title="late"))

        assert await states.read(topic_id) == newer


async def test_of_many_writers_at_once_the_newest_stays(log_setup: LogSetup) -> None:
    topic_id = new_topic()
    snapshots = [conversation_snapshot(topic_id, position, sequence=position) for position in range(1, 13)]
    random.Random(1).shuffle(snapshots)
    async with log_setup.states() as one, log_setup.states() as two:
        async with asyncio.TaskGroup() as group:
            for number, snapshot in enumerate(snapshots):
                group.create_task((one if number % 2 else two).write(snapshot))

        kept = await one.read(topic_id)
        assert kept is not None
        assert kept.state.position == 12


async def test_state_that_is_too_large_is_refused_and_the_link_survives(log_setup: LogSetup) -> None:
    """One byte more than the server takes would end the connection for good."""
    topic_id = new_topic()
    async with log_setup.states() as states:
        with pytest.raises(SnapshotTooLarge):
            await states.write(conversation_snapshot(topic_id, title="x" * ((1 << 20) + 1)))

        assert await states.read(topic_id) is None


async def test_topics_with_a_snapshot_are_listed_by_shard(log_setup: LogSetup) -> None:
    topics = [new_topic(shard=shard) for shard in range(SHARDS) for _ in range(3)]
    async with log_setup.states() as states:
        for topic_id in topics:
            await states.write(conversation_snapshot(topic_id))
        for shard in range(SHARDS):
            listed = await states.list_topics(shard)

            assert set(listed) >= {t for t in topics if shard_of(t, SHARDS) == shard}
            assert all(shard_of(t, SHARDS) == shard for t in listed)
            assert len(listed) == len(set(listed))


async def test_newest_is_what_was_written_last_in_the_shard(log_setup: LogSetup) -> None:
    first, second = conversation_snapshot(new_topic(shard=0), 90), conversation_snapshot(new_topic(shard=0), 5)
    async with log_setup.states() as states:
        await states.write(first)
        await states.write(second)

        assert await states.newest(0) == second


async def test_states_of_a_new_log_are_complete_and_who_makes_them_so_again_says_it(log_setup: LogSetup) -> None:
    """Without this nobody could tell a topic that never was from one whose state was lost."""
    async with log_setup.node(), log_setup.states() as states, log_setup.states() as other:
        epoch = await states.complete_epoch(1)
        await states.declare_complete(1, epoch + 1)
        after = await other.complete_epoch(1)
        await states.declare_complete(1, epoch)

        assert epoch >= 1
        assert after == epoch + 1


async def test_snapshots_survive_a_crash_of_all_servers(log_setup: LogSetup) -> None:
    snapshot = conversation_snapshot(new_topic())
    async with log_setup.states() as states:
        await states.write(snapshot)
        await log_setup.crash()

        assert await until_it_answers(partial(states.read, snapshot.topic_id)) == snapshot
