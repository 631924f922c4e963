"""Two people at two terminals: `hubbub chat` on pseudo-terminals, through Envoy, while the node dies."""

import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import threading
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e.instance import Instance
from tests.support.waiting import PATIENCE_S, wait_until

LINES = 10
_ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
_SHOWN = re.compile(r"#(\d+) (\w+): (\w+ \d+)")
_WHERE_IS_THE_CURSOR = b"\x1b[6n"


class Screen:
    """A `hubbub chat` of one of the demo accounts on a pseudo-terminal; `with` leaves it by Ctrl-D."""

    def __init__(self, instance: Instance, me: str, peer: str) -> None:
        self._command = (
            *(str(Path(sys.executable).with_name("hubbub")), "chat", me, peer, "--history", "0"),
            *("--server", f"127.0.0.1:{instance.port}"),
            *("--password-file", str(instance.data / "secrets" / "demo_password")),
        )
        self._output = b""

    def __enter__(self) -> Self:
        self._terminal, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
        self._process = subprocess.Popen(
            self._command,
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm"},
            start_new_session=True,
        )
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: "Ctrl-D leaves" in self.text() or self._process.poll() is not None, PATIENCE_S)
        assert "Ctrl-D leaves" in self.text(), self.text()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._type(b"\x04")
            assert self._process.wait(PATIENCE_S) == 0
        finally:
            self._process.kill()
            self._process.wait()
            self._reader.join()
            os.close(self._terminal)

    def say(self, text: str) -> None:
        """Types a line and Enter."""
        self._type(text.encode() + b"\r")

    def text(self) -> str:
        """What was shown so far, without colours and movements."""
        return _ESCAPES.sub(b"", self._output).decode(errors="replace")

    def letters(self) -> str:
        """The same without spaces: where one stands already, a repainted line only moves the cursor over it."""
        return "".join(self.text().split())

    def heard(self) -> list[tuple[int, str, str]]:
        """Numbers, senders and texts in the order in which they were shown."""
        return [(int(number), sender, text) for number, sender, text in _SHOWN.findall(self.text())]

    def _type(self, keys: bytes) -> None:
        os.write(self._terminal, keys)

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other side is closed
            while chunk := os.read(self._terminal, 65_536):
                self._output += chunk
                if _WHERE_IS_THE_CURSOR in chunk:
                    self._type(b"\x1b[1;1R")


def test_two_terminals_show_every_line_once_in_one_order_while_the_node_is_killed(tmp_path: Path) -> None:
    """G1, G2, G3, G4."""
    with (
        Instance(tmp_path / "var") as instance,
        Screen(instance, "alice", "bob") as alice,
        Screen(instance, "bob", "alice") as bob,
    ):
        for number in range(LINES):
            if number == LINES // 2:
                instance.kill("node-1")
            alice.say(f"alice {number}")
            bob.say(f"bob {number}")
        for screen in (alice, bob):
            wait_until(partial(has_heard, screen, 2 * LINES), 2 * PATIENCE_S)

        heard = alice.heard()
        assert heard == bob.heard()
        numbers = [number for number, _, _ in heard]
        assert numbers == list(range(numbers[0], numbers[0] + 2 * LINES))
        for name in ("alice", "bob"):
            said = [text for _, sender, text in heard if sender == name]
            assert said == [f"{name} {number}" for number in range(LINES)]


def test_a_terminal_shows_who_is_there_who_has_read_and_what_was_refused(tmp_path: Path) -> None:
    with (
        Instance(tmp_path / "var") as instance,
        Screen(instance, "alice", "bob") as alice,
        Screen(instance, "bob", "alice") as bob,
    ):
        bob.say("/status away at lunch")
        wait_until(lambda: "awayatlunch" in alice.letters(), PATIENCE_S)
        alice.say("hello 1")
        wait_until(lambda: texts(bob) == ["hello 1"], PATIENCE_S)
        wait_until(lambda: "readbybob" in alice.letters(), PATIENCE_S)

        bob.say("/block alice")
        wait_until(lambda: "aliceisblocked" in bob.letters(), PATIENCE_S)
        alice.say("hello 2")
        wait_until(lambda: "✗hello2" in alice.letters(), PATIENCE_S)
        bob.say("/unblock alice")
        wait_until(lambda: "aliceisnotblocked" in bob.letters(), PATIENCE_S)
        alice.say("/retry")
        wait_until(lambda: texts(bob) == ["hello 1", "hello 2"], PATIENCE_S)


def texts(screen: Screen) -> list[str]:
    return [text for _, _, text in screen.heard()]


def has_heard(screen: Screen, count: int) -> bool:
    return len(screen.heard()) >= count
