"""One program that is kept running.

    starting ── it answers its ready address ──► ready ── it dies ──► waiting ── back-off ──► starting
       └─ it dies first, or takes too long ─────────────────────────► waiting; five times in a row: ChildFailed

The back-off doubles from 0.1 s to 5 s while lives are shorter than 10 s. The program leads a process group of its own,
so that Ctrl-C reaches only us, and it dies with us (leash.py).
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_FAILED_STARTS_MAX: Final = 5
_START_TIMEOUT_S: Final = 60.0
_PROBE_INTERVAL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 1.0
_BACK_OFF_MIN_S: Final = 0.1
_BACK_OFF_MAX_S: Final = 5.0
_SHORT_LIFE_S: Final = 10.0
_TAIL_LINES: Final = 20


class ChildFailed(Exception):
    """A program could not be started five times in a row; the text ends with the tail of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildPlan:
    """How to run a program. It is ready when GET `ready_path` on `ready_port` of the loopback answers 200."""

    role: str
    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    ready_port: int
    ready_path: str
    stop_timeout_s: float


class Child:
    """Keeps one program running until `stop`. `on_change` is called when its process id changed."""

    def __init__(self, plan: ChildPlan, *, log: Path, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.restarts = 0
        self._log = log
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._ready = asyncio.Event()
        self._stopping = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """Process id, None while there is no process."""
        return self._process.pid if self._process else None

    async def wait_ready(self) -> None:
        """Waits until the program answers; `keep_running` gives up first if it never does."""
        await self._ready.wait()

    async def keep_running(self) -> None:
        """Runs the program again whenever it ends, until `stop`. When cancelled, it kills it.

        Raises:
            ChildFailed: five starts in a row failed.
        """
        failed_starts = 0
        back_off_s = _BACK_OFF_MIN_S
        while not self._stopping.is_set():
            begin_s = time.monotonic()
            became_ready = await self._run_once()
            if self._stopping.is_set():
                return
            failed_starts = 0 if became_ready else failed_starts + 1
            if failed_starts == _FAILED_STARTS_MAX:
                raise ChildFailed(self._explain())
            is_short = time.monotonic() - begin_s < _SHORT_LIFE_S
            back_off_s = min(back_off_s * 2, _BACK_OFF_MAX_S) if is_short else _BACK_OFF_MIN_S
            self.restarts += 1
            with suppress(TimeoutError):
                async with asyncio.timeout(back_off_s):
                    await self._stopping.wait()

    async def stop(self) -> None:
        """Ends the program: SIGTERM, and SIGKILL to its group when it takes longer than the plan allows."""
        self._stopping.set()
        process = self._process
        if process is None:
            return
        with suppress(ProcessLookupError):
            process.terminate()
        try:
            async with asyncio.timeout(self.plan.stop_timeout_s):
                await process.wait()
        except TimeoutError:
            _kill_group(process)

    async def _run_once(self) -> bool:
        """Runs the program to its end; tells whether it was ready in between."""
        leash = (sys.executable, "-m", "hubbub_server.supervisor.leash", str(os.getpid()))
        with self._log.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *leash,
                *self.plan.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.plan.environment,
                start_new_session=True,
            )
        self._process = process
        self._on_change()
        try:
            # A stop while the program was being made found none to end.
            became_ready = not self._stopping.is_set() and await self._becomes_ready(process)
            if became_ready:
                self._ready.set()
                await process.wait()
        finally:
            self._ready.clear()
            _kill_group(process)
            await process.wait()  # killed: it takes no time
            self._process = None
            self._on_change()
        return became_ready

    async def _becomes_ready(self, process: asyncio.subprocess.Process) -> bool:
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if await _answers(self.plan.ready_port, self.plan.ready_path):
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_S):
                    await process.wait()
                    return False
        return False

    def _explain(self) -> str:
        with self._log.open("rb") as log:
            log.seek(max(0, self._log.stat().st_size - 64 * 1024))
            lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
        tail = "\n".join(f"  {line}" for line in lines)
        return f"{self.plan.name} could not be started {_FAILED_STARTS_MAX} times; the end of {self._log}:\n{tail}"


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kills what is left of a program and its own children; the group has the program's process id."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _answers(port: int, path: str) -> bool:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status_line.split(b" ")[1:2] == [b"200"]
