"""Starts a real CQL server for tests: Apache Cassandra from its Maven jars, one node on the loopback.

The jars are fetched once into a cache folder outside the repository. A server takes about seven seconds to boot; it
dies with its parent, keeps ports and data over `kill` and `start`, and is gone, data too, when its context ends.
"""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cassandra.cluster import Cluster, Session

from hubbub_server.adapters.cql.cluster import CqlEndpoint, new_cluster
from hubbub_server.adapters.cql.schema import migrate
from tests.support.services import die_with_parent, free_ports

KEYSPACE: Final = "hubbub_test"
VERSION: Final = "5.0.6"
DATACENTER: Final = "datacenter1"
_READY_TIMEOUT_S: Final = 180.0

_TABLES: Final = ("events", "messages", "message_ids", "conversations", "user_topics", "applied_shards")

_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>hubbub</groupId><artifactId>test-server</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId>
<version>{VERSION}</version></dependency></dependencies></project>
"""

_YAML: Final = """
cluster_name: hubbub-test
num_tokens: 1
initial_token: "-9223372036854775808"
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
# What was applied is acknowledged to the log, so it must survive the server (docs/RESOURCES.md).
commitlog_sync: batch
auto_snapshot: false
listen_address: 127.0.0.1
rpc_address: 127.0.0.1
native_transport_port: {port}
storage_port: {storage_port}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{storage_port}"}}]
data_file_directories: [{data}/data]
commitlog_directory: {data}/commitlog
saved_caches_directory: {data}/saved
hints_directory: {data}/hints
cdc_raw_directory: {data}/cdc
"""

_LOGBACK: Final = """<configuration><appender name="S" class="ch.qos.logback.core.ConsoleAppender"><encoder>
<pattern>%d{HH:mm:ss.SSS} %-5level %logger{20} %msg%n</pattern></encoder></appender>
<root level="INFO"><appender-ref ref="S"/></root></configuration>
"""

_EXPORTS: Final = (
    *("java.base/jdk.internal.misc", "java.base/jdk.internal.ref", "java.base/sun.nio.ch"),
    *("java.management.rmi/com.sun.jmx.remote.internal.rmi", "java.rmi/sun.rmi.registry"),
    *("java.rmi/sun.rmi.server", "java.sql/java.sql", "jdk.attach/sun.tools.attach"),
)
_OPENS: Final = (
    *("java.base/java.lang.module", "java.base/jdk.internal.loader", "java.base/jdk.internal.ref"),
    *("java.base/jdk.internal.reflect", "java.base/jdk.internal.math", "java.base/jdk.internal.module"),
    *("java.base/jdk.internal.util.jar", "jdk.management/com.sun.management.internal", "java.base/sun.nio.ch"),
    *("java.base/java.io", "java.base/java.lang", "java.base/java.lang.reflect", "java.base/java.util"),
    *("java.base/java.util.concurrent", "java.base/java.util.concurrent.atomic", "java.base/java.nio"),
)
_JVM: Final = (
    *("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:MaxDirectMemorySize=256m"),
    "-XX:TieredStopAtLevel=1",  # boots with less CPU
    *(f"--add-exports={package}=ALL-UNNAMED" for package in _EXPORTS),
    *(f"--add-opens={package}=ALL-UNNAMED" for package in _OPENS),
    "-Djava.security.manager=allow",  # from Java 18 on it must be asked for
    "-Dcassandra-foreground=yes",
    # One node: nobody to wait for.
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=1",
    "-Dcassandra.superuser_setup_delay_ms=0",
)


def missing_programs() -> str:
    """Names the programs that a CQL server needs and that are not there; empty when all are."""
    needed = ["java"] if _jars().exists() else ["java", "mvn"]
    return " and ".join(name for name in needed if shutil.which(name) is None)


def fetch_jars() -> Path:
    """Returns the folder with the server's jars, fetching them with Maven the first time."""
    jars = _jars()
    if not jars.exists():
        jars.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jars.parent) as folder:
            (Path(folder) / "pom.xml").write_text(_POM)
            fetched = Path(folder) / "jars"
            command = ["mvn", "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={fetched}"]
            subprocess.run(command, cwd=folder, check=True, timeout=600)
            try:
                fetched.rename(jars)
            except OSError:  # another run was faster
                assert jars.exists()
    return jars


def _jars() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hubbub" / f"cassandra-{VERSION}"


class CassandraServer:
    """One Cassandra process; `start` after `kill` goes on with the same data."""

    def __init__(self, folder: Path) -> None:
        """Writes the configuration into `folder`, where data and log will be too."""
        self.port, storage_port = free_ports(2)
        self.log = folder / "cassandra.log"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: Cluster | None = None
        (folder / "cassandra.yaml").write_text(
            _YAML.format(port=self.port, storage_port=storage_port, data=folder / "data")
        )
        (folder / "logback.xml").write_text(_LOGBACK)

    @property
    def pid(self) -> int:
        """Process id of the running server."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts the process, if it does not run; `wait_ready` tells when it serves. It dies with this thread."""
        if self._process is not None:
            return
        jars = fetch_jars()
        command = [
            *("java", *_JVM, f"-javaagent:{next(jars.glob('jamm-*.jar'))}"),
            f"-Dcassandra.config=file://{self._folder / 'cassandra.yaml'}",
            f"-Dlogback.configurationFile={self._folder / 'logback.xml'}",
            f"-Dcassandra.storagedir={self._folder / 'data'}",
            *("-cp", f"{self._folder}:{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
        ]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # one system call, no lock
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
        deadline_s = time.monotonic() + _READY_TIMEOUT_S
        while not self._answers():
            assert self._process is not None
            if self._process.poll() is not None or time.monotonic() > deadline_s:
                raise RuntimeError(f"cassandra does not serve: {self.log.read_text()[-4_000:]}")
            time.sleep(0.1)

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
