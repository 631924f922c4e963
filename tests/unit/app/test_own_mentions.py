"""My mentions: over all conversations, newest first, exact, and none that the user may not see."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from hubbub_server.app.own_mentions import OwnMentions
from hubbub_server.app.project import project
from hubbub_server.domain.commands import AddMembers, CreateGroup, RecordMembership, RemoveMember, SetBlock
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import InvalidField, LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.limits import TEXT_MAX_CODE_POINTS
from hubbub_server.domain.message import EntityKind, TextContent
from hubbub_server.ports.projection import PROJECTOR_ROLE
from tests.support.app_node import ALICE, BOB, CAROL, CODEC, AppCluster, AppNode
from tests.support.fakes.dead_letters import FakeDeadLetters
from tests.support.marker_steps import EVERYBODY_HEARS, mention, of

pytestmark = pytest.mark.asyncio

ROOMS = [ConversationId(TopicId(f"croom{number}")) for number in range(4)]
Place = tuple[int, int]
"""Number of a room, and of a message in it."""


@asynccontextmanager
async def mentions_on(
    cluster: AppCluster, letters: FakeDeadLetters | None = None
) -> AsyncIterator[tuple[AppNode, OwnMentions]]:
    async with cluster.node() as node:
        yield (
            node,
            OwnMentions(
                hub=node.hub,
                reader=node.reader,
                read_states=node.read_states,
                directory=cluster.store,
                letters=letters or FakeDeadLetters(),
                id_key=b"k" * 32,
            ),
        )


async def make_rooms(node: AppNode, count: int = len(ROOMS)) -> None:
    """Makes groups of Alice, Bob and Carol that are on Bob's own topic."""
    for room in ROOMS[:count]:
        create = CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB, CAROL))
        await node.submit(create, topic_id=room)
        joined = RecordMembership(conversation_id=room, epoch=1, position=3, joined=True)
        await node.submit(joined, topic_id=BOB)


class Talk:
    """Sends messages, each a second after the one before."""

    def __init__(self, cluster: AppCluster, node: AppNode) -> None:
        self.cluster, self.node, self.serial = cluster, node, 0

    async def say(self, room: int, *kinds: EntityKind, sender_id: UserId = ALICE, text: str = "") -> None:
        """Sends one message that mentions whom `kinds` say."""
        self.cluster.clock.advance(1.0)
        self.serial += 1
        command = mention(*kinds, serial=self.serial, sender_id=sender_id)
        if text:
            assert isinstance(command.content, TextContent)
            command = replace(command, content=replace(command.content, text=text))
        await self.node.submit(command, topic_id=ROOMS[room])


async def pages(mentions: OwnMentions, user_id: UserId, size: int) -> list[Sequence[Place]]:
    """Returns all pages, which end."""
    found: list[Sequence[Place]] = []
    token = ""
    while True:
        page, token = await mentions.list(user_id, page_size=size, page_token=token)
        found.append([(ROOMS.index(each.conversation_id), each.message.message_number) for each in page])
        if not token:
            return found


async def everything(mentions: OwnMentions, user_id: UserId) -> Sequence[Place]:
    """Returns one page, the only one."""
    (page,) = await pages(mentions, user_id, 0)
    return page


@pytest.mark.parametrize("projected", ["none", "some", "all"])
@pytest.mark.parametrize("size", [1, 2, 3, 50])
async def test_all_mentions_come_newest_first_wherever_they_are(projected: str, size: int) -> None:
    """By id and by @all, from store and log, in pages of any size, each once."""
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, _), mentions_on(cluster) as (_, elsewhere):
        await make_rooms(node)
        talk = Talk(cluster, node)
        said: list[tuple[int, EntityKind]] = [
            (0, of(BOB)),
            (1, EVERYBODY_HEARS),
            (0, of(CAROL)),
            (2, of(BOB)),
            (1, of(BOB)),
        ]
        numbers = [0, 0, 0, 0]
        expected: list[Place] = []
        for turn in range(2):
            for room, kind in said:
                await talk.say(room, kind)
                numbers[room] += 1
                if kind != of(CAROL):
                    expected.insert(0, (room, numbers[room]))
            if projected == "all" or (projected == "some" and turn == 0):
                await cluster.project()

        found = await pages(elsewhere, BOB, size)
        assert [place for page in found for place in page] == expected
        assert all(len(page) == size for page in found[:-1])


async def test_mentions_of_one_time_are_all_there() -> None:
    """Pages may end between them."""
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node)
        serial = 0
        for room in ROOMS:
            for _ in range(3):
                serial += 1
                await node.submit(mention(of(BOB), serial=serial), topic_id=room)
        await cluster.project()
        found = [place for page in await pages(mentions, BOB, 2) for place in page]
        assert found == sorted(found, reverse=True)
        assert len(set(found)) == len(found) == 12


async def test_own_and_blocked_and_left_are_not_there() -> None:
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 2)
        talk = Talk(cluster, node)
        await talk.say(0, of(BOB))
        await talk.say(0, EVERYBODY_HEARS, sender_id=BOB)
        await talk.say(0, of(BOB), sender_id=CAROL)
        await talk.say(1, of(BOB))
        await cluster.project()
        assert await everything(mentions, BOB) == [(1, 1), (0, 3), (0, 1)]

        await node.submit(SetBlock(user_id=CAROL, conversation_id=ROOMS[3], blocked=True), topic_id=BOB)
        assert await everything(mentions, BOB) == [(1, 1), (0, 1)]
        await node.submit(RemoveMember(actor_id=ALICE, user_id=BOB), topic_id=ROOMS[1])
        assert await everything(mentions, BOB) == [(0, 1)]


