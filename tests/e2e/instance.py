"""`hubbub up` as a person starts it: a process, its port, and what it prints."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

from hubbub_server.supervisor.leash import leashed
from tests.support.waiting import wait_until

READY_S = 180.0
STOP_S = 30.0


class Instance:
    """A running instance; `with` starts it, waits for "ready", and stops it by Ctrl-C."""

    def __init__(
        self,
        data: Path,
        *,
        nodes: int = 1,
        port: int = 0,
        origin: str = "http://app.example",
        options: Sequence[str] = (),
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.data = data
        self.lines: list[str] = []
        self._command = (
            *(sys.executable, "-m", "hubbub_server", "up", "--nodes", str(nodes), "--data", str(data)),
            *options,
        )
        self._environment = {
            **os.environ,
            "HUBBUB_PORT": str(port),
            "HUBBUB_UP__CORS_ORIGINS": json.dumps([origin]),
            **(settings or {}),
        }

    def start(self) -> None:
        """Starts it and waits for "ready"."""
        self.lines.clear()
        self.process = subprocess.Popen(
            leashed(*self._command),
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: self.process.poll() is not None or "ready" in self.lines, READY_S)
        assert "ready" in self.lines, self.explain()

    def run_to_its_end(self) -> str:
        """Starts it where it is expected to refuse; returns what it says."""
        ended = subprocess.run(
            self._command, env=self._environment, capture_output=True, text=True, timeout=READY_S, check=False
        )
        assert ended.returncode == 1
        return ended.stderr

    def interrupt(self) -> None:
        """Ends it as Ctrl-C does; fails when it takes too long or leaves a process."""
        pids = [process["pid"] for process in self.run["processes"]]
        self.process.send_signal(signal.SIGINT)
        assert self.process.wait(STOP_S) == 0, self.explain()
        self._reader.join()
        assert not [pid for pid in pids if lives(pid)]

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def _end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_S)
        if self.process.poll() is None:
            self.process.kill()  # its programs die with it
        self.process.wait()
        self._reader.join()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self.lines.append(line.rstrip("\n"))

    @property
    def run(self) -> dict[str, Any]:
        """The content of run.json."""
        content: dict[str, Any] = json.loads((self.data / "run.json").read_text())
        return content

    @property
    def port(self) -> int:
        """Envoy's port."""
        return int(self.run["port"])

    @property
    def url(self) -> str:
        """Envoy's address."""
        return f"http://127.0.0.1:{self.port}"

    def process_of(self, name: str) -> dict[str, Any] | None:
        """What run.json says about a program, None while it does not run."""
        return next((process for process in self.run["processes"] if process["name"] == name), None)

    def kill(self, name: str) -> int:
        """Kills a program as the kernel would; returns its process id."""
        pid = self.pid_of(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def hold(self, name: str) -> Path:
        """Kills a program and keeps it down until the file that is returned is gone."""
        hold = self.data / "hold" / name
        hold.touch()
        self.kill(name)
        return hold

    def runs_again(self, name: str, before: int) -> bool:
        """Tells whether a program runs under another process id than before."""
        process = self.process_of(name)
        return process is not None and process["pid"] != before

    def pid_of(self, name: str) -> int:
        """The process id of a program that runs."""
        process = self.process_of(name)
        assert process is not None
        return int(process["pid"])

    def explain(self) -> str:
        """What it printed, and the ends of its logs."""
        tails = [f"{path.name}: {path.read_text()[-2_000:]}" for path in self.data.glob("log/*.log")]
        return "\n".join([*self.lines, *tails])


class Person:
    """Somebody with an account, over REST; `with` closes the connections."""

    def __init__(self, url: str, name: str, *, password: str = "correct horse", is_new: bool = True) -> None:
        self._client = httpx.Client(base_url=url, timeout=20)
        body = {"loginName": name, "password": password}
        path = "/v1/auth/login"
        if is_new:
            path, body = "/v1/auth/register", body | {"displayName": name.title()}
        answer = self._client.post(path, json=body)
        if answer.status_code != 200:
            self._client.close()
            raise AssertionError(answer.text)
        self.credentials: dict[str, Any] = answer.json()["credentials"]
        self.user_id: str = self.credentials["userId"]
        self.token: str = self.credentials["accessToken"]

    def call(self, method: str, path: str, body: Any = None, **options: Any) -> httpx.Response:
        """Makes a call with the access token."""
        if body is not None:
            options["json"] = body
        return self._client.request(method, path, headers={"authorization": f"Bearer {self.token}"}, **options)

    def talk_to(self, other: "Person") -> str:
        """Returns the id of the direct conversation with another."""
        answer = self.call("POST", "/v1/conversations", {"direct": {"userId": other.user_id}})
        assert answer.status_code == 200, answer.text
        conversation_id: str = answer.json()["view"]["conversation"]["conversationId"]
        return conversation_id

    def send(self, conversation_id: str, client_message_id: str, text: str) -> httpx.Response:
        """Sends a message."""
        body = {"clientMessageId": client_message_id, "content": {"text": {"text": text}}}
        return self.call("POST", f"/v1/conversations/{conversation_id}/messages", body)

    def texts(self, conversation_id: str) -> list[str]:
        """Lists the texts of the newest messages."""
        answer = self.call("GET", f"/v1/conversations/{conversation_id}/messages")
        assert answer.status_code == 200, answer.text
        return [message["content"]["text"]["text"] for message in answer.json().get("messages", [])]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()


def streams_of(running: Instance, name: str) -> float:
    """Reads how many streams a node has."""
    process = running.process_of(name)
    assert process is not None
    metrics = httpx.get(f"http://127.0.0.1:{process['metrics_port']}/metrics").text
    (line,) = [line for line in metrics.splitlines() if line.startswith("hubbub_streams ")]
    return float(line.split()[1])


def lives(pid: int) -> bool:
    """Tells whether a process runs."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
