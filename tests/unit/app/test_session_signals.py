"""Signals of a session: in their place, past held events, counted as nothing, and rather lost than late."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.frames import Events, Goodbye, Hello, Lagging, Outgoing, Signals
from hubbub_server.app.send_queue import BUFFER_MAX_EVENTS, SIGNALS_MAX_WAITING
from hubbub_server.app.session import Session
from hubbub_server.domain.limits import RECORD_MAX_EVENTS
from tests.support.app_node import BOB, message_id
from tests.support.sessions import caller, take_all
from tests.support.windows import ack, deliver, has_output, with_window


def signal(number: int = 0) -> Signals:
    return Signals(body=b"signal %04d" % number)


def live_session() -> Session:
    return with_window(0)


def kinds(frames: Sequence[Outgoing]) -> list[type[Outgoing]]:
    return [type(frame) for frame in frames]


def test_a_signal_is_output_and_counts_as_nothing() -> None:
    session = live_session()

    assert session.signal(signal())

    assert has_output(session)
    assert session.buffered_bytes == 0
    assert take_all(session) == [signal()]
    assert not has_output(session)
    ack(session, 0)
    assert not session.is_ended


def test_signals_and_events_keep_their_order() -> None:
    """A message that follows the typing of its sender ends it, never the other way round."""
    session = live_session()

    session.signal(signal(1))
    deliver(session, 1)
    session.signal(signal(2))

    assert kinds(take_all(session)) == [Signals, Events, Signals]


def test_before_the_stream_is_live_there_are_none() -> None:
    session = Session(session_id="s1", caller=caller(BOB), takes_commands=True, now_s=0.0, now_ms=0)
    assert not session.signal(signal())
    session.receive(Hello(instance_id=message_id(1)), 0.0)
    assert not session.signal(signal())
    session.opened()
    assert session.signal(signal())
    assert kinds(take_all(session))[-1] is Signals


def test_after_the_end_there_are_none() -> None:
    """Goodbye is the last frame."""
    session = live_session()
    session.drain(0.0)

    assert not session.signal(signal())

    assert kinds(take_all(session)) == [Goodbye]


def test_signals_pass_events_that_are_held() -> None:
    session = with_window(RECORD_MAX_EVENTS)
    deliver(session, RECORD_MAX_EVENTS, 1)
    session.signal(signal(1))  # queued behind them before they are held
    take_all(session)
    assert not has_output(session)

    session.signal(signal(2))

    assert take_all(session) == [signal(2)]
    ack(session, 1)
    assert kinds(take_all(session)) == [Events]


def test_a_stream_that_lags_gets_none_until_it_has_read_everything() -> None:
    """G6."""
    session = live_session()
    session.signal(signal(1))
    deliver(session, *[1] * (BUFFER_MAX_EVENTS // 2 + 1))

    assert not session.signal(signal(2))

    taken = take_all(session)
    assert [frame for frame in taken if isinstance(frame, Signals)] == [signal(1)]
    assert Lagging() in taken
    assert session.signal(signal(3))


def test_so_many_wait_and_no_more() -> None:
    """G6."""
    session = live_session()

    queued = [session.signal(signal(number)) for number in range(SIGNALS_MAX_WAITING + 1)]

    assert queued == [True] * SIGNALS_MAX_WAITING + [False]
    assert len(take_all(session)) == SIGNALS_MAX_WAITING
    assert session.signal(signal())


def test_signals_never_fill_the_buffer() -> None:
    """G6: a reader that stops is ended for events alone."""
    session = live_session()
    for number in range(10 * BUFFER_MAX_EVENTS):
        session.signal(signal(number))

    deliver(session, *[1] * (BUFFER_MAX_EVENTS // 2))

    assert Lagging() not in take_all(session)


def test_what_waits_from_tick_to_tick_is_dropped() -> None:
    """Typing that comes late would be shown when it is long over."""
    session = live_session()
    deliver(session, 1)
    session.signal(signal(1))
    session.tick(1.0, is_live=True)
    session.signal(signal(2))
    assert take_all(session)[1:] == [signal(1), signal(2)]
    deliver(session, 1)
    session.signal(signal(3))
    session.tick(2.0, is_live=True)
    session.signal(signal(4))

    session.tick(3.0, is_live=True)

    assert kinds(take_all(session)) == [Events]
    assert session.signal(signal(5))
    session.tick(4.0, is_live=True)
    assert take_all(session) == [signal(5)]


def test_dropping_signals_lets_go_what_is_behind_them() -> None:
    session = with_window(RECORD_MAX_EVENTS)
    deliver(session, RECORD_MAX_EVENTS)
    take_all(session)
    session.signal(signal(1))
    deliver(session, 1)
    session.tick(1.0, is_live=True)
    session.tick(2.0, is_live=True)
    assert not has_output(session)  # what was behind is held now

    ack(session, 1)

    assert kinds(take_all(session)) == [Events]


@pytest.mark.parametrize("window", [0, RECORD_MAX_EVENTS])
@given(
    seed=st.integers(0, 2**16),
    steps=st.lists(st.sampled_from(["record", "signal", "signal", "take", "take one", "ack", "tick"]), max_size=80),
)
def test_in_any_order_no_event_is_lost_and_no_signal_is_late_or_twice(window: int, seed: int, steps: list[str]) -> None:
    chance = random.Random(seed)
    session = with_window(window)
    taken: list[Outgoing] = []
    queued_at: dict[Signals, int] = {}
    delivered, acked, ticks = 0, 0, 0

    def take(max_bytes: int) -> None:
        for frame in session.take(max_bytes):
            taken.append(frame)
            if isinstance(frame, Signals):
                assert ticks - queued_at.pop(frame) <= 1

    for number, step in enumerate(steps):
        match step:
            case "record":
                count = chance.choice([1, 2, RECORD_MAX_EVENTS])
                if delivered + count - count_of(taken) > BUFFER_MAX_EVENTS // 2:
                    continue
                deliver(session, count)
                delivered += count
            case "signal":
                if session.signal(signal(number)):
                    queued_at[signal(number)] = ticks
            case "take":
                take(1 << 30)
                assert not has_output(session)
            case "take one":
                take(1)
            case "tick":
                session.tick(0.1, is_live=True)
                ticks += 1
            case _:
                acked = chance.randint(acked, count_of(taken))
                ack(session, acked)
    while count_of(taken) < delivered:
        ack(session, count_of(taken))
        take(1 << 30)
    take(1 << 30)
    assert not has_output(session)
    assert session.buffered_bytes == 0
    session.signal(signal(9999))
    assert take_all(session) == [signal(9999)]


def count_of(frames: Sequence[Outgoing]) -> int:
    return sum(frame.count for frame in frames if isinstance(frame, Events))
