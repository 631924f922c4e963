"""The ack window: how much of a stream may be unacknowledged, what waits then, and what does not."""

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.active_topic import Delivery
from hubbub_server.app.frames import (
    Ack,
    Events,
    Goodbye,
    GoodbyeReason,
    Heads,
    Heartbeat,
    Lagging,
    Outgoing,
    Reply,
    TopicEnded,
)
from hubbub_server.app.send_queue import BUFFER_MAX_EVENTS
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S
from hubbub_server.app.session_actions import Submit
from hubbub_server.domain.commands import Sent
from hubbub_server.domain.errors import NodeDraining, ProtocolBreach, RateLimited
from hubbub_server.domain.limits import RECORD_MAX_EVENTS
from tests.support.app_node import GROUP
from tests.support.sessions import command, head, sent, take_all
from tests.support.windows import WINDOW, ack, deliver, has_output, new_session, with_window


def events_in(frames: Sequence[Outgoing]) -> int:
    return sum(frame.count for frame in frames if isinstance(frame, Events))


@pytest.mark.parametrize(
    ("asked", "answered"),
    [
        (0, 0),
        (1, RECORD_MAX_EVENTS),
        (RECORD_MAX_EVENTS, RECORD_MAX_EVENTS),
        (RECORD_MAX_EVENTS + 1, RECORD_MAX_EVENTS + 1),
        (2**31 - 1, 2**31 - 1),
    ],
)
def test_welcome_names_the_window_which_is_a_whole_record_at_least(asked: int, answered: int) -> None:
    """Of a smaller one the largest record could never be sent."""
    assert new_session(asked)[1].ack_window_events == answered


def test_subscribe_has_no_window() -> None:
    """Its client cannot acknowledge."""
    session, welcome = new_session(WINDOW, takes_commands=False)
    assert welcome.ack_window_events == 0
    deliver(session, *[1] * (WINDOW + 1))
    assert events_in(take_all(session)) == WINDOW + 1


def test_without_a_window_nothing_waits_for_acks() -> None:
    session = with_window(0)
    for _ in range(5):
        deliver(session, *[1] * BUFFER_MAX_EVENTS)
        assert events_in(take_all(session)) == BUFFER_MAX_EVENTS
    assert not session.is_ended


def test_so_many_events_go_as_the_window_has_and_not_one_more() -> None:
    """G6: an Ack of n lets n more go."""
    session = with_window()
    deliver(session, *[1] * (WINDOW + 2))
    assert events_in(take_all(session)) == WINDOW
    assert not has_output(session)
    ack(session, 1)
    assert has_output(session)
    assert events_in(take_all(session)) == 1
    assert not has_output(session)
    ack(session, WINDOW + 1)
    assert events_in(take_all(session)) == 1


def test_a_record_goes_whole_or_waits() -> None:
    session = with_window()
    deliver(session, WINDOW - 1, 2, 1)
    assert events_in(take_all(session)) == WINDOW - 1
    ack(session, 1)
    assert events_in(take_all(session)) == 2
    ack(session, 2)
    assert events_in(take_all(session)) == 1


def test_the_largest_record_fits_into_the_smallest_window() -> None:
    session = with_window(1)
    deliver(session, RECORD_MAX_EVENTS)
    assert events_in(take_all(session)) == RECORD_MAX_EVENTS


def test_an_ack_counts_what_was_taken_not_what_waits() -> None:
    """One event more than was sent is a breach, also when more of them wait."""
    session = with_window()
    deliver(session, *[1] * (WINDOW + 1))
    take_all(session)
    ack(session, WINDOW)
    assert not session.is_ended
    take_all(session)
    deliver(session, 1)
    ack(session, WINDOW + 2)
    assert isinstance(session.end_error, ProtocolBreach)


def test_answers_and_signs_of_life_pass_held_events() -> None:
    """A client that processes slowly hears what became of its sends, and that the stream is alive."""
    session = with_window()
    (submit,) = session.receive(command("r1"), 0.0)
    assert isinstance(submit, Submit)
    deliver(session, WINDOW, 1)
    session.answer("r1", sent())
    session.receive(command("r2"), 0.0)
    session.tick(HEARTBEAT_INTERVAL_S, is_live=True)
    assert [type(frame) for frame in take_all(session)] == [Events, Reply, Heartbeat]
    session.answer("r2", sent())
    session.tick(2 * HEARTBEAT_INTERVAL_S, is_live=False)
    assert [type(frame) for frame in take_all(session)] == [Reply, Heartbeat]
    assert not has_output(session)
    ack(session, WINDOW)
    # The first heartbeat comes once more, in its place: with heads and token.
    taken = take_all(session)
    assert [type(frame) for frame in taken] == [Events, Heartbeat]
    assert taken[-1] == Heartbeat(heads=(head(1),), resume_token="token", live=True)


def test_a_heartbeat_that_passes_events_says_nothing_of_them() -> None:
    """G4: heads of what is held would look like a loss, a token would be a lie."""
    session = with_window()
    deliver(session, WINDOW, 1)
    session.tick(HEARTBEAT_INTERVAL_S, is_live=True)
    _, early = take_all(session)
    session.tick(2 * HEARTBEAT_INTERVAL_S, is_live=True)
    (later,) = take_all(session)
    assert early == later == Heartbeat(heads=(), resume_token="", live=True)
    ack(session, WINDOW)
    take_all(session)
    session.tick(3 * HEARTBEAT_INTERVAL_S, is_live=True)
    (last,) = take_all(session)
    assert isinstance(last, Heartbeat)
    assert last.resume_token == "token"


