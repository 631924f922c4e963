"""What every Clock says."""

import time
from pathlib import Path

import pytest

from hubbub_server.adapters.system.clock import SystemClock, WrongClock
from hubbub_server.ports.clock import Clock
from tests.support.fakes.clock import FakeClock


@pytest.mark.parametrize(
    "clock", [SystemClock(), WrongClock(Path("/nowhere")), FakeClock()], ids=["system", "wrong", "fake"]
)
def test_monotonic_seconds_never_go_back(clock: Clock) -> None:
    seen = [clock.monotonic_s() for _ in range(1_000)]

    assert seen == sorted(seen)


def test_system_clock_tells_unix_milliseconds() -> None:
    before = time.time() * 1_000
    now_ms = SystemClock().now_ms()
    after = time.time() * 1_000

    assert before - 1 <= now_ms <= after + 1


def test_wrong_clock_is_wrong_by_what_its_file_says_now(tmp_path: Path) -> None:
    shift_file = tmp_path / "node-1"
    clock, right = WrongClock(shift_file), SystemClock()
    assert abs(clock.now_ms() - right.now_ms()) < 1_000

    for shift_s in (180, -180):
        shift_file.write_text(str(shift_s))
        assert abs(clock.now_ms() - right.now_ms() - shift_s * 1_000) < 1_000


def test_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    before = (clock.now_ms(), clock.monotonic_s())

    clock.advance(1.5)

    assert (clock.now_ms(), clock.monotonic_s()) == (before[0] + 1_500, before[1] + 1.5)
