"""The judge of pages: no size may be slower than the others, none much slower than the driver."""

import pytest

from bench.cql_page import KINDS, SIZES, Place, Taken, judge
from tests.support.rows import conversation_id

ALL = {size: size for size in SIZES}


def taken(*, ours_s: float = 0.0012, driver_s: float = 0.001) -> dict[Place, Taken]:
    """Returns reads that took the same at every place."""
    return {
        Place(conversation_id(f"c{size}"), size, kind): Taken(ours=[ours_s] * 9, driver=[driver_s] * 9)
        for kind in KINDS
        for size in SIZES
    }


def test_pages_that_cost_the_same_at_every_size_hold_and_are_told_by_kind_and_size() -> None:
    figures, holds = judge(taken(), ALL)
    assert holds
    assert {kind: list(of_kind["by_messages"]) for kind, of_kind in figures.items()} == {
        kind: [str(size) for size in SIZES] for kind in KINDS
    }
    assert figures["newest"]["by_messages"]["1000000"]["median_ms"] == 1.2
    assert figures["newest"]["most_times_the_driver"] == 1.2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("factor", [0.78, 1.27])
def test_one_median_more_than_a_quarter_apart_does_not_hold(kind: str, size: int, factor: float) -> None:
    measured = taken()
    measured[Place(conversation_id(f"c{size}"), size, kind)].ours = [0.0012 * factor] * 9
    assert not judge(measured, ALL)[1]


def test_a_median_is_not_moved_by_some_slow_reads() -> None:
    measured = taken()
    for kept in measured.values():
        kept.ours[:4] = [1.0] * 4
    assert judge(measured, ALL)[1]


def test_pages_at_more_than_twice_the_driver_do_not_hold() -> None:
    assert judge(taken(ours_s=0.00199), ALL)[1]
    assert not judge(taken(ours_s=0.00203), ALL)[1]


def test_messages_that_are_not_there_do_not_hold() -> None:
    assert not judge(taken(), ALL | {1_000_000: 999_999})[1]


def test_pages_lie_within_their_conversation_and_the_newest_at_its_end() -> None:
    size = 60
    random_place, newest = (Place(conversation_id("c"), size, kind) for kind in KINDS)
    assert {random_place.draw() for _ in range(1_000)} == set(range(1, 12))
    assert newest.draw() == 11
