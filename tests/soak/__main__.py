"""Runs a soak: a cluster under load whose parts are killed, then the verdict of the checker.

`python -m tests.soak --seed 7 --minutes 10 --out soak.json`. Below ten minutes the minima shrink with the time, and the
summary says so. Faults go on for up to twice the time when by chance too little came of them. Exit 0 only when every
rule holds and every minimum is reached.
"""

import argparse
import asyncio
import json
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tests.soak.cast import Cast
from tests.soak.checker import Verdict, below_minima, check
from tests.soak.counters import Counters
from tests.soak.records import Journal, read_records
from tests.support.cluster import Cluster, Process
from tests.support.fault_proxy import Cut, Direction

NODES = 3
CLIENTS = 20
CONVERSATIONS = 10
MEMBERS = 8
SENDS_PER_S = 56.0
BURST = 50
NODE_KILL_S, WORKER_KILL_S, NATS_KILL_S, STALL_S, CLIENT_CUT_S, CHANGE_S = 10.0, 45.0, 90.0, 30.0, 6.0, 5.0
STALL_LENGTH_S = 3.0
READY_S = 120.0
MINIMA = {
    "kills_with_command_in_flight": 50,
    "conflicts": 100,
    "unknown_outcomes": 20,
    "unknown_found": 3,
    "unknown_not_found": 3,
    "gaps_repaired": 20,
    "resumes": 200,
}
FULL_MINUTES = 10.0
RATE_MINIMUM = 50.0


class Tormentor:
    """Breaks things on schedule. The seed decides what is hit."""

    def __init__(self, cluster: Cluster, counters: Counters, cast: Cast, journal: Journal, seed: int) -> None:
        """Takes what may be broken; counters are read before a node dies."""
        self._cluster = cluster
        self._counters = counters
        self._cast = cast
        self._journal = journal
        self._random = random.Random(seed)

    async def run(self, seconds: float, minima: dict[str, float]) -> None:
        """Breaks things for a while, for up to twice as long if too little came of it; everything flows again then."""
        acts = (
            (NODE_KILL_S, self._kill_node),
            (WORKER_KILL_S, self._kill_worker),
            (NATS_KILL_S, self._kill_nats),
            (STALL_S, self._stall_link),
            (CLIENT_CUT_S, self._cut_client),
            (CHANGE_S, self._cast.change_someone),
        )
        async with asyncio.TaskGroup() as tasks:
            acting = [tasks.create_task(_every(period_s, act)) for period_s, act in acts]
            await asyncio.sleep(seconds)
            for _ in range(int(seconds / STALL_S)):
                if self._is_too_little(minima):
                    await asyncio.sleep(STALL_S)
            for task in acting:
                task.cancel()
        for proxy in self._cluster.links:
            proxy.flow()
        for actor in self._cast.actors:
            actor.proxy.flow()

    def _is_too_little(self, minima: dict[str, float]) -> bool:
        """Looks at what the nodes count; the rest is known when the files are read."""
        totals = self._counters.totals()
        return bool(below_minima(totals, {name: least for name, least in minima.items() if name in totals}))

    async def _kill_node(self) -> None:
        """A node dies in the middle of a burst, rather one with many streams."""
        nodes = self._cluster.processes("node")
        await self._counters.scrape(*nodes)
        (victim,) = self._random.choices(nodes, [1 + self._counters.streams(node.pid) ** 2 for node in nodes])
        await self._cast.burst(BURST)
        self._kill(victim)

    def _kill(self, victim: Process) -> None:
        self._journal.write("kill", what=victim.role, name=victim.name, pid=victim.pid)
        if not self._cluster.kill(victim):
            self._journal.write("fault", what="was dead already", link=victim.name)

    async def _kill_worker(self) -> None:
        for victim in self._cluster.processes("worker")[:1]:
            self._kill(victim)

    async def _kill_nats(self) -> None:
        for victim in self._cluster.processes("nats")[:1]:
            self._kill(victim)

    async def _stall_link(self) -> None:
        """A link between a node and NATS stalls under a burst; what waits on the way back is lost with the link."""
        index = self._random.randrange(len(self._cluster.links))
        link = self._cluster.links[index]
        # Without the way back an append is done and nobody hears of it: the outcome worth testing most.
        direction = self._random.choice([*Direction, Direction.FROM_TARGET])
        self._journal.write("fault", what=f"stall {direction.value}", link=f"node {index} - nats")
        link.stall(direction)
        await self._cast.burst(BURST)
        await asyncio.sleep(STALL_LENGTH_S)
        if direction is not Direction.TO_TARGET:
            link.cut(Cut.RST)
        link.flow()

    async def _cut_client(self) -> None:
        actor = self._random.choice(self._cast.actors[1:])
        fault = self._random.choice(["fin", "rst", "silence"])
        self._journal.write("fault", what=fault, link=actor.plan.who)
        if fault == "silence":
            for link in actor.proxy.links:
                link.silence()
        else:
            actor.proxy.cut(Cut(fault))


