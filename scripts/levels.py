"""Reads pytest's junit files and tells how many tests each level ran; a level that ran none is a failure.

A test that is in several files counts as in the last one.
"""

import sys
from collections import Counter
from xml.etree import ElementTree

REQUIRED = ("unit", "contract", "rpc", "scenario", "integration", "e2e")
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def count(junit_paths: list[str]) -> dict[str, Counter[str]]:
    """Counts outcomes by level, the folder below tests/."""
    outcomes: dict[tuple[str, str], str] = {}
    for path in junit_paths:
        for case in ElementTree.parse(path).iter("testcase"):
            outcome = next((OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES), "passed")
            outcomes[case.get("classname", ""), case.get("name", "")] = outcome
    levels: dict[str, Counter[str]] = {}
    for (classname, _), outcome in outcomes.items():
        level = f"{classname}..".split(".")[1].removesuffix("s")
        levels.setdefault(level, Counter())[outcome] += 1
    return levels


def main(junit_paths: list[str]) -> int:
    """Prints the table and the totals; 1 when something failed or a level did not run."""
    levels = count(junit_paths)
    for name in dict.fromkeys((*REQUIRED, *levels)):
        counts = levels.get(name, Counter())
        print(f"{name:12} {counts['passed']:5} passed {counts['failed']:4} failed {counts['skipped']:4} skipped")
    missing = [name for name in REQUIRED if not levels.get(name, Counter())["passed"]]
    if missing:
        print(f"did not run: {', '.join(missing)}")
    total = sum(levels.values(), Counter())
    print(f"{total['passed']} passed, {total['failed']} failed")
    return 1 if missing or total["failed"] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
