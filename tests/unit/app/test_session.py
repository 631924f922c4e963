"""The session's rules, one by one: Hello, commands, Ack, time, and how each end comes out. No tasks, no transport."""

from collections.abc import Callable

import pytest

from hubbub_server.app.active_topic import Delivery
from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import (
    Ack,
    ClientFrame,
    Events,
    Goodbye,
    GoodbyeReason,
    Heads,
    Heartbeat,
    Outgoing,
    Reauthenticate,
    Reauthenticated,
    Rejected,
    Reply,
    Reset,
    StreamCommand,
    TopicEnded,
    UnknownFrame,
    Welcome,
)
from hubbub_server.app.session import (
    CLIENT_SILENCE_S,
    CONNECT_MAX_AGE_S,
    HEARTBEAT_INTERVAL_S,
    HELLO_WITHIN_S,
    MAX_UNANSWERED,
    SUBSCRIBE_MAX_AGE_S,
    TOKEN_GRACE_S,
    Session,
    SessionState,
)
from hubbub_server.app.session_actions import CheckToken, OpenTopics, Submit
from hubbub_server.domain.errors import (
    BadCredentials,
    CredentialsExpired,
    InvalidField,
    LogUnavailable,
    NodeDraining,
    ProtocolBreach,
    RateLimited,
    SendOrder,
)
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.limits import HEADS_PER_FRAME, REQUEST_ID_MAX_CHARACTERS
from tests.support.app_node import ALICE, BOB, GROUP
from tests.support.sessions import HELLO, TOKEN_LIFE_S, caller, command, head, live_session, new_session, sent, take_all


def delivery(position: int) -> Delivery:
    return Delivery(topic_id=GROUP, head=head(position), frame=Events(body=b"x", count=1), turns=())


def assert_ended(session: Session, reason: GoodbyeReason, error: type[Exception] | None, *, reconnect: bool) -> None:
    """The last frame is Goodbye, and the status after it is that of `error`."""
    goodbye = take_all(session)[-1]
    assert isinstance(goodbye, Goodbye)
    assert (goodbye.reason, goodbye.reconnect) == (reason, reconnect)
    assert session.is_ended
    assert session.end_error is None if error is None else type(session.end_error) is error


# ---- Hello


def test_hello_is_answered_by_welcome_and_the_topics_are_opened() -> None:
    session = new_session()
    assert session.receive(HELLO, 0.0) == (OpenTopics(instance_id=HELLO.instance_id),)
    (welcome,) = take_all(session)
    assert isinstance(welcome, Welcome)
    assert (welcome.session_id, welcome.user_id, welcome.resumed) == ("s1", BOB, False)
    assert welcome.heartbeat_interval_s == HEARTBEAT_INTERVAL_S
    session.opened()
    assert take_all(session) == [Heads(heads=(), complete=True)]


def test_session_without_hello_ends_after_ten_seconds() -> None:
    session = new_session()
    session.tick(HELLO_WITHIN_S, is_live=True)
    assert not session.is_ended
    session.tick(HELLO_WITHIN_S + 0.1, is_live=True)
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


@pytest.mark.parametrize("frame", [command(), Ack(processed_events=0), UnknownFrame()], ids=lambda f: type(f).__name__)
def test_anything_before_hello_is_a_breach(frame: ClientFrame) -> None:
    session = new_session()
    assert session.receive(frame, 0.0) == ()
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


@pytest.mark.parametrize(
    "frame",
    [HELLO, UnknownFrame(), Ack(processed_events=1), Ack(processed_events=-1)],
    ids=["hello twice", "unknown frame", "ack beyond", "ack below zero"],
)
def test_frames_out_of_order_are_a_breach(frame: ClientFrame) -> None:
    session = live_session()
    session.receive(frame, 1.0)
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


