"""The judge of the rolling restart: what counts as an absence, a second, and a kept promise."""

from typing import Any

import pytest

from bench.rolling_restart import Absence, absences, busiest_second, judge, spread

SETTLED = {"missed": 0, "repeated": 0, "dead": 0, "never_back": 0}


def good() -> dict[str, Any]:
    """Returns what a run that holds measured: 100 returns, one each 0.2 s."""
    return {
        "sends": [(float(second), second + 0.01, "") for second in range(30)],
        "away": [Absence(at / 5, at / 5 + 0.5, "DRAINING") for at in range(100)],
        "begins": [0.0, 7.0, 14.0],
        "settled": dict(SETTLED),
        "loads": [0.3, 0.5],
    }


def test_tries_that_failed_belong_to_the_absence_that_began_before_them() -> None:
    ends = [(1, 10.0, "DRAINING"), (1, 11.0, "UNAVAILABLE"), (1, 20.0, "DRAINING"), (2, 10.5, "DRAINING")]
    lives = [(1, 5.0), (1, 12.0), (1, 20.5), (2, 11.0)]
    found, lost = absences(ends, lives)
    assert found == [
        Absence(10.5, 11.0, "DRAINING"),
        Absence(10.0, 12.0, "DRAINING", 1),
        Absence(20.0, 20.5, "DRAINING"),
    ]
    assert lost == 0


def test_a_session_that_never_came_back_is_counted_and_is_no_short_absence() -> None:
    assert absences([(1, 10.0, "DRAINING")], [(1, 5.0)]) == ([], 1)


def test_the_fullest_second_may_begin_anywhere() -> None:
    assert busiest_second([0.6, 0.7, 1.2, 1.5, 3.0]) == 4
    assert spread([0.6, 0.7, 1.2, 1.7, 3.0]) == [3, 1, 1]
    assert busiest_second([]) == 0


def test_a_run_within_all_bounds_holds() -> None:
    figures, holds = judge(**good())
    assert holds
    assert figures["reconnects"] == 100
    assert figures["live_again_p99_s"] == 0.5
    assert [len(seconds) > 0 for seconds in figures["reconnects_by_second_of_each_restart"]] == [True] * 3


@pytest.mark.parametrize(
    "spoilt",
    [
        {"sends": [(0.0, 60.0, "SendTimedOut: m1"), (1.0, 1.1, "")]},
        {"away": [Absence(at / 5, at / 5 + 6.0, "DRAINING") for at in range(100)]},
        {"away": [Absence(at / 20, at / 20 + 0.5, "DRAINING") for at in range(100)]},
        {"away": []},
        {"settled": {**SETTLED, "missed": 1}},
        {"settled": {**SETTLED, "never_back": 1}},
        {"loads": [0.3, 0.7]},
    ],
    ids=[
        "a failed send",
        "slow returns",
        "a storm",
        "nobody left",
        "a missed message",
        "a lost session",
        "busy clients",
    ],
)
def test_a_run_beyond_a_bound_does_not_hold(spoilt: dict[str, Any]) -> None:
    _, holds = judge(**{**good(), **spoilt})
    assert not holds