async def _every(period_s: float, act: Callable[[], Awaitable[None]]) -> None:
    """Acts on a steady beat, however long the acts take."""
    due = time.monotonic()
    while True:
        due += period_s
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        await act()


async def soak(folder: Path, seed: int, minutes: float) -> list[str]:
    """Runs the cluster, the clients and the faults; returns what went wrong with the run itself."""
    journal = Journal(folder / "run.jsonl", "soak")
    wrong: list[str] = []
    async with Cluster(folder, nodes=NODES, with_links=True) as cluster:
        counters = Counters(cluster)
        cast = Cast(
            cluster.port,
            folder,
            journal,
            seed=seed,
            clients=CLIENTS,
            conversations=CONVERSATIONS,
            members=MEMBERS,
        )
        try:
            await cast.register()
            await cast.start(SENDS_PER_S)
            async with asyncio.TaskGroup() as tasks:
                background = [tasks.create_task(counters.scrape_for_ever())]
                background += [tasks.create_task(actor.listen()) for actor in cast.actors]
                async with asyncio.timeout(READY_S):
                    for actor in cast.actors:
                        await actor.ready.wait()
                await Tormentor(cluster, counters, cast, journal, seed).run(minutes * 60, minima_of(minutes))
                wrong += await cast.calm_down()
                await counters.scrape_all()
                for task in background:
                    task.cancel()
            wrong += [f"{who} ended with an error, see {folder / who}.log" for who in cast.failed()]
        finally:
            await cast.stop()
        journal.write("counters", totals=counters.totals())
    journal.close()
    return wrong


def minima_of(minutes: float) -> dict[str, float]:
    """Says what a run of this length must have caused."""
    scale = _scale(minutes)
    return {name: least if scale == 1 else float(int(least * scale)) for name, least in MINIMA.items()}


def _scale(minutes: float) -> float:
    # A short run is asked for half its share: the fewer the faults, the more their number varies.
    return 1.0 if minutes >= FULL_MINUTES else minutes / FULL_MINUTES / 2


def report(verdict: Verdict, wrong: list[str], minutes: float, seed: int) -> dict[str, object]:
    """Judges the figures and packs everything for docs/report.json."""
    minima = minima_of(minutes) | {"messages_per_s": RATE_MINIMUM}
    short = below_minima(verdict.figures, minima)
    return {
        "holds": verdict.holds and not short and not wrong,
        "seed": seed,
        "minutes": minutes,
        "minima_scaled_by": _scale(minutes),
        "minima": minima,
        "below_minima": short,
        "run_problems": wrong,
        "problems": {name: len(found) for name, found in verdict.problems.items()},
        "first_problems": {name: found[:10] for name, found in verdict.problems.items() if found},
        "figures": verdict.figures,
        "commit": _git("rev-parse", "HEAD"),
        "machine": f"{platform.platform()}, Python {platform.python_version()}",
        "command": f"make soak SEED={seed} MINUTES={minutes:g}",
    }


def _git(*arguments: str) -> str:
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def main() -> int:
    """Runs, judges, prints; 0 when everything holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, help="write the result as JSON to this file")
    parser.add_argument("--folder", type=Path, help="keep the files here instead of a temporary folder")
    options = parser.parse_args()
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hubbub-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"soak: seed {options.seed}, {options.minutes:g} minutes, files in {folder}", flush=True)
    begin = time.monotonic()
    wrong = asyncio.run(soak(folder, options.seed, options.minutes))
    result = report(check(read_records(folder)), wrong, options.minutes, options.seed)
    result["wall_s"] = round(time.monotonic() - begin, 1)
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if result["holds"] and not options.folder:
        shutil.rmtree(folder)
    print("soak holds" if result["holds"] else f"soak FAILED, files are kept in {folder}")
    return 0 if result["holds"] else 1


if __name__ == "__main__":
    sys.exit(main())
