"""Starts a real CQL server for tests: Apache Cassandra, one node on the loopback, as `hubbub up` starts it.

A server takes about seven seconds to boot; it dies with its parent, keeps ports and data over `kill` and `start`, and
is gone, data too, when its context ends.
"""

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

from cassandra.cluster import Cluster, Session

from hubbub_server.adapters.cql.cluster import CqlEndpoint, new_cluster
from hubbub_server.adapters.cql.schema import migrate
from hubbub_server.supervisor.cassandra_servers import DATACENTER, CassandraPlan, fetch_jars, prepare
from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free
from tests.support.waiting import wait_until

KEYSPACE: Final = "hubbub_test"
_READY_TIMEOUT_S: Final = 180.0

_TABLES: Final = (
    *("events", "messages", "message_ids", "conversations", "user_topics", "mentions", "mentions_by_time"),
    *("timed_mentions", "timed_mention_buckets"),
    *("readers", "deliveries", "applied_shards"),
)


class CassandraServer:
    """One Cassandra process; `start` after `kill` goes on with the same data."""

    def __init__(self, folder: Path) -> None:
        """Writes the configuration into `folder`, where data and log will be too."""
        self.port, storage_port = find_free(2)
        self.log = folder / "cassandra.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Cluster | None = None
        self._plan = CassandraPlan(folder=folder, port=self.port, storage_port=storage_port)

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process, if it does not run; `wait_ready` tells when it serves. It dies with this thread."""
        if self._process is not None:
            return
        command = leashed(*prepare(self._plan, fetch_jars()))
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def endpoint(self) -> CqlEndpoint:
        """Where it is; the keyspace is there after `empty_tables`."""
        return CqlEndpoint(contact_points=("127.0.0.1",), port=self.port, datacenter=DATACENTER, keyspace=KEYSPACE)

    def empty_tables(self) -> None:
        """Makes the tables, or removes all that is in them; blocks."""
        session = self.admin()
        for done in [session.execute_async(f"TRUNCATE {table}", timeout=60) for table in _TABLES]:
            done.result()

    def admin(self) -> Session:
        """Returns the driver's session in the keyspace, for what the adapter does not do; blocks."""
        if self._admin is None:
            migrate(self.endpoint)
            self._admin = new_cluster(self.endpoint)
            self._admin_session = self._admin.connect(KEYSPACE)
        return self._admin_session

    def kill(self) -> None:
        """Kills it with SIGKILL, if it runs; the data stays."""
        if self._admin is not None:
            self._admin.shutdown()
            self._admin = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        """Stops it with SIGSTOP: connections stay open, nothing answers."""
        os.kill(self.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Lets it go on."""
        os.kill(self.pid, signal.SIGCONT)

    def wait_ready(self) -> None:
        """Waits until it answers CQL."""
        process = self._process
        assert process is not None
        wait_until(lambda: process.poll() is not None or self._answers(), _READY_TIMEOUT_S)
        if process.returncode is not None:
            raise RuntimeError(f"cassandra does not serve: {self.log.read_text()[-4_000:]}")

    def _answers(self) -> bool:
        # The CQL port opens last, when the server is ready for clients.
        with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1.0):
            return True
        return False


@contextmanager
def cassandra_server() -> Iterator[CassandraServer]:
    """Starts a server in a folder of its own and waits until it answers."""
    folder = Path(tempfile.mkdtemp(prefix="hubbub-cassandra-"))
    server = CassandraServer(folder)
    try:
        server.start()
        server.wait_ready()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