async def test_many_mentions_that_are_not_shown_end_a_page_early_and_hide_no_later_one() -> None:
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 1)
        talk = Talk(cluster, node)
        await talk.say(0, of(BOB))
        for _ in range(20):
            await talk.say(0, of(BOB), sender_id=CAROL)
        await node.submit(SetBlock(user_id=CAROL, conversation_id=ROOMS[3], blocked=True), topic_id=BOB)
        await cluster.project()

        found = await pages(mentions, BOB, 2)
        assert [page for page in found if page] == [[(0, 1)]]
        assert len(found) > 1


async def test_mentions_that_are_not_shown_hide_none_between_those_of_everybody() -> None:
    """A page ends where one of its sources was not read further, whatever the others have."""
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 2)
        talk = Talk(cluster, node)
        await talk.say(1, EVERYBODY_HEARS)
        await talk.say(0, of(BOB))
        await talk.say(1, EVERYBODY_HEARS)
        for _ in range(2):
            await talk.say(0, of(BOB), sender_id=CAROL)
        await talk.say(1, of(CAROL))
        await node.submit(SetBlock(user_id=CAROL, conversation_id=ROOMS[3], blocked=True), topic_id=BOB)
        await cluster.project()

        found = [place for page in await pages(mentions, BOB, 2) for place in page]
        assert found == [(1, 2), (0, 1), (1, 1)]


async def test_rejoining_shows_again_what_was_said_before() -> None:
    """As history does: a member reads all of it."""
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 1)
        await Talk(cluster, node).say(0, of(BOB))
        await node.submit(RemoveMember(actor_id=ALICE, user_id=BOB), topic_id=ROOMS[0])
        assert await everything(mentions, BOB) == []
        await node.submit(AddMembers(actor_id=ALICE, user_ids=(BOB,)), topic_id=ROOMS[0])
        state = (await node.hub.at_head(ROOMS[0])).state
        assert isinstance(state, ConversationState)
        position = state.members[BOB].join_position
        joined = RecordMembership(conversation_id=ROOMS[0], epoch=1, position=position, joined=True)
        await node.submit(joined, topic_id=BOB)
        assert await everything(mentions, BOB) == [(0, 1)]


async def put_aside(cluster: AppCluster, letters: FakeDeadLetters, room: ConversationId, after_number: int) -> None:
    """Does what a projector does that cannot handle the messages of a room from here on."""
    for shard, records in enumerate(cluster.server.records):
        dead = [
            record
            for record in records
            if record.facts.topic_id == room and record.facts.last_message_number > after_number
        ]
        number = 0
        for record in dead:
            number = await letters.add(record, role=PROJECTOR_ROLE, shard=shard, reason="poison", after=number)
        if living := [record for record in records if record not in dead]:
            await cluster.store.apply(project(CODEC, shard, living))


async def test_mentions_of_a_topic_that_is_dead_for_the_projector_are_there() -> None:
    """The floor of the shard has passed it, and the store does not have them."""
    cluster, letters = AppCluster(), FakeDeadLetters()
    async with mentions_on(cluster, letters) as (node, _), mentions_on(cluster, letters) as (_, elsewhere):
        await make_rooms(node, 2)
        talk = Talk(cluster, node)
        for room, kind in ((0, of(BOB)), (0, of(BOB)), (1, of(BOB)), (0, of(BOB)), (0, EVERYBODY_HEARS), (1, of(BOB))):
            await talk.say(room, kind)
        await put_aside(cluster, letters, ROOMS[0], after_number=1)

        found = [place for page in await pages(elsewhere, BOB, 2) for place in page]
        assert found == [(1, 2), (0, 4), (0, 3), (1, 1), (0, 2), (0, 1)]


async def test_nothing_is_listed_while_a_conversation_cannot_be_read() -> None:
    """Rather than as if there were no mentions in it: its record is poison for this node too, or nobody knows."""
    cluster, letters = AppCluster(), FakeDeadLetters()
    async with mentions_on(cluster, letters) as (node, mentions), mentions_on(cluster, letters) as (_, elsewhere):
        await make_rooms(node, 2)
        talk = Talk(cluster, node)
        await talk.say(0, of(BOB))
        letters.is_unavailable = True
        with pytest.raises(LogUnavailable):
            await mentions.list(BOB, page_size=0, page_token="")
        letters.is_unavailable = False
        log = cluster.server.by_topic[ROOMS[0]]
        log[-1] = replace(log[-1], body=b"\xff")
        with pytest.raises(LogUnavailable):
            await elsewhere.list(BOB, page_size=0, page_token="")


async def test_page_ends_at_256_kib() -> None:
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 1)
        talk = Talk(cluster, node)
        for _ in range(10):
            await talk.say(0, of(BOB), text="👩" * TEXT_MAX_CODE_POINTS)
        found = await pages(mentions, BOB, 50)
        assert [len(page) for page in found] == [8, 2]
        assert [number for page in found for _, number in page] == list(range(10, 0, -1))


async def test_nothing_is_listed_without_the_store_and_no_made_up_page() -> None:
    cluster = AppCluster()
    async with mentions_on(cluster) as (node, mentions):
        await make_rooms(node, 1)
        for size, token in ((-1, ""), (0, "made up"), (0, "MS4y")):
            with pytest.raises(InvalidField):
                await mentions.list(BOB, page_size=size, page_token=token)
        assert await mentions.list(CAROL, page_size=0, page_token="") == ([], "")
        cluster.store.is_unavailable = True
        with pytest.raises(StoreUnavailable):
            await mentions.list(BOB, page_size=0, page_token="")
