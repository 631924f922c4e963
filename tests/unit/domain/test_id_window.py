"""The id window: what it remembers, what it may forget, and what it then still knows (G3)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.id_window import IdEntry, IdKey, IdWindow, entry_time_ms
from hubbub_server.domain.ids import ClientMessageId
from hubbub_server.domain.limits import FUTURE_ID_TOLERANCE_MS
from tests.unit.domain.builders import ALICE, BOB, NOW_MS, uuid4, uuid7


def entry(number: int, commit_time_ms: int = NOW_MS) -> IdEntry:
    return IdEntry(message_number=number, content_hash="h", epoch=1, position=number + 2, commit_time_ms=commit_time_ms)


def key(client_message_id: ClientMessageId) -> IdKey:
    return (ALICE, client_message_id)


def filled(count: int) -> IdWindow:
    window = IdWindow()
    for number in range(1, count + 1):
        window = window.add(key(uuid4(number)), entry(number))
    return window


@pytest.mark.parametrize("count", [1, 63, 64, 65, 200])
def test_window_finds_every_id_that_was_added(count: int) -> None:
    window = filled(count)
    assert len(window) == count
    assert [window.get(key(uuid4(n))) for n in range(1, count + 1)] == [entry(n) for n in range(1, count + 1)]
    assert window.get((BOB, uuid4(1))) is None


def test_adding_leaves_the_older_window_as_it_was() -> None:
    before = filled(63)
    before.add(key(uuid4(64)), entry(64))
    assert len(before) == 63
    assert before.get(key(uuid4(64))) is None


@pytest.mark.parametrize(("capacity", "left"), [(101, 0), (100, 0), (99, 1), (1, 99), (0, 100)])
def test_trimming_drops_the_oldest_down_to_the_capacity(capacity: int, left: int) -> None:
    window = filled(100).trim(applied_position=1_000, capacity=capacity)
    assert len(window) == 100 - left
    assert window.evicted_position == (entry(left).position if left else 0)
    assert all((window.get(key(uuid4(n))) is None) == (n <= left) for n in range(1, 101))


@pytest.mark.parametrize("applied_position", [0, 2])
def test_trimming_keeps_what_the_store_does_not_have(applied_position: int) -> None:
    window = filled(100)
    assert window.trim(applied_position, capacity=1) is window


def test_trimming_stops_at_the_position_that_the_store_has() -> None:
    window = filled(100).trim(applied_position=entry(10).position, capacity=1)
    assert len(window) == 90
    assert window.evicted_position == entry(10).position
    assert window.get(key(uuid4(11))) == entry(11)


def test_floor_rises_to_the_commit_time_of_what_left() -> None:
    old = uuid7(NOW_MS - 5_000)
    window = IdWindow().add(key(old), entry(1)).trim(applied_position=3, capacity=0)
    assert window.floor_ms == NOW_MS
    assert not window.is_never_used(key(old), NOW_MS)


def test_floor_rises_to_the_own_time_of_an_id_from_a_fast_clock() -> None:
    """C01: the clock of the sender is minutes ahead; the id must still be found on a late retry."""
    fast = uuid7(NOW_MS + 240_000)
    window = IdWindow().add(key(fast), entry(1)).trim(applied_position=3, capacity=0)
    assert window.floor_ms == NOW_MS + 240_000
    assert not window.is_never_used(key(fast), NOW_MS)


def test_an_id_is_new_only_above_the_floor_and_at_most_five_minutes_ahead() -> None:
    window = IdWindow(floor_ms=NOW_MS)
    bound = NOW_MS + FUTURE_ID_TOLERANCE_MS
    answers = [window.is_never_used(key(uuid7(t)), NOW_MS) for t in (NOW_MS, NOW_MS + 1, bound, bound + 1)]
    assert answers == [False, True, True, False]


def test_an_id_without_a_time_is_never_known_to_be_new() -> None:
    assert not IdWindow().is_never_used(key(uuid4()), NOW_MS)


@given(
    ids=st.lists(
        st.tuples(st.one_of(st.none(), st.integers(0, 2**48 - 1)), st.integers(0, NOW_MS * 2)), min_size=1, max_size=80
    ),
    capacity=st.integers(0, 64),
    applied=st.integers(0, 100),
    now_ms=st.integers(0, 2**48),
)
def test_no_used_id_is_ever_taken_for_new(
    ids: list[tuple[int | None, int]], capacity: int, applied: int, now_ms: int
) -> None:
    """G3: whatever the clocks of clients and nodes say."""
    window = IdWindow()
    keys = []
    for serial, (id_time_ms, commit_time_ms) in enumerate(ids, start=1):
        used = key(uuid4(serial) if id_time_ms is None else uuid7(id_time_ms, serial))
        keys.append(used)
        window = window.add(used, entry(serial, commit_time_ms)).trim(applied, capacity)
    assert not any(window.get(used) is None and window.is_never_used(used, now_ms) for used in keys)
    assert all(entry_time_ms(used[1], 0) <= window.floor_ms for used in keys if window.get(used) is None)
