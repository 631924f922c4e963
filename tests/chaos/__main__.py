"""Breaks a cluster in every way of the catalogue and judges each history: `python -m tests.chaos --seed 7 --runs 100`.

Runs have the seeds SEED, SEED + 1, … until as many as asked for counted: no promise broken, and each fault hit
something. `--seed` of a failed run and `--runs 1` repeat it. Exit 0 only when enough runs counted and none failed.
"""

import argparse
import asyncio
import json
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, get_args

from bench.figure import commit, machine
from tests.chaos.catalogue import CATALOGUE
from tests.chaos.disk import find_disk
from tests.chaos.plan import plan_only, plan_run
from tests.chaos.run import Stage, Transport, run_once
from tests.chaos.summary import FinishedRun, summarize

# So many runs more than asked for may not count, and so many may fail, before it is enough.
SPARE_RUNS, SPARE_SHARE = 3, 0.5
MAX_FAILED = 3


async def chaos(
    folder: Path, seed: int, counted: int, only: list[str], *, transport: Transport, keeps: bool
) -> tuple[list[FinishedRun], str]:
    """Plays runs until enough counted or too many did not; returns them, and the kind of disk that was used.

    `keeps` says whether files of runs that hold are kept too.
    """
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    runs: list[FinishedRun] = []
    new_disk = find_disk(folder / "scratch")
    async with Stage(folder / "stage", new_disk, transport) as stage:
        for number in range(counted + SPARE_RUNS + round(counted * SPARE_SHARE)):
            if sum(run.verdict.holds and run.verdict.counts for run in runs) >= counted:
                break
            if sum(not run.verdict.holds for run in runs) >= MAX_FAILED:
                break
            run = await _one(stage, folder, seed + number, only)
            runs.append(run)
            if run.verdict.holds and not keeps:
                shutil.rmtree(_place(folder, run.seed))
    return runs, new_disk.__name__


async def _one(stage: Stage, folder: Path, seed: int, only: list[str]) -> FinishedRun:
    begin = time.monotonic()
    place = _place(folder, seed)
    await asyncio.to_thread(place.mkdir)
    verdict = await run_once(stage, place, seed, plan_only(only, seed) if only else plan_run(seed))
    run = FinishedRun(seed, time.monotonic() - begin, verdict)
    print(run.line(), flush=True)
    if not verdict.holds:
        await stage.clear()
        for rule, found in verdict.problems.items():
            for problem in found[:5]:
                print(f"    {rule}: {problem}")
        print(
            f"    files: {place} and {folder / 'stage'}; again: {_command(seed, 1, only, stage.transport)}", flush=True
        )
    return run


def _place(folder: Path, seed: int) -> Path:
    return folder / f"run-{seed}"


def _command(seed: int, runs: int, only: list[str], transport: Transport) -> str:
    named = f" ONLY='{','.join(only)}'" if only else ""
    return f"make chaos SEED={seed} RUNS={runs} TRANSPORT={transport}{named}"


def main() -> int:
    """Plays, judges, prints, writes the figure; 0 when everything holds."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=4, help="how many runs must count")
    parser.add_argument("--only", default="", help="kinds of faults, with commas between; every run has all of them")
    parser.add_argument("--transport", choices=get_args(Transport), default="edge", help="serves the streams")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    parser.add_argument("--folder", type=Path, help="keep the files of all runs here, a new folder")
    options = parser.parse_args()
    only = [name.strip() for name in options.only.split(",") if name.strip()]
    if unknown := set(only) - {kind.name for kind in CATALOGUE}:
        parser.error(f"no such fault: {', '.join(unknown)}")
    folder = options.folder or Path(tempfile.mkdtemp(prefix="hubbub-chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    print(f"chaos: seeds from {options.seed}, {options.runs} counted runs, files in {folder}", flush=True)
    begin = time.monotonic()
    try:
        played = chaos(
            folder, options.seed, options.runs, only, transport=options.transport, keeps=bool(options.folder)
        )
        runs, disk = asyncio.run(played)
    except (KeyboardInterrupt, asyncio.CancelledError):
        print(f"chaos stopped, files in {folder}")
        return 130
    figures = summarize(runs)
    holds = figures["runs_counted"] >= options.runs and not figures["failed_seeds"]
    result: dict[str, Any] = {
        "command": _command(options.seed, options.runs, only, options.transport),
        "transport": options.transport,
        "commit": commit(),
        "taken": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "holds": holds,
        "seed": options.seed,
        "runs_asked": options.runs,
        **figures,
        "disk": disk,
        "wall_s": round(time.monotonic() - begin, 1),
        "machine": machine(),
    }
    print(json.dumps(result, indent=2))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=2) + "\n")
    if not figures["failed_seeds"] and not options.folder:
        shutil.rmtree(folder)
    print("chaos holds" if holds else "chaos FAILED")
    return 0 if holds else 1


if __name__ == "__main__":
    sys.exit(main())
