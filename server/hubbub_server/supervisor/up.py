"""`hubbub up`: starts everything in order, keeps it running, stops it in order.

Order: the servers (NATS, Valkey, and if asked for Cassandra), the tables, the workers (they make streams, and the
schema of SQLite), the nodes, Envoy; then one message from end to end, and only then "ready". Backwards at the end: the
nodes first, so that streams hear Goodbye through Envoy.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from hubbub_server.supervisor import ports
from hubbub_server.supervisor.cassandra_servers import NoCassandra, are_fetched
from hubbub_server.supervisor.child import Child, ChildFailed, ChildPlan, run_to_its_end
from hubbub_server.supervisor.data_folder import DataFolder, FolderTaken
from hubbub_server.supervisor.first_message import RECEIVER, SENDER, NoMessage, send_first_message
from hubbub_server.supervisor.programs import CannotStart, Programs, UpPlan, plan_programs

_FIRST_MESSAGE_TIMEOUT_S: Final = 60.0
_LOG_CHECK_INTERVAL_S: Final = 10.0


def run_up(plan: UpPlan, *, say: Callable[[str], None]) -> None:
    """Runs an instance until SIGINT, SIGTERM or SIGHUP. `say` gets lines for the terminal.

    Raises:
        CannotStart: port or folder are taken, a program is missing or does not start, or no message goes through.
    """
    if plan.port and not ports.is_free(plan.port):
        raise CannotStart(f"port {plan.port} is in use; set HUBBUB_PORT to another one")
    try:
        folder = DataFolder(plan.data)
    except OSError as error:
        raise CannotStart(f"cannot use the folder {plan.data}: {error.strerror}") from error
    try:
        with folder.locked():
            folder.make_secrets()
            port = plan.port or ports.find_free(1)[0]
            if plan.cassandra and not are_fetched():
                say("fetching Cassandra with Maven, once")
            programs = plan_programs(folder, plan, port=port)
            asyncio.run(_Instance(folder, programs, port, say).run())
    except* (FolderTaken, NoCassandra, ChildFailed, NoMessage) as errors:
        raise CannotStart(str(_first(errors))) from errors


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _Instance:
    """The running programs. Closed from outside by a signal, from inside by a program that cannot be started."""

    def __init__(self, folder: DataFolder, programs: Programs, port: int, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._programs = programs
        self._port = port
        self._say = say
        self._children: list[Child] = []

    async def run(self) -> None:
        stopped = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, stopped.set)
        async with asyncio.TaskGroup() as group:
            logs = group.create_task(self._bound_logs())
            starting = group.create_task(self._start(group))
            await stopped.wait()
            self._say("stopping")
            starting.cancel()
            await self._stop()
            logs.cancel()

    async def _start(self, group: asyncio.TaskGroup) -> None:
        programs = self._programs
        for servers in programs.servers:
            await self._begin(servers, group)
        if programs.migration is not None:
            migrate = (sys.executable, "-m", "hubbub_server", "migrate")
            await run_to_its_end("migrate", migrate, programs.migration, log=self._folder.log_of("migrate"))
        for step in (programs.workers, programs.nodes, (programs.envoy,)):
            await self._begin(step, group)
        await send_first_message(
            self._port, password=self._folder.read_secret("demo_password"), timeout_s=_FIRST_MESSAGE_TIMEOUT_S
        )
        self._tell()

    async def _begin(self, plans: Sequence[ChildPlan], group: asyncio.TaskGroup) -> None:
        """Starts programs together and waits until all are ready."""
        begun = []
        for plan in plans:
            name = plan.name
            child = Child(
                plan, log=self._folder.log_of(name), hold=self._folder.hold_of(name), on_change=self._write_run
            )
            group.create_task(child.keep_running(), name=name)
            begun.append(child)
        self._children += begun
        for child in begun:
            await child.wait_ready()

    async def _stop(self) -> None:
        """Stops programs in the order of their need of each other."""
        for roles in (("node",), ("envoy",), ("worker",), ("nats", "cassandra", "valkey")):
            await asyncio.gather(*(child.stop() for child in self._children if child.plan.role in roles))

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
                "host": child.plan.host,
                **{f"{name}_port": port for name, port in child.plan.ports.items()},
                "data": str(child.plan.data or ""),
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
        for child in self._children:
            if child.plan.role in ("nats", "cassandra", "valkey") and len(self._programs.servers[0]) > 1:
                addresses = (f"{name} {child.plan.host}:{port}" for name, port in child.plan.ports.items())
                self._say(f"{child.plan.name:<23}{', '.join(addresses)}")
        password = secrets / "demo_password"
        self._say(f"accounts               {SENDER}, {RECEIVER}; their password: {password}")
        self._say(f"secrets                {secrets}")
        self._say(f"ports, process ids     {self._folder.path / 'run.json'}")
        self._say(f"logs                   {self._folder.logs}")
        chat = f"HUBBUB_PORT={self._port} {Path(sys.executable).with_name('hubbub')} chat"
        for me, peer in ((SENDER, RECEIVER), (RECEIVER, SENDER)):
            self._say(f"talk as {me:<15}{chat} {me} {peer} --password-file {password}")
        self._say("ready")
