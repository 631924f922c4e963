"""What a circuit breaker lets through."""

from hubbub_server.adapters.cql.breaker import CircuitBreaker


def failing(breaker: CircuitBreaker, times: int, *, now_s: float) -> None:
    for _ in range(times):
        assert breaker.admits(now_s)
        breaker.failed(now_s)


def test_stays_closed_until_as_many_failures_in_a_row() -> None:
    breaker = CircuitBreaker(failures=3)

    failing(breaker, 2, now_s=0)
    breaker.succeeded()
    failing(breaker, 2, now_s=0)

    assert breaker.admits(0)


def test_open_lets_one_call_through_each_pause() -> None:
    breaker = CircuitBreaker(failures=3, pause_s=1)
    failing(breaker, 3, now_s=10)

    assert not breaker.admits(10.9)
    assert breaker.admits(11)
    assert not breaker.admits(11.5)
    assert breaker.admits(12)  # also when the one before never came back
    breaker.failed(12)
    assert not breaker.admits(12.9)


def test_success_closes_it() -> None:
    breaker = CircuitBreaker(failures=3, pause_s=1)
    failing(breaker, 3, now_s=10)

    assert breaker.admits(11)
    breaker.succeeded()

    assert all(breaker.admits(11) for _ in range(10))


def test_calls_that_fail_late_do_not_keep_it_open_longer() -> None:
    """They were sent before it opened."""
    breaker = CircuitBreaker(failures=3, pause_s=1)
    failing(breaker, 3, now_s=10)
    for _ in range(100):
        breaker.failed(10.9)

    assert breaker.admits(11)
