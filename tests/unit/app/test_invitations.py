"""Groups and blocks: nobody is made a member by somebody whom they block, and nobody else learns of that."""

import asyncio

import pytest

from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import IdReused, InvitationRefused, NotPermitted
from hubbub_server.domain.events import MemberRole
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, create_group, message_id
from tests.unit.app.test_settings import settings_on
from tests.unit.app.test_streams import poison

pytestmark = pytest.mark.asyncio


async def test_group_with_a_user_who_blocks_its_maker_is_not_made_from_the_answer_on() -> None:
    """All or none, on any node; who is blocked may still be invited by the one who blocks."""
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations), settings_on(cluster) as (_, _, elsewhere):
        await settings.block(BOB, ALICE)
        for each in (conversations, elsewhere):
            with pytest.raises(InvitationRefused) as refused:
                await each.create_group(ALICE, request_id=message_id(1), title="tea", user_ids=[CAROL, BOB])
            assert refused.value.user_ids == (BOB,)
        for user_id in (ALICE, BOB, CAROL):
            assert (await conversations.list(user_id, page_size=0, page_token=""))[0] == []

        theirs = await elsewhere.create_group(BOB, request_id=message_id(1), title="tea", user_ids=[ALICE])
        assert theirs.member_count == 2
        await settings.unblock(BOB, ALICE)
        made = await elsewhere.create_group(ALICE, request_id=message_id(1), title="tea", user_ids=[CAROL, BOB])
        assert made.member_count == 3


async def test_addition_of_a_user_who_blocks_the_caller_adds_nobody() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (node, settings, conversations):
        await create_group(node)
        await settings.block(BOB, ALICE)
        events = len(cluster.events(GROUP))

        with pytest.raises(InvitationRefused) as refused:
            await conversations.add_members(ALICE, GROUP, [CAROL, BOB])
        assert refused.value.user_ids == (BOB,)
        assert len(cluster.events(GROUP)) == events
        await conversations.add_members(ALICE, GROUP, [CAROL])


async def test_who_is_a_member_already_is_no_invitation() -> None:
    """A repeat of what was done is answered as before, whoever blocked whom since then."""
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations):
        made = await conversations.create_group(ALICE, request_id=message_id(1), title="tea", user_ids=[BOB])
        await settings.block(BOB, ALICE)

        again = await conversations.create_group(ALICE, request_id=message_id(1), title="tea", user_ids=[BOB])
        assert again.conversation_id == made.conversation_id
        with pytest.raises(IdReused):
            await conversations.create_group(ALICE, request_id=message_id(1), title="coffee", user_ids=[BOB])
        await conversations.add_members(ALICE, made.conversation_id, [BOB, CAROL])
        await conversations.remove_member(ALICE, made.conversation_id, BOB)
        with pytest.raises(InvitationRefused):
            await conversations.add_members(ALICE, made.conversation_id, [BOB])


async def test_who_may_not_add_members_learns_nothing_of_blocks() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (node, settings, conversations):
        await create_group(node, BOB)
        await settings.block(CAROL, BOB)

        with pytest.raises(NotPermitted) as refused:
            await conversations.add_members(BOB, GROUP, [CAROL])
        assert not isinstance(refused.value, InvitationRefused)


async def test_others_may_bring_two_together_and_nothing_of_the_group_is_refused() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations):
        await settings.block(BOB, CAROL)
        made = await conversations.create_group(ALICE, request_id=message_id(1), title="tea", user_ids=[BOB, CAROL])
        members, _ = await conversations.list_members(CAROL, made.conversation_id, page_size=0, page_token="")
        assert {member.user_id: member.role for member in members} == {
            ALICE: MemberRole.OWNER,
            BOB: MemberRole.MEMBER,
            CAROL: MemberRole.MEMBER,
        }


async def test_topic_that_cannot_be_read_hides_no_other_block() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (node, settings, conversations):
        await create_group(node)
        await settings.block(BOB, ALICE)
        await conversations.create_direct(ALICE, CAROL)
        head = cluster.server.by_topic[CAROL][-1]
        poison(cluster.server, CAROL, after_sequence=head.sequence, position=head.facts.last_position + 1)

        with pytest.raises(InvitationRefused) as refused:
            await conversations.add_members(ALICE, GROUP, [CAROL, BOB])
        assert refused.value.user_ids == (BOB,)


@pytest.mark.parametrize("turns", range(16))
async def test_who_leaves_while_they_are_added_stays_away(turns: int) -> None:
    """They were a member when the call came, so nobody was asked: whenever they leave, they do not come back by it."""
    cluster = AppCluster()
    async with settings_on(cluster) as (node, settings, conversations):
        await create_group(node, BOB)
        await settings.block(BOB, ALICE)

        async def leave() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)
            await conversations.remove_member(BOB, GROUP, "me")

        added, _ = await asyncio.gather(conversations.add_members(ALICE, GROUP, [BOB]), leave(), return_exceptions=True)
        assert not isinstance(added, Exception) or isinstance(added, InvitationRefused)
        state = (await node.hub.at_head(GROUP)).state
        assert isinstance(state, ConversationState)
        assert BOB not in state.members
