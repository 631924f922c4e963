"""What a group may set about receipts: less than its size allows, by owners and admins, for everybody at once."""

import pytest

from hubbub_server.domain.commands import CreateDirect, LimitReceipts
from hubbub_server.domain.errors import ConversationNotFound, NotPermitted, WrongState
from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.domain.receipts import ReceiptsMode
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, settle
from tests.support.marker_steps import at, bob_read, group_with, read, unread
from tests.unit.app.test_deliveries import moves, received
from tests.unit.app.test_settings import settings_on

pytestmark = pytest.mark.asyncio


def limit(mode: ReceiptsMode) -> LimitReceipts:
    return LimitReceipts(actor_id=ALICE, limit=mode)


async def test_small_group_may_tell_only_how_many_have_read() -> None:
    cluster = AppCluster()
    async with cluster.node() as node, cluster.node() as other:
        await group_with(node, BOB, CAROL, messages=2)
        alice = await other.listen(user_id=ALICE)
        await node.submit(limit(ReceiptsMode.COUNT_ONLY))
        await other.markers.mark_read(BOB, read(2))
        await other.markers.mark_delivered(CAROL, received(2))
        await cluster.project()
        await settle()

        readers = await other.markers.list_readers(ALICE, GROUP, 2)
        assert (readers.user_ids, readers.count, readers.mode) == ((), 1, ReceiptsMode.COUNT_ONLY)
        with pytest.raises(WrongState):
            await other.markers.list_markers(ALICE, GROUP)
        assert (alice.signals, moves(cluster, CAROL)) == ([], [])
        assert await unread(node, BOB) == (0, 0)


async def test_limit_is_taken_back_and_what_is_told_follows_it() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB, messages=3)
        await node.submit(limit(ReceiptsMode.OFF))
        await node.markers.mark_read(BOB, read(2))
        await cluster.project()
        with pytest.raises(WrongState):
            await node.markers.list_readers(ALICE, GROUP, 1)
        alice = await node.listen(user_id=ALICE)
        await node.submit(limit(ReceiptsMode.FULL))

        assert await node.markers.list_markers(ALICE, GROUP) == [at(BOB, 2)]
        await node.markers.mark_read(BOB, read(3))
        await settle()
        assert alice.signals == [bob_read(3)]


async def test_limit_is_in_what_a_node_starts_from() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await group_with(node, BOB)
        await node.submit(limit(ReceiptsMode.OFF))
    await cluster.project()
    async with settings_on(cluster) as (_, _, conversations):
        assert (await conversations.get(ALICE, GROUP)).receipts_limit is ReceiptsMode.OFF


async def test_owners_and_admins_alone_set_it_and_only_in_groups() -> None:
    cluster = AppCluster()
    direct = ConversationId(TopicId("cdirect"))
    async with settings_on(cluster) as (node, _, conversations):
        await group_with(node, BOB)
        await node.submit(CreateDirect(creator_id=ALICE, other_id=BOB), topic_id=direct)
        for user_id, conversation_id, error in (
            (BOB, GROUP, NotPermitted),
            (CAROL, GROUP, ConversationNotFound),
            (ALICE, "cnone", ConversationNotFound),
            (ALICE, "no id", ConversationNotFound),
            (ALICE, direct, WrongState),
        ):
            with pytest.raises(error):
                await conversations.limit_receipts(user_id, conversation_id, ReceiptsMode.OFF)
        events = len(cluster.events(GROUP))
        first = await conversations.limit_receipts(ALICE, GROUP, ReceiptsMode.OFF)
        assert await conversations.limit_receipts(ALICE, GROUP, ReceiptsMode.OFF) == first
        assert len(cluster.events(GROUP)) == events + 1
