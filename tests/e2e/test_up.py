"""What a person gets from `hubbub up`."""

import os
import signal
import socket
import subprocess
import sys
import uuid
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import READY_S, Instance, Person, lives
from tests.support.waiting import wait_until

pytestmark = pytest.mark.timeout(300)


def test_ready_is_said_last_with_addresses_accounts_and_where_the_secrets_are(instance: Instance) -> None:
    assert instance.lines[-1] == "ready"
    said = "\n".join(instance.lines)
    for what in (f"127.0.0.1:{instance.port}", "alice, bob", "demo_password", "/metrics", "run.json"):
        assert what in said


def test_ready_means_that_bob_has_a_message_of_alice(instance: Instance) -> None:
    password = (instance.data / "secrets" / "demo_password").read_text().strip()
    assert password not in "\n".join(instance.lines)
    with (
        Person(instance.url, "alice", password=password, is_new=False) as alice,
        Person(instance.url, "bob", password=password, is_new=False) as bob,
    ):
        first = bob.call("GET", f"/v1/conversations/{bob.talk_to(alice)}/messages/1")
    assert first.json()["message"]["content"]["text"]["text"] == "hubbub is up"


def test_each_process_counts_on_a_port_for_prometheus(instance: Instance) -> None:
    def metrics_of(name: str) -> str:
        process = instance.process_of(name)
        assert process is not None
        return httpx.get(f"http://127.0.0.1:{process['metrics_port']}/metrics").text

    node, worker = metrics_of("node-1"), metrics_of("worker")
    for name in (
        "commits_total",
        "commit_conflicts_total",
        "unknown_outcomes",
        "live_gaps_repaired_total",
        "head_mismatches_total",
        "id_lookups_total",
        "goodbyes",
        "streams",
        "stream_buffer_bytes",
    ):
        assert f"hubbub_{name}" in node
    assert 'hubbub_worker_lag_records{role="projector",shard="0"}' in worker
    assert 'hubbub_worker_stopped{role="projector",shard="0"} 0.0' in worker


def test_the_same_folder_is_refused_to_a_second_instance(instance: Instance) -> None:
    said = Instance(instance.data).run_to_its_end()
    assert "is in use by process" in said
    assert "Traceback" not in said


def test_a_taken_port_is_named(tmp_path: Path) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        said = Instance(tmp_path / "var", port=port).run_to_its_end()
    assert f"port {port} is in use; set HUBBUB_PORT" in said
    assert not (tmp_path / "var").exists()


def test_another_instance_runs_beside_it_restarts_with_its_messages_and_leaves_no_process(
    instance: Instance, tmp_path: Path
) -> None:
    """Fresh: a second instance on another port; stop, start: the old messages are listed."""
    with Instance(tmp_path / "var") as second:
        assert second.port != instance.port
        with Person(second.url, "erin") as erin, Person(second.url, "frank") as frank:
            conversation_id = erin.talk_to(frank)
            assert erin.send(conversation_id, str(uuid.uuid4()), "before the restart").status_code == 200
        second.interrupt()
        second.start()
        with Person(second.url, "frank", is_new=False) as again:
            assert again.user_id == frank.user_id
            assert again.texts(conversation_id) == ["before the restart"]


def test_programs_that_are_killed_come_back_and_people_go_on(tmp_path: Path) -> None:
    """G1, G3: kill -9 of each part; a retry with the same id is one message."""
    names = ["node-1", "node-2", "worker", "nats", "valkey", "envoy"]
    with (
        Instance(tmp_path / "var", nodes=2) as running,
        Person(running.url, "grace") as grace,
        Person(running.url, "heidi") as heidi,
    ):
        conversation_id = grace.talk_to(heidi)
        for number, name in enumerate(names, start=1):
            pid = running.kill(name)
            client_message_id = str(uuid.uuid4())
            wait_until(partial(is_sent, grace, conversation_id, client_message_id, name))
            wait_until(partial(has_returned, running, name, pid))
            wait_until(partial(can_read, heidi, conversation_id, names[:number]))


def can_read(reader: Person, conversation_id: str, texts: list[str]) -> bool:
    try:
        return reader.texts(conversation_id) == texts
    except (httpx.HTTPError, AssertionError):
        return False


def is_sent(sender: Person, conversation_id: str, client_message_id: str, text: str) -> bool:
    try:
        return sender.send(conversation_id, client_message_id, text).status_code == 200
    except httpx.HTTPError:
        return False


def has_returned(running: Instance, name: str, pid: int) -> bool:
    process = running.process_of(name)
    return process is not None and process["pid"] != pid and process["restarts"] == 1


def test_kill_minus_nine_leaves_no_process_and_the_folder_can_be_used_again(tmp_path: Path) -> None:
    with Instance(tmp_path / "var") as running:
        pids = [process["pid"] for process in running.run["processes"]]
        os.kill(running.process.pid, signal.SIGKILL)
        running.process.wait()
        wait_until(lambda: not any(map(lives, pids)))
        running.start()


def test_a_part_that_cannot_start_ends_everything_with_its_log(tmp_path: Path) -> None:
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "store.db").write_bytes(b"this is no database" * 100)
    said = Instance(tmp_path / "var").run_to_its_end()
    assert "worker could not be started 5 times" in said
    assert "store.db" in said or "database" in said
    assert "Traceback (most recent call last):\n  File" not in said.partition("worker could not")[0]


def test_help_says_what_there_is() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "hubbub_server", "up", "--help"],
        capture_output=True,
        text=True,
        timeout=READY_S,
        check=True,
    ).stdout
    assert "--nodes" in said
    assert "--data" in said
