"""The epoch guard: a log that is not the one that everything else knows takes no commits until a person has looked."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from structlog.testing import capture_logs

from hubbub_server.app.epoch_guard import EpochGuard, ShardRefused
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import shard_of
from hubbub_server.obs import metrics
from hubbub_server.ports.log_shards import ShardBounds
from hubbub_server.ports.projection import ProjectionBatch, ShardRow
from tests.support.app_node import ALICE, BOB, GROUP, create_group, send, until
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.topic_log import FakeTopicLog
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.group_cluster import GroupCluster

pytestmark = pytest.mark.asyncio

SHARD = shard_of(GROUP, 2)


class CountedShards(FakeLogShards):
    """Counts looks; the next `lies` answers about bounds are those of a leader that was deposed long ago."""

    looks = 0
    lies = 0

    async def read_bounds(self, shard: int) -> ShardBounds:
        bounds = await super().read_bounds(shard)
        self.looks += 1
        if self.lies:
            self.lies -= 1
            return ShardBounds(epoch=bounds.epoch, first_sequence=1, last_sequence=0)
        return bounds


@dataclass
class Guarded:
    """A guard, and the link that it looks over."""

    guard: EpochGuard
    log: FakeTopicLog
    shards: CountedShards


class Stage(GroupCluster):
    """A cluster with one message in the group, projected and snapshotted."""

    async def fill(self, first: int = 1, last: int = 1) -> None:
        await super().fill(first, last)
        await self.project()
        await self.snapshot()

    @asynccontextmanager
    async def guarded(
        self, *, interval_s: float = 60.0, help_with: "list[int] | None" = None, cures: bool = False
    ) -> AsyncIterator[Guarded]:
        log = self.server.connect()
        shards, states = CountedShards(self.server, log), FakeTopicStates(self.server, log)

        async def help_out(shard: int) -> None:
            assert help_with is not None
            help_with.append(shard)
            if cures:
                await states.declare_complete(shard, self.server.epochs[shard])

        async with EpochGuard(
            log_shards=shards,
            states=states,
            directory=self.store,
            shards=2,
            on_refused=None if help_with is None else help_out,
            interval_s=interval_s,
            second_look_s=0.001,
        ) as guard:
            yield Guarded(guard, log, shards)


@pytest.fixture
def stage() -> Stage:
    return Stage()


async def test_sound_shard_takes_commits_without_a_look_each(stage: Stage) -> None:
    await stage.fill()
    async with stage.guarded() as guarded:
        looks = guarded.shards.looks
        for _ in range(100):
            await guarded.guard.ensure(SHARD)
        assert guarded.shards.looks == looks
        assert guarded.guard.refused() == {}


async def test_log_that_is_new_is_sound(stage: Stage) -> None:
    async with stage.guarded() as guarded:
        await guarded.guard.ensure(0)
        await guarded.guard.ensure(1)


@pytest.mark.parametrize("is_store_down", [False, True])
async def test_recreated_log_is_refused(stage: Stage, is_store_down: bool) -> None:
    """C19: nobody has said yet where its positions go on."""
    await stage.fill()
    stage.server.recreate(SHARD)
    stage.store.is_unavailable = is_store_down
    with capture_logs() as logs:
        async with stage.guarded() as guarded:
            with pytest.raises(ShardRefused) as refusal:
                await guarded.guard.ensure(SHARD)
            await guarded.guard.ensure(1 - SHARD)
            assert refusal.value.retry_after_s == 30
            assert metrics.refused_shards.labels(SHARD)._value.get() == 1
    assert [line["shard"] for line in logs if line["event"] == "shard refused"] == [SHARD]


async def test_log_that_ends_before_what_the_store_has_is_refused(stage: Stage) -> None:
    """G1: log and states were restored from an older copy; what the store has was acknowledged."""
    await stage.fill()
    stage.server.states.clear()
    stage.server.newest_states.clear()
    stage.server.forget_after(SHARD, 1)
    async with stage.guarded() as guarded:
        with pytest.raises(ShardRefused, match="store"):
            await guarded.guard.ensure(SHARD)


async def test_log_that_ends_before_a_state_is_refused_without_the_store(stage: Stage) -> None:
    """G1: the log alone was restored, and the store is down."""
    await stage.fill()
    stage.store.is_unavailable = True
    stage.server.forget_after(SHARD, 1)
    async with stage.guarded() as guarded:
        with pytest.raises(ShardRefused, match="state"):
            await guarded.guard.ensure(SHARD)


async def test_log_that_loses_records_is_refused_by_who_saw_them(stage: Stage) -> None:
    """G1: neither store nor states had them yet."""
    async with stage.node() as node, stage.guarded() as guarded:
        await create_group(node, BOB)
        guarded.guard.recheck()
        await guarded.guard.ensure(SHARD)
        stage.server.forget_after(SHARD, 0)
        guarded.guard.recheck()
        with pytest.raises(ShardRefused, match="it had"):
            await guarded.guard.ensure(SHARD)


async def test_log_of_an_older_epoch_than_the_store_is_refused(stage: Stage) -> None:
    await stage.fill()
    await stage.store.apply(ProjectionBatch(shard=ShardRow(shard=SHARD, epoch=2, sequence=1)))
    async with stage.guarded() as guarded:
        with pytest.raises(ShardRefused, match="store"):
            await guarded.guard.ensure(SHARD)


async def test_trimmed_log_is_sound(stage: Stage) -> None:
    await stage.fill()
    stage.server.trim(SHARD, below_sequence=stage.server.last_sequences[SHARD] + 1)
    async with stage.guarded() as guarded:
        await guarded.guard.ensure(SHARD)


async def test_one_answer_of_a_deposed_leader_is_no_reason(stage: Stage) -> None:
    await stage.fill()
    async with stage.guarded() as guarded:
        guarded.guard.recheck()
        guarded.shards.lies = 1
        await guarded.guard.ensure(SHARD)


async def test_nothing_is_committed_between_a_reconnect_and_the_look(stage: Stage) -> None:
    """G1: the servers may have come back with older data."""
    await stage.fill()
    async with stage.guarded() as guarded:
        await guarded.guard.ensure(SHARD)
        stage.server.forget_after(SHARD, 1)
        guarded.guard.recheck()
        with pytest.raises(ShardRefused):
            await guarded.guard.ensure(SHARD)


async def test_log_that_cannot_be_looked_at_takes_no_commits(stage: Stage) -> None:
    async with stage.guarded() as guarded:
        guarded.guard.recheck()
        guarded.log.cut()
        with pytest.raises(LogUnavailable):
            await guarded.guard.ensure(SHARD)
        guarded.log.heal()
        await guarded.guard.ensure(SHARD)


async def test_store_that_hangs_counts_as_down(stage: Stage) -> None:
    """G8."""
    await stage.fill()

    async def hang(shard: int) -> ShardRow | None:
        await asyncio.Event().wait()
        return None

    stage.store.read_shard = hang  # type: ignore[method-assign]
    async with stage.guarded() as guarded:
        guarded.guard._store_timeout_s = 0.01
        await guarded.guard.ensure(SHARD)


async def test_refused_shard_is_looked_at_again_and_taken_when_it_is_sound(stage: Stage) -> None:
    await stage.fill()
    stage.server.recreate(SHARD)
    async with stage.guarded(interval_s=0.005) as guarded:
        with pytest.raises(ShardRefused):
            await guarded.guard.ensure(SHARD)
        stage.server.complete_epochs[SHARD] = stage.server.epochs[SHARD]
        await until(lambda: guarded.guard.refused() == {})
        await guarded.guard.ensure(SHARD)


async def test_help_is_called_for_a_refused_shard_and_it_is_looked_at_at_once(stage: Stage) -> None:
    """In development nobody wants to be asked."""
    await stage.fill()
    stage.server.recreate(SHARD)
    helped: list[int] = []
    async with stage.guarded(help_with=helped, cures=True) as guarded:
        await until(lambda: guarded.guard.refused() == {})
        assert helped == [SHARD]


async def test_shard_that_another_worker_helped_meanwhile_is_not_helped_again(stage: Stage) -> None:
    """Two workers see the same and begin one epoch, not two."""
    await stage.fill()
    stage.server.recreate(SHARD)
    helped: list[int] = []
    async with stage.guarded(help_with=helped) as guarded:
        assert SHARD in guarded.guard.refused()
        stage.server.complete_epochs[SHARD] = stage.server.epochs[SHARD]
        await until(lambda: guarded.guard.refused() == {})
    assert helped == []


async def test_help_that_fails_is_called_again(stage: Stage) -> None:
    await stage.fill()
    stage.server.recreate(SHARD)
    helped: list[int] = []
    async with stage.guarded(help_with=helped, interval_s=0.001):
        await until(lambda: len(helped) > 2)


async def test_node_with_a_refused_shard_commits_nothing_to_it(stage: Stage) -> None:
    """The guard is asked before each append, and by whoever settles an unknown outcome."""
    await stage.fill()
    stage.server.forget_after(SHARD, 1)
    async with stage.guarded() as guarded:
        async with stage.node(guard=guarded.guard) as node:
            stage.server.states.clear()
            stage.store.__init__()  # type: ignore[misc]  # now nothing but the guard knows
            with pytest.raises(ShardRefused):
                await node.submit(send(ALICE, 2))
        assert node.log.appends == 0


@pytest.mark.parametrize("lost", [(1,), (2,), (1, 2)])
async def test_log_that_lost_records_is_refused_whatever_its_last_sequence_says(
    stage: Stage, lost: tuple[int, ...]
) -> None:
    """G1, G2: a server that misses a block file still says how far it was; nobody trimmed."""
    await stage.fill()
    stage.server.lose(SHARD, *lost)
    async with stage.guarded() as guarded:
        with pytest.raises(ShardRefused, match="lost"):
            await guarded.guard.ensure(SHARD)


async def test_state_from_a_leader_that_lost_records_is_not_committed_on(stage: Stage) -> None:
    """G1, G2: it became the leader a moment ago, no look is due, and its log looks as if it had been trimmed."""
    await stage.fill()
    async with stage.guarded() as guarded:
        async with stage.node(guard=guarded.guard) as node:
            stage.server.lose(SHARD, 1, 2)
            with pytest.raises(ShardRefused, match="lost"):
                await node.submit(send(ALICE, 2))
        assert node.log.appends == 0


async def test_many_topics_that_are_loaded_at_once_share_looks(stage: Stage) -> None:
    await stage.fill()
    async with stage.guarded() as guarded:
        looks = guarded.shards.looks
        await asyncio.gather(*(guarded.guard.ensure(SHARD, is_fresh=True) for _ in range(100)))
        assert guarded.shards.looks == looks + 2
