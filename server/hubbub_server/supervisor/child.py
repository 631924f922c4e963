"""One program that is kept running.

    starting ── it answers its ready address ──► ready ── it dies ──► waiting ── back-off ──► starting
       └─ it dies first, or takes too long ─────────────────────────► waiting; the first five times: ChildFailed

Once it was ready it is started again for ever, and may take as long as it needs: what it waits for (a log without a
quorum, a store that is away) comes back without us. The back-off doubles from 0.1 s to 5 s while lives are shorter than
10 s. While its *hold*, a file, exists, it is not started: that is how a person keeps a part down to mend its data. The
program leads a process group of its own, so that Ctrl-C reaches only us, and it dies with us (leash.py).
"""

import asyncio
import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubbub_server.supervisor.leash import leashed

_FAILED_STARTS_MAX: Final = 5
_START_TIMEOUT_S: Final = 120.0
_HOLD_LOOK_INTERVAL_S: Final = 0.1
_PROBE_INTERVAL_S: Final = 0.05
_PROBE_TIMEOUT_S: Final = 1.0
_BACK_OFF_MIN_S: Final = 0.1
_BACK_OFF_MAX_S: Final = 5.0
_SHORT_LIFE_S: Final = 10.0
_TAIL_LINES: Final = 20


class ChildFailed(Exception):
    """A program could not be started; the text ends with the tail of its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildPlan:
    """How to run a program.

    It is ready when GET `ready_path` on `ready_port` of `host` answers 200; without a path, when the port is open.
    `data` is the folder that it keeps, for people and tests that look for it.
    """

    role: str
    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    ports: Mapping[str, int]
    ready_port: int
    ready_path: str
    stop_timeout_s: float
    start_timeout_s: float = _START_TIMEOUT_S
    host: str = "127.0.0.1"
    data: Path | None = None


def names_of(role: str, count: int) -> list[str]:
    """Names the programs of a role: by the role alone where there is one."""
    return [role] if count == 1 else [f"{role}-{number}" for number in range(1, count + 1)]


class Child:
    """Keeps one program running until `stop`. `on_change` is called when its process id changed."""

    def __init__(self, plan: ChildPlan, *, log: Path, hold: Path, on_change: Callable[[], None]) -> None:
        self.plan = plan
        self.restarts = 0
        self._log = log
        self._hold = hold
        self._on_change = on_change
        self._process: asyncio.subprocess.Process | None = None
        self._was_ready = False
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
            ChildFailed: five starts in a row failed, and it was never ready before.
        """
        failed_starts = 0
        back_off_s = _BACK_OFF_MIN_S
        while not await self._is_stopped_while_held():
            begin_s = time.monotonic()
            await self._run_once()
            if self._stopping.is_set():
                return
            failed_starts += 1
            if not self._was_ready and failed_starts == _FAILED_STARTS_MAX:
                raise ChildFailed(_explain(self.plan.name, f"{failed_starts} times", self._log))
            is_short = time.monotonic() - begin_s < _SHORT_LIFE_S
            back_off_s = min(back_off_s * 2, _BACK_OFF_MAX_S) if is_short else _BACK_OFF_MIN_S
            self.restarts += 1
            await self._pause(back_off_s)

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

    async def _is_stopped_while_held(self) -> bool:
        while not self._stopping.is_set() and self._hold.exists():
            await self._pause(_HOLD_LOOK_INTERVAL_S)
        return self._stopping.is_set()

    async def _pause(self, pause_s: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()

    async def _run_once(self) -> None:
        """Runs the program to its end, or ends it when it does not become ready."""
        process = await _start(self.plan.argv, self.plan.environment, self._log)
        self._process = process
        self._on_change()
        try:
            # A stop while the program was being made found none to end.
            if not self._stopping.is_set() and await self._becomes_ready(process):
                self._was_ready = True
                self._ready.set()
                await process.wait()
        finally:
            self._ready.clear()
            _kill_group(process)
            await process.wait()  # killed: it takes no time
            self._process = None
            self._on_change()

    async def _becomes_ready(self, process: asyncio.subprocess.Process) -> bool:
        deadline_s = time.monotonic() + self.plan.start_timeout_s
        while self._was_ready or time.monotonic() < deadline_s:
            if await _answers(self.plan):
                return True
            with suppress(TimeoutError):
                async with asyncio.timeout(_PROBE_INTERVAL_S):
                    await process.wait()
                    return False
        return False


async def run_to_its_end(name: str, argv: Sequence[str], environment: Mapping[str, str], *, log: Path) -> None:
    """Runs a program that ends by itself. When cancelled, it kills it.

    Raises:
        ChildFailed: it failed.
    """
    process = await _start(argv, environment, log)
    try:
        if await process.wait() != 0:
            raise ChildFailed(_explain(name, "", log))
    finally:
        _kill_group(process)


async def _start(argv: Sequence[str], environment: Mapping[str, str], log_path: Path) -> asyncio.subprocess.Process:
    with log_path.open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *leashed(*argv),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )


def _explain(name: str, how_often: str, log_path: Path) -> str:
    with log_path.open("rb") as log:
        log.seek(max(0, log_path.stat().st_size - 64 * 1024))
        lines = log.read().decode(errors="replace").splitlines()[-_TAIL_LINES:]
    tail = "\n".join(f"  {line}" for line in lines)
    failure = f"could not be started {how_often}" if how_often else "failed"
    return f"{name} {failure}; the end of {log_path}:\n{tail}"


def _kill_group(process: asyncio.subprocess.Process) -> None:
    """Kills what is left of a program and its own children; the group has the program's process id."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


async def _answers(plan: ChildPlan) -> bool:
    try:
        async with asyncio.timeout(_PROBE_TIMEOUT_S):
            reader, writer = await asyncio.open_connection(plan.host, plan.ready_port)
            try:
                if not plan.ready_path:
                    return True
                head = f"GET {plan.ready_path} HTTP/1.1\r\nHost: {plan.host}\r\nConnection: close\r\n\r\n"
                writer.write(head.encode())
                status_line = await reader.readline()
            finally:
                writer.close()
    except (OSError, TimeoutError):
        return False
    return status_line.split(b" ")[1:2] == [b"200"]
