"""What is left of an older program after the upgrade."""

from dataclasses import replace

import pytest

from hubbub_server.ports.projection import ProjectionBatch, ShardRow
from tests.support.app_node import BOB, GROUP, send
from tests.support.group_cluster import GroupCluster


@pytest.mark.asyncio
async def test_program_that_knows_the_kind_takes_commands_that_an_older_one_refused() -> None:
    """DESIGN 3.3, "until upgraded": the older worker's mark in the store does not outlast the upgrade."""
    stage = GroupCluster()
    await stage.fill()
    await stage.snapshot()
    async with stage.node() as node:
        await node.send(send(BOB, 6))
    await stage.project()
    applied = await stage.store.read_applied(GROUP)
    assert applied is not None
    marked = replace(applied, has_unknown_event=True)  # as if message 6 were of a kind that the worker did not know
    shard = ShardRow(shard=stage.shard, epoch=applied.epoch, sequence=applied.sequence)
    await stage.store.apply(ProjectionBatch(shard=shard, applied=[marked]))

    async with stage.node() as node:
        assert (await node.send(send(BOB, 7))).message_number == 7
