"""Reads pytest's junit files and tells how many tests each level ran, and each contract on each adapter.

A level or an adapter that ran none is a failure. A test that is in several files counts as in the last one.
"""

import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from xml.etree import ElementTree

from bench.figure import write_figure

LEVELS = ("unit", "contract", "rpc", "scenario", "integration", "e2e", "foreign")
ADAPTERS = ("fake", "sqlite", "cql", "nats-r1", "nats-r3", "valkey")
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}

Outcomes = dict[tuple[str, str], str]


def read(junit_paths: Iterable[str]) -> Outcomes:
    """Returns how each test ended, by the dotted name of its class and its own name."""
    outcomes: Outcomes = {}
    for path in junit_paths:
        for case in ElementTree.parse(path).iter("testcase"):
            outcome = next((OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES), "passed")
            outcomes[case.get("classname", ""), case.get("name", "")] = outcome
    return outcomes


def by_level(outcomes: Outcomes) -> dict[str, Counter[str]]:
    """Counts outcomes by level, the folder below tests/."""
    levels: dict[str, Counter[str]] = {}
    for (classname, _), outcome in outcomes.items():
        level = f"{classname}..".split(".")[1]
        levels.setdefault(level, Counter())[outcome] += 1
    return levels


def by_adapter(outcomes: Outcomes) -> dict[tuple[str, str], Counter[str]]:
    """Counts outcomes by contract, the module below tests/contract, and adapter, a part of the parameters."""
    counts: dict[tuple[str, str], Counter[str]] = {}
    for (classname, name), outcome in outcomes.items():
        folders = classname.split(".")
        if folders[:2] != ["tests", "contract"]:
            continue
        for adapter in find_adapters(name):
            counts.setdefault((folders[2].removeprefix("test_"), adapter), Counter())[outcome] += 1
    return counts


def find_adapters(name: str) -> list[str]:
    """Finds the adapters in the parameters of a test: `test_x[cql-1]` ran on cql."""
    parameters = f"-{name.partition('[')[2].removesuffix(']')}-"
    return [adapter for adapter in ADAPTERS if f"-{adapter}-" in parameters]


def find_skipped_clients(outcomes: Outcomes) -> list[str]:
    """Names the foreign clients that were skipped: `test_x[grpc-go-direct-hello]` is that of grpc-go."""
    roles = {
        name.partition("[")[2].rpartition("-")[0]
        for (classname, name), outcome in outcomes.items()
        if classname.startswith("tests.foreign.") and outcome == "skipped"
    }
    return sorted({role.rpartition("-")[0] for role in roles})


def print_matrix(counts: dict[tuple[str, str], Counter[str]]) -> None:
    """Prints contract × adapter: how many passed, and after a slash how many did not."""
    print(f"\n{'contract':16}" + "".join(f"{adapter:>9}" for adapter in ADAPTERS))
    for contract in sorted({contract for contract, _ in counts}):
        cells = [counts.get((contract, adapter), Counter()) for adapter in ADAPTERS]
        print(f"{contract:16}" + "".join(f"{show(cell):>9}" for cell in cells))


def show(cell: Counter[str]) -> str:
    """Returns a cell of the matrix."""
    others = cell.total() - cell["passed"]
    return "" if not cell else f"{cell['passed']}" + (f"/{others}" if others else "")


def find_missing(outcomes: Outcomes) -> list[str]:
    """Names the levels and adapters that did not run, the contracts that were skipped on one, and skipped clients."""
    levels, contracts = by_level(outcomes), by_adapter(outcomes)
    passed = {adapter for (_, adapter), counts in contracts.items() if counts["passed"]}
    return [
        *(name for name in LEVELS if not levels.get(name, Counter())["passed"]),
        *(name for name in ADAPTERS if name not in passed),
        *(f"{contract} on {name}" for (contract, name), counts in sorted(contracts.items()) if counts["skipped"]),
        *find_skipped_clients(outcomes),
    ]


def judge(outcomes: Outcomes) -> int:
    """Prints the tables and the totals; 1 when something failed, or a level or an adapter did not run."""
    levels = by_level(outcomes)
    for name in dict.fromkeys((*LEVELS, *levels)):
        counts = levels.get(name, Counter())
        print(f"{name:12} {counts['passed']:5} passed {counts['failed']:4} failed {counts['skipped']:4} skipped")
    print_matrix(by_adapter(outcomes))
    for (classname, name), outcome in sorted(outcomes.items()):
        if outcome == "skipped":
            print(f"skipped: {classname}.{name}")
    if missing := find_missing(outcomes):
        print(f"did not run: {', '.join(missing)}")
    total = sum(levels.values(), Counter())
    print(f"{total['passed']} passed, {total['failed']} failed")
    return 1 if missing or total["failed"] else 0


def write_matrix(outcomes: Outcomes) -> None:
    """Keeps contract × adapter for the report."""
    passed: dict[str, dict[str, int]] = {}
    contracts = by_adapter(outcomes)
    for (contract, adapter), counts in sorted(contracts.items()):
        passed.setdefault(contract, {})[adapter] = counts["passed"]
    failed = sum(counts["failed"] for counts in contracts.values())
    figures = {"passed": passed, "failed": failed}
    write_figure(
        "contracts", "make test, python -m scripts.levels", figures, holds=not failed and not find_missing(outcomes)
    )


def main(junit_paths: Sequence[str]) -> int:
    """Keeps the matrix, prints everything, the totals last; returns the exit code."""
    outcomes = read(junit_paths)
    write_matrix(outcomes)
    return judge(outcomes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
