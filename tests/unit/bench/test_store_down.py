"""The judge of the outage: what counts as unaffected, and what as a promise that was not kept."""

from typing import Any

import pytest

from bench.crowd_process import Loads
from bench.store_down import WITHOUT_STORE, ColdSends, Course, judge

PHASES = ("settling", "before", "down", "restarts", "cold_sends", "down_still", "catching_up", "end")


def good(**slow_s: float) -> dict[str, Any]:
    """Returns what a run that holds saw: phases of 100 s, ten messages a second, heard after 10 ms unless told."""
    course = Course(
        begins={name: 100.0 * index for index, name in enumerate(PHASES)},
        cold=ColdSends(took_s=[0.02] * 1_000),
        caught_up_after_s=12.0,
    )
    deliveries = [
        (sent + slow_s.get(name, 0.01), sent)
        for name, (begin, _) in course.windows.items()
        for sent in (begin + tenth / 10 for tenth in range(1_000))
    ]
    return {
        "course": course,
        "deliveries": deliveries,
        "failed_sends": [],
        "settled": {"missed": 0, "repeated": 0},
        "loads": Loads(clients=[0.3], machine=[0.5]),
    }


def judged(run: dict[str, Any]) -> tuple[dict[str, Any], bool]:
    return judge(run.pop("course"), **run)


def test_run_without_losses_and_delays_holds_and_is_told_by_phase() -> None:
    figures, holds = judged(good())
    assert holds
    assert list(figures["live_by_phase"]) == list(PHASES[:-1])
    assert {each["deliveries"] for each in figures["live_by_phase"].values()} == {1_000}
    assert figures["p99_over_before"] == dict.fromkeys(WITHOUT_STORE, 1.0)
    assert (figures["cold_sends"], figures["cold_failed"], figures["caught_up_after_s"]) == (1_000, 0, 12.0)


@pytest.mark.parametrize("phase", WITHOUT_STORE)
def test_slower_delivery_in_any_phase_without_the_store_does_not_hold(phase: str) -> None:
    assert judged(good(**{phase: 0.0149}))[1]
    assert not judged(good(**{phase: 0.0151}))[1]


@pytest.mark.parametrize("phase", ["restarts", "catching_up"])
def test_phases_in_which_clients_move_or_the_store_starts_are_told_and_not_compared(phase: str) -> None:
    figures, holds = judged(good(**{phase: 1.0}))
    assert holds
    assert figures["live_by_phase"][phase]["p99"] == 1_000.0


@pytest.mark.parametrize("phase", ["before", *WITHOUT_STORE])
def test_phase_in_which_nothing_was_heard_does_not_hold(phase: str) -> None:
    run = good()
    begin, end = run["course"].windows[phase]
    run["deliveries"] = [each for each in run["deliveries"] if not begin <= each[1] < end]
    assert not judged(run)[1]


def test_live_send_that_failed_does_not_hold() -> None:
    run = good()
    run["failed_sends"] = ["SendTimedOut"]
    figures, holds = judged(run)
    assert (figures["failed_live_sends"], figures["first_failure"], holds) == (1, "SendTimedOut", False)


@pytest.mark.parametrize("what", ["missed", "repeated"])
def test_message_missed_or_heard_twice_does_not_hold(what: str) -> None:
    run = good()
    run["settled"][what] = 1
    assert not judged(run)[1]


def test_cold_send_that_was_never_acknowledged_does_not_hold() -> None:
    run = good()
    run["course"].cold.failures.append("UNAVAILABLE")
    figures, holds = judged(run)
    assert (figures["cold_failed"], figures["cold_sends"], holds) == (1, 1_001, False)


def test_cold_send_that_was_acknowledged_at_the_second_try_holds_and_is_told() -> None:
    run = good()
    run["course"].cold.first_tries_refused = 1
    figures, holds = judged(run)
    assert (figures["cold_first_tries_refused"], holds) == (1, True)


def test_history_that_never_caught_up_does_not_hold() -> None:
    run = good()
    run["course"].caught_up_after_s = None
    assert not judged(run)[1]


def test_clients_that_were_too_busy_to_measure_do_not_hold() -> None:
    run = good()
    run["loads"].clients.append(0.9)
    assert not judged(run)[1]