def test_ack_may_stay_or_grow_up_to_what_was_sent_but_never_go_back() -> None:
    session = live_session()
    for position in (1, 2, 3):
        session.deliver(delivery(position))
    session.receive(Ack(processed_events=0), 1.0)
    take_all(session)
    for processed in (2, 2, 3):
        session.receive(Ack(processed_events=processed), 1.0)
    assert not session.is_ended
    session.receive(Ack(processed_events=2), 1.0)
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


# ---- commands


def test_command_is_submitted_and_answered_by_one_reply() -> None:
    session = live_session()
    (action,) = session.receive(command(), 1.0)
    assert isinstance(action, Submit)
    session.answer("r1", sent())
    assert take_all(session) == [Reply(request_id="r1", answer=sent())]


def test_request_id_still_unanswered_is_a_breach_but_may_be_used_again_afterwards() -> None:
    session = live_session()
    session.receive(command("same"), 1.0)
    session.answer("same", sent())
    assert len(session.receive(command("same"), 1.0)) == 1
    assert not session.is_ended
    assert session.receive(command("same"), 1.0) == ()
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


@pytest.mark.parametrize("length", [0, REQUEST_ID_MAX_CHARACTERS + 1])
def test_request_id_of_wrong_length_is_rejected_and_the_stream_goes_on(length: int) -> None:
    session = live_session()
    assert session.receive(command("x" * length), 1.0) == ()
    (rejected,) = take_all(session)
    assert isinstance(rejected, Rejected)
    assert isinstance(rejected.error, InvalidField)
    assert rejected.request_id == "x" * min(length, REQUEST_ID_MAX_CHARACTERS)
    assert not session.is_ended


@pytest.mark.parametrize("length", [1, REQUEST_ID_MAX_CHARACTERS])
def test_request_id_at_the_bounds_is_taken(length: int) -> None:
    assert len(live_session().receive(command("x" * length), 1.0)) == 1


def test_command_that_is_not_well_formed_is_rejected_and_the_stream_goes_on() -> None:
    session = live_session()
    bad = InvalidField("command.payload", "a known one")
    assert session.receive(StreamCommand(request_id="r1", payload=bad), 1.0) == ()
    assert take_all(session) == [Rejected(request_id="r1", error=bad)]
    assert len(session.receive(command("r1"), 1.0)) == 1


def test_refused_command_is_rejected_and_the_stream_goes_on() -> None:
    session = live_session()
    session.receive(command(), 1.0)
    error = SendOrder()
    session.answer("r1", error)
    assert take_all(session) == [Rejected(request_id="r1", error=error)]
    assert len(session.receive(command(), 1.0)) == 1


def test_only_so_many_commands_may_be_unanswered() -> None:
    session = live_session()
    for number in range(MAX_UNANSWERED):
        assert len(session.receive(command(f"r{number}"), 1.0)) == 1
    assert session.receive(command("one more"), 1.0) == ()
    (rejected,) = take_all(session)
    assert isinstance(rejected, Rejected)
    assert isinstance(rejected.error, RateLimited)
    session.answer("r0", sent())
    assert len(session.receive(command("one more"), 1.0)) == 1


# ---- tokens


def reauthenticate(session: Session, newer: Caller, now_s: float) -> Outgoing:
    (action,) = session.receive(
        StreamCommand(request_id="auth", payload=Reauthenticate(access_token="token")),
        now_s,
    )
    assert action == CheckToken(request_id="auth", access_token="token")
    session.reauthenticated("auth", newer, now_s, round(now_s * 1000))
    (frame,) = take_all(session)
    return frame


def test_newer_token_keeps_the_session() -> None:
    session = live_session()
    frame = reauthenticate(session, caller(token_ends_s=1200.0), 590.0)
    assert frame == Reply(request_id="auth", answer=Reauthenticated(token_expire_time_ms=1_200_000))
    session.tick(TOKEN_LIFE_S + TOKEN_GRACE_S + 1, is_live=True)
    assert not session.is_ended


