"""compose.yaml, the files it mounts, and the Dockerfile: everything about them that needs no engine."""

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

import pytest
from compose_spec import PyCompose
from pydantic import BaseModel

from hubbub_server.adapters.crypto.key_files import read_key, read_signing_key
from hubbub_server.config import Settings, read_settings
from scripts import gen_envoy
from tests.support.compose import (
    REPO,
    make_secrets,
    mounted_configs,
    mounted_secrets,
    read_compose,
    run_make_secrets,
)

COMPOSE = read_compose()
SERVICES: dict[str, Any] = COMPOSE["services"]
NODES = ["node-1", "node-2", "node-3"]
WORKERS = ["worker-1", "worker-2"]
NATS = ["nats-1", "nats-2", "nats-3"]
OWN = [name for name, service in SERVICES.items() if service["image"] == "hubbub:local"]
ENVOY = json.loads((REPO / "deploy/envoy.json").read_text())


@pytest.fixture(autouse=True)
def no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("HUBBUB_"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("compose") / "secrets")


def settings_of(service: str, secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    """Reads the settings that a service would have, with /run/secrets as compose.yaml fills it."""
    run_secrets = tmp_path / "run-secrets"
    run_secrets.mkdir(exist_ok=True)
    for path, name in mounted_secrets(COMPOSE, service).items():
        (run_secrets / Path(path).name).write_bytes((secrets / name).read_bytes())
    for name, value in SERVICES[service]["environment"].items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(run_secrets)))
    return read_settings()


def is_setting(name: str) -> bool:
    """Tells whether a variable names a field of the settings."""
    model: Any = Settings
    for part in name.removeprefix("HUBBUB_").lower().split("__"):
        if not (isinstance(model, type) and issubclass(model, BaseModel) and part in model.model_fields):
            return False
        model = model.model_fields[part].annotation
    return not (isinstance(model, type) and issubclass(model, BaseModel))


def shared_network(one: str, other: str) -> bool:
    return bool(set(SERVICES[one]["networks"]) & set(SERVICES[other]["networks"]))


def listen_port(config: str, pattern: str) -> int:
    found = re.search(pattern, (REPO / config).read_text(), re.MULTILINE)
    assert found
    return int(found[1])


def test_the_file_is_a_compose_file() -> None:
    assert set(PyCompose.from_json(json.dumps(COMPOSE)).service_names()) == set(SERVICES)


def test_all_parts_of_a_cluster_are_there() -> None:
    assert set(SERVICES) == {"scylla", "migrate", *NATS, "valkey", *WORKERS, *NODES, "envoy"}


def test_who_waits_for_somebodys_health_waits_for_somebody_who_tells_it() -> None:
    started: set[str] = set()
    while len(started) < len(SERVICES):
        can_start = {name for name, each in SERVICES.items() if set(each.get("depends_on", {})) <= started}
        assert can_start > started, "some wait for each other"
        started = can_start
    for name, service in SERVICES.items():
        for other, how in service.get("depends_on", {}).items():
            told = SERVICES[other].get("healthcheck")
            if how["condition"] == "service_healthy" and (other not in NODES or told):  # nodes: the Dockerfile's
                assert told["test"][0] in ("CMD", "CMD-SHELL"), f"{name} waits for {other}"


def test_order_is_store_and_log_then_workers_then_nodes_then_the_edge() -> None:
    """As `hubbub up` starts them: a worker makes what nodes need."""
    healthy, done = {"condition": "service_healthy"}, {"condition": "service_completed_successfully"}
    assert SERVICES["migrate"]["depends_on"] == {"scylla": healthy}
    for worker in WORKERS:
        assert SERVICES[worker]["depends_on"] == {"migrate": done} | dict.fromkeys(NATS, healthy)
    for node in NODES:
        assert SERVICES[node]["depends_on"] == {"worker-1": healthy}
    assert SERVICES["envoy"]["depends_on"] == dict.fromkeys(NODES, healthy)


