"""Runs a node or a worker as a process for tests and reads what it logs."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from hubbub_server.supervisor.leash import leashed
from tests.support.waiting import until

LOGGED_WITHIN_S = 60.0
"""A machine on which everything runs at once starts a program in half of it."""
_LAST_LINES = 20


class Program:
    """A process of the server. `lines` are what it logged."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        """Takes a process whose stdout is a pipe."""
        self.lines: list[dict[str, Any]] = []
        self._process = process
        self._has_ended = False

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process."""
        self._process.send_signal(number)

    async def wait(self) -> int:
        """Waits for the end of the process; returns its exit code."""
        return await self._process.wait()

    def log_of(self, event: str) -> list[dict[str, Any]]:
        """Returns the lines with this event."""
        return [line for line in self.lines if line["event"] == event]

    async def read(self) -> None:
        """Collects the log until the process ends."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.lines.append(json.loads(line))
        self._has_ended = True

    async def until_logged(self, event: str) -> dict[str, Any]:
        """Waits for a line with this event. Raises AssertionError with the log's end when there will be none."""
        try:
            await until(lambda: self.log_of(event) or self._has_ended, timeout_s=LOGGED_WITHIN_S)
        except TimeoutError as error:
            raise AssertionError(self._explain(event)) from error
        assert self.log_of(event), self._explain(event)
        return self.log_of(event)[0]

    def _explain(self, event: str) -> str:
        state = "ended" if self._has_ended else f"took longer than {LOGGED_WITHIN_S:.0f} s"
        last = "\n".join(map(json.dumps, self.lines[-_LAST_LINES:]))
        return f"no {event!r}: process {self._process.pid} {state}, the end of its log:\n{last}"


@asynccontextmanager
async def running(role: str, settings: Mapping[str, str], *, until_logged: str) -> AsyncIterator[Program]:
    """Runs `hubbub <role>` with these settings, from its line `until_logged` on; leaving the block kills it."""
    process = await asyncio.create_subprocess_exec(
        *leashed(sys.executable, "-m", "hubbub_server", role),
        env={**os.environ, **settings},
        stdout=asyncio.subprocess.PIPE,
    )
    program = Program(process)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(program.read())
        try:
            await program.until_logged(until_logged)
            yield program
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()
