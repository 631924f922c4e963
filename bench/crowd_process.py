"""Starts and asks client processes: listeners, receivers, senders, sessions, and those of a storm."""

import asyncio
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.listeners import ListenerPlan
from bench.process import cpu_s, machine_cpu_s
from bench.receivers import ReceiversPlan
from bench.senders import SendersPlan
from bench.sessions import SessionsPlan
from bench.storm_clients import StormPlan

CLIENT_LOAD_MAX: Final = 0.7
"""A client process that is busier measures itself."""
_ANSWER_S: Final = 700.0  # hashing of passwords is slow on purpose
_WINDOW_S: Final = 5.0


class ClientProcess:
    """One running process."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Takes a process that was just started."""
        self._process = process

    @property
    def pid(self) -> int:
        """Process id."""
        return self._process.pid

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Sends a command and returns the answer."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        return await self.hear()

    async def hear(self) -> dict[str, Any]:
        """Waits for one line."""
        assert self._process.stdout is not None
        async with asyncio.timeout(_ANSWER_S):
            line = await self._process.stdout.readline()
        if not line:
            raise RuntimeError("a client process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def listening(plans: Sequence[ListenerPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose streams are all open; ends them at the end."""
    async with _running("bench.listeners", plans) as processes:
        yield processes


@asynccontextmanager
async def receiving(plans: Sequence[ReceiversPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose streams are all open; ends them at the end."""
    async with _running("bench.receivers", plans) as processes:
        yield processes


@asynccontextmanager
async def sending(plans: Sequence[SendersPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose senders are all ready; ends them at the end."""
    async with _running("bench.senders", plans) as processes:
        yield processes


@asynccontextmanager
async def in_session(plans: Sequence[SessionsPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose clients are all connected; ends them at the end."""
    async with _running("bench.sessions", plans) as processes:
        yield processes


@asynccontextmanager
async def in_storm(plans: Sequence[StormPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose sessions are all live; ends them at the end."""
    async with _running("bench.storm_clients", plans) as processes:
        yield processes


@asynccontextmanager
async def _running(
    module: str, plans: Sequence[ListenerPlan | ReceiversPlan | SendersPlan | SessionsPlan | StormPlan]
) -> AsyncIterator[list[ClientProcess]]:
    processes: list[asyncio.subprocess.Process] = []
    folder = Path(tempfile.mkdtemp(prefix="hubbub-bench-"))
    try:
        for number, plan in enumerate(plans):
            (folder / f"{number}.json").write_text(json.dumps(asdict(plan)))
            processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", module, str(folder / f"{number}.json")),
                    stdin=asyncio.subprocess.PIPE,
                    stdout=asyncio.subprocess.PIPE,
                    limit=1 << 28,
                )
            )
        running = [ClientProcess(process) for process in processes]
        for each in running:
            await each.hear()
        yield running
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
                await process.wait()
        shutil.rmtree(folder)


@dataclass
class Loads:
    """How busy clients and machine were, by window."""

    clients: list[float] = field(default_factory=list)
    """The busiest client process, as a part of one core."""
    machine: list[float] = field(default_factory=list)
    """All processes of the machine, as a part of all cores."""

    def figures(self) -> dict[str, float]:
        """Packs them for a figure."""
        return {
            "busiest_client_load": round(max(self.clients), 2),
            "machine_load_mean": round(sum(self.machine) / len(self.machine), 2),
            "machine_load_max": round(max(self.machine), 2),
        }


@asynccontextmanager
async def load_watched(processes: Sequence[ClientProcess]) -> AsyncIterator[Loads]:
    """Yields what is added to every few seconds."""
    loads = Loads()

    async def watch() -> None:
        while True:
            clients, all_cores, begin = [cpu_s(each.pid) for each in processes], machine_cpu_s(), time.monotonic()
            await asyncio.sleep(_WINDOW_S)
            seconds = time.monotonic() - begin
            used = [cpu_s(each.pid) - before for each, before in zip(processes, clients, strict=True)]
            loads.clients.append(max(used) / seconds)
            loads.machine.append((machine_cpu_s() - all_cores) / seconds / (os.cpu_count() or 1))

    async with asyncio.TaskGroup() as tasks:
        watcher = tasks.create_task(watch())
        yield loads
        watcher.cancel()
