"""Reads pytest's junit file and tells how many tests each level ran; a level that ran none is a failure."""

import sys
from collections import Counter
from xml.etree import ElementTree

REQUIRED = ("unit", "contract", "rpc", "scenario", "integration", "e2e")
OUTCOMES = {"failure": "failed", "error": "failed", "skipped": "skipped"}


def count(junit_path: str) -> dict[str, Counter[str]]:
    """Counts outcomes by level, the folder below tests/."""
    levels: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(junit_path).iter("testcase"):
        level = f"{case.get('classname', '')}..".split(".")[1].removesuffix("s")
        outcome = next((OUTCOMES[child.tag] for child in case if child.tag in OUTCOMES), "passed")
        levels.setdefault(level, Counter())[outcome] += 1
    return levels


def main(junit_path: str) -> int:
    """Prints the table and the totals; 1 when something failed or a level did not run."""
    levels = count(junit_path)
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
    sys.exit(main(sys.argv[1]))
