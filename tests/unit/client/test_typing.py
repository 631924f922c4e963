"""Typing at the client: what is shown always ends, what is told is told seldom, nothing is told late."""

import pytest
from google.protobuf import any_pb2, duration_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import message_pb2
from hypothesis import given
from hypothesis import strategies as st

from hubbub_client.events import TypingChanged
from hubbub_client.model import TypingKind
from hubbub_client.typing_board import SHOWN_MAX, TypingBoard
from hubbub_client.typing_notices import REPEATED_S, TypingNotices

EXPIRES_S = 7


def signal(user_id: str = "u1", *, active: bool = True, kind: int = 1, conversation_id: str = "c1") -> frame_pb2.Signal:
    typing = frame_pb2.Typing(active=active, expires_in=duration_pb2.Duration(seconds=EXPIRES_S))
    typing.kind = kind  # type: ignore[assignment]  # any number
    return frame_pb2.Signal(conversation_id=conversation_id, user_id=user_id, typing=typing)


def message(sender_id: str, conversation_id: str = "c1") -> event_pb2.Event:
    sent = event_pb2.MessageSent(message=message_pb2.Message(sender_id=sender_id))
    return event_pb2.Event(topic_id=conversation_id, message_sent=sent)


def changed(user_id: str = "u1", kind: TypingKind | None = TypingKind.TEXT) -> TypingChanged:
    return TypingChanged(conversation_id="c1", user_id=user_id, kind=kind)


def told(board: TypingBoard, now_s: float = 0.0) -> list[TypingChanged]:
    """Everything that the application is told now."""
    changes = []
    while (change := board.take(now_s)) is not None:
        changes.append(change)
    return changes


# ---- what is shown


def test_typing_is_told_once_and_runs_out_by_the_clock() -> None:
    """C41: also while the watcher is the one who lost the link."""
    board = TypingBoard()
    board.receive(signal(), 0.0)
    board.receive(signal(), 3.0)
    assert told(board, 3.0) == [changed()]
    assert board.next_end_s() == 3.0 + EXPIRES_S

    assert told(board, 3.0 + EXPIRES_S - 0.1) == []
    assert told(board, 3.0 + EXPIRES_S) == [changed(kind=None)]
    assert board.next_end_s() is None


@pytest.mark.parametrize(
    "end",
    [
        lambda board: board.receive(signal(active=False), 1.0),
        lambda board: board.receive_event(message("u1")),
        lambda board: board.receive_event(
            event_pb2.Event(topic_id="c1", member_removed=event_pb2.MemberRemoved(user_id="u1"))
        ),
        lambda board: board.forget("c1"),
    ],
    ids=["stopped", "sent", "removed", "conversation ended"],
)
def test_it_ends_at_once_by(end) -> None:  # type: ignore[no-untyped-def]  # by each of these
    """C42."""
    board = TypingBoard()
    board.receive(signal(), 0.0)
    board.receive(signal("u2", conversation_id="c2"), 0.0)
    assert len(told(board)) == 2

    end(board)

    assert told(board, 1.0) == [changed(kind=None)]


def test_what_others_do_or_elsewhere_ends_nothing() -> None:
    board = TypingBoard()
    board.receive(signal(), 0.0)
    told(board)

    board.receive_event(message("u2"))
    board.receive_event(message("u1", "c2"))
    board.receive(frame_pb2.Signal(conversation_id="c1", user_id="u1", read_marker=frame_pb2.ReadMarker()), 0.0)

    assert told(board) == []


def test_what_began_and_ended_unseen_is_not_told() -> None:
    board = TypingBoard()
    board.receive(signal(), 0.0)
    board.receive_event(message("u1"))

    assert told(board) == []


def test_another_kind_is_told_and_an_unknown_one_is_text() -> None:
    board = TypingBoard()
    board.receive(signal(kind=frame_pb2.TYPING_KIND_UPLOADING), 0.0)
    assert told(board) == [changed(kind=TypingKind.UPLOADING)]
    board.receive(signal(kind=77), 0.0)
    assert told(board) == [changed(kind=TypingKind.TEXT)]


def test_so_many_are_shown_and_no_more() -> None:
    board = TypingBoard()
    for number in range(SHOWN_MAX + 10):
        board.receive(signal(f"u{number}"), 0.0)

    assert len(told(board)) == SHOWN_MAX
    assert len(told(board, EXPIRES_S)) == SHOWN_MAX


steps = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "off", "message", "take", "wait"]),
        st.sampled_from(["u1", "u2"]),
        st.sampled_from([0.5, 3.0, 8.0]),
    ),
    max_size=40,
)


