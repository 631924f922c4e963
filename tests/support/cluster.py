"""A whole instance as `hubbub up` runs it, in a folder of its own; on request NATS is behind a fault proxy a node."""

import asyncio
import json
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hubbub_server.supervisor.ports import find_free
from tests.support.fault_proxy import FaultProxy

READY_S = 180.0
STOP_S = 30.0


@dataclass(frozen=True)
class Process:
    """One process of the instance; a port that it does not have is 0."""

    role: str
    name: str
    pid: int
    grpc_port: int
    metrics_port: int


class Cluster:
    """`async with` starts everything and waits for `ready`; at the end everything is stopped and looked for."""

    def __init__(self, folder: Path, *, nodes: int, with_links: bool = False) -> None:
        """Uses the folder for data and logs; `with_links` puts a proxy between each node and NATS."""
        self.data = folder / "var"
        self.port, self.nats_port = find_free(2)
        self.links: list[FaultProxy] = []
        self._log_path = folder / "cluster.log"
        self._nodes = nodes
        self._with_links = with_links
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts the proxies and the instance."""
        try:
            for _ in range(self._nodes if self._with_links else 0):
                self.links.append(await self._stack.enter_async_context(FaultProxy(self.nats_port)))
            await self._start()
        except BaseException:
            await self._stack.aclose()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops the instance as Ctrl-C does; what is left then is killed and is an error."""
        try:
            await self._stop()
        finally:
            await self._stack.aclose()

    async def _start(self) -> None:
        servers = [f"nats://hubbub:{{password}}@127.0.0.1:{link.port}" for link in self.links]
        environment = {
            **os.environ,
            "HUBBUB_PORT": str(self.port),
            "HUBBUB_UP__NATS_PORT": str(self.nats_port),
            "HUBBUB_UP__NODE_NATS_SERVERS": json.dumps(servers),
        }
        log = self._stack.enter_context(self._log_path.open("wb"))
        self._up = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "hubbub_server", "up"),
            *("--nodes", str(self._nodes), "--data", str(self.data)),
            env=environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(READY_S):
                while not self._is_ready():
                    if self._up.returncode is not None:
                        raise RuntimeError(f"the instance ended:\n{self._log_path.read_text()}")
                    await asyncio.sleep(0.1)
        except BaseException:
            await self._stop()
            raise

    def _is_ready(self) -> bool:
        return "ready" in self._log_path.read_text().splitlines()

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
        path = self.data / "run.json"
        if not path.exists():
            return []
        listed: list[dict[str, Any]] = json.loads(path.read_text())["processes"]
        found = [
            Process(p["role"], p["name"], p["pid"], p.get("grpc_port", 0), p.get("metrics_port", 0)) for p in listed
        ]
        return [process for process in found if role in (None, process.role)]

    def kill(self, process: Process) -> bool:
        """Kills a process without a warning; False when it was dead already."""
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    async def read_metrics(self, process: Process) -> str:
        """Reads the Prometheus page of a process.

        Raises:
            OSError: nobody answers.
            ValueError: the answer is no page.
        """
        reader, writer = await asyncio.open_connection("127.0.0.1", process.metrics_port)
        try:
            writer.write(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
            answer = (await reader.read()).decode()
        finally:
            writer.close()
        head, _, body = answer.partition("\r\n\r\n")
        if " 200 " not in head.partition("\r\n")[0] + " ":
            raise ValueError(head)
        return body


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
