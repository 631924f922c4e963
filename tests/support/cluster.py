"""A whole instance as `hubbub up` runs it, in a folder of its own; on request NATS is behind fault proxies.

A part that is killed is started again at once; one that is *held* stays away until it is released.
"""

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free
from tests.support.fault_proxy import FaultProxy, ProxyGroup

READY_S = 180.0
STOP_S = 45.0


@dataclass(frozen=True)
class Process:
    """One process of the instance."""

    role: str
    name: str
    pid: int
    host: str
    ports: Mapping[str, int]
    data: Path | None
    restarts: int

    @property
    def grpc_port(self) -> int:
        """Where a node listens."""
        return self.ports["grpc"]

    @property
    def stream_port(self) -> int:
        """Where a node serves the streaming methods."""
        return self.ports["streams"]

    @property
    def metrics_port(self) -> int:
        """Where a node or worker shows its metrics."""
        return self.ports["metrics"]


class Cluster:
    """`async with` starts everything and waits for `ready`; at the end everything is stopped and looked for."""

    def __init__(
        self,
        folder: Path,
        *,
        nodes: int,
        workers: int = 1,
        nats: int = 1,
        store: Literal["sqlite", "cql"] = "sqlite",
        with_valkey: bool = True,
        with_links: bool = False,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Uses the folder for data and logs; `with_links` puts proxies between each node and NATS.

        All programs get the environment besides ours.
        """
        self.data = folder / "var"
        self.port, *self.nats_ports = find_free(1 + nats)
        self.links: list[ProxyGroup] = []
        """Between each node and the NATS servers."""
        self._log_path = folder / "cluster.log"
        self._nodes = nodes
        self._options = [
            *("--nodes", str(nodes), "--workers", str(workers), "--nats", str(nats), "--data", str(self.data)),
            *(("--cassandra", "1") if store == "cql" else ()),
            *(() if with_valkey else ("--no-valkey",)),
        ]
        self._with_links = with_links
        self._environment = environment or {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts the proxies and the instance."""
        try:
            for _ in range(self._nodes if self._with_links else 0):
                proxies = [await self._stack.enter_async_context(FaultProxy(port)) for port in self.nats_ports]
                self.links.append(ProxyGroup(proxies))
            await self.start()
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

    async def start(self) -> None:
        """Starts the instance, after `kill_all` again on the same folder and ports, and waits for `ready`."""
        servers = [
            [f"nats://hubbub:{{password}}@127.0.0.1:{proxy.port}" for proxy in link.proxies] for link in self.links
        ]
        environment = {
            **os.environ,
            **self._environment,
            "HUBBUB_PORT": str(self.port),
            "HUBBUB_UP__NATS_PORTS": json.dumps(self.nats_ports),
            "HUBBUB_UP__NODE_NATS_SERVERS": json.dumps(servers),
        }
        with self._log_path.open("wb") as log:
            self._up = await asyncio.create_subprocess_exec(
                *leashed(sys.executable, "-m", "hubbub_server", "up", *self._options),
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
        processes = self.processes()
        if self._up.returncode is None:
            self._up.send_signal(signal.SIGINT)
            try:
                async with asyncio.timeout(STOP_S):
                    await self._up.wait()
            except TimeoutError:
                self._up.kill()
                await self._up.wait()
        left = [process for process in processes if self.kill(process)]
        if left:
            raise RuntimeError(f"processes outlived the supervisor: {left}")

    async def kill_all(self) -> None:
        """Kills every process at once, the supervisor too, and waits until all are gone."""
        processes = self.processes()
        self._up.kill()  # its children die with it
        await self._up.wait()
        async with asyncio.timeout(STOP_S):
            while any(_lives(process.pid) for process in processes):  # noqa: ASYNC110  # processes tell nobody
                await asyncio.sleep(0.02)

    def processes(self, role: str | None = None) -> list[Process]:
        """Reads who runs at the moment."""
        path = self.data / "run.json"
        if not path.exists():
            return []
        listed: list[dict[str, Any]] = json.loads(path.read_text())["processes"]
        found = [
            Process(
                role=each["role"],
                name=each["name"],
                pid=each["pid"],
                host=each["host"],
                ports={key.removesuffix("_port"): port for key, port in each.items() if key.endswith("_port")},
                data=Path(each["data"]) if each["data"] else None,
                restarts=each["restarts"],
            )
            for each in listed
        ]
        return [process for process in found if role in (None, process.role)]

    def kill(self, process: Process) -> bool:
        """Kills a process without a warning; False when it was dead already."""
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def hold(self, name: str) -> None:
        """Keeps a part down from its next end on, for example that by `kill`, until `release`."""
        (self.data / "hold" / name).touch()

    def release(self, name: str) -> None:
        """Lets a held part come back; that takes at most a tenth of a second."""
        (self.data / "hold" / name).unlink()

    async def read_metrics(self, process: Process) -> str:
        """Reads the Prometheus page of a process; see `read_page`."""
        return await self.read_page(process, "metrics", "/metrics")

    async def read_page(self, process: Process, port: str, path: str) -> str:
        """Reads a page that a process shows at one of its ports.

        Raises:
            OSError: nobody answers.
            ValueError: the answer is no page.
        """
        reader, writer = await asyncio.open_connection(process.host, process.ports[port])
        try:
            writer.write(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
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