@pytest.mark.parametrize("other", [caller(ALICE), caller(device="d2")], ids=["user", "device"])
def test_token_of_another_sign_in_is_rejected_and_the_old_one_stays(other: Caller) -> None:
    session = live_session()
    frame = reauthenticate(session, other, 590.0)
    assert isinstance(frame, Rejected)
    assert isinstance(frame.error, BadCredentials)
    assert session.caller == caller()
    assert not session.is_ended


@pytest.mark.parametrize(("takes_commands", "grace_s"), [(True, TOKEN_GRACE_S), (False, 0.0)])
def test_session_ends_with_its_token(takes_commands: bool, grace_s: float) -> None:
    session = live_session(takes_commands=takes_commands)
    session.receive(Ack(processed_events=0), TOKEN_LIFE_S)
    session.tick(TOKEN_LIFE_S + grace_s, is_live=True)
    assert not session.is_ended
    session.tick(TOKEN_LIFE_S + grace_s + 0.1, is_live=True)
    assert_ended(session, GoodbyeReason.TOKEN_EXPIRED, CredentialsExpired, reconnect=True)


# ---- time


def test_heartbeat_comes_every_twenty_seconds_also_while_topics_are_opened() -> None:
    """C83: silence of 50 s is a dead link, so the interval is a promise."""
    session = new_session()
    session.receive(HELLO, 0.0)
    take_all(session)
    for due_s in (HEARTBEAT_INTERVAL_S, 2 * HEARTBEAT_INTERVAL_S, 3 * HEARTBEAT_INTERVAL_S):
        session.receive(Ack(processed_events=0), due_s)
        session.tick(due_s - 0.1, is_live=True)
        assert take_all(session) == []
        session.tick(due_s, is_live=True)
        assert take_all(session) == [Heartbeat(heads=(), resume_token="", live=True)]


def test_heartbeat_names_at_most_a_thousand_heads_and_the_rest_in_the_next() -> None:
    """G4."""
    session = live_session()
    for number in range(HEADS_PER_FRAME + 1):
        topic_id = TopicId(f"c{number}")
        moved = Delivery(topic_id=topic_id, head=head(1, topic_id=topic_id), frame=Events(body=b"", count=0), turns=())
        session.deliver(moved)
    take_all(session)
    counts = []
    for beat in (1, 2, 3):
        session.tick(beat * HEARTBEAT_INTERVAL_S, is_live=True)
        (heartbeat,) = take_all(session)
        assert isinstance(heartbeat, Heartbeat)
        counts.append(len(heartbeat.heads))
    assert counts == [HEADS_PER_FRAME, 1, 0]


def test_client_that_says_nothing_for_ninety_seconds_is_gone() -> None:
    """C83: a half-open stream does not live for ever."""
    session = live_session()
    session.receive(Ack(processed_events=0), 5.0)
    session.tick(5.0 + CLIENT_SILENCE_S, is_live=True)
    assert not session.is_ended
    session.tick(5.1 + CLIENT_SILENCE_S, is_live=True)
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=True)


def test_subscriber_need_not_say_anything() -> None:
    session = live_session(takes_commands=False)
    session.tick(CLIENT_SILENCE_S * 2, is_live=True)
    assert not session.is_ended


@pytest.mark.parametrize(("takes_commands", "age_s"), [(True, CONNECT_MAX_AGE_S), (False, SUBSCRIBE_MAX_AGE_S)])
def test_old_session_ends_and_comes_back(takes_commands: bool, age_s: float) -> None:
    session = live_session(takes_commands=takes_commands, token_ends_s=10 * age_s)
    session.receive(Ack(processed_events=0), age_s)
    session.tick(age_s + 0.1, is_live=True)
    assert_ended(session, GoodbyeReason.MAX_AGE, None, reconnect=True)


# ---- ends


