"""Starts and asks client processes: listeners and sessions."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from typing import Any

from bench.listeners import ListenerPlan
from bench.sessions import SessionsPlan

_ANSWER_S = 700.0


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
async def in_session(plans: Sequence[SessionsPlan]) -> AsyncIterator[list[ClientProcess]]:
    """Runs processes whose clients are all connected; ends them at the end."""
    async with _running("bench.sessions", plans) as processes:
        yield processes


@asynccontextmanager
async def _running(
    module: str, plans: Sequence[ListenerPlan] | Sequence[SessionsPlan]
) -> AsyncIterator[list[ClientProcess]]:
    processes: list[asyncio.subprocess.Process] = []
    try:
        for plan in plans:
            processes.append(
                await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", module, json.dumps(asdict(plan))),
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
