"""Client ids after a snapshot, which has none: retries are still one message, from any node."""

import pytest

from hubbub_server.domain.errors import IdReused, StoreUnavailable
from tests.support.app_node import ALICE, BOB, GROUP, create_group, send
from tests.support.group_cluster import GroupCluster

pytestmark = pytest.mark.asyncio


async def test_retry_of_an_id_from_before_the_snapshot_is_one_message() -> None:
    """G3: the window is empty; the store's rows answer, from any node, also after a trim."""
    stage = GroupCluster()
    await stage.fill()
    async with stage.node() as node:
        first = await node.send(send(ALICE, 6))
    await stage.project()
    await stage.snapshot()
    stage.trim()
    async with stage.node() as node:
        assert await node.send(send(ALICE, 6)) == first
        with pytest.raises(IdReused):
            await node.send(send(ALICE, 6, "other"))
        assert stage.server.by_topic[GROUP] == []


@pytest.mark.parametrize("is_store_down", [False, True])
async def test_recent_ids_are_taken_from_the_log(is_store_down: bool) -> None:
    """G3, G8: a node that starts anew answers retries, and takes ids of slow clocks, without the store."""
    stage = GroupCluster()
    async with stage.node() as node:
        await create_group(node, BOB)
        first = [await node.send(send(ALICE, serial)) for serial in range(1, 300)]
    await stage.snapshot()
    stage.store.is_unavailable = is_store_down
    stage.store.is_frozen = True
    async with stage.node() as node:
        stage.store.lookups = stage.store.refused = 0
        assert [await node.send(send(ALICE, serial)) for serial in range(60, 300)] == first[59:]
        assert stage.store.lookups == stage.store.refused == 0


async def test_store_that_is_behind_cannot_deny_an_id() -> None:
    """G3: it is asked, has not applied the message yet, and must not let it become two: the log has it."""
    stage = GroupCluster()
    async with stage.node() as node:
        await create_group(node, BOB)
        await node.send(send(ALICE, 1))
        await stage.project()
        first = [await node.send(send(ALICE, serial)) for serial in range(2, 300)]
    await stage.snapshot()
    async with stage.node() as node:
        assert await node.send(send(ALICE, 2)) == first[0]
        assert stage.store.lookups == 1
        assert (await node.send(send(ALICE, 1))).message_number == 1
        assert await node.send(send(ALICE, 299)) == first[-1]
        assert (await node.send(send(BOB, 1))).message_number == 300


async def test_id_that_only_the_store_could_know_waits_for_it() -> None:
    """G3, G8: UNAVAILABLE for that one command, the others go on."""
    stage = GroupCluster()
    await stage.fill()
    await stage.project()
    await stage.snapshot()
    stage.trim()
    stage.store.is_unavailable = True
    async with stage.node() as node:
        with pytest.raises(StoreUnavailable):
            await node.send(send(ALICE, 1))
        assert (await node.send(stage.fresh(ALICE, 6))).message_number == 6
        stage.store.is_unavailable = False
        assert (await node.send(send(ALICE, 1))).message_number == 1
