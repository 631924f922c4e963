"""Prometheus counters of nodes, added up over all their lives.

Counters die with their process. They are read every second and before each kill; what happened in the last second of a
life may be missing, nothing is counted twice.
"""

import asyncio
from collections import defaultdict

from tests.support.cluster import Cluster, Process

SCRAPE_S = 1.0
_SCRAPE_TIMEOUT_S = 0.5
_COUNTED = {
    "hubbub_commits_total": "commits",
    "hubbub_commit_conflicts_total": "conflicts",
    "hubbub_unknown_outcomes_total": "unknown_outcomes",
    "hubbub_live_gaps_repaired_total": "gaps_repaired",
    "hubbub_head_mismatches_total": "head_mismatches",
    "hubbub_id_lookups_total": "id_lookups",
    "hubbub_goodbyes_total": "goodbyes",
    "hubbub_delivered_events_total": "delivered_events",
    "hubbub_worker_applied_records_total": "worker_applied_records",
    "hubbub_registry_failures_total": "registry_failures",
}
_GAUGES = ("hubbub_streams", "hubbub_worker_units")
_LABELLED = {"hubbub_unknown_outcomes_total": "unknown", "hubbub_worker_applied_records_total": "worker_applied"}


class Counters:
    """Reads and adds up."""

    def __init__(self, cluster: Cluster) -> None:
        """Starts with nothing."""
        self._cluster = cluster
        self._last: dict[int, dict[str, float]] = {}
        self._gauges: dict[int, dict[str, float]] = {}

    def saw(self, pid: int, text: str) -> None:
        """Takes one answer of a metrics port."""
        values: dict[str, float] = defaultdict(float)
        gauges: dict[str, float] = defaultdict(float)
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            if bare in _GAUGES:
                gauges[bare] += float(value)
            if bare in _COUNTED:
                values[_COUNTED[bare]] += float(value)
                if bare in _LABELLED:
                    values[f"{_LABELLED[bare]}_{labels.split(chr(34))[1]}"] += float(value)
        self._last[pid] = values
        self._gauges[pid] = gauges

    def streams(self, pid: int) -> float:
        """How many streams a process had when it was read last."""
        return self._gauges.get(pid, {}).get("hubbub_streams", 0.0)

    def units(self, pid: int) -> float:
        """How many units a worker held when it was read last."""
        return self._gauges.get(pid, {}).get("hubbub_worker_units", 0.0)

    def commits(self, pid: int) -> float:
        """How many records a process had committed when it was read last."""
        return self._last.get(pid, {}).get("commits", 0.0)

    def totals(self) -> dict[str, float]:
        """Sums up all lives."""
        sums: dict[str, float] = defaultdict(float)
        for values in self._last.values():
            for name, value in values.items():
                sums[name] += value
        sums["unknown_not_found"] = sums["unknown_outcomes"] - sums["unknown_found"]
        return dict(sums)

    async def scrape(self, *processes: Process) -> None:
        """Reads some processes at once; one that is just dying, or frozen, answers nothing."""
        async with asyncio.TaskGroup() as tasks:
            for process in processes:
                tasks.create_task(self._scrape_one(process))

    async def _scrape_one(self, process: Process) -> None:
        try:
            async with asyncio.timeout(_SCRAPE_TIMEOUT_S):
                self.saw(process.pid, await self._cluster.read_metrics(process))
        except (OSError, ValueError):  # TimeoutError is an OSError
            return

    async def scrape_all(self) -> None:
        """Reads all nodes and workers."""
        await self.scrape(*self._cluster.processes("node"), *self._cluster.processes("worker"))

    async def scrape_for_ever(self) -> None:
        """Reads all every second."""
        while True:
            await self.scrape_all()
            await asyncio.sleep(SCRAPE_S)