@pytest.mark.parametrize(
    ("end", "reason", "error", "reconnect"),
    [
        (lambda s: s.displace(), GoodbyeReason.DISPLACED, None, False),
        (lambda s: s.drain(1.0), GoodbyeReason.DRAINING, NodeDraining, True),
        (lambda s: s.cut_off(LogUnavailable("lost"), 1.0), GoodbyeReason.DRAINING, LogUnavailable, True),
        (lambda s: s.break_off(ProtocolBreach("x")), GoodbyeReason.PROTOCOL, ProtocolBreach, False),
    ],
    ids=["displaced", "draining", "log lost", "breach"],
)
def test_each_end_has_its_goodbye_and_nothing_follows(
    end: Callable[[Session], None], reason: GoodbyeReason, error: type[Exception] | None, reconnect: bool
) -> None:
    session = live_session()
    session.receive(command(), 1.0)
    session.deliver(delivery(1))
    end(session)
    session.deliver(delivery(2))
    session.answer("r1", sent())
    session.topic_ended(GROUP)
    session.drain(0.0)
    session.tick(1_000_000.0, is_live=True)
    assert [type(frame) for frame in session.take(1)] == [Events]
    assert_ended(session, reason, error, reconnect=reconnect)
    assert take_all(session) == []
    assert session.receive(command("r2"), 2.0) == ()


def test_end_of_the_client_waits_for_the_answers_it_is_owed() -> None:
    session = live_session()
    session.receive(command(), 1.0)
    session.half_close()
    assert session.state is SessionState.LIVE
    session.answer("r1", sent())
    assert take_all(session) == [Reply(request_id="r1", answer=sent())]
    assert (session.state, session.end_error) == (SessionState.ENDED, None)


@pytest.mark.parametrize("unanswered", [True, False])
def test_end_of_the_client_after_goodbye_changes_nothing(unanswered: bool) -> None:
    """A breach is told by the status, also when the client closes its side first."""
    session = live_session()
    if unanswered:
        session.receive(command("first"), 1.0)
    session.receive(UnknownFrame(), 1.0)
    session.half_close()
    session.answer("first", sent())
    assert_ended(session, GoodbyeReason.PROTOCOL, ProtocolBreach, reconnect=False)


# ---- topics


def test_reset_topic_is_named_by_its_new_head_alone() -> None:
    """C19: no later heartbeat brings the head of the old epoch back."""
    session = live_session()
    session.deliver(delivery(7))
    session.topic_reset(head(2, epoch=2))
    session.tick(HEARTBEAT_INTERVAL_S, is_live=True)
    frames = take_all(session)
    assert frames[1] == Reset(head=head(2, epoch=2))
    assert isinstance(frames[2], Heartbeat)
    assert frames[2].heads == ()


def test_ended_topic_is_in_no_later_heartbeat() -> None:
    session = live_session()
    session.deliver(delivery(7))
    session.topic_ended(GROUP)
    session.tick(HEARTBEAT_INTERVAL_S, is_live=True)
    frames = take_all(session)
    assert frames[1] == TopicEnded(topic_id=GROUP)
    assert frames[2] == Heartbeat(heads=(), resume_token="", live=True)


def test_topic_that_is_new_to_a_live_stream_is_named_before_its_events() -> None:
    session = live_session()
    session.topic_opened(head(4))
    session.deliver(delivery(5))
    frames = take_all(session)
    assert frames[0] == Heads(heads=(head(4),), complete=False)
    assert isinstance(frames[1], Events)


def test_heads_come_in_frames_of_a_thousand() -> None:
    session = new_session()
    session.receive(HELLO, 0.0)
    for number in range(2 * HEADS_PER_FRAME + 1):
        session.topic_opened(head(1, topic_id=TopicId(f"c{number}")))
    session.opened()
    frames = [frame for frame in take_all(session) if isinstance(frame, Heads)]
    assert [(len(frame.heads), frame.complete) for frame in frames] == [
        (HEADS_PER_FRAME, False),
        (HEADS_PER_FRAME, False),
        (1, True),
    ]
