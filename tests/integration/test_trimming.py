"""A log that is trimmed, on real servers, one and three: topics go on at head + 1, with the store or without it."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from structlog.testing import capture_logs

from hubbub_server.domain.commands import AddMembers, Changed, CreateGroup, RemoveMember
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import ConversationNotFound, IdReused, StoreUnavailable
from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.domain.user_topic import UserTopicState
from tests.support.real_node import RealInstance
from tests.support.real_room import now, numbers, sent
from tests.support.services import ready_nats_cluster
from tests.support.waiting import until
from tests.unit.domain.builders import ALICE, BOB, CAROL, send

pytestmark = pytest.mark.asyncio

ROOMS = [ConversationId(TopicId(f"croom{n}")) for n in range(4)]


@pytest_asyncio.fixture(params=[1, 3])
async def instance(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[RealInstance]:
    async with ready_nats_cluster(request.param) as cluster:
        made = RealInstance(cluster, tmp_path / "store.db")
        await made.make()
        yield made


async def trim_all(instance: RealInstance) -> None:
    """Lets a worker do all its work and remove every record."""
    async with instance.worker(kept_s=-60):
        await instance.until_caught_up()
        await instance.until_trimmed()


async def test_topics_outlive_several_whole_trims(instance: RealInstance) -> None:
    """G1, G2, G3, G5, G8: what was said, who was there, what was retried; then all without the store."""
    first = [now(ALICE, serial) for serial in range(70)]
    async with instance.node() as old:
        for room in ROOMS:
            await old.submit(room, CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB, CAROL)))
            await old.submit(room, RemoveMember(actor_id=ALICE, user_id=CAROL))
        answers = [await sent(old, command, ROOMS[0]) for command in first]
        await trim_all(instance)
        # The old node expects records that are gone.
        assert (await sent(old, now(BOB, 100), ROOMS[0])).message_number == 71
    async with instance.node() as new:
        assert [await sent(new, command, ROOMS[0]) for command in first] == answers
        with pytest.raises(IdReused):
            await new.submit(ROOMS[0], send(ALICE, first[0].client_message_id, "other"))
        again = await new.submit(ROOMS[1], CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB, CAROL)))
        assert isinstance(again, Changed)
        assert again.cursor.position == 4
        with pytest.raises(ConversationNotFound):
            await new.submit(ROOMS[1], now(CAROL, 101))
        await new.submit(ROOMS[1], AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
        assert (await sent(new, now(CAROL, 102), ROOMS[1])).message_number == 1
    await trim_all(instance)
    async with instance.node() as new:
        assert await numbers(new, ROOMS[0]) == list(range(1, 72))
        state = (await new.hub.at_head(ROOMS[1])).state
        assert isinstance(state, ConversationState)
        assert set(state.members) == {ALICE, BOB, CAROL}
    instance.settings.store.path.rename(instance.settings.store.path.with_suffix(".away"))
    async with instance.node() as new:
        for room, number in zip(ROOMS, (72, 2, 1, 1), strict=True):
            assert (await sent(new, now(BOB, 103), room)).message_number == number
        with pytest.raises(StoreUnavailable):
            await sent(new, first[0], ROOMS[0])
        state = (await new.hub.at_head(BOB)).state
        assert isinstance(state, UserTopicState)
        assert {each.conversation_id for each in state.joined()} == set(ROOMS)


async def test_what_a_stopped_worker_has_not_handled_stays_in_the_log(instance: RealInstance) -> None:
    """G1: the projector is away for as long as it likes."""
    async with instance.node() as node, instance.core() as core:
        await node.submit(ROOMS[0], CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))
        await trim_all(instance)
        commands = [now(ALICE, serial) for serial in range(20)]
        for command in commands:
            await sent(node, command, ROOMS[0])
        head = await core.log.read_head(ROOMS[0])
        assert head is not None
        records = await core.log.read_range(ROOMS[0], after_sequence=0, up_to_sequence=head.sequence, max_bytes=1 << 20)
        assert len(records) == 20
    await trim_all(instance)
    async with instance.node() as node:
        assert await numbers(node, ROOMS[0]) == list(range(1, 21))


async def test_store_that_a_trimmed_log_cannot_fill_stops_its_shards(instance: RealInstance) -> None:
    """G1: the store was lost after a trim: a person is asked, and nothing is projected behind the hole."""
    async with instance.node() as node:
        for room in ROOMS:
            await node.submit(room, CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))
        await trim_all(instance)
        for room in ROOMS:
            await sent(node, now(ALICE, 1), room)
        await trim_all(instance)
        instance.settings.store.path.rename(instance.settings.store.path.with_suffix(".away"))
        with capture_logs() as logs:
            async with instance.worker(kept_s=0):
                await until(lambda: {line["shard"] for line in logs if line["event"] == "shard stopped"} == {0, 1})
        assert sum(line["event"] == "shard starts over" for line in logs) <= 2
