"""Fuzzes for a time and keeps the figure; exit 1 when something was found. See the package."""

import argparse
import asyncio
import gc
import os
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.figure import ROOT, write_figure
from bench.process import resident_bytes
from hubbub_server.edge.limits import STRANGERS, TRUSTED_PROXY
from tests.fuzz.conversations import Talker
from tests.fuzz.house import House, open_house
from tests.fuzz.mutations import cut, mutate
from tests.fuzz.play import Outcome, Play, Torment
from tests.support.virtual_time import VirtualTimeLoop

FOUND = ROOT / "var" / "fuzz"
BATCH = 500
"""Executions in one house: what they send to its log stays there."""
FINDINGS_MAX = 20
GROWTH_MAX_MIB = 64.0
"""Of this process, from the end of the first batches to the end."""
WARM_UP_BATCHES = 4


@dataclass
class Figures:
    """What was done and found."""

    seed: int
    executions: int = 0
    plays: int = 0
    bytes_said: int = 0
    findings: dict[int, list[str]] = field(default_factory=dict)
    rss_mib: list[float] = field(default_factory=list)


async def execute(house: House, seed: int, number: int) -> tuple[list[str], bytes]:
    """Plays one conversation three ways; returns what was wrong, and what was said."""
    chance = random.Random(f"{seed}/{number}")
    limits = chance.choice((STRANGERS, TRUSTED_PROXY))
    can_half_close = chance.random() < 0.7
    data = b"".join(mutate(chance, Talker(chance, house).talk()))
    del house.faults[:]

    async def play(reads: list[bytes], torment: Torment | None = None) -> Outcome:
        play = Play(house, limits, can_half_close=can_half_close)
        await play.hear(reads, torment)
        await play.witness()
        return await play.end()

    try:
        whole = await play([data])
        in_pieces = await play(cut(chance, data))
        if difference := whole.tell_apart(in_pieces):
            house.faults.append(f"cut another way it ends in another way: {difference}")
        if not house.faults:
            await play(cut(chance, data), Torment(chance))
    except Exception as error:  # what is looked for
        house.faults.append(f"raised {error!r}")
    return list(house.faults), data


async def _run_batch(figures: Figures, numbers: range, end_s: float) -> None:
    async with open_house() as house:
        for number in numbers:
            if time.monotonic() > end_s or len(figures.findings) >= FINDINGS_MAX:
                return
            faults, data = await execute(house, figures.seed, number)
            figures.executions += 1
            figures.bytes_said += 3 * len(data)
            if faults:
                _keep(figures, number, faults, data)


def _keep(figures: Figures, number: int, faults: list[str], data: bytes) -> None:
    figures.findings[number] = [fault[:2_000] for fault in faults[:5]]
    FOUND.mkdir(parents=True, exist_ok=True)
    Path(FOUND / f"{figures.seed}-{number}.bin").write_bytes(data)
    print(f"FOUND {number}: {faults[0][:2_000]}", flush=True)


def fuzz(seed: int, minutes: float, only: int | None = None) -> Figures:
    """Fuzzes for so long, or plays one execution."""
    figures = Figures(seed)
    end_s = time.monotonic() + 60 * minutes
    begin = 0 if only is None else only
    while time.monotonic() < end_s and len(figures.findings) < FINDINGS_MAX:
        numbers = range(begin, begin + (BATCH if only is None else 1))
        with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
            runner.run(_run_batch(figures, numbers, end_s))
        begin = numbers.stop
        gc.collect()
        figures.rss_mib.append(resident_bytes(os.getpid()) / 2**20)
        if only is not None:
            break
    return figures


def main() -> int:
    """Runs what the command line says."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", type=int, help="the number of one execution")
    asked = parser.parse_args()
    begin_s = time.monotonic()
    figures = fuzz(asked.seed, asked.minutes, asked.only)
    if asked.only is not None:
        print("\n".join(figures.findings.get(asked.only, ["nothing found"])))
        return 1 if figures.findings else 0
    settled = figures.rss_mib[WARM_UP_BATCHES:] or figures.rss_mib
    growth_mib = settled[-1] - settled[0]
    write_figure(
        "fuzz",
        f"python -m tests.fuzz --seed {asked.seed} --minutes {asked.minutes:g}",
        {
            "what": "conversations of HTTP/2 and gRPC that are nearly right, each whole, in pieces, and in pieces with"
            " time, full sockets and broken lines between them",
            "minutes": round((time.monotonic() - begin_s) / 60, 1),
            "executions": figures.executions,
            "connections": 3 * figures.executions,
            "mib_said": round(figures.bytes_said / 2**20, 1),
            "findings": len(figures.findings),
            "found": {str(number): faults[0] for number, faults in figures.findings.items()},
            "rss_growth_mib": round(growth_mib, 1),
        },
        holds=not figures.findings and growth_mib < GROWTH_MAX_MIB,
    )
    return 1 if figures.findings or growth_mib >= GROWTH_MAX_MIB else 0


if __name__ == "__main__":
    sys.exit(main())
