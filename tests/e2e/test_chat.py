"""Two terminals with `hubbub chat --json` talk through Envoy while parts die."""

import json
import subprocess
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.e2e.instance import Instance
from tests.support.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.timeout(300)

LINES = 20


class Terminal:
    """A `hubbub chat --json` of one of the demo accounts; `with` ends it."""

    def __init__(self, instance: Instance, me: str, peer: str) -> None:
        self._command = (
            *(str(Path(sys.executable).with_name("hubbub")), "chat", me, peer, "--json"),
            *("--server", f"127.0.0.1:{instance.port}"),
            *("--password-file", str(instance.data / "secrets" / "demo_password")),
        )
        self.said: list[dict[str, Any]] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: bool(self.of("ready")) or self._process.poll() is not None)
        assert self.of("ready")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()

    def say(self, text: str) -> None:
        """Types a line."""
        self.tell(text=text)

    def tell(self, **fields: str) -> None:
        """Writes a line of JSON."""
        assert self._process.stdin is not None
        assert self._process.poll() is None, self.said[-5:]
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()

    def of(self, kind: str) -> list[dict[str, Any]]:
        """What it said of one kind so far."""
        return [line for line in list(self.said) if line["type"] == kind]

    def heard(self) -> list[tuple[int, str]]:
        """Numbers and texts of new messages in the order in which they were shown."""
        return [(line["message_number"], line["text"]) for line in self.of("received") if not line["history"]]

    def _read(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as lines:
            self.said.extend(map(json.loads, lines))


@pytest.mark.parametrize("part", ["node-1", "envoy", "nats", "worker"])
def test_two_people_talk_on_without_a_lost_or_repeated_line_when_a_part_is_killed(tmp_path: Path, part: str) -> None:
    """G1, G2, G3, G4: lines typed before, during and after arrive once, in one order, on both sides."""
    with (
        Instance(tmp_path / "var") as instance,
        Terminal(instance, "alice", "bob") as alice,
        Terminal(instance, "bob", "alice") as bob,
    ):
        typed = []
        for number in range(LINES):
            if number == LINES // 2:
                instance.kill(part)
            for terminal, name in ((alice, "alice"), (bob, "bob")):
                typed.append(f"{name} {number}")
                terminal.say(typed[-1])
        for terminal in (alice, bob):
            wait_until(partial(has_heard, terminal, len(typed)), 2 * PATIENCE_S)
        assert alice.heard() == bob.heard()
        numbers, texts = zip(*alice.heard(), strict=True)
        assert sorted(texts) == sorted(typed)
        assert list(numbers) == list(range(numbers[0], numbers[0] + len(typed)))
        assert not alice.of("failed")
        assert not bob.of("failed")


def has_heard(terminal: Terminal, count: int) -> bool:
    assert not terminal.of("stopped")
    return len(terminal.heard()) >= count


def test_two_terminals_see_each_other_read_type_and_come_and_go(instance: Instance) -> None:
    """Presence, receipts, counters and refusals through Envoy, on real parts."""
    with Terminal(instance, "bob", "alice") as bob:
        with Terminal(instance, "alice", "bob") as alice:
            wait_until(lambda: "online" in states_of(bob, "alice"))
            alice.tell(command="status dnd in a meeting")
            wait_until(lambda: "do_not_disturb" in states_of(bob, "alice"))
            alice.tell(command="read")
            wait_until(lambda: unread(alice) == (0, 0))
            bob.say("hello @alice")
            wait_until(lambda: unread(alice) == (1, 1))
            alice.tell(command="read")
            wait_until(lambda: unread(alice) == (0, 0))
            number = bob.of("acked")[-1]["message_number"]
            wait_until(lambda: [line["read_number"] for line in bob.of("receipt")][-1:] == [number])

            alice.tell(command="block bob")
            wait_until(lambda: any(line["command"] == "block bob" for line in alice.of("done")))
            bob.say("refused")
            wait_until(lambda: bool(bob.of("failed")))
            assert bob.of("failed")[-1]["reason"] == "NOT_PERMITTED"
            for command in ("unblock bob", "status auto"):
                alice.tell(command=command)
            wait_until(lambda: any(line["command"] == "status auto" for line in alice.of("done")))
            wait_until(lambda: states_of(bob, "alice")[-1] == "online")
        wait_until(lambda: states_of(bob, "alice")[-1] == "offline")


def states_of(watcher: Terminal, name: str) -> list[str]:
    return [line["state"] for line in watcher.of("presence") if line["sender"] == name]


def unread(terminal: Terminal) -> tuple[int, int] | None:
    """What is unread here, and how many of it are mentions, as it was told last; None: not exactly."""
    told = terminal.of("counters")
    if not told or not told[-1]["exact"]:
        return None
    here = told[-1]["conversations"].get(terminal.of("ready")[0]["conversation_id"])
    return (here["unread_count"], here["mention_count"]) if here else (0, 0)
