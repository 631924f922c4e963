"""The relay: every user's topic gets what membership events mean for them, whatever happened before, once."""

from dataclasses import replace

import pytest

from hubbub_server.domain.commands import (
    AddMembers,
    CreateDirect,
    RecordBlock,
    RecordMembership,
    RemoveMember,
    SetBlock,
)
from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.errors import OutcomeUnknown, RateLimited, StoreUnavailable
from hubbub_server.domain.events import SourcePlace
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.record_codec import RecordUndecodable
from hubbub_server.workers.replay import Replay
from tests.support.waiting import until
from tests.unit.domain.builders import ALICE, BOB, CAROL, user
from tests.unit.workers.stage import SHARDS, Stage, gauge

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stage() -> Stage:
    return Stage()


def standing(stage: Stage, user_id: UserId, room: ConversationId) -> tuple[bool, int] | None:
    """Returns whether the user's topic says that they are in the room, and since which position."""
    state = stage.writer.states.get(user_id)
    if state is None:
        return None
    assert isinstance(state, UserTopicState)
    membership = state.memberships.get(room)
    return (membership.joined, membership.position) if membership else None


async def test_all_who_were_added_hear_of_it(stage: Stage) -> None:
    """C46: the node that committed the group died before it could tell them."""
    room = stage.make_group(0, BOB, CAROL)

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert standing(stage, ALICE, room) == (True, 2)
    assert standing(stage, BOB, room) == (True, 3)
    assert standing(stage, CAROL, room) == (True, 3)


async def test_who_was_removed_hears_of_it(stage: Stage) -> None:
    room = stage.make_group(0, BOB)
    stage.writer.run(room, RemoveMember(actor_id=ALICE, user_id=BOB))

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert standing(stage, BOB, room) == (False, 4)


async def test_effects_that_are_there_are_not_written_again(stage: Stage) -> None:
    room = stage.make_group(0, BOB)
    for user_id, position in ((ALICE, 2), (BOB, 3)):
        stage.writer.run(user_id, RecordMembership(conversation_id=room, epoch=1, position=position, joined=True))
    commits = stage.server.commits

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert len(stage.hub.submitted) == 2
    assert stage.server.commits == commits


async def test_replay_after_a_crash_writes_nothing(stage: Stage) -> None:
    room = stage.make_group(0, BOB, CAROL)
    async with stage.working():
        await stage.until_caught_up(0, 1)
    commits = stage.server.commits
    del stage.server.ack_floors["relay", 0]

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert stage.server.commits == commits
    assert standing(stage, BOB, room) == (True, 3)


async def test_old_join_never_undoes_a_newer_leave(stage: Stage) -> None:
    """G5: the committing node wrote the leave at once, the relay comes by with the join later."""
    room = stage.make_group(0, BOB)
    stage.writer.run(room, RemoveMember(actor_id=ALICE, user_id=BOB))
    stage.writer.run(BOB, RecordMembership(conversation_id=room, epoch=1, position=4, joined=False))

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert standing(stage, BOB, room) == (False, 4)
    state = stage.writer.states[BOB]
    assert state.position == 1


async def test_old_leave_never_undoes_a_newer_join(stage: Stage) -> None:
    room = stage.make_group(0, BOB)
    stage.writer.run(room, RemoveMember(actor_id=ALICE, user_id=BOB))
    stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(BOB,)))
    stage.writer.run(BOB, RecordMembership(conversation_id=room, epoch=1, position=5, joined=True))

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert standing(stage, BOB, room) == (True, 5)
    assert stage.writer.states[BOB].position == 1


async def test_effect_is_tried_until_it_is_written(stage: Stage) -> None:
    """Whatever a topic answers; only then is the record acknowledged."""
    stage.hub.failures = [
        StoreUnavailable("down"),
        OutcomeUnknown("no answer"),
        RateLimited("too many", retry_after_s=1),
    ] * 5
    room = stage.make_group(0, BOB)

    async with stage.working():
        await until(lambda: len(stage.hub.failures) <= 5)
        assert stage.consumers.floor("relay", 0) == 0
        await stage.until_caught_up(0, 1)

    assert standing(stage, BOB, room) == (True, 3)


async def test_records_without_membership_are_not_even_decoded(stage: Stage) -> None:
    """So poison among them stops the projector of the shard, and nobody's joining."""
    room = stage.make_group(0)
    stage.send(room, 1)
    stage.server.records[0][2] = replace(stage.server.records[0][2], body=b"\xff")
    stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(BOB,)))

    async with stage.working():
        await until(lambda: stage.is_caught_up("relay", 0))

    assert standing(stage, BOB, room) == (True, 4)


