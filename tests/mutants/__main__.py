"""Applies each patch to a copy of the tree and runs its test there; fails if a mutant survives or does not apply.

All named tests must pass on the unchanged copy first. A mutant is killed only by a failing test: one that cannot even
be collected, or times out, is an error of the patch. Mutants that need a CQL server are left out where it cannot run,
and named; in CI that is an error.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from bench.figure import write_figure
from hubbub_server.supervisor.cassandra_servers import missing_programs

ROOT = Path(__file__).resolve().parents[2]
PATCHES = Path(__file__).resolve().parent
PROMISES = ("G1", "G2", "G3", "G4", "G5", "G6", "G7", "G8", "G9", "G10")
LEAST_A_PROMISE = 2
TEST_TIMEOUT_S = 90
PLUGINS = ("pytest_asyncio.plugin", "pytest_timeout")
_PASSED, _FAILED = 0, 1


@dataclass(frozen=True)
class Mutant:
    """One way to break a promise."""

    path: Path
    promise: str
    what: str
    test: str
    needs_cql: bool

    @property
    def name(self) -> str:
        """Name of the patch."""
        return self.path.stem


def read_mutant(path: Path) -> Mutant:
    """Reads a patch's head."""
    head = path.read_text().split("\n--- ", 1)[0]
    fields = dict(line.split(": ", 1) for line in head.splitlines() if ": " in line)
    return Mutant(path, fields["Promise"], fields["Mutant"], fields["Test"], fields.get("Needs") == "cql")


def copy_tree(target: Path) -> None:
    """Copies what git knows of, and what is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in listed.stdout.decode().split("\0"):
        if name and (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def run_tests(tree: Path, tests: Sequence[str]) -> tuple[int, str]:
    """Runs tests of a tree with the tree's own code; returns pytest's exit code and its output."""
    sources = (tree / "server", tree / "clients" / "python", tree / "proto" / "gen" / "python", tree)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, sources)),
        "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",  # half of the time that a test takes
        "HUBBUB_HYPOTHESIS": "repeatable",
    }
    plugins = (argument for plugin in PLUGINS for argument in ("-p", plugin))
    command = [sys.executable, "-m", "pytest", "-q", "-x", *plugins, "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, f"--timeout={TEST_TIMEOUT_S}", *tests],
        cwd=tree,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def judge(mutant: Mutant, original: Path) -> str:
    """Returns an empty text when the mutant is killed, else what went wrong."""
    with tempfile.TemporaryDirectory(prefix="hubbub-mutant-") as folder:
        tree = Path(folder) / "tree"
        shutil.copytree(original, tree)  # with what Python has compiled: only what the patch changes is compiled again
        applied = subprocess.run(
            ["git", "apply", "--recount", "-C1", str(mutant.path)],
            cwd=tree,
            capture_output=True,
            text=True,
            check=False,
        )
        if applied.returncode:
            return f"does not apply: {applied.stderr.strip()}"
        code, output = run_tests(tree, [mutant.test])
    if code == _PASSED:
        return f"SURVIVED {mutant.test}"
    if code != _FAILED:
        return f"pytest ended with {code}: {output[-2000:]}"
    return ""


def judge_all(mutants: Sequence[Mutant], jobs: int) -> int:
    """Judges mutants, each in a copy of one copy of the tree; returns how many survived, -1 if a test failed before."""
    with tempfile.TemporaryDirectory(prefix="hubbub-mutant-") as folder, ThreadPoolExecutor(max_workers=jobs) as pool:
        original = Path(folder)
        copy_tree(original)
        code, output = run_tests(original, sorted({mutant.test for mutant in mutants}))
        if code != _PASSED:
            print(f"the named tests fail without any mutation:\n{output[-4000:]}")
            return -1
        survivors = 0
        for mutant, problem in zip(mutants, pool.map(lambda each: judge(each, original), mutants), strict=True):
            print(f"{'ok  ' if not problem else 'FAIL'} {mutant.name}: {problem or mutant.what}", flush=True)
            survivors += bool(problem)
    return survivors


def main() -> int:
    """Judges all mutants, or those whose name contains an argument."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of names; all mutants without any")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    options = parser.parse_args()
    begin = time.monotonic()
    mutants = [read_mutant(path) for path in sorted(PATCHES.glob("G*.patch"))]
    counts = Counter(mutant.promise for mutant in mutants)
    missing = [promise for promise in PROMISES if counts[promise] < LEAST_A_PROMISE]
    if missing:
        print(f"fewer than {LEAST_A_PROMISE} mutants: {', '.join(missing)}")
    mutants = [m for m in mutants if not options.names or any(name in m.name for name in options.names)]
    if (programs := missing_programs()) and not os.environ.get("CI"):
        for mutant in (m for m in mutants if m.needs_cql):
            print(f"not run, no CQL server without {programs}: {mutant.name}")
        mutants = [m for m in mutants if not m.needs_cql]
    survivors = judge_all(mutants, options.jobs)
    if survivors < 0:
        return 1
    print(f"{len(mutants) - survivors} of {len(mutants)} mutants killed in {time.monotonic() - begin:.0f} s")
    if not options.names:
        figures = {
            "mutants": len(mutants),
            "killed": len(mutants) - survivors,
            "by_promise": dict(counts),
            "wall_s": round(time.monotonic() - begin),
        }
        write_figure("mutants", "make mutants", figures, holds=not survivors and not missing)
    return 1 if survivors or missing else 0


if __name__ == "__main__":
    sys.exit(main())
