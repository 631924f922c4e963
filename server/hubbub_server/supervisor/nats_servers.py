"""The NATS servers of an instance: one, or several that replicate every stream."""

import json
import os
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hubbub_server.supervisor.child import ChildPlan, names_of
from hubbub_server.supervisor.data_folder import DataFolder

_USER: Final = "hubbub"


def plan_nats(folder: DataFolder, client_ports: Sequence[int], other_ports: Sequence[int]) -> list[ChildPlan]:
    """Writes the configuration of as many servers as there are client ports; each takes two of the other ports.

    A server is known to the others by its name, so ports may differ from start to start.
    """
    names = names_of("nats", len(client_ports))
    http_ports, route_ports = other_ports[: len(names)], other_ports[len(names) :]
    password = folder.read_secret("nats_password")
    plans = []
    for index, name in enumerate(names):
        data = folder.nats if len(names) == 1 else folder.nats / name
        data.mkdir(mode=0o700, exist_ok=True)
        config = folder.config / f"{name}.conf"
        routes = "" if len(names) == 1 else _routes(route_ports[index], route_ports, password)
        folder.write(
            config,
            f"""server_name: hubbub-{name}
listen: "127.0.0.1:{client_ports[index]}"
http: "127.0.0.1:{http_ports[index]}"
# A PubAck is a promise of the disk, not of the page cache.
jetstream {{ store_dir: {json.dumps(str(data))}, sync_interval: always }}
authorization {{ user: {_USER}, password: {json.dumps(password)} }}
{routes}""",
        )
        plans.append(
            ChildPlan(
                role="nats",
                name=name,
                argv=(str(Path(sysconfig.get_path("scripts")) / "nats-server"), "-c", str(config)),
                environment=os.environ,
                ports={"client": client_ports[index], "http": http_ports[index]},
                ready_port=http_ports[index],
                ready_path="/healthz",
                stop_timeout_s=5,
                data=data,
            )
        )
    return plans


def nats_url(password: str, port: int) -> str:
    """Returns the address of a server for its clients."""
    return f"nats://{_USER}:{password}@127.0.0.1:{port}"


def _routes(port: int, all_ports: Sequence[int], password: str) -> str:
    routes = json.dumps([nats_url(password, each) for each in all_ports])
    # Clients have all addresses. Told by the servers, they would go around what is put between for tests.
    return f"""cluster {{
  name: hubbub
  listen: "127.0.0.1:{port}"
  authorization {{ user: {_USER}, password: {json.dumps(password)} }}
  routes: {routes}
  no_advertise: true
}}
"""
