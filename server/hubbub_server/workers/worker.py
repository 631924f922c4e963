"""One worker process: its share of all units, a unit being a role on a shard. Any number of workers run side by side.

Theory of operation. Every `tick_s` this worker beats, reads the table of leases, gives what is above its share, and
takes what nobody alive has (share.py). Its units are good for `ttl_s` from before its last beat was sent, by its own
monotonic clock: a loop asks before each write. When that time has passed (frozen, or the log away) it holds nothing any
more, whatever the table says; it ends its loops and claims anew, each claim by compare-and-set on the fence it read.
At its end it stops the loops first, then gives its units back, so that others need not wait for its time to pass.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol

import structlog

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.shard_leases import ShardLeases, Unit
from hubbub_server.workers.share import Share

TTL_S: Final = 10.0
TICK_S: Final = 2.5
_LEAVE_WITHIN_S: Final = 3.0

log = structlog.get_logger()


class Work(Protocol):
    """What is done for one unit while it is held."""

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Works until it is cancelled, or returns when it cannot go on; `tasks` owns what it starts."""


NewWork = Callable[[int, Callable[[], bool]], Work]
"""Makes the work of one role on a shard, given what tells whether the unit is still held: ask before each write."""


@dataclass(slots=True)
class _Held:
    fence: int
    task: "asyncio.Task[None]" = field(repr=False)


class Worker:
    """Does the work of the units that it holds."""

    def __init__(
        self,
        worker_id: str,
        *,
        work: Mapping[str, NewWork],
        shards: int,
        leases: ShardLeases,
        now_s: Callable[[], float],
        ttl_s: float = TTL_S,
        tick_s: float = TICK_S,
    ) -> None:
        """`worker_id` is "<name>.<life>", another one in each life; `now_s` is monotonic, also while frozen."""
        self._worker_id = worker_id
        self._work = work
        self._leases = leases
        self._now_s = now_s
        self._ttl_s = ttl_s
        self._tick_s = tick_s
        self._share = Share(worker_id, roles=tuple(work), shards=shards, ttl_s=ttl_s)
        self._held: dict[Unit, _Held] = {}
        self._good_until_s = float("-inf")

    async def run(self) -> None:
        """Runs until it is cancelled; then it gives its units back."""
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    await self._tick(tasks)
                    await asyncio.sleep(self._tick_s)
        finally:
            await self._leave()

    @property
    def units(self) -> Mapping[Unit, int]:
        """What this worker holds, with the fences; nothing when its time has passed."""
        return {unit: held.fence for unit, held in self._held.items()} if self._is_good() else {}

    async def _tick(self, tasks: asyncio.TaskGroup) -> None:
        try:
            async with asyncio.timeout(self._ttl_s / 2):
                await self._renew()
                table = await self._leases.read()
                moves = self._share.look(table, self.units, self._now_s())
                await self._stop(moves.lost)
                await self._give(moves.give)
                for unit, fence in moves.take.items():
                    await self._take(unit, fence, tasks)
        except (LogUnavailable, TimeoutError) as error:
            log.warning("leases not renewed", worker=self._worker_id, reason=str(error) or type(error).__name__)
        for role in self._work:
            metrics.worker_units.labels(role).set(sum(unit.role == role for unit in self.units))

    async def _renew(self) -> None:
        before_s = self._now_s()
        await self._leases.beat(self._worker_id)
        if not self._is_good():
            # Others may have our units. What the table says of us is of a time that is over: claim anew.
            await self._stop(tuple(self._held))
        self._good_until_s = before_s + self._ttl_s

    def _is_good(self) -> bool:
        return self._now_s() < self._good_until_s

    def _is_held(self, unit: Unit, fence: int) -> bool:
        held = self._held.get(unit)
        return held is not None and held.fence == fence and self._is_good()

    async def _take(self, unit: Unit, fence: int, tasks: asyncio.TaskGroup) -> None:
        new_fence = await self._leases.claim(unit, self._worker_id, fence=fence)
        if new_fence is None:
            return
        log.info("unit taken", role=unit.role, shard=unit.shard, fence=new_fence)
        work = self._work[unit.role](unit.shard, partial(self._is_held, unit, new_fence))
        task = tasks.create_task(work.run(tasks), name=f"{unit.role}-{unit.shard}")
        self._held[unit] = _Held(fence=new_fence, task=task)

    async def _give(self, units: Mapping[Unit, int]) -> None:
        await self._stop([unit for unit in units if unit in self._held])
        for unit, fence in units.items():
            log.info("unit given back", role=unit.role, shard=unit.shard, fence=fence)
            await self._leases.release(unit, fence=fence)

    async def _stop(self, units: Collection[Unit]) -> None:
        """Ends the loops of units, which are not held from here on."""
        stopped = [self._held.pop(unit).task for unit in units]
        for task in stopped:
            task.cancel()
        if stopped:
            await asyncio.wait(stopped)

    async def _leave(self) -> None:
        try:
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                await self._give(self.units)
                await self._leases.leave(self._worker_id)
        except (LogUnavailable, TimeoutError):
            log.warning("leases not given back", worker=self._worker_id)  # others take them when our time has passed
