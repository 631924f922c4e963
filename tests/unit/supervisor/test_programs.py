"""What the programs of an instance are started with."""

from pathlib import Path

from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.programs import plan_programs


def test_nats_syncs_before_it_acknowledges(tmp_path: Path) -> None:
    """G1: without it an acknowledgement is a promise of the page cache, and a power cut takes it back."""
    folder = DataFolder(tmp_path / "var")
    folder.make_secrets()

    plan_programs(folder, port=8080, nodes=1, cors_origins=[], nats_port=0, node_nats_servers=[])

    assert "sync_interval: always" in (folder.config / "nats.conf").read_text()