@pytest.mark.parametrize("service", [*NODES, *WORKERS, "migrate"])
def test_every_variable_is_a_setting_and_all_of_them_are_accepted(
    service: str, secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    unknown = [name for name in SERVICES[service]["environment"] if not is_setting(name)]

    settings = settings_of(service, secrets, monkeypatch, tmp_path)

    assert unknown == []
    assert settings.store.kind == "cql"
    assert settings.store.cql.tablets is True
    assert settings.store.cql.contact_points == ["scylla"]


@pytest.mark.parametrize("service", [*NODES, *WORKERS])
def test_programs_find_each_other(service: str, secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Names are services on a network of both, ports are those on which they listen."""
    settings = settings_of(service, secrets, monkeypatch, tmp_path)

    port = listen_port("deploy/nats.conf", r'^listen: "0\.0\.0\.0:(\d+)"')
    hosts = [re.fullmatch(r"nats://hubbub:[0-9a-f]{64}@(.*):(\d+)", url) for url in settings.nats.servers]
    assert [found and (found[1], int(found[2])) for found in hosts] == [(name, port) for name in NATS]
    assert settings.nats.replicas == len(NATS)
    assert all(shared_network(service, name) for name in (*NATS, *settings.store.cql.contact_points))
    if service in NODES:
        registry = re.fullmatch(r"redis://:[0-9a-f]{64}@(.*):(\d+)/0", settings.redis.url)
        assert registry
        assert (registry[1], int(registry[2])) == ("valkey", listen_port("deploy/valkey.conf", r"^port (\d+)"))
        assert shared_network(service, "valkey")
        assert settings.node.name == SERVICES[service]["hostname"] == service
        read_signing_key(settings.auth.secrets / "signing_key.pem")
        assert read_key(settings.auth.secrets / "refresh_key") != read_key(settings.auth.secrets / "id_key")
    else:
        assert settings.worker.name == service
        assert not settings.worker.begins_epochs


def test_envoy_is_in_front_of_all_nodes_where_they_listen(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_of("node-1", secrets, monkeypatch, tmp_path)
    (listener,) = ENVOY["static_resources"]["listeners"]
    published = SERVICES["envoy"]["ports"]

    for cluster in ENVOY["static_resources"]["clusters"]:
        (endpoints,) = cluster["load_assignment"]["endpoints"]
        addresses = [each["endpoint"]["address"]["socket_address"] for each in endpoints["lb_endpoints"]]
        port = {"unary": settings.node.port, "streams": settings.edge.port}[cluster["name"]]
        assert addresses == [{"address": node, "port_value": port} for node in NODES]
        assert cluster["type"] == "STRICT_DNS"
    assert settings.node.host == "0.0.0.0"
    assert published == [f"127.0.0.1:8080:{listener['address']['socket_address']['port_value']}"]
    assert all(shared_network("envoy", node) for node in NODES)


def test_health_checks_ask_where_somebody_answers(
    secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = settings_of("worker-1", secrets, monkeypatch, tmp_path)
    admin_port = ENVOY["admin"]["address"]["socket_address"]["port_value"]
    ports = {
        "nats-1": listen_port("deploy/nats.conf", r'^http: "127\.0\.0\.1:(\d+)"'),
        "worker-1": settings.worker.metrics_port,
        "envoy": admin_port,
    }

    asked = {
        name: re.findall(r"http://127\.0\.0\.1:(\d+)/", SERVICES[name]["healthcheck"]["test"][-1]) for name in ports
    }

    assert asked == {name: [str(port)] for name, port in ports.items()}


def test_every_mounted_file_is_there_and_as_it_is_generated(secrets: Path) -> None:
    named = {each["file"] for each in (*COMPOSE["configs"].values(), *COMPOSE["secrets"].values())}
    mounted = {str(path.relative_to(REPO)) for name in SERVICES for path in mounted_configs(COMPOSE, name).values()}
    made = {f"deploy/secrets/{path.name}" for path in secrets.iterdir()}
    used = {f"deploy/secrets/{file}" for name in SERVICES for file in mounted_secrets(COMPOSE, name).values()}
    rendered = gen_envoy.rendered()[REPO / "deploy/envoy.json"]

    assert named == mounted | made
    assert used == made
    assert all((REPO / name).is_file() for name in mounted)
    assert (REPO / "deploy/envoy.json").read_text() == rendered
    descriptor = mounted_configs(COMPOSE, "envoy")["/etc/hubbub/hubbub.pb"]
    assert descriptor == REPO / "proto/gen/hubbub.pb"
    assert '"proto_descriptor": "/etc/hubbub/hubbub.pb"' in rendered


def test_no_secret_is_in_the_repository_or_in_an_environment(secrets: Path) -> None:
    words = [value for each in SERVICES.values() for value in (each.get("environment") or {}).values()]

    assert "/deploy/secrets/" in (REPO / ".gitignore").read_text().splitlines()
    assert not [word for word in words if "://" in word or "password" in word.lower()]
    assert not [name for name in words if re.search(r"[0-9a-f]{16}", name)]
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}


def test_secrets_that_are_there_are_not_replaced(secrets: Path, tmp_path: Path) -> None:
    before = {path.name: path.read_bytes() for path in secrets.iterdir()}

    again = run_make_secrets(secrets)
    others = make_secrets(tmp_path / "others")

    assert again.returncode == 1
    assert {path.name: path.read_bytes() for path in secrets.iterdir()} == before
    assert not [name for name in before if (others / name).read_bytes() == before[name]]


def test_an_acknowledged_record_is_on_three_disks_that_stay() -> None:
    """G1."""
    config = (REPO / "deploy/nats.conf").read_text()
    volumes = [SERVICES[name]["volumes"] for name in NATS]

    assert "  sync_interval: always\n" in config
    assert "store_dir: /var/lib/hubbub/nats\n" in config
    assert volumes == [[f"{name}:/var/lib/hubbub"] for name in NATS]
    assert set(COMPOSE["volumes"]) == {"scylla", *NATS}
    assert [SERVICES[name]["environment"] for name in NATS] == [{"NATS_NAME": name} for name in NATS]
    assert SERVICES["scylla"]["command"][-2:] == ["--commitlog-sync", "batch"]


def test_nodes_have_the_time_to_leave(secrets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """C81."""
    node = settings_of("node-1", secrets, monkeypatch, tmp_path).node
    assert {SERVICES[name]["stop_grace_period"] for name in NODES} == {"30s"}
    assert node.announce_s + node.drain_timeout_s + node.stop_grace_s < 30


def test_programs_can_change_nothing_but_their_data() -> None:
    for name in OWN:
        service = SERVICES[name]
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
    assert set(SERVICES) - set(OWN) == {"scylla"}


def test_the_store_and_the_log_are_reached_by_nobody_outside() -> None:
    networks = COMPOSE["networks"]
    assert {name for name, each in networks.items() if each and each.get("internal")} == {"log", "store", "registry"}
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["envoy"]
    assert [name for name in SERVICES if "edge" in SERVICES[name]["networks"]] == [*NODES, "envoy"]


DOCKERFILE = (REPO / "Dockerfile").read_text().replace("\\\n", " ")
BUILD, FINAL = DOCKERFILE.split("\nFROM ${PYTHON_IMAGE}\n")


def test_the_image_is_made_of_what_is_here_and_nothing_else_gets_in() -> None:
    sources = [
        word for line in re.findall(r"^COPY (?!--from)(.*)$", DOCKERFILE, re.MULTILINE) for word in line.split()[:-1]
    ]
    ignore = (REPO / ".dockerignore").read_text().splitlines()
    admitted = [line[1:] for line in ignore if line.startswith("!")]

    assert sources
    assert all((REPO / source).exists() for source in sources)
    assert ignore[1] == "*"
    assert all(any(each == source or each.startswith(f"{source}/") for each in admitted) for source in sources)
    assert not [each for each in admitted if "secrets" in each or each.startswith(("var", ".git"))]


def test_the_image_has_every_pinned_package_by_its_hash() -> None:
    def pins(name: str) -> set[str]:
        return set(re.findall(r"^([\w.-]+==\S+)", (REPO / "requirements" / name).read_text(), re.MULTILINE))

    installs = re.findall(r"pip install (.*)", BUILD)
    assert "--require-hashes --only-binary :all: -r requirements/cql.txt" in installs[0]
    assert "--no-deps --no-build-isolation ./proto/gen/python ./clients/python ." in installs[1]
    assert len(installs) == 2
    assert pins("run.txt") <= pins("cql.txt")


def test_the_last_stage_runs_as_nobody_in_particular_and_cannot_install() -> None:
    assert re.search(r"^USER 10001$", FINAL, re.MULTILINE)
    assert "pip install" not in FINAL
    assert "apt-get" not in DOCKERFILE
    assert "pip uninstall --yes pip setuptools wheel" in FINAL
    assert f'"hubbub_server.rpc.health_probe", "127.0.0.1:{Settings().node.port}"]' in FINAL
    assert "--without-pip" in BUILD