@given(steps)
def test_in_any_order_the_application_ends_up_with_the_truth(steps: list[tuple[str, str, float]]) -> None:
    board, now_s = TypingBoard(), 0.0
    truth: dict[str, float] = {}
    known: set[str] = set()
    for what, user_id, pause_s in steps:
        match what:
            case "on":
                board.receive(signal(user_id), now_s)
                truth[user_id] = now_s + EXPIRES_S
            case "off":
                board.receive(signal(user_id, active=False), now_s)
                truth.pop(user_id, None)
            case "message":
                board.receive_event(message(user_id))
                truth.pop(user_id, None)
            case "take":
                for change in told(board, now_s):
                    assert (change.kind is None) == (change.user_id in known), "told twice"
                    known ^= {change.user_id}
                assert known == {each for each, until_s in truth.items() if until_s > now_s}
            case _:
                now_s += pause_s


# ---- what is told


def commands(notices: TypingNotices, now_s: float) -> list[tuple[str, bool]]:
    """Conversation and activity of everything that is to be said now."""
    said = []
    while (command := notices.next_command(now_s)) is not None:
        said.append((command.set_typing.conversation_id, command.set_typing.active))
    return said


def test_keystrokes_are_told_every_three_seconds_and_end_by_themselves() -> None:
    notices = TypingNotices()
    said = []
    for tenth in range(61):
        now_s = tenth / 10
        if now_s <= 4.0:
            notices.start("c1", TypingKind.TEXT, 1.5, now_s)
        said += [(now_s, *each) for each in commands(notices, now_s)]

    assert said == [(0.0, "c1", True), (REPEATED_S, "c1", True), (5.5, "c1", False)]
    assert notices.next_wake_s() is None


def test_it_says_when_it_is_to_be_asked_again() -> None:
    notices = TypingNotices()
    assert notices.next_wake_s() is None
    notices.start("c1", TypingKind.TEXT, 5.0, 10.0)
    assert notices.next_wake_s() == 10.0
    commands(notices, 10.0)
    assert notices.next_wake_s() == 10.0 + REPEATED_S
    commands(notices, 10.0 + REPEATED_S)
    assert notices.next_wake_s() == 15.0


def test_stopping_is_told_if_anything_was() -> None:
    notices = TypingNotices()
    notices.start("c1", TypingKind.TEXT, 5.0, 0.0)
    notices.stop("c1")
    assert commands(notices, 0.0) == []
    notices.start("c1", TypingKind.TEXT, 5.0, 0.0)
    commands(notices, 0.0)

    notices.stop("c1")
    notices.stop("c1")

    assert commands(notices, 0.0) == [("c1", False)]


def test_a_message_says_it_all() -> None:
    notices = TypingNotices()
    notices.start("c1", TypingKind.TEXT, 5.0, 0.0)
    commands(notices, 0.0)
    notices.stop("c1")  # the line is empty again
    notices.forget("c1")

    assert commands(notices, 10.0) == []


def test_another_kind_is_told_at_once() -> None:
    notices = TypingNotices()
    notices.start("c1", TypingKind.TEXT, 5.0, 0.0)
    commands(notices, 0.0)
    notices.start("c1", TypingKind.UPLOADING, 60.0, 1.0)

    command = notices.next_command(1.0)

    assert command is not None
    assert command.set_typing.kind == frame_pb2.TYPING_KIND_UPLOADING


def test_the_next_stream_begins_with_what_goes_on() -> None:
    """The server ended the rest with the stream."""
    notices = TypingNotices()
    for conversation_id in ("c1", "c2"):
        notices.start(conversation_id, TypingKind.TEXT, 5.0, 0.0)
    commands(notices, 0.0)
    notices.stop("c2")

    notices.close_stream()

    assert commands(notices, 0.1) == [("c1", True)]


@pytest.mark.parametrize(
    ("reason", "code", "goes_on"),
    [
        ("RATE_LIMITED", code_pb2.RESOURCE_EXHAUSTED, True),
        ("BACKEND_UNAVAILABLE", code_pb2.UNAVAILABLE, True),
        ("CONVERSATION_NOT_FOUND", code_pb2.NOT_FOUND, False),
    ],
)
def test_a_refusal_for_good_is_the_end(reason: str, code: int, goes_on: bool) -> None:
    notices = TypingNotices()
    notices.start("c1", TypingKind.TEXT, 60.0, 0.0)
    command = notices.next_command(0.0)
    assert command is not None
    assert notices.is_ours(command.request_id)
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(domain="hubbub", reason=f"ERROR_REASON_{reason}"))
    status = status_pb2.Status(code=code, message="no", details=[info])

    notices.receive_rejected(frame_pb2.Rejected(request_id=command.request_id, status=status))

    assert bool(commands(notices, REPEATED_S)) == goes_on
