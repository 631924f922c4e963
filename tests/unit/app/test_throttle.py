"""Token buckets by key."""

import pytest

from hubbub_server.app.throttle import Throttle
from hubbub_server.domain.errors import RateLimited
from tests.support.fakes.clock import FakeClock


def take_all(throttle: Throttle, key: str) -> int:
    taken = 0
    try:
        while True:
            throttle.take(key)
            taken += 1
    except RateLimited:
        return taken


def test_a_burst_passes_and_the_next_try_is_told_a_positive_wait_that_is_long_enough() -> None:
    """C78: retry information is always positive, and who waits that long passes."""
    clock = FakeClock()
    throttle = Throttle(clock, text="too fast", burst=3, per_s=0.5)
    assert take_all(throttle, "a") == 3
    clock.advance(1.999)
    with pytest.raises(RateLimited) as refused:
        throttle.take("a")
    assert 0 < refused.value.retry_after_s <= 0.002
    clock.advance(refused.value.retry_after_s)
    throttle.take("a")


def test_keys_do_not_share_a_bucket_and_waiting_never_fills_above_the_burst() -> None:
    clock = FakeClock()
    throttle = Throttle(clock, text="too fast", burst=2, per_s=1)
    assert take_all(throttle, "a") == 2
    clock.advance(1_000_000)
    assert take_all(throttle, "a") == 2
    assert take_all(throttle, "b") == 2


def test_a_try_that_was_given_back_can_be_taken_again() -> None:
    throttle = Throttle(FakeClock(), text="too fast", burst=1, per_s=1)
    for _ in range(10):
        throttle.take("a")
        throttle.give_back("a")
    throttle.give_back("a")
    assert take_all(throttle, "a") == 1


def test_memory_is_bounded_and_the_key_used_longest_ago_is_forgotten() -> None:
    throttle = Throttle(FakeClock(), text="too fast", burst=1, per_s=0.001, max_keys=100)
    for number in range(101):
        throttle.take(str(number))
    assert take_all(throttle, "0") == 1
    assert take_all(throttle, "100") == 0