def test_what_is_about_topics_keeps_its_place_among_events() -> None:
    """G5: a topic does not end before its last event."""
    session = with_window()
    deliver(session, WINDOW, 1)
    session.topic_opened(head(7))
    session.topic_ended(GROUP)
    assert [type(frame) for frame in take_all(session)] == [Events]
    ack(session, WINDOW)
    assert [type(frame) for frame in take_all(session)] == [Events, Heads, TopicEnded]


def test_held_events_fill_the_buffer_then_lagging_then_goodbye() -> None:
    """G6: whoever does not acknowledge is a slow reader like any other."""
    session = with_window()
    deliver(session, *[1] * WINDOW)
    take_all(session)
    deliver(session, *[1] * (BUFFER_MAX_EVENTS // 2))
    assert not has_output(session)
    deliver(session, 1)
    assert take_all(session) == [Lagging()]
    deliver(session, *[1] * (BUFFER_MAX_EVENTS // 2 - 1))
    assert not session.is_ended
    deliver(session, 1)
    (goodbye,) = take_all(session)
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.reason, goodbye.resume_token) == (GoodbyeReason.SLOW_READER, "")
    assert isinstance(session.end_error, RateLimited)
    assert session.buffered_bytes == 0


@pytest.mark.parametrize("is_taken", [True, False])
def test_a_stream_that_ends_does_not_wait_for_acks(is_taken: bool) -> None:
    """Goodbye comes at once; its token would cover what was thrown away, so it has none."""
    session = with_window()
    deliver(session, WINDOW, 1)
    taken = take_all(session) if is_taken else []
    session.drain(1.0)
    taken += take_all(session)
    assert events_in(taken) == WINDOW
    goodbye = taken[-1]
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.reason, goodbye.resume_token) == (GoodbyeReason.DRAINING, "")
    assert isinstance(session.end_error, NodeDraining)
    assert session.buffered_bytes == 0
    assert take_all(session) == []


def test_a_stream_that_is_half_closed_ends_without_what_is_held() -> None:
    session = with_window()
    deliver(session, WINDOW, 1)
    take_all(session)
    session.half_close()
    assert session.is_ended
    assert take_all(session) == []


def test_goodbye_of_a_stream_that_told_everything_has_its_token() -> None:
    session = with_window()
    deliver(session, 1)
    session.drain(1.0)
    goodbye = take_all(session)[-1]
    assert isinstance(goodbye, Goodbye)
    assert goodbye.resume_token == "token"


@given(
    window=st.integers(RECORD_MAX_EVENTS, 600),
    seed=st.integers(0, 2**16),
    steps=st.lists(st.sampled_from(["record", "record", "answer", "beat", "take", "take one", "ack"]), max_size=80),
)
def test_no_order_of_things_exceeds_the_window_or_loses_a_frame(window: int, seed: int, steps: list[str]) -> None:
    """G6: never more unacknowledged than the window has; events in order, every answer once, nothing left behind."""
    chance = random.Random(seed)
    session = with_window(window)
    bodies: list[bytes] = []
    taken: list[Outgoing] = []
    acked, answers, now_s = 0, 0, 0.0

    def take(max_bytes: int) -> None:
        taken.extend(session.take(max_bytes))
        assert events_in(taken) - acked <= window

    for number, step in enumerate(steps):
        match step:
            case "record":
                count = chance.choice([1, 1, 3, 50, RECORD_MAX_EVENTS])
                if sum(map(len, bodies)) + count - events_in(taken) > BUFFER_MAX_EVENTS:
                    continue
                bodies.append(f"{number:03}".encode().ljust(count, b".")[:count] if count > 3 else b"x" * count)
                frame = Events(body=bodies[-1], count=count)
                session.deliver(Delivery(topic_id=GROUP, head=head(1), frame=frame, turns=()))
            case "answer":
                session.receive(command(f"r{number}"), now_s)
                session.answer(f"r{number}", sent())
                answers += 1
            case "beat":
                now_s += HEARTBEAT_INTERVAL_S
                session.receive(Ack(processed_events=acked), now_s)
                session.tick(now_s, is_live=True)
            case "take":
                take(1 << 30)
                assert not has_output(session)
            case "take one":
                take(1)
            case _:
                acked = chance.randint(acked, events_in(taken))
                session.receive(Ack(processed_events=acked), now_s)
    acked = events_in(taken)
    session.receive(Ack(processed_events=acked), now_s)
    while has_output(session):
        assert not session.is_ended
        take(1 << 30)
        acked = events_in(taken)
        session.receive(Ack(processed_events=acked), now_s)
    assert [frame.body for frame in taken if isinstance(frame, Events)] == bodies
    replies = [frame for frame in taken if isinstance(frame, Reply)]
    assert len(replies) == answers
    assert all(isinstance(reply.answer, Sent) for reply in replies)
    assert session.buffered_bytes == 0
