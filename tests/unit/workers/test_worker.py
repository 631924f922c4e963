"""Workers side by side, on virtual time: each unit is worked on by one, and soon by another after a loss."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.ports.shard_leases import Unit
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.roles import NewRole, Pace, shard_loops
from hubbub_server.workers.shard_role import Batch, RequireLease, ShardRole
from hubbub_server.workers.worker import TICK_S, TTL_S, Worker
from tests.support.fakes.dead_letters import FakeDeadLetters
from tests.support.fakes.record_consumers import FakeRecordConsumers
from tests.support.fakes.shard_leases import FakeLeaseServer, FakeShardLeases
from tests.support.fakes.topic_log import FakeLogServer
from tests.support.log_records import new_record
from tests.support.virtual_time import run_in_virtual_time

SHARDS = 4
ROLES = ("projector", "relay")
TOPICS = [ConversationId(TopicId(f"c{n}")) for n in range(16)]


class Act:
    """Something that a role did: who, on which unit, when."""

    def __init__(self, worker: str, unit: Unit, at_s: float, sequences: Sequence[int]) -> None:
        self.worker = worker
        self.unit = unit
        self.at_s = at_s
        self.sequences = sequences


class Stage:
    """Workers on one table and one log. Time is the loop's."""

    def __init__(self) -> None:
        self.log = FakeLogServer(shards=SHARDS)
        self.consumers = FakeRecordConsumers(self.log)
        self.table = FakeLeaseServer()
        self.letters = FakeDeadLetters()
        self.acts: list[Act] = []
        self.leases: dict[str, FakeShardLeases] = {}
        self.workers: dict[str, Worker] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.store_is_down = False
        self._lives: dict[str, int] = defaultdict(int)

    def start(self, name: str) -> Worker:
        """Starts a worker, a new life of `name`."""
        self._lives[name] += 1
        leases = self.leases[name] = FakeShardLeases(self.table)
        worker = self.workers[name] = Worker(
            f"{name}.{self._lives[name]}",
            work=shard_loops(
                {role: self._new_role(role, name) for role in ROLES},
                consumers=self.consumers,
                letters=self.letters,
                pace=Pace(),
            ),
            shards=SHARDS,
            leases=leases,
            now_s=now_s,
        )
        self.tasks[name] = asyncio.create_task(worker.run())
        return worker

    def _new_role(self, role: str, worker: str) -> NewRole:
        def new(shard: int, backoff: Backoff) -> ShardRole:
            return SpyRole(self, Unit(role, shard), worker, backoff)

        return new

    async def stop(self, name: str) -> None:
        """SIGTERM."""
        self.tasks[name].cancel()
        await asyncio.wait([self.tasks[name]])

    async def kill(self, name: str) -> None:
        """Kill -9: it does not reach the table any more."""
        self.leases[name].is_unavailable = True
        await self.stop(name)

    def append(self) -> None:
        """Appends one record to each topic."""
        for topic_id in TOPICS:
            log = self.log.by_topic.get(topic_id, [])
            self.log.append(new_record(topic_id, len(log) + 1), log[-1].sequence if log else 0)

    def holders(self) -> dict[Unit, list[str]]:
        """Who works on which unit, by what the workers think."""
        found: dict[Unit, list[str]] = defaultdict(list)
        for name, worker in self.workers.items():
            for unit in worker.units if not self.tasks[name].done() else ():
                found[unit].append(name)
        return found

    def counts(self) -> dict[str, int]:
        """How many units each running worker has."""
        return {name: len(worker.units) for name, worker in self.workers.items() if not self.tasks[name].done()}


class SpyRole:
    """A ShardRole that notes what it does; while the store is down it waits as the projector does."""

    def __init__(self, stage: Stage, unit: Unit, worker: str, backoff: Backoff) -> None:
        self.role = unit.role
        self._stage = stage
        self._unit = unit
        self._worker = worker
        self._backoff = backoff

    async def start(self, acknowledged: int) -> None:
        """Nothing to prepare."""

    async def handle(self, batch: Batch, require_lease: RequireLease) -> None:
        while self._stage.store_is_down:
            await self._backoff.wait()
            require_lease()
        sequences = [record.sequence for record in batch.records]
        self._stage.acts.append(Act(self._worker, self._unit, now_s(), sequences))

    async def replay(self, records: Sequence[LogRecord], require_lease: RequireLease) -> None:
        """Not played here."""


def now_s() -> float:
    return asyncio.get_running_loop().time()


@asynccontextmanager
async def staged(*names: str) -> AsyncIterator[Stage]:
    """A stage with workers that have shared the units."""
    stage = Stage()
    for name in names:
        stage.start(name)
    try:
        await asyncio.sleep(6 * TICK_S)
        yield stage
    finally:
        for name in stage.tasks:
            await stage.stop(name)


def play(scene: Callable[[], Coroutine[Any, Any, None]]) -> None:
    run_in_virtual_time(scene())


def test_a_worker_alone_does_everything_at_once() -> None:
    async def scene() -> None:
        stage = Stage()
        stage.start("a")
        stage.append()
        await asyncio.sleep(0.1)
        assert stage.counts() == {"a": 8}
        assert {act.unit for act in stage.acts} == {Unit(role, shard) for role in ROLES for shard in range(SHARDS)}
        await stage.stop("a")

    play(scene)


