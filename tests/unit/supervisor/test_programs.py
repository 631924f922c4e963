"""What the programs of an instance are started with."""

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from hubbub_server.config import WorkerSettings
from hubbub_server.supervisor.cassandra_servers import CassandraPlan, NoCassandra, fetch_jars, prepare
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.supervisor.programs import CannotStart, Programs, UpPlan, plan_programs

ALONE = UpPlan(
    data=Path("var"),
    port=0,
    nodes=1,
    workers=1,
    nats=1,
    cassandra=0,
    valkey=True,
    cors_origins=[],
    nats_ports=[],
    node_nats_servers=[],
)


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    """A new data folder."""
    folder = DataFolder(tmp_path / "var")
    folder.make_secrets()
    return folder


@pytest.fixture
def plan_with(folder: DataFolder) -> Callable[..., Programs]:
    """Plans one of each, unless it is said how many."""
    return lambda **numbers: plan_programs(folder, replace(ALONE, **numbers), port=8080)


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What Maven would have fetched, and a Java."""
    jars = tmp_path / "cache" / "hubbub" / "cassandra-5.0.6"
    jars.mkdir(parents=True)
    (jars / "jamm-0.4.0.jar").touch()
    (tmp_path / "java").touch(mode=0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    return jars


@pytest.mark.parametrize("servers", [1, 3])
def test_nats_syncs_before_it_acknowledges(
    folder: DataFolder, plan_with: Callable[..., Programs], servers: int
) -> None:
    """G1: without it an acknowledgement is a promise of the page cache, and a power cut takes it back."""
    plan_with(nats=servers)

    configs = list(folder.config.glob("nats*.conf"))
    assert len(configs) == servers
    assert all("sync_interval: always" in config.read_text() for config in configs)


def test_every_program_has_a_name_folder_and_port_of_its_own(plan_with: Callable[..., Programs], jars: Path) -> None:
    programs = plan_with(nats=3, cassandra=3, valkey=True, workers=2, nodes=3)

    every = [*programs.servers[0], *programs.servers[1], *programs.workers, *programs.nodes, programs.envoy]
    assert [plan.name for plan in every] == [
        *("nats-1", "nats-2", "nats-3", "valkey", "cassandra-1", "cassandra-2", "cassandra-3"),
        *("worker-1", "worker-2", "node-1", "node-2", "node-3", "envoy"),
    ]
    addresses = Counter((plan.host, port) for plan in every for port in plan.ports.values())
    assert set(addresses.values()) == {1}
    assert len({plan.data for plan in every if plan.data}) == 6
    assert [plan.environment["HUBBUB_WORKER__NAME"] for plan in programs.workers] == ["worker-1", "worker-2"]


def test_every_stream_has_as_many_copies_as_there_are_servers_up_to_three(plan_with: Callable[..., Programs]) -> None:
    """G1 in a cluster: a record on one disk alone is lost with that disk."""
    (worker,) = plan_with(nats=3).workers

    assert worker.environment["HUBBUB_NATS__REPLICAS"] == "3"
    assert len(json.loads(worker.environment["HUBBUB_NATS__SERVERS"])) == 3


def test_a_lost_log_needs_a_person_except_on_a_laptop(
    plan_with: Callable[..., Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    (worker,) = plan_with().workers
    assert worker.environment["HUBBUB_WORKER__BEGINS_EPOCHS"] == "true"
    assert not WorkerSettings().begins_epochs

    monkeypatch.setenv("HUBBUB_WORKER__BEGINS_EPOCHS", "false")
    (worker,) = plan_with().workers
    assert worker.environment["HUBBUB_WORKER__BEGINS_EPOCHS"] == "false"


def test_nodes_have_the_addresses_of_nats_that_they_are_given(
    folder: DataFolder, plan_with: Callable[..., Programs]
) -> None:
    nodes = plan_with(nodes=2, node_nats_servers=[["nats://hubbub:{password}@127.0.0.1:1"]], nats_ports=[4242]).nodes

    found = [json.loads(node.environment["HUBBUB_NATS__SERVERS"]) for node in nodes]
    password = folder.read_secret("nats_password")
    assert found == [[f"nats://hubbub:{password}@127.0.0.1:{port}"] for port in (1, 4242)]


def test_nodes_hurry_to_end_unless_the_environment_gives_them_time(
    plan_with: Callable[..., Programs], monkeypatch: pytest.MonkeyPatch
) -> None:
    """C81: in a hurry no balancer notices, and clients are sent back to the node that they come from."""
    times = ("HUBBUB_NODE__ANNOUNCE_S", "HUBBUB_NODE__DRAIN_TIMEOUT_S")
    (hurried,) = plan_with().nodes
    for name in times:
        monkeypatch.setenv(name, "7")
    (patient,) = plan_with().nodes

    assert [hurried.environment[name] for name in times] == ["0", "3"]
    assert [patient.environment[name] for name in times] == ["7", "7"]


def test_ports_that_are_given_are_not_given_twice(
    folder: DataFolder, jars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubbub_server.supervisor.ports._FIRST", 20_000)
    monkeypatch.setattr("hubbub_server.supervisor.ports._LAST", 20_060)
    taken = [20_000 + number for number in range(30)]
    plan = replace(ALONE, nats=3, nats_ports=taken[1:], cassandra=1, valkey=True)

    programs = plan_programs(folder, plan, port=taken[0])

    every = [*programs.servers[0], *programs.workers, *programs.nodes]
    found = [port for each in every for port in each.ports.values()] + [programs.envoy.ports["admin"]]
    assert set(found) & set(taken) == set(taken[1:4])  # those are NATS's


@pytest.mark.parametrize(("before", "after"), [(1, 3), (3, 1)])
def test_a_log_is_not_begun_anew_by_another_number_of_servers(
    folder: DataFolder, plan_with: Callable[..., Programs], before: int, after: int
) -> None:
    """G1: `make cluster` on the folder of `make run` would show an empty history."""
    for plan in [each for each in plan_with(nats=before).servers[0] if each.role == "nats"]:
        assert plan.data is not None
        (plan.data / "jetstream").mkdir()
    plan_with(nats=before)

    with pytest.raises(CannotStart, match="give --data another folder"):
        plan_with(nats=after)


def test_cassandra_syncs_before_it_acknowledges_and_servers_share_the_ring(tmp_path: Path, jars: Path) -> None:
    """G8: what the store has confirmed is acknowledged to the log, which may trim it then."""
    rings = []
    for index in range(3):
        plan = CassandraPlan(folder=tmp_path / str(index), port=1, storage_port=2, index=index, size=3)
        prepare(plan, jars)
        config = yaml.safe_load((plan.folder / "cassandra.yaml").read_text())
        assert config["commitlog_sync"] == "batch"
        assert config["seed_provider"][0]["parameters"] == [{"seeds": "127.0.0.1:2"}]
        rings.append((config["listen_address"], int(config["initial_token"])))

    third = 2**64 // 3
    assert [address for address, _ in rings] == ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    assert [token + 2**63 for _, token in rings] == [0, third, 2 * third]


def test_cassandra_servers_keep_their_ports_since_they_know_each_other_by_them(
    plan_with: Callable[..., Programs], jars: Path
) -> None:
    first, again = (plan_with(cassandra=1).servers[0][-1].ports for _ in range(2))
    assert first == again


def test_what_cassandra_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    with pytest.raises(NoCassandra, match="needs java and mvn: install Java 17 and Maven"):
        fetch_jars()


def test_what_maven_says_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in (("java", "exit 0"), ("mvn", "echo 'no route to the registry'; exit 1")):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    with pytest.raises(NoCassandra, match="no route to the registry"):
        fetch_jars()
