"""Apache Cassandra on the loopback, from its Maven jars: the CQL store of a cluster on one machine, and of the tests.

One server, or three on 127.0.0.1, .2 and .3, which know each other by address and port: the ports are kept in the data
folder. Nobody is asked for a password: whoever may open ports of this machine may read the store.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hubbub_server.supervisor.child import ChildPlan, names_of
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free, is_free

DATACENTER: Final = "datacenter1"
_VERSION: Final = "5.0.6"
_FETCH_TIMEOUT_S: Final = 900.0
_TOKENS: Final = 2**64

_POM: Final = f"""<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>
<groupId>hubbub</groupId><artifactId>cassandra</artifactId><version>1</version><packaging>pom</packaging>
<dependencies><dependency><groupId>org.apache.cassandra</groupId><artifactId>cassandra-all</artifactId>
<version>{_VERSION}</version></dependency></dependencies></project>
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
    # All servers begin together, with tokens of their own: nobody to wait for.
    "-Dcassandra.skip_wait_for_gossip_to_settle=0",
    "-Dcassandra.ring_delay_ms=1",
    "-Dcassandra.superuser_setup_delay_ms=0",
    "-Dcassandra.consistent.rangemovement=false",
)


class NoCassandra(Exception):
    """Cassandra cannot be run here; the text says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CassandraPlan:
    """One server of `size`; `index` counts from 0, and server 0 is the one that the others ask."""

    folder: Path
    port: int
    storage_port: int
    index: int = 0
    size: int = 1

    @property
    def host(self) -> str:
        """Its address."""
        return f"127.0.0.{self.index + 1}"


def missing_programs() -> str:
    """Names the programs that a CQL server needs and that are not there; empty when all are."""
    needed = ["java"] if _jars().exists() else ["java", "mvn"]
    return " and ".join(name for name in needed if shutil.which(name) is None)


def fetch_jars() -> Path:
    """Returns the folder with the server's jars, fetching them with Maven the first time; blocks.

    Raises:
        NoCassandra: Java or Maven are missing, or Maven failed.
    """
    if missing := missing_programs():
        raise NoCassandra(
            f"Cassandra needs {missing}: install Java 17 and Maven (apt install default-jre-headless maven)"
        )
    jars = _jars()
    if not jars.exists():
        jars.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=jars.parent) as folder:
            fetched = Path(folder) / "jars"
            _run_maven(Path(folder), fetched)
            try:
                fetched.rename(jars)
            except OSError:  # another run was faster
                if not jars.exists():
                    raise
    return jars


def are_fetched() -> bool:
    """Tells whether the jars are on this machine."""
    return _jars().exists()


def prepare(plan: CassandraPlan, jars: Path) -> list[str]:
    """Writes the configuration into the server's folder and returns its command."""
    plan.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    config, logback = plan.folder / "cassandra.yaml", plan.folder / "logback.xml"
    config.write_text(_yaml(plan))
    logback.write_text(_LOGBACK)
    return [
        *(shutil.which("java") or "java", *_JVM, f"-javaagent:{next(jars.glob('jamm-*.jar'))}"),
        f"-Dcassandra.config={config.as_uri()}",
        f"-Dlogback.configurationFile={logback.as_uri()}",
        f"-Dcassandra.storagedir={plan.folder / 'data'}",
        *("-cp", f"{jars}/*", "org.apache.cassandra.service.CassandraDaemon"),
    ]


def plan_cassandra(folder: DataFolder, size: int, taken_ports: Collection[int]) -> list[ChildPlan]:
    """Returns how to start `size` servers; the first must be ready before the others start. May fetch the jars.

    Raises:
        NoCassandra: it cannot be run here.
    """
    if not size:
        return []
    jars = fetch_jars()
    port, storage_port = _kept_ports(folder, taken_ports)
    plans = []
    for index, name in enumerate(names_of("cassandra", size)):
        data = folder.cassandra / name
        server = CassandraPlan(folder=data, port=port, storage_port=storage_port, index=index, size=size)
        plans.append(
            ChildPlan(
                role="cassandra",
                name=name,
                argv=prepare(server, jars),
                environment=os.environ,
                ports={"cql": port, "storage": storage_port},
                ready_port=port,  # it opens last, when the server is ready for clients
                ready_path="",
                stop_timeout_s=15,
                host=server.host,
                data=data,
            )
        )
    return plans


def _kept_ports(folder: DataFolder, taken: Collection[int]) -> list[int]:
    """Returns the ports of the last start if they are free: servers find each other again by them."""
    kept = folder.cassandra / "ports.json"
    if kept.exists():
        ports: list[int] = json.loads(kept.read_text())
        if all(is_free(port) and port not in taken for port in ports):
            return ports
    ports = find_free(2, besides=taken)
    folder.write(kept, json.dumps(ports))
    return ports


def _yaml(plan: CassandraPlan) -> str:
    def place(name: str) -> str:
        return json.dumps(str(plan.folder / "data" / name))

    return f"""cluster_name: hubbub
num_tokens: 1
initial_token: "{plan.index * _TOKENS // plan.size - _TOKENS // 2}"
auto_bootstrap: false
partitioner: org.apache.cassandra.dht.Murmur3Partitioner
endpoint_snitch: SimpleSnitch
# What was applied is acknowledged to the log, so it must survive the server (docs/RESOURCES.md).
commitlog_sync: batch
auto_snapshot: false
listen_address: {plan.host}
rpc_address: {plan.host}
native_transport_port: {plan.port}
storage_port: {plan.storage_port}
seed_provider:
  - class_name: org.apache.cassandra.locator.SimpleSeedProvider
    parameters: [{{seeds: "127.0.0.1:{plan.storage_port}"}}]
data_file_directories: [{place("data")}]
commitlog_directory: {place("commitlog")}
saved_caches_directory: {place("saved")}
hints_directory: {place("hints")}
cdc_raw_directory: {place("cdc")}
"""


def _run_maven(folder: Path, target: Path) -> None:
    (folder / "pom.xml").write_text(_POM)
    maven = str(shutil.which("mvn"))
    command = leashed(maven, "-q", "-B", "dependency:copy-dependencies", f"-DoutputDirectory={target}")
    try:
        subprocess.run(command, cwd=folder, check=True, timeout=_FETCH_TIMEOUT_S, capture_output=True, text=True)
    except subprocess.TimeoutExpired as error:
        raise NoCassandra(f"Maven did not fetch Cassandra within {_FETCH_TIMEOUT_S:.0f} s") from error
    except subprocess.CalledProcessError as error:
        raise NoCassandra(f"Maven could not fetch Cassandra:\n{error.stdout[-2_000:]}") from error


def _jars() -> Path:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "hubbub" / f"cassandra-{_VERSION}"
