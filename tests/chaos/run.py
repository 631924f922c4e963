"""One run: clients talk, faults strike, everything calms down, everybody reads everything back.

The *stage* is the cluster. It stays up from run to run; each run has users and conversations of its own. After a run
that failed the stage is left as it is on disk, for whoever looks, and the next run gets a new one.
"""

import asyncio
import traceback
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Literal, Self

from tests.chaos.disk import Disk
from tests.chaos.faults import FAULTS
from tests.chaos.plan import PlannedFault
from tests.chaos.scene import Scene, Strike
from tests.chaos.verdict import RunVerdict, judge
from tests.soak.cast import Cast
from tests.soak.counters import Counters
from tests.soak.records import Journal, read_records
from tests.support.cluster import Cluster

NATS_SERVERS: Final = tuple(f"nats-{number}" for number in (1, 2, 3))
CLIENTS: Final = 6
CONVERSATIONS: Final = 4
MEMBERS: Final = 4
SENDS_PER_S: Final = 36.0
CHANGE_S: Final = 4.0
READY_S, FAULT_S, RUN_S = 60.0, 240.0, 600.0

Transport = Literal["edge", "grpc.aio"]


class Stage:
    """The cluster that runs share. `async with` ends it."""

    def __init__(self, folder: Path, new_disk: Callable[[Path], Disk], transport: Transport) -> None:
        """Makes clusters in folders of this folder, when they are needed; `transport` serves their streams."""
        self._folder = folder
        self._new_disk = new_disk
        self.transport = transport
        self._made = 0
        self._stack = AsyncExitStack()
        self.cluster: Cluster | None = None
        self.disks: dict[str, Disk] = {}
        self.clock_shifts = folder / "clocks"

    async def __aenter__(self) -> Self:
        """Starts nothing yet."""
        self.clock_shifts.mkdir(parents=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the cluster that runs."""
        await self.clear()

    async def clear(self) -> None:
        """Ends the cluster, if there is one; its folder stays."""
        self.cluster = None
        await self._stack.aclose()

    async def ready(self) -> Cluster:
        """Returns the cluster, started if need be."""
        if self.cluster is None:
            self._made += 1
            folder = self._folder / f"cluster-{self._made}"
            folder.mkdir()
            for name in NATS_SERVERS:
                disk = self._new_disk(folder / "var" / "nats" / name)
                self._stack.callback(disk.close)
                self.disks[name] = disk
            cluster = Cluster(
                folder,
                nodes=3,
                with_links=True,
                nats=len(NATS_SERVERS),
                workers=2,
                store="cql",
                with_valkey=True,
                environment={
                    "HUBBUB_CLOCK_SHIFTS": str(self.clock_shifts),
                    "HUBBUB_EDGE__ENABLED": str(self.transport == "edge"),
                },
            )
            self.cluster = await self._stack.enter_async_context(cluster)
        return self.cluster


async def run_once(stage: Stage, folder: Path, seed: int, planned: Sequence[PlannedFault]) -> RunVerdict:
    """Plays a run into the folder, which is empty, and judges it."""
    journal = Journal(folder / "run.jsonl", "chaos")
    try:
        async with asyncio.timeout(RUN_S):
            wrong = await _play(await stage.ready(), stage, journal, folder, seed, planned)
    except Exception as error:  # whatever it was, the run failed and its files are worth keeping
        (folder / "error.txt").write_text(traceback.format_exc())
        return RunVerdict({"run": [f"it broke off, see error.txt: {error!r}"]}, {}, [])
    finally:
        journal.close()
    return judge(read_records(folder), wrong)


async def _play(
    cluster: Cluster, stage: Stage, journal: Journal, folder: Path, seed: int, planned: Sequence[PlannedFault]
) -> list[str]:
    counters = Counters(cluster)
    cast = Cast(cluster.port, folder, journal, seed=seed, clients=CLIENTS, conversations=CONVERSATIONS, members=MEMBERS)
    scene = Scene(cluster, cast, counters, journal, stage.disks, stage.clock_shifts)
    try:
        await cast.register()
        await cast.start(SENDS_PER_S)
        async with asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(counters.scrape_for_ever())]
            background += [tasks.create_task(actor.listen()) for actor in cast.actors]
            async with asyncio.timeout(READY_S):
                for actor in cast.actors:
                    await actor.ready.wait()
            await _strike(scene, planned)
            wrong = await cast.calm_down()
            for task in background:
                task.cancel()
        journal.write("counters", totals=counters.totals())
        return wrong + [f"{who} ended with an error, see {who}.log" for who in cast.failed()]
    finally:
        await cast.stop()


async def _strike(scene: Scene, planned: Sequence[PlannedFault]) -> None:
    """Lets all faults happen while members come and go; returns when all are repaired."""
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_change_members(scene.cast, over))
        async with asyncio.timeout(FAULT_S), asyncio.TaskGroup() as strikes:
            for number, fault in enumerate(planned, start=1):
                strikes.create_task(_strike_once(Strike(number, fault, scene)))
        over.set()


async def _strike_once(strike: Strike) -> None:
    await asyncio.sleep(strike.planned.at_s)
    await FAULTS[strike.planned.kind.name](strike.scene, strike)
    await strike.end()


async def _change_members(cast: Cast, over: asyncio.Event) -> None:
    """Changes a member now and then, never half."""
    while not over.is_set():
        await cast.change_someone()
        try:
            async with asyncio.timeout(CHANGE_S):
                await over.wait()
        except TimeoutError:
            continue
