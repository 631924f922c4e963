"""Programs that are kept running: restarts, failed starts, and nothing left behind."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from hubbub_server.supervisor import ports
from hubbub_server.supervisor.child import Child, ChildFailed, ChildPlan, run_to_its_end
from hubbub_server.supervisor.data_folder import DataFolder, FolderTaken

SERVER = """
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(str(os.getpid()).encode())
    def log_message(self, *_): pass
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
TALKER = """
import socket, sys
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as server:
    while True: server.accept()[0].close()
"""
STUBBORN = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SERVER
FAMILY = "import subprocess, sys; subprocess.Popen(['sleep', '600'])\n" + SERVER
PATIENCE_S = 20.0


def mended_later(folder: Path, until_then: str) -> str:
    """A server that serves at once in its first life, and in later ones only when it is mended."""
    return f"""
import pathlib, sys, time
folder = pathlib.Path({str(folder)!r})
is_first = not (folder / "lived").exists()
(folder / "lived").touch()
while not is_first and not (folder / "mended").exists():
    {until_then}
{SERVER}"""


def make_plan(
    program: str, *, ready_path: str = "/", stop_timeout_s: float = 5.0, start_timeout_s: float = 60.0
) -> ChildPlan:
    (port,) = ports.find_free(1)
    return ChildPlan(
        role="thing",
        name="thing",
        argv=(sys.executable, "-c", program, str(port)),
        environment=os.environ,
        ports={"http": port},
        ready_port=port,
        ready_path=ready_path,
        stop_timeout_s=stop_timeout_s,
        start_timeout_s=start_timeout_s,
    )


@asynccontextmanager
async def kept_running(folder: Path, plan: ChildPlan) -> AsyncIterator[Child]:
    child = Child(plan, log=folder / "thing.log", hold=folder / "hold", on_change=lambda: None)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        running = group.create_task(child.keep_running())
        try:
            yield child
        finally:
            running.cancel()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110  # processes tell nobody
            await asyncio.sleep(0.02)


def lives(pid: int) -> bool:
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def children_of(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def pid_of(child: Child) -> int:
    assert child.pid is not None
    return child.pid


@pytest.mark.asyncio
async def test_a_killed_program_runs_again_on_the_same_port(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(SERVER)) as child:
        await child.wait_ready()
        first = pid_of(child)
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid not in (None, first))
        await child.wait_ready()
        assert child.restarts == 1


@pytest.mark.asyncio
async def test_a_program_that_cannot_start_five_times_ends_it_with_the_tail_of_its_log(tmp_path: Path) -> None:
    plan = make_plan("import sys; sys.exit('the disk is on fire')")
    child = Child(plan, log=tmp_path / "thing.log", hold=tmp_path / "hold", on_change=lambda: None)
    async with asyncio.timeout(PATIENCE_S):
        with pytest.raises(ChildFailed, match="the disk is on fire"):
            await child.keep_running()
    assert (tmp_path / "thing.log").read_text().count("the disk is on fire") == 5


