"""Starts real servers for tests: nats-server, one or three, with JetStream on disk; CQL and Valkey have own modules.

Servers die with their parent, keep their ports and data over `kill` and `start`, and are gone, data too, when their
context ends.
"""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from hubbub_server.supervisor.cassandra_servers import missing_programs
from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free

if TYPE_CHECKING:
    from tests.support.cassandra import CassandraServer
    from tests.support.valkey import ValkeyServer

NATS_SERVER = Path(sys.executable).parent / "nats-server"
_READY_TIMEOUT_S = 20.0


def require_cassandra() -> None:
    """Skips the test where Java or Maven are missing, fails it in CI."""
    if missing := missing_programs():
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"cql: no CQL server without {missing}")


class NatsServer:
    """One nats-server process; `start` after `kill` goes on with the same data."""

    def __init__(self, folder: Path, *, name: str, port: int, cluster: str = "") -> None:
        """Writes the configuration; `cluster` is a cluster block or nothing."""
        self.port = port
        self.url = f"nats://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        self.data = folder / name
        self._config = folder / f"{name}.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self._config.write_text(
            f"server_name: {name}\n"
            f"listen: 127.0.0.1:{port}\n"
            f"jetstream {{ store_dir: {str(self.data)!r}, sync_interval: always }}\n"
            f"{cluster}\n"
        )

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process; `wait_ready` tells when it serves."""
        assert self._process is None
        self._process = subprocess.Popen(
            leashed(NATS_SERVER, "-c", self._config, "-l", self.log),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def kill(self) -> None:
        """Kills it with SIGKILL, if it runs; the data stays."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Ends it as an operator does, with SIGTERM: it writes what it knows, and trusts that when it starts again."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait()
        self._process = None

    def freeze(self) -> None:
        """Stops it with SIGSTOP: connections stay open, nothing answers."""
        self._process_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        self._process_signal(signal.SIGCONT)

    def _process_signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    async def wait_ready(self) -> None:
        """Waits until clients can connect and JetStream has recovered its streams."""
        async with asyncio.timeout(_READY_TIMEOUT_S):
            while not await self._accepts():
                assert self._process is not None
                if self._process.poll() is not None:
                    raise RuntimeError(f"nats-server ended with {self._process.returncode}: {self.log.read_text()}")
                await asyncio.sleep(0.02)

    async def _accepts(self) -> bool:
        # The client port opens last, after JetStream has recovered.
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        except OSError:
            return False
        writer.close()
        return True


class NatsCluster:
    """One or three servers that belong together."""

    def __init__(self, servers: list[NatsServer]) -> None:
        """Takes servers that were not started."""
        self.servers = servers

    @property
    def urls(self) -> list[str]:
        """Addresses of all servers."""
        return [server.url for server in self.servers]

    @property
    def replicas(self) -> int:
        """How many replicas a stream can have."""
        return len(self.servers)

    def start(self) -> None:
        """Starts the servers that do not run."""
        for server in self.servers:
            if server._process is None:
                server.start()

    def kill(self) -> None:
        """Kills all servers; their data stays."""
        for server in self.servers:
            server.kill()

    async def wait_ready(self) -> None:
        """Waits until all servers accept clients; a leader may still have to be found."""
        for server in self.servers:
            await server.wait_ready()


@contextmanager
def nats_cluster(size: int) -> Iterator[NatsCluster]:
    """Starts `size` (1 or 3) servers in a folder of their own; does not wait for them."""
    folder = Path(tempfile.mkdtemp(prefix="hubbub-nats-"))
    client_ports, route_ports = _split(find_free(2 * size), size)
    routes = ", ".join(f"nats://127.0.0.1:{port}" for port in route_ports)
    servers = [
        NatsServer(
            folder,
            name=f"n{index}",
            port=client_ports[index],
            # Clients must not learn addresses that bypass a proxy.
            cluster=""
            if size == 1
            else f"cluster {{ name: test, listen: '127.0.0.1:{route_ports[index]}', routes: [{routes}],"
            " no_advertise: true }",
        )
        for index in range(size)
    ]
    cluster = NatsCluster(servers)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.kill()
        shutil.rmtree(folder, ignore_errors=True)


@asynccontextmanager
async def ready_nats_cluster(size: int) -> AsyncIterator[NatsCluster]:
    """Starts servers as `nats_cluster` does and waits until they accept clients."""
    with nats_cluster(size) as cluster:
        await cluster.wait_ready()
        yield cluster


class Services:
    """Servers and folders that the tests of one run share; started when first asked for."""

    def __init__(self) -> None:
        """Starts nothing yet."""
        self._stack = ExitStack()
        self._nats: dict[int, NatsCluster] = {}
        self._cassandra: CassandraServer | None = None
        self._valkey: ValkeyServer | None = None

    def __enter__(self) -> Self:
        """Nothing to open."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Ends all servers and removes all folders."""
        self._stack.close()

    def nats(self, size: int) -> NatsCluster:
        """Returns the shared cluster of this size, running; it may need a moment before it answers."""
        if size not in self._nats:
            self._nats[size] = self._stack.enter_context(nats_cluster(size))
        self._nats[size].start()
        return self._nats[size]

    def cassandra(self) -> "CassandraServer":
        """Returns the shared CQL server, ready; see `require_cassandra`."""
        from tests.support import cassandra

        require_cassandra()
        if self._cassandra is None:
            self._cassandra = self._stack.enter_context(cassandra.cassandra_server())
        self._cassandra.start()  # a test that failed may have left it dead
        self._cassandra.wait_ready()
        return self._cassandra

    def valkey(self) -> "ValkeyServer":
        """Returns the shared Valkey server, running."""
        from tests.support import valkey

        if self._valkey is None:
            self._valkey = self._stack.enter_context(valkey.valkey_server())
        self._valkey.start()
        return self._valkey

    def folder(self) -> Path:
        """Returns a new empty folder."""
        return Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="hubbub-test-")))


def _split(ports: list[int], size: int) -> tuple[list[int], list[int]]:
    return ports[:size], ports[size:]