def test_workers_share_the_units_evenly_and_stay_so() -> None:
    async def scene() -> None:
        async with staged("a", "b", "c") as stage:
            counts = stage.counts()
            claims = dict(stage.table.claims)
            await asyncio.sleep(60.0)
            assert sum(counts.values()) == 8
            assert max(counts.values()) - min(counts.values()) <= 1
            assert stage.table.claims == claims

    play(scene)


def test_a_worker_that_ends_gives_its_units_back_for_others_to_take_within_a_tick() -> None:
    async def scene() -> None:
        async with staged("a", "b") as stage:
            await stage.stop("b")
            assert "b.1" not in stage.table.beats
            await asyncio.sleep(TICK_S + 0.1)
            assert stage.counts() == {"a": 8}

    play(scene)


def test_the_units_of_a_killed_worker_go_on_within_seconds() -> None:
    """C11: what it had not acknowledged comes to the other one."""

    async def scene() -> None:
        async with staged("a", "b") as stage:
            stage.append()
            await asyncio.sleep(0.1)
            await stage.kill("b")
            killed_s = now_s()
            done = len(stage.acts)
            await asyncio.sleep(TTL_S + TICK_S + 0.1)
            stage.append()
            await asyncio.sleep(0.1)
            assert {act.unit for act in stage.acts[done:]} == set(stage.holders())
            assert len(stage.holders()) == 2 * SHARDS
            assert not [act for act in stage.acts if act.worker == "b" and act.at_s > killed_s]

    play(scene)


def test_a_worker_that_cannot_renew_stops_before_another_one_takes_over() -> None:
    """No two workers act on a unit at the same time, by their own clocks alone."""

    async def scene() -> None:
        async with staged("a", "b") as stage:
            own = set(stage.workers["b"].units)
            stage.leases["b"].is_unavailable = True
            cut_s = now_s()
            while now_s() < cut_s + 20.0:
                stage.append()
                await asyncio.sleep(0.25)
            last_of_b = {act.unit: act.at_s for act in stage.acts if act.worker == "b"}
            first_of_a = {
                unit: min(act.at_s for act in stage.acts if act.worker == "a" and act.unit == unit) for unit in own
            }
            assert all(cut_s < last_of_b[unit] < first_of_a[unit] for unit in own)
            assert max(last_of_b.values()) < cut_s + TTL_S
            assert not stage.workers["b"].units

    play(scene)


def test_a_role_that_waits_for_its_store_notices_that_its_lease_is_gone_before_it_writes() -> None:
    async def scene() -> None:
        async with staged("a", "b") as stage:
            own = set(stage.workers["b"].units)
            stage.store_is_down = True
            stage.append()
            await asyncio.sleep(1.0)
            stage.leases["b"].is_unavailable = True
            await asyncio.sleep(TTL_S + 2 * TICK_S)
            stage.store_is_down = False
            await asyncio.sleep(10.0)
            assert {act.worker for act in stage.acts if act.unit in own} == {"a"}

    play(scene)


def test_a_worker_that_comes_back_gets_its_part_again() -> None:
    async def scene() -> None:
        async with staged("a", "b") as stage:
            stage.leases["b"].is_unavailable = True
            await asyncio.sleep(30.0)
            assert stage.counts()["a"] == 8
            stage.leases["b"].is_unavailable = False
            await asyncio.sleep(4 * TICK_S)
            assert stage.counts() == {"a": 4, "b": 4}
            stage.append()
            await asyncio.sleep(1.0)
            assert all(len(names) == 1 for names in stage.holders().values())

    play(scene)


def test_an_outage_of_the_log_moves_no_unit() -> None:
    async def scene() -> None:
        async with staged("a", "b", "c") as stage:
            before = {unit: names for unit, names in stage.holders().items()}
            for leases in stage.leases.values():
                leases.is_unavailable = True
            await asyncio.sleep(60.0)
            for leases in stage.leases.values():
                leases.is_unavailable = False
            await asyncio.sleep(4 * TICK_S)
            assert stage.holders() == before
            stage.append()
            await asyncio.sleep(1.0)
            assert {act.unit for act in stage.acts} == set(before)

    play(scene)


@pytest.mark.parametrize("seed", range(5))
def test_nothing_is_left_out_and_order_is_kept_while_workers_come_and_go(seed: int) -> None:
    """C11, G8: every record of every shard is handled, each unit's first handlings in order."""
    import random

    choose = random.Random(seed)

    async def scene() -> None:
        async with staged("a", "b", "c") as stage:
            for _ in range(20):
                stage.append()
                name = choose.choice("abc")
                if stage.tasks[name].done():
                    stage.start(name)
                else:
                    await (stage.kill if choose.random() < 0.5 else stage.stop)(name)
                await asyncio.sleep(choose.uniform(0.0, 8.0))
            for name in "abc":
                if stage.tasks[name].done():
                    stage.start(name)
            await asyncio.sleep(30.0)
            for role in ROLES:
                for shard in range(SHARDS):
                    acts = [act for act in stage.acts if act.unit == Unit(role, shard)]
                    seen = list(dict.fromkeys(sequence for act in acts for sequence in act.sequences))
                    assert seen == list(range(1, stage.log.last_sequences[shard] + 1))

    play(scene)
