"""What went wrong with counters elsewhere, played as it was reported there; numbers are those of every node."""

import asyncio
from dataclasses import dataclass

import pytest

from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import ReadUpTo
from hubbub_server.app.markers import Counters
from hubbub_server.domain.commands import ChangeConversationPreferences, CreateGroup
from hubbub_server.domain.errors import MessageNotFound
from hubbub_server.domain.events import Event, MessageSent
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.message import BroadcastAudience, BroadcastMention, Code, EntityKind, UserMention
from hubbub_server.domain.preferences import ConversationPreferences
from hubbub_server.domain.signals import ReadMarker, Signal
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, send, settle
from tests.support.fakes.topic_log import AppendFault
from tests.support.marker_steps import group_with, mention, read, unread

OTHER = ConversationId(TopicId("cother"))


async def other_group(node: AppNode, *, messages: int) -> None:
    """Makes Carol's group with Alice, and says something there."""
    await node.submit(CreateGroup(creator_id=CAROL, title="other", user_ids=(ALICE,)), topic_id=OTHER)
    _, state = await member_at_head(node.hub, ALICE, OTHER)
    await MembershipEffects(node.hub).spread(state, [ALICE, CAROL])
    for serial in range(messages):
        await node.submit(send(CAROL, 100 + serial), topic_id=OTHER)


def badge(counters: Counters) -> tuple[int, int]:
    """Returns what the badge shows: messages and mentions."""
    return counters.badge_count, counters.mention_count


@pytest.mark.asyncio
async def test_being_read_leaves_the_badge_of_the_sender_as_it_was() -> None:
    """C26: the receipt is a signal; on the sender's own topic, which is what badges follow, nothing happens."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB)
        await other_group(one, messages=5)
        await one.send(send(ALICE, 1))
        alice, own = await one.listen(user_id=ALICE), await one.listen(ALICE)
        before = [badge(await node.markers.counters(ALICE)) for node in (one, two)]
        await two.markers.mark_read(BOB, read(1))
        await settle()

        assert before == [(5, 0)] * 2
        assert [badge(await node.markers.counters(ALICE)) for node in (one, two)] == before
        assert own.events == []
        assert alice.signals == [Signal(conversation_id=GROUP, user_id=BOB, kind=ReadMarker(message_number=1))]


@pytest.mark.parametrize("fault", [AppendFault.LATE, AppendFault.NEVER, AppendFault.ACK_LOST])
@pytest.mark.asyncio
async def test_a_message_that_comes_late_is_unread_whatever_was_read_before_it(fault: AppendFault) -> None:
    """C29: numbers are dense and seen in order, so a marker covers what is before it and nothing that comes later."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, CAROL, messages=1)
        bob = await two.listen(user_id=BOB)
        one.log.append_faults.append(fault)
        late = asyncio.create_task(one.send(send(ALICE, 7)))
        await settle()
        await two.send(send(CAROL, 8))
        seen = numbers_of(bob.events)[-1]
        with pytest.raises(MessageNotFound):
            await two.markers.mark_read(BOB, read(seen + 2))
        await two.markers.mark_read(BOB, read(seen))
        at_that_time = await unread(two, BOB)
        cluster.server.release_late()
        number = (await late).message_number
        await settle()

        assert at_that_time == (0, 0)
        assert numbers_of(bob.events) == [2, 3]
        assert [await unread(node, BOB) for node in (one, two)] == [(3 - seen, 0)] * 2
        assert number in (2, 3)
        assert (number > seen) == ((await unread(two, BOB))[0] > 0)


def numbers_of(events: list[Event]) -> list[int]:
    """Returns the messages among events."""
    return [event.kind.message.message_number for event in events if isinstance(event.kind, MessageSent)]


@dataclass(frozen=True)
class Says:
    """What a message has in it, and what it is then for Bob: a mention or not."""

    kinds: tuple[EntityKind, ...]
    is_mention: bool


ALL, HERE = (BroadcastMention(audience=audience) for audience in BroadcastAudience)


@pytest.mark.parametrize("is_muted", [False, True], ids=["loud", "muted"])
@pytest.mark.parametrize(
    "says",
    [
        Says((), is_mention=False),
        Says((UserMention(user_id=BOB),), is_mention=True),
        Says((UserMention(user_id=CAROL),), is_mention=False),
        Says((HERE,), is_mention=True),
        Says((ALL,), is_mention=True),
        Says((ALL, UserMention(user_id=BOB), HERE), is_mention=True),
        Says((Code(),), is_mention=False),
        Says((Code(block=True),), is_mention=False),
        Says((Code(), UserMention(user_id=BOB)), is_mention=True),
    ],
    ids=["words", "bob", "carol", "here", "all", "all thrice", "code", "code block", "beside code"],
)
@pytest.mark.asyncio
async def test_what_a_mention_does_to_the_numbers(says: Says, *, is_muted: bool) -> None:
    """C65: muted, the conversation keeps its own numbers and the badge has none of them; edits come with editing."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, CAROL)
        if is_muted:
            forever = ConversationPreferences(mute_end_time_ms=cluster.clock.now_ms() + 86_400_000)
            mute = ChangeConversationPreferences(conversation_id=GROUP, preferences=forever, names=["mute_end_time_ms"])
            await two.submit(mute, topic_id=BOB)
        # The text names Bob each time: words are nothing, only what is bound to a user is.
        await one.send(mention(*says.kinds, serial=1))

        mentions = int(says.is_mention)
        for node in (one, two):
            assert await unread(node, BOB) == (1, mentions)
            assert badge(await node.markers.counters(BOB)) == ((0, 0) if is_muted else (1, mentions))
        listed, _ = await two.markers.list_mentions(BOB, GROUP, page_size=0, before_number=0)
        assert len(listed) == mentions


async def read_everything(node: AppNode, user_id: UserId, conversation_id: ConversationId) -> None:
    """Marks the newest message read."""
    _, state = await member_at_head(node.hub, user_id, conversation_id)
    number = state.last_message_number
    await node.markers.mark_read(user_id, ReadUpTo(conversation_id=conversation_id, message_number=number))


@pytest.mark.parametrize("is_fresh", [False, True], ids=["live", "fresh"])
@pytest.mark.asyncio
async def test_who_only_sends_has_no_badge_after_signing_in_again(*, is_fresh: bool) -> None:
    """C25: three sends on one device; the other one, and a node that knows nothing, say 0."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await group_with(one, BOB, messages=3)
        await other_group(one, messages=1)
        await read_everything(two, ALICE, OTHER)
        if is_fresh:
            await cluster.project()
            cluster.server.states.clear()
        async with cluster.node() as fresh:
            node = fresh if is_fresh else two
            assert badge(await node.markers.counters(ALICE)) == (0, 0)
            assert badge(await node.markers.counters(BOB)) == (3, 0)
