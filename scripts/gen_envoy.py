"""Writes envoy/envoy.json: what `hubbub up --nodes 3` gives to Envoy, at fixed addresses, to read and start from."""

import json
from pathlib import Path

from hubbub_server.supervisor.envoy_config import EnvoyPlan, render
from scripts.gen import REPO

TARGET = REPO / "envoy" / "envoy.json"


def rendered() -> str:
    """Returns the file's content. Paths in it are relative to the checkout."""
    plan = EnvoyPlan(
        port=8080,
        admin_port=9901,
        node_ports=(50051, 50052, 50053),
        cors_origins=("http://localhost:5173",),
        descriptor_path=Path("proto/gen/hubbub.pb"),
        access_log_path=Path("/dev/stdout"),
    )
    return json.dumps(render(plan), indent=2) + "\n"


if __name__ == "__main__":
    TARGET.write_text(rendered(), encoding="utf-8")