@pytest.mark.asyncio
async def test_a_program_that_was_ready_once_is_started_until_it_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G8: what it cannot start without, a log or a store, may be away for longer than five starts take."""
    monkeypatch.setattr("hubbub_server.supervisor.child._BACK_OFF_MAX_S", 0.05)
    async with kept_running(tmp_path, make_plan(mended_later(tmp_path, "sys.exit('no log')"))) as child:
        await child.wait_ready()
        os.kill(pid_of(child), signal.SIGKILL)
        await until(lambda: child.restarts > 6)
        (tmp_path / "mended").touch()
        await child.wait_ready()


@pytest.mark.asyncio
async def test_a_program_that_was_ready_once_may_take_long_to_be_ready_again(tmp_path: Path) -> None:
    """A NATS server without a quorum is not ready; ended for that, it could not help to make one."""
    plan = make_plan(mended_later(tmp_path, "time.sleep(0.02)"), start_timeout_s=2.0)
    async with kept_running(tmp_path, plan) as child:
        await child.wait_ready()
        first = pid_of(child)
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid not in (None, first))
        second = pid_of(child)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(2.5):
                await child.wait_ready()
        (tmp_path / "mended").touch()
        await child.wait_ready()
        assert child.pid == second


@pytest.mark.asyncio
async def test_a_held_program_stays_down_until_it_is_released(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(SERVER)) as child:
        await child.wait_ready()
        (tmp_path / "hold").touch()
        first = pid_of(child)
        os.kill(first, signal.SIGKILL)
        await until(lambda: child.pid is None)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await child.wait_ready()
        assert child.pid is None
        (tmp_path / "hold").unlink()
        await child.wait_ready()
        assert pid_of(child) != first


@pytest.mark.asyncio
async def test_a_held_program_can_be_stopped(tmp_path: Path) -> None:
    (tmp_path / "hold").touch()
    child = Child(make_plan(SERVER), log=tmp_path / "thing.log", hold=tmp_path / "hold", on_change=lambda: None)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(child.keep_running())
        await asyncio.sleep(0)  # one turn: it has begun
        await child.stop()
    assert not (tmp_path / "thing.log").exists()


@pytest.mark.asyncio
async def test_a_program_that_speaks_no_http_is_ready_when_its_port_is_open(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(TALKER, ready_path="")) as child:
        await child.wait_ready()


@pytest.mark.asyncio
async def test_a_program_that_runs_to_its_end_tells_how_it_failed(tmp_path: Path) -> None:
    log = tmp_path / "task.log"
    await run_to_its_end("task", (sys.executable, "-c", "print('done')"), os.environ, log=log)
    with pytest.raises(ChildFailed, match=r"(?s)task failed.*no such table"):
        await run_to_its_end("task", (sys.executable, "-c", "exit('no such table')"), os.environ, log=log)


@pytest.mark.asyncio
async def test_stopping_ends_the_program_and_it_stays_ended(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(SERVER)) as child:
        await child.wait_ready()
        pid = pid_of(child)
        await child.stop()
        await until(lambda: child.pid is None)
        assert not lives(pid)


@pytest.mark.asyncio
async def test_stopping_while_the_program_is_being_made_ends_it_too(tmp_path: Path) -> None:
    child = Child(make_plan(SERVER), log=tmp_path / "thing.log", hold=tmp_path / "hold", on_change=lambda: None)
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        running = group.create_task(child.keep_running())
        await asyncio.sleep(0)  # one turn: it has begun
        await child.stop()
        await running
    assert child.pid is None


@pytest.mark.asyncio
async def test_a_program_that_ignores_the_request_is_killed(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(STUBBORN, stop_timeout_s=0.2)) as child:
        await child.wait_ready()
        pid = pid_of(child)
        await child.stop()
        await until(lambda: not lives(pid))


@pytest.mark.asyncio
async def test_children_of_a_program_die_with_it(tmp_path: Path) -> None:
    async with kept_running(tmp_path, make_plan(FAMILY)) as child:
        await child.wait_ready()
        pid = pid_of(child)
        (grandchild,) = children_of(pid)
        await child.stop()
        await until(lambda: not lives(grandchild))


@pytest.mark.asyncio
async def test_programs_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    """Ctrl-C leaves no process, and neither does kill -9."""
    supervisor = f"""
import asyncio, os, sys
from pathlib import Path
from hubbub_server.supervisor.child import Child
from tests.integration.test_supervisor import SERVER, make_plan
async def main():
    folder = Path({str(tmp_path)!r})
    child = Child(make_plan(SERVER), log=folder / "thing.log", hold=folder / "hold", on_change=lambda: None)
    asyncio.ensure_future(child.keep_running())
    await child.wait_ready()
    print(child.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", supervisor, cwd=Path(__file__).parents[2], stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            pid = int(await process.stdout.readline())
    finally:
        process.kill()
        await process.wait()
    await until(lambda: not lives(pid))


def test_a_folder_has_one_instance_at_a_time(tmp_path: Path) -> None:
    first, second = DataFolder(tmp_path), DataFolder(tmp_path)
    with first.locked(), pytest.raises(FolderTaken, match=str(os.getpid())), second.locked():
        pass
    with second.locked():
        pass


def test_secrets_are_made_once_and_are_the_owners_alone(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path / "var")
    folder.make_secrets()
    before = {path.name: path.read_bytes() for path in folder.secrets.iterdir()}
    assert {path.stat().st_mode & 0o777 for path in folder.secrets.iterdir()} == {0o600}
    assert folder.secrets.stat().st_mode & 0o777 == 0o700
    (folder.secrets / "refresh_key").unlink()
    folder.make_secrets()
    after = {path.name: path.read_bytes() for path in folder.secrets.iterdir()}
    assert {name for name in before if before[name] != after[name]} == {"refresh_key"}


def test_logs_are_bounded_and_keep_their_end(tmp_path: Path) -> None:
    folder = DataFolder(tmp_path)
    log = folder.log_of("thing")
    with log.open("ab") as writer:
        writer.truncate(33 * 1024 * 1024)
        writer.write(b"the end\n")
        writer.flush()
        folder.bound_logs()
        assert log.stat().st_size == 0
        writer.write(b"goes on\n")
        writer.flush()
    assert log.read_bytes() == b"goes on\n"
    assert log.with_suffix(".log.1").read_bytes().endswith(b"the end\n")


def test_free_ports_differ_and_can_be_had() -> None:
    found = ports.find_free(50)
    assert len(set(found)) == 50
    assert all(map(ports.is_free, found))
