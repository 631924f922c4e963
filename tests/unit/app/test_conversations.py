"""Use cases of conversations: what a caller is told when a part cannot answer, and at the edges of lists."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.read_history import PageSide
from hubbub_server.domain.errors import ConversationNotFound, InvalidField, StoreUnavailable, UserNotFound
from hubbub_server.domain.events import ConversationKind
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.accounts import Account
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, create_group, message_id, send
from tests.support.fakes.accounts import FakeAccountStore
from tests.unit.app.test_streams import poison

pytestmark = pytest.mark.asyncio


async def known_users() -> FakeAccountStore:
    accounts = FakeAccountStore()
    for user_id in (ALICE, BOB, CAROL):
        account = Account(user_id=user_id, login_name=user_id, display_name=user_id, password_hash="", create_time_ms=0)
        await accounts.create(account)
    return accounts


@asynccontextmanager
async def conversations_on(cluster: AppCluster) -> AsyncIterator[tuple[AppNode, Conversations]]:
    async with cluster.node() as node:
        yield (
            node,
            Conversations(
                hub=node.hub,
                reader=node.reader,
                read_states=node.read_states,
                effects=MembershipEffects(node.hub),
                accounts=await known_users(),
                id_key=b"k" * 32,
            ),
        )


async def test_direct_conversation_is_one_whoever_starts_and_both_list_it() -> None:
    cluster = AppCluster()
    async with conversations_on(cluster) as (_, one), conversations_on(cluster) as (_, two):
        first = await one.create_direct(ALICE, BOB)
        second = await two.create_direct(BOB, ALICE)
        assert first.conversation_id == second.conversation_id
        assert (first.kind, first.member_count, first.last_message) == (ConversationKind.DIRECT, 2, None)
        for user_id in (ALICE, BOB):
            views, token = await two.list(user_id, page_size=0, page_token="")
            assert ([view.conversation_id for view in views], token) == ([first.conversation_id], "")


@pytest.mark.parametrize(("other", "error"), [(ALICE, InvalidField), ("", InvalidField), ("uzoe", UserNotFound)])
async def test_direct_conversation_needs_another_user_who_exists(other: str, error: type[Exception]) -> None:
    async with conversations_on(AppCluster()) as (_, conversations):
        with pytest.raises(error):
            await conversations.create_direct(ALICE, other)


async def test_pages_of_conversations_follow_each_other_newest_first() -> None:
    async with conversations_on(AppCluster()) as (_, conversations):
        made = [
            (
                await conversations.create_group(ALICE, request_id=message_id(serial), title=f"{serial}", user_ids=[])
            ).conversation_id
            for serial in range(1, 6)
        ]
        listed, token = [], ""
        while True:
            views, token = await conversations.list(ALICE, page_size=2, page_token=token)
            listed += [view.conversation_id for view in views]
            if not token:
                break
        assert listed == made[::-1]
        with pytest.raises(InvalidField):
            await conversations.list(BOB, page_size=2, page_token="made up")


async def test_list_says_that_the_store_is_down() -> None:
    """G8: BACKEND_UNAVAILABLE with RetryInfo, not INTERNAL: the newest message is in the store alone."""
    cluster = AppCluster()
    async with conversations_on(cluster) as (node, conversations):
        made = await conversations.create_direct(ALICE, BOB)
        await node.hub.submit(made.conversation_id, send(ALICE, 1), timeout_s=5)
    await cluster.project()
    for shard, last in enumerate(cluster.server.last_sequences):
        cluster.server.trim(shard, below_sequence=last)
    async with conversations_on(cluster) as (node, conversations):
        await node.hub.at_head(ALICE)
        cluster.store.is_unavailable = True
        with pytest.raises(StoreUnavailable):
            await conversations.list(ALICE, page_size=0, page_token="")


async def test_members_are_added_although_the_topic_of_one_cannot_be_read() -> None:
    """The effects are the relay's to finish; the addition itself is durable and answered."""
    cluster = AppCluster()
    async with conversations_on(cluster) as (node, conversations):
        await create_group(node)
        await conversations.create_direct(ALICE, BOB)
        head = cluster.server.by_topic[BOB][-1]
        poison(cluster.server, BOB, after_sequence=head.sequence, position=head.facts.last_position + 1)
        cursor = await conversations.add_members(ALICE, GROUP, [BOB, CAROL])
        assert cursor.position == 3
        carols = (await node.hub.at_head(CAROL)).state
        assert isinstance(carols, UserTopicState)
        assert [membership.conversation_id for membership in carols.joined()] == [GROUP]


async def test_ex_member_and_stranger_hear_the_same_as_for_nothing() -> None:
    """C46."""
    async with conversations_on(AppCluster()) as (node, conversations):
        await create_group(node, BOB)
        await conversations.remove_member(BOB, GROUP, "me")
        texts = set()
        for user_id, conversation_id in ((BOB, GROUP), (CAROL, GROUP), (BOB, "cnothing"), (BOB, "no id"), (BOB, BOB)):
            for call in (
                conversations.get(user_id, conversation_id),
                conversations.list_members(user_id, conversation_id, page_size=0, page_token=""),
                conversations.add_members(user_id, conversation_id, [CAROL]),
                conversations.remove_member(user_id, conversation_id, "me"),
                conversations.remove_member(user_id, conversation_id, ALICE),
                node.history.get_message(user_id, conversation_id, 1),
            ):
                with pytest.raises(ConversationNotFound) as refused:
                    await call
                texts.add(str(refused.value))
        assert len(texts) == 1


@pytest.mark.parametrize(
    ("anchor", "side", "older", "newer", "numbers"),
    [
        (0, PageSide.BEFORE, True, False, [2, 3]),
        (0, PageSide.AFTER, False, True, [1, 2]),
        (1, PageSide.BEFORE, False, True, []),
        (3, PageSide.AFTER, True, False, []),
        (9, PageSide.AFTER, True, False, []),
        (9, PageSide.BEFORE, True, False, [2, 3]),
        (2, PageSide.AROUND, False, True, [1, 2]),
        (2**62, PageSide.AROUND, True, False, [2, 3]),
    ],
)
async def test_page_says_what_lies_beyond_it(
    anchor: int, side: PageSide, older: bool, newer: bool, numbers: list[int]
) -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node)
        for serial in (1, 2, 3):
            await node.send(send(ALICE, serial))
        page = await node.history.list_messages(ALICE, GROUP, anchor_number=anchor, side=side, page_size=2)
    assert [message.message_number for message in page.messages] == numbers
    assert (page.older_available, page.newer_available) == (older, newer)


@pytest.mark.parametrize("side", [PageSide.BEFORE, PageSide.AFTER])
async def test_page_of_an_empty_conversation_has_nothing_beyond_it(side: PageSide) -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node)
        page = await node.history.list_messages(ALICE, GROUP, anchor_number=5, side=side, page_size=2)
    assert (page.messages, page.older_available, page.newer_available) == ((), False, False)
