"""History while the log cannot be read: what the node and the store have, said to be so, and nobody else's."""

from dataclasses import replace

import pytest

from hubbub_server.app.read_history import PageSide
from hubbub_server.domain.errors import ConversationNotFound, LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import UserId
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, create_group, remove, send

pytestmark = pytest.mark.asyncio


async def page(node: AppNode, user_id: UserId = ALICE, *, anchor_number: int = 0) -> tuple[list[int], int, bool]:
    """Returns the numbers of a page, the position of its head, and whether that is confirmed."""
    found = await node.history.list_messages(
        user_id, GROUP, anchor_number=anchor_number, side=PageSide.BEFORE, page_size=50
    )
    return [m.message_number for m in found.messages], found.head.cursor.position, found.is_head_confirmed


async def test_history_is_read_from_the_store_while_the_log_is_away_and_says_as_of_when() -> None:
    """G8's counterpart, "all NATS down": the head is the store's, and it is not called confirmed."""
    cluster = AppCluster()
    async with cluster.node() as writer, cluster.node() as reader:
        await create_group(writer, BOB)
        for serial in (1, 2, 3):
            await writer.send(send(ALICE, serial))
        await cluster.project()
        await writer.send(send(ALICE, 4))
        assert await page(reader) == ([1, 2, 3, 4], 7, True)

    async with cluster.node() as cold:
        cold.log.cut()
        assert await page(cold) == ([1, 2, 3], 6, False)
        assert await page(cold, anchor_number=3) == ([1, 2], 6, False)
        found = await cold.history.get_message(BOB, GROUP, 3)
        assert (found.message.message_number, found.is_head_confirmed) == (3, False)


async def test_what_the_node_has_heard_beyond_the_store_is_in_the_page() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await cluster.project()
        for serial in (2, 3):
            await node.send(send(ALICE, serial))
        node.log.cut()
        assert await page(node) == ([1, 2, 3], 6, False)


async def test_what_the_store_has_beyond_the_memory_of_the_node_is_in_the_page() -> None:
    """Only this node is cut: the worker goes on."""
    cluster = AppCluster()
    async with cluster.node() as cut, cluster.node() as other:
        await create_group(cut, BOB)
        await cut.send(send(ALICE, 1))
        cut.log.cut()
        await other.send(send(ALICE, 2))
        await cluster.project()
        assert await page(cut) == ([1, 2], 5, False)


async def test_a_log_that_fails_before_it_is_noticed_is_no_hindrance() -> None:
    """The head cannot be had although the link seems to live."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await cluster.project()

    async with cluster.node() as node:
        node.log.cut()
        node.log.is_live = lambda: True  # type: ignore[method-assign]  # a link that is not yet missed
        assert await page(node) == ([1], 4, False)


async def test_who_is_no_member_as_of_that_state_hears_that_the_log_is_away() -> None:
    """G5. Not NOT_FOUND: who was added since may be one of them; the same for what does not exist."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await node.submit(remove(BOB))
        await cluster.project()

    async with cluster.node() as node:
        node.log.cut()
        texts = set()
        for user_id, conversation_id in ((BOB, GROUP), (CAROL, GROUP), (ALICE, "cnobody")):
            with pytest.raises(LogUnavailable) as refused:
                await node.history.list_messages(
                    user_id, conversation_id, anchor_number=0, side=PageSide.BEFORE, page_size=50
                )
            texts.add((type(refused.value), str(refused.value), refused.value.retry_after_s))
        assert len(texts) == 1
        with pytest.raises(ConversationNotFound):
            await node.history.list_messages(ALICE, "?", anchor_number=0, side=PageSide.BEFORE, page_size=50)


async def test_a_message_beyond_that_head_may_exist() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node)
        await node.send(send(ALICE, 1))
        node.log.cut()
        with pytest.raises(LogUnavailable):
            await node.history.get_message(ALICE, GROUP, 2)


async def test_without_log_and_store_there_is_what_the_node_has_in_memory() -> None:
    cluster = AppCluster()
    async with cluster.node() as node, cluster.node() as cold:
        await create_group(node)
        await node.send(send(ALICE, 1))
        cluster.store.is_unavailable = True
        node.log.cut()
        cold.log.cut()
        assert await page(node) == ([1], 3, False)
        with pytest.raises(StoreUnavailable):
            await page(cold)


async def test_history_before_a_record_that_cannot_be_read_is_still_there() -> None:
    """C13: the topic is damaged from there on, for every node; nothing pretends that nothing follows."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        for serial in (1, 2):
            await node.send(send(ALICE, serial))
        await cluster.project()
        await node.send(send(ALICE, 3))
    for records in (cluster.server.by_topic[GROUP], *cluster.server.records):
        records[:] = [
            replace(record, body=b"\xff")
            if record.facts.topic_id == GROUP and record.facts.first_position == 6
            else record
            for record in records
        ]

    async with cluster.node() as node:
        assert await page(node) == ([1, 2], 5, False)
        assert await page(node) == ([1, 2], 5, False)
