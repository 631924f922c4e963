"""Merges the figures of var/figures into docs/report.json: `make report`. Figures that were not taken again stay.

A figure carries the commit and the command with which it was taken.
"""

import json
import sys
from typing import Any

from bench.figure import FIGURES, ROOT, commit, machine, versions

REPORT = ROOT / "docs" / "report.json"
# Shorter ones prove less.
LEAST = {
    "soak": ("minutes", 10),
    "chaos": ("runs_asked", 100),
    "chaos_grpc_aio": ("runs_asked", 20),
    "fuzz": ("minutes", 60),
}
EXPECTED = (
    "fresh",
    "soak",
    "chaos",
    "chaos_grpc_aio",
    "exact_reads",
    "presence",
    "flapping",
    "readers",
    "mutants",
    "contracts",
    "foreign_clients",
    "slow_readers",
    "rolling_restart",
    "store_down",
    "cql_page",
    "web_stream",
    "serial_commit",
    "fan_out",
    "fan_out_quiet",
    "fan_out_own_connections",
    "fan_out_own_connections_quiet",
    "send_many",
    "send_hot",
    "send_latency",
    "growth_streams",
    "growth_members",
    "growth_messages",
    "where",
    "h2spec",
    "fuzz",
    "reconnects",
    "storm",
    "counters",
)
# Measured by what is there no more.
GONE = ("fan_out_200", "fan_out_1000")


def main() -> int:
    """Writes the report; 1 when a figure is missing or did not hold."""
    old: dict[str, Any] = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    figures: dict[str, Any] = {name: each for name, each in old.get("figures", {}).items() if name not in GONE}
    for path in sorted(FIGURES.glob("*.json")):
        figure = json.loads(path.read_text())
        measure, least = LEAST.get(path.stem, ("", 0))
        if figure.get(measure, least) >= least:
            figures[path.stem] = figure
    report = {
        "commit": commit(),
        "machine": machine(),
        "versions": versions(),
        "figures": dict(sorted(figures.items())),
    }
    REPORT.parent.mkdir(exist_ok=True)
    REPORT.write_text(json.dumps(report, indent=2) + "\n")
    missing = [name for name in EXPECTED if name not in figures]
    failed = [name for name, figure in figures.items() if figure.get("holds") is False]
    for name, figure in figures.items():
        print(f"{'FAILED ' if name in failed else ''}{name}: {figure['command']} at {figure['commit'][:12]}")
    if missing:
        print(f"not taken: {', '.join(missing)}")
    print(f"written to {REPORT.relative_to(ROOT)}")
    return 1 if missing or failed else 0


if __name__ == "__main__":
    sys.exit(main())