async def test_membership_event_that_cannot_be_read_holds_up_its_topic_alone(stage: Stage) -> None:
    room, other = stage.make_group(0), stage.make_group(0)
    stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(BOB,)))
    sequence = stage.server.last_sequences[0]
    stage.server.records[0][-1] = replace(stage.server.records[0][-1], body=b"\xff")
    stage.writer.run(room, AddMembers(actor_id=ALICE, user_ids=(CAROL,)))
    stage.writer.run(other, AddMembers(actor_id=ALICE, user_ids=(BOB,)))

    async with stage.working():
        await stage.until_caught_up(0, 1)
        assert gauge("dead_topics", "relay", 0) == 1

    assert standing(stage, ALICE, room) == (True, 2)
    assert standing(stage, CAROL, room) is None
    assert standing(stage, BOB, other) == (True, 3)
    letters = stage.letters.letters["relay", 0, room]
    assert [letter.record.sequence for letter in letters] == [sequence, sequence + 1]


async def test_users_topic_that_cannot_be_read_holds_up_the_conversation_that_has_news_for_it(stage: Stage) -> None:
    """G8: its record is good, so it is not skipped but waits for a replay; everything else goes on."""
    stage.hub.failures = [RecordUndecodable("not a record")]
    bad = stage.make_group(0, BOB)

    async with stage.working():
        await until(lambda: gauge("dead_topics", "relay", 0) == 1)
        rooms = [stage.make_group(shard, CAROL) for shard in (0, 1)]
        await until(lambda: all(standing(stage, CAROL, room) == (True, 3) for room in rooms))
        await stage.until_caught_up(0)

    assert standing(stage, BOB, bad) is None
    async for outcome in Replay(stage.letters, roles=stage.roles(), shards=SHARDS).run():
        assert outcome.reason == ""
    assert standing(stage, ALICE, bad) == (True, 2)
    assert standing(stage, BOB, bad) == (True, 3)


async def test_large_group_is_told_a_few_users_at_a_time(stage: Stage) -> None:
    many = tuple(user(f"m{n}") for n in range(400))
    room = stage.make_group(0, *many)

    async with stage.working():
        await stage.until_caught_up(0, 1)

    assert all(standing(stage, user_id, room) == (True, 3) for user_id in many)
    assert 1 < stage.hub.most_at_once <= 16


# ---- blocks


def block_of(stage: Stage, room: ConversationId) -> Block | None:
    """Returns what the conversation knows of Alice's blocking."""
    state = stage.writer.states.get(room)
    if state is None:
        return None
    assert isinstance(state, ConversationState)
    return state.blocks.get(ALICE)


@pytest.mark.parametrize("is_made", [True, False])
async def test_direct_conversation_hears_of_a_block_whatever_happened_before(stage: Stage, is_made: bool) -> None:
    """The node that committed it died before it could tell; the conversation may not be there yet."""
    direct = ConversationId(TopicId("cdirect"))
    if is_made:
        stage.writer.run(direct, CreateDirect(creator_id=ALICE, other_id=BOB))
    stage.writer.run(ALICE, SetBlock(user_id=BOB, conversation_id=direct, blocked=True))

    async with stage.working():
        await until(lambda: block_of(stage, direct))

    assert block_of(stage, direct) == Block(blocked=True, source=SourcePlace(1, 1))


async def test_old_block_never_undoes_a_newer_unblock(stage: Stage) -> None:
    direct = ConversationId(TopicId("cdirect"))
    stage.writer.run(direct, CreateDirect(creator_id=ALICE, other_id=BOB))
    for blocked in (True, False):
        stage.writer.run(ALICE, SetBlock(user_id=BOB, conversation_id=direct, blocked=blocked))
    news = RecordBlock(blocker_id=ALICE, user_id=BOB, blocked=False, source=SourcePlace(1, 2))
    stage.writer.run(direct, news)
    commits = stage.server.commits

    async with stage.working():
        await stage.until_caught_up(*range(SHARDS))

    assert block_of(stage, direct) == Block(blocked=False, source=SourcePlace(1, 2))
    assert {topic_id for topic_id, _ in stage.hub.submitted} == {direct, ALICE, BOB}
    assert stage.server.commits == commits + 2  # the two memberships
