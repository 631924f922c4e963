"""What the programs of an instance are started with."""

from pathlib import Path

from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.programs import UpPlan, plan_programs


def test_nats_syncs_before_it_acknowledges(tmp_path: Path) -> None:
    """G1: without it an acknowledgement is a promise of the page cache, and a power cut takes it back."""
    folder = DataFolder(tmp_path / "var")
    folder.make_secrets()

    plan = UpPlan(
        data=folder.path,
        port=0,
        nodes=1,
        workers=1,
        nats=3,
        cassandra=0,
        valkey=False,
        cors_origins=[],
        nats_ports=[],
        node_nats_servers=[],
    )
    plan_programs(folder, plan, port=8080)

    for name in ("nats-1", "nats-2", "nats-3"):
        assert "sync_interval: always" in (folder.config / f"{name}.conf").read_text()
