"""Writes Envoy's configurations that are kept: one to read and to start from, and the one of compose.yaml.

envoy/envoy.json   what `hubbub up --nodes 3` gives to Envoy, at fixed addresses
deploy/envoy.json  the same in front of the nodes of compose.yaml
"""

import json
from dataclasses import replace
from pathlib import Path

from hubbub_server.supervisor.envoy_config import EnvoyPlan, render
from scripts.gen import REPO

_EXAMPLE = EnvoyPlan(
    port=8080,
    admin_port=9901,
    node_ports=(50051, 50052, 50053),
    stream_ports=(50061, 50062, 50063),
    cors_origins=("http://localhost:5173",),
    descriptor_path=Path("proto/gen/hubbub.pb"),  # relative to the checkout
)
_COMPOSE = replace(
    _EXAMPLE,
    listen_host="0.0.0.0",
    node_hosts=("node-1", "node-2", "node-3"),
    node_ports=(50051, 50051, 50051),
    stream_ports=(50052, 50052, 50052),
    descriptor_path=Path("/etc/hubbub/hubbub.pb"),
)
PLANS = {"envoy/envoy.json": _EXAMPLE, "deploy/envoy.json": _COMPOSE}


def rendered() -> dict[Path, str]:
    """Returns the content of each file."""
    return {REPO / name: json.dumps(render(plan), indent=2) + "\n" for name, plan in PLANS.items()}


if __name__ == "__main__":
    for path, content in rendered().items():
        path.write_text(content, encoding="utf-8")
