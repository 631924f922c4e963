"""`hubbub up`: starts everything in order, keeps it running, stops it in order.

Order: nats-server, the worker (it makes streams and schema), the nodes, Envoy; then one message from end to end, and
only then "ready". Backwards at the end: the nodes first, so that streams hear Goodbye through Envoy.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubbub_server.supervisor import ports
from hubbub_server.supervisor.child import Child, ChildFailed, ChildPlan
from hubbub_server.supervisor.data_folder import DataFolder, FolderTaken
from hubbub_server.supervisor.first_message import RECEIVER, SENDER, NoMessage, send_first_message
from hubbub_server.supervisor.programs import Programs, plan_programs

_FIRST_MESSAGE_TIMEOUT_S: Final = 60.0
_LOG_CHECK_INTERVAL_S: Final = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class UpPlan:
    """What a person may choose."""

    data: Path
    port: int
    nodes: int
    cors_origins: Sequence[str]
    nats_port: int
    node_nats_servers: Sequence[str]


class CannotStart(Exception):
    """The instance cannot run; the text says why, for the person at the terminal."""


def run_up(plan: UpPlan, *, say: Callable[[str], None]) -> None:
    """Runs an instance until SIGINT, SIGTERM or SIGHUP. `say` gets lines for the terminal.

    Raises:
        CannotStart: port or folder are taken, a program does not start, or no message goes through.
    """
    if plan.port and not ports.is_free(plan.port):
        raise CannotStart(f"port {plan.port} is in use; set HUBBUB_PORT to another one")
    try:
        folder = DataFolder(plan.data)
    except OSError as error:
        raise CannotStart(f"cannot use the folder {plan.data}: {error.strerror}") from error
    try:
        with folder.locked():
            asyncio.run(_Instance(folder, plan, say).run())
    except* (FolderTaken, ChildFailed, NoMessage) as errors:
        raise CannotStart(str(_first(errors))) from errors


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Instance:
    """The running programs. Closed from outside by a signal, from inside by a program that cannot be started."""

    def __init__(self, folder: DataFolder, plan: UpPlan, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._plan = plan
        self._say = say
        self._port = plan.port or ports.find_free(1)[0]
        self._children: list[Child] = []

    async def run(self) -> None:
        self._folder.make_secrets()
        programs = plan_programs(
            self._folder,
            port=self._port,
            nodes=self._plan.nodes,
            cors_origins=self._plan.cors_origins,
            nats_port=self._plan.nats_port,
            node_nats_servers=self._plan.node_nats_servers,
        )
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopped.set)
        async with asyncio.TaskGroup() as group:
            logs = group.create_task(self._bound_logs())
            starting = group.create_task(self._start(programs, group))
            await stopped.wait()
            self._say("stopping")
            starting.cancel()
            await self._stop()
            logs.cancel()

    async def _start(self, programs: Programs, group: asyncio.TaskGroup) -> None:
        for step in ((programs.nats,), (programs.worker,), programs.nodes, (programs.envoy,)):
            begun = [self._begin(plan, group) for plan in step]
            for child in begun:
                await child.wait_ready()
        await send_first_message(
            self._port, password=self._folder.read_secret("demo_password"), timeout_s=_FIRST_MESSAGE_TIMEOUT_S
        )
        self._tell()

    def _begin(self, plan: ChildPlan, group: asyncio.TaskGroup) -> Child:
        child = Child(plan, log=self._folder.log_of(plan.name), on_change=self._write_run)
        self._children.append(child)
        group.create_task(child.keep_running(), name=plan.name)
        return child

    async def _stop(self) -> None:
        """Stops programs in the order of their need of each other."""
        for role in ("node", "envoy", "worker", "nats"):
            await asyncio.gather(*(child.stop() for child in self._children if child.plan.role == role))

    async def _bound_logs(self) -> None:
        while True:
            self._folder.bound_logs()
            await asyncio.sleep(_LOG_CHECK_INTERVAL_S)

    def _write_run(self) -> None:
        processes = [
            {
                "role": child.plan.role,
                "name": child.plan.name,
                "pid": child.pid,
                **{f"{name}_port": port for name, port in child.plan.ports.items()},
                "restarts": child.restarts,
            }
            for child in self._children
            if child.pid is not None
        ]
        self._folder.write_run({"pid": os.getpid(), "port": self._port, "processes": processes})

    def _tell(self) -> None:
        secrets = self._folder.secrets
        metrics = {
            child.plan.name: f"http://127.0.0.1:{child.plan.ports['metrics']}/metrics"
            for child in self._children
            if "metrics" in child.plan.ports
        }
        self._say(f"gRPC, gRPC-Web, REST   127.0.0.1:{self._port}")
        for name, address in metrics.items():
            self._say(f"metrics of {name:<12}{address}")
        password = secrets / "demo_password"
        self._say(f"accounts               {SENDER}, {RECEIVER}; their password: {password}")
        self._say(f"secrets                {secrets}")
        self._say(f"ports, process ids     {self._folder.path / 'run.json'}")
        self._say(f"logs                   {self._folder.logs}")
        chat = f"HUBBUB_PORT={self._port} {Path(sys.executable).with_name('hubbub')} chat"
        for me, peer in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
            self._say(f"talk as {me:<15}{chat} {me} {peer} --password-file {password}")
        self._say("ready")
