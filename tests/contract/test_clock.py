"""What every Clock says."""

import time

import pytest

from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.ports.clock import Clock
from tests.support.fakes.clock import FakeClock


@pytest.mark.parametrize("clock", [SystemClock(), FakeClock()], ids=["system", "fake"])
def test_monotonic_seconds_never_go_back(clock: Clock) -> None:
    seen = [clock.monotonic_s() for _ in range(1_000)]

    assert seen == sorted(seen)


def test_system_clock_tells_unix_milliseconds() -> None:
    before = time.time() * 1_000
    now_ms = SystemClock().now_ms()
    after = time.time() * 1_000

    assert before - 1 <= now_ms <= after + 1


def test_fake_clock_moves_only_when_told() -> None:
    clock = FakeClock()
    before = (clock.now_ms(), clock.monotonic_s())

    clock.advance(1.5)

    assert (clock.now_ms(), clock.monotonic_s()) == (before[0] + 1_500, before[1] + 1.5)
