"""The judge of the rolling restart: what counts as an absence, a second, and a kept bound."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from bench.crowd_process import Loads
from bench.rolling_restart import Absence, Seen, absences, busiest_second, by_second, judge

WITHIN_ALL_BOUNDS = Seen(
    sends=[(float(second), second + 0.01, "") for second in range(30)],
    deliveries=[(second + 0.02, float(second)) for second in range(30)],
    away=[Absence(at / 5, at / 5 + 0.5, "DRAINING") for at in range(100)],
    restarts=[0.0, 7.0, 14.0],
    loads=Loads(clients=[0.3, 0.5], machine=[0.7, 0.9]),
)


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
    assert by_second([0.6, 0.7, 1.2, 1.7, 3.0]) == [3, 1, 1]
    assert busiest_second([]) == 0


def test_a_run_within_all_bounds_holds() -> None:
    figures, holds = judge(WITHIN_ALL_BOUNDS)
    assert holds
    assert figures["reconnects"] == 100
    assert figures["live_again_p99_s"] == 0.5
    assert [sum(seconds) for seconds in figures["reconnects_by_second_of_each_restart"]] == [33, 35, 32]


@pytest.mark.parametrize(
    "spoilt",
    [
        pytest.param({"sends": [(0.0, 60.0, "SendTimedOut: m1"), (1.0, 1.1, "")]}, id="a failed send"),
        pytest.param({"away": [Absence(at / 5, at / 5 + 6, "DRAINING") for at in range(100)]}, id="slow returns"),
        pytest.param({"away": [Absence(at / 20, at / 20 + 0.5, "DRAINING") for at in range(100)]}, id="a storm"),
        pytest.param({"away": []}, id="nobody left"),
        pytest.param({"wrong": Counter(missed=1)}, id="a missed message"),
        pytest.param({"wrong": Counter(repeated=1)}, id="a message heard twice"),
        pytest.param({"wrong": Counter(never_back=1)}, id="a lost session"),
        pytest.param({"loads": Loads(clients=[0.3, 0.7], machine=[0.9])}, id="busy clients"),
    ],
)
def test_a_run_beyond_a_bound_does_not_hold(spoilt: dict[str, Any]) -> None:
    _, holds = judge(replace(WITHIN_ALL_BOUNDS, **spoilt))
    assert not holds
