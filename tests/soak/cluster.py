"""The cluster that a soak run torments: `hubbub up --nodes 3` with data of its own, NATS behind a proxy a node.

Counters of a node die with its process. `Counters` reads them every second and before each kill and adds up the last
values of all lives: what happened in the last second of a life may be missing, nothing is counted twice.
"""

import asyncio
import json
import os
import signal
import sys
from collections import defaultdict
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hubbub_server.supervisor.ports import find_free
from tests.soak.records import Journal
from tests.support.fault_proxy import FaultProxy

NODES = 3
READY_S = 180.0
STOP_S = 30.0
SCRAPE_S = 1.0
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
}


@dataclass(frozen=True)
class Process:
    """One process of the cluster."""

    role: str
    name: str
    pid: int
    metrics_port: int


class Counters:
    """Counters summed over all lives of all nodes."""

    def __init__(self) -> None:
        """Starts with nothing."""
        self._last: dict[int, dict[str, float]] = {}

    def saw(self, pid: int, text: str) -> None:
        """Takes one answer of a metrics port."""
        values: dict[str, float] = defaultdict(float)
        for line in text.splitlines():
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            if bare in _COUNTED:
                values[_COUNTED[bare]] += float(value)
                if bare == "hubbub_unknown_outcomes_total":
                    values[f"unknown_{labels.split(chr(34))[1]}"] += float(value)
        self._last[pid] = values

    def totals(self) -> dict[str, float]:
        """Sums up."""
        sums: dict[str, float] = defaultdict(float)
        for values in self._last.values():
            for name, value in values.items():
                sums[name] += value
        return dict(sums)


class Cluster:
    """`async with` starts everything and waits for `ready`; at the end everything is stopped and looked for."""

    def __init__(self, folder: Path, journal: Journal, *, nodes: int = NODES) -> None:
        """Uses the folder for data and logs."""
        self._folder = folder
        self._journal = journal
        self._nodes = nodes
        self.port, self.nats_port = find_free(2)
        self.links: list[FaultProxy] = []
        self.counters = Counters()
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts the proxies and the cluster."""
        try:
            for _ in range(self._nodes):
                self.links.append(await self._stack.enter_async_context(FaultProxy(self.nats_port)))
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the cluster as Ctrl-C does; what is left then is killed and is an error."""
        try:
            await self._stop()
        finally:
            await self._stack.aclose()

    async def _start(self) -> None:
        urls = [f"nats://hubbub:{{password}}@127.0.0.1:{link.port}" for link in self.links]
        environment = {
            **os.environ,
            "HUBBUB_PORT": str(self.port),
            "HUBBUB_UP__NATS_PORT": str(self.nats_port),
            "HUBBUB_UP__NODE_NATS_SERVERS": json.dumps(urls),
        }
        log = (self._folder / "cluster.log").open("wb")
        self._stack.callback(log.close)
        self._up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hubbub_server", "up"),
            *("--nodes", str(self._nodes), "--data", str(self._folder / "var")),
            *("--data", str(self._folder / "var")),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            start_new_session=True,
        )
        assert self._up.stdout is not None
        async with asyncio.timeout(READY_S):
            while line := await self._up.stdout.readline():
                log.write(line)
                if line.strip().startswith(b"ready"):
                    return
        raise RuntimeError(f"the cluster did not get ready, see {self._folder / 'cluster.log'}")

    async def drain_output(self) -> None:
        """Reads on what the supervisor prints, so that it never blocks."""
        assert self._up.stdout is not None
        while await self._up.stdout.readline():
            pass

    async def _stop(self) -> None:
        pids = [process.pid for process in self.processes()]
        if self._up.returncode is None:
            self._up.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._up.wait()
            except TimeoutError:
                self._up.kill()
                await self._up.wait()
        left = [pid for pid in pids if _lives(pid)]
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        if left:
            raise RuntimeError(f"processes {left} outlived the supervisor")

    def processes(self, role: str | None = None) -> list[Process]:
        """Reads who runs at the moment."""
        path = self._folder / "var" / "run.json"
        if not path.exists():
            return []
        listed: list[dict[str, Any]] = json.loads(path.read_text())["processes"]
        found = [Process(p["role"], p["name"], p["pid"], p.get("metrics_port") or 0) for p in listed]
        return [process for process in found if role in (None, process.role)]

    def kill(self, process: Process) -> None:
        """Kills a process without a warning."""
        self._journal.write("kill", what=process.role, name=process.name, pid=process.pid)
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            self._journal.write("fault", what="already dead", link=process.name)

    async def scrape(self, *processes: Process) -> None:
        """Reads the counters of some processes; one that is just dying answers nothing."""
        for process in processes:
            try:
                async with asyncio.timeout(0.5):
                    self.counters.saw(process.pid, await _get_metrics(process.metrics_port))
            except (OSError, ValueError):
                continue

    async def scrape_for_ever(self) -> None:
        """Reads all counters every second."""
        while True:
            await self.scrape(*self.processes("node"), *self.processes("worker"))
            await asyncio.sleep(SCRAPE_S)


async def _get_metrics(port: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        answer = (await reader.read()).decode()
    finally:
        writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    if " 200 " not in head.splitlines()[0]:
        raise ValueError(head)
    return body


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
