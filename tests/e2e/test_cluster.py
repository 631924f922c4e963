"""A cluster on one machine, as `make cluster` starts it: what it is made of, what it goes on without, what it keeps."""

import re
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pytest
from uuid_utils import uuid7

from tests.e2e.instance import READY_S, Instance, Person
from tests.support.services import require_cassandra
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)

NAMES = (
    *("nats-1", "nats-2", "nats-3", "valkey", "cassandra"),
    *("worker-1", "worker-2", "node-1", "node-2", "node-3", "envoy"),
)
TAKEN_OVER_S = 30.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Instance]:
    """What `make cluster` starts."""
    require_cassandra()
    with Instance(tmp_path / "var", options=options_of_make_cluster()) as running:
        yield running


def test_cluster_goes_on_without_one_of_each_and_keeps_what_was_said(cluster: Instance, instance: Instance) -> None:
    """G1, G3: a NATS server, a worker and a node are away at once; then all starts again. Another runs beside it."""
    assert cluster.port != instance.port
    assert sorted(process["name"] for process in cluster.run["processes"]) == sorted(NAMES)
    assert replicas(cluster) == {3}
    with Person(cluster.url, "erin") as erin, Person(cluster.url, "frank") as frank:
        room = erin.talk_to(frank)
        assert is_sent(erin, room, str(uuid7()), "all are there")

        holds = [cluster.hold(name) for name in ("nats-1", "worker-1", "node-1")]
        for text in ("three are away", "and more is said"):
            wait_until(partial(is_sent, erin, room, str(uuid7()), text))
        said = ["all are there", "three are away", "and more is said"]
        wait_until(lambda: is_read(frank, room, said))
        wait_until(lambda: units(cluster, "worker-2") == 8, TAKEN_OVER_S)
        for hold in holds:
            hold.unlink()
        wait_until(lambda: all(cluster.process_of(name) for name in NAMES))
        wait_until(lambda: is_read(frank, room, said))

    cluster.interrupt()
    cluster.start()
    with Person(cluster.url, "frank", is_new=False) as again:
        assert again.texts(room) == said
    assert tool(cluster, "nodes").count("alive") == 3
    tool(cluster, "log", "verify")  # fails where log and store differ


def options_of_make_cluster() -> list[str]:
    """Reads what `make cluster` says to `hubbub up`, besides the folder."""
    makefile = (Path(__file__).resolve().parents[2] / "Makefile").read_text()
    found = re.search(r"^cluster:.*\n.*hubbub up (.*) --data", makefile, re.MULTILINE)
    assert found is not None
    return found[1].split()


def is_sent(sender: Person, room: str, client_message_id: str, text: str) -> bool:
    try:
        return sender.send(room, client_message_id, text).status_code == 200
    except httpx.HTTPError:
        return False


def is_read(reader: Person, room: str, texts: list[str]) -> bool:
    try:
        return reader.texts(room) == texts
    except (httpx.HTTPError, AssertionError):
        return False


def replicas(cluster: Instance) -> set[int]:
    """Asks a NATS server how many copies its streams have."""
    server = cluster.process_of("nats-1")
    assert server is not None
    page = httpx.get(f"http://127.0.0.1:{server['http_port']}/jsz?accounts=true&streams=true&config=true").json()
    return {stream["config"]["num_replicas"] for stream in page["account_details"][0]["stream_detail"]}


def units(cluster: Instance, worker: str) -> int:
    """Reads how many shards a worker projects."""
    process = cluster.process_of(worker)
    assert process is not None
    page = httpx.get(f"http://127.0.0.1:{process['metrics_port']}/metrics").text
    found = re.search(r'^hubbub_worker_units\{role="projector"\} (\d+)', page, re.MULTILINE)
    return int(found[1]) if found else 0


def tool(cluster: Instance, *arguments: str) -> str:
    """Runs a command of `hubbub` for the running cluster; it must end well."""
    command = (sys.executable, "-m", "hubbub_server", *arguments, "--data", str(cluster.data))
    return subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=True).stdout
