"""Echoes, receipts, presence and mentions at the client: what is told, in which order, and how often."""

from datetime import UTC, datetime

import grpc
import pytest
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import message_pb2
from hubbub.presence.v1 import presence_service_pb2 as presence_pb

from hubbub_client.echoes import Echo, EchoBoard, EchoState
from hubbub_client.entities import BroadcastAudience, BroadcastMention, UserMention, mentions_of
from hubbub_client.errors import NotPermitted
from hubbub_client.events import ReadFloorChanged, ReceiptChanged
from hubbub_client.model import Cursor, Sent
from hubbub_client.presence_board import WATCHED_MAX, PresenceBoard
from hubbub_client.presences import PresenceState
from hubbub_client.receipt_board import KEPT_MAX, ReceiptBoard

NOW = datetime(2026, 11, 28, tzinfo=UTC)
REFUSED = NotPermitted(grpc.StatusCode.PERMISSION_DENIED, "no", reason="NOT_PERMITTED")


def echo(client_message_id: str) -> Echo:
    return Echo(conversation_id="c1", client_message_id=client_message_id, text="hello", post_time=NOW)


def sent(client_message_id: str, number: int = 7) -> Sent:
    cursor = Cursor("c1", 1, number)
    return Sent(client_message_id=client_message_id, message_number=number, cursor=cursor, commit_time=NOW)


def message_sent(client_message_id: str, topic_id: str = "c1") -> event_pb2.Event:
    message = message_pb2.Message(message_number=7, client_message_id=client_message_id)
    return event_pb2.Event(topic_id=topic_id, message_sent=event_pb2.MessageSent(message=message))


def states(board: EchoBoard) -> list[EchoState]:
    taken = []
    while (change := board.take()) is not None:
        taken.append(change.state)
    return taken


# ---- echoes


@pytest.mark.parametrize("is_event_first", [True, False])
def test_an_echo_is_sent_once_whatever_comes_first(is_event_first: bool) -> None:
    board = EchoBoard()
    board.post(echo("m1"))
    assert states(board) == [EchoState.PENDING]
    if is_event_first:
        board.receive_event(message_sent("m1"))
        board.settle("m1", sent("m1"))
    else:
        board.settle("m1", sent("m1"))
        board.receive_event(message_sent("m1"))
    assert states(board) == [EchoState.SENT]
    assert board.of("c1") == []


def test_an_echo_of_another_conversation_or_id_stays() -> None:
    board = EchoBoard()
    board.post(echo("m1"))
    board.receive_event(message_sent("m1", "c2"))
    board.receive_event(message_sent("m2"))
    board.settle("m2", sent("m2"))
    assert states(board) == [EchoState.PENDING]


def test_what_failed_stays_until_it_is_posted_again_or_discarded() -> None:
    board = EchoBoard()
    for client_message_id in ("m1", "m2"):
        board.post(echo(client_message_id))
    assert len(states(board)) == 2
    board.settle("m1", REFUSED)
    failed = board.get("m1")
    assert failed is not None
    assert failed.error is REFUSED
    board.post(echo("m1"))
    assert [one.client_message_id for one in board.of("c1")] == ["m2", "m1"]
    with pytest.raises(ValueError, match="m1"):
        board.post(echo("m1"))
    assert states(board) == [EchoState.PENDING]  # that it failed in between was never seen
    assert board.discard("m1") is not None
    assert board.discard("m1") is None
    board.settle("m1", sent("m1"))
    assert states(board) == []


# ---- receipts


def marker(number: int, *, is_read: bool = True, user_id: str = "u2") -> frame_pb2.Signal:
    signal = frame_pb2.Signal(conversation_id="c1", user_id=user_id)
    (signal.read_marker if is_read else signal.delivered_marker).message_number = number
    return signal


def told(board: ReceiptBoard) -> list[tuple[str, int, int]]:
    taken = []
    while (change := board.take()) is not None:
        assert isinstance(change, ReceiptChanged)
        taken.append((change.user_id, change.delivered_number, change.read_number))
    return taken


def test_receipts_only_grow_and_what_is_read_was_delivered() -> None:
    board = ReceiptBoard()
    board.receive(marker(5, is_read=False))
    board.receive(marker(3))
    assert told(board) == [("u2", 5, 3)]
    board.receive(marker(2))
    board.receive(marker(4, is_read=False))
    assert told(board) == []
    board.receive(marker(8))
    board.learn("c1", "u3", delivered_number=0, read_number=1)
    assert told(board) == [("u2", 8, 8), ("u3", 1, 1)]
    assert board.of("c1", "u2") == (8, 8)
    board.forget("c1")
    assert board.of("c1", "u2") == (0, 0)


def floor(number: int) -> frame_pb2.Signal:
    return frame_pb2.Signal(conversation_id="c1", read_floor=frame_pb2.ReadFloor(message_number=number))


def test_a_read_floor_names_nobody_and_only_grows() -> None:
    board = ReceiptBoard()
    board.receive(floor(3))
    board.receive(floor(5))
    board.receive(floor(4))
    assert board.take() == ReadFloorChanged(conversation_id="c1", message_number=5)
    assert board.take() is None
    board.learn_floor("c1", 5)
    assert board.take() is None
    board.forget("c1")
    board.receive(floor(1))
    assert board.take() == ReadFloorChanged(conversation_id="c1", message_number=1)


def test_receipts_are_bounded() -> None:
    board = ReceiptBoard()
    for number in range(KEPT_MAX + 1):
        board.learn("c1", f"u{number}", delivered_number=1)
    assert board.of("c1", "u0") == (0, 0)
    assert len(told(board)) == KEPT_MAX
    for number in range(KEPT_MAX + 1):
        board.learn_floor(f"c{number}", 1)
    first = board.take()
    assert first == ReadFloorChanged(conversation_id="c1", message_number=1)


# ---- presence


def update(*reports: tuple[str, int, int], snapshot: bool = False) -> presence_pb.PresenceUpdate:
    presences = [
        presence_pb.Presence(user_id=user_id, state=presence_pb.PresenceState.ValueType(state), version=version)
        for user_id, state, version in reports
    ]
    return presence_pb.PresenceUpdate(presences=presences, snapshot=snapshot)


ONLINE, AWAY = presence_pb.PRESENCE_STATE_ONLINE, presence_pb.PRESENCE_STATE_AWAY


def changes(board: PresenceBoard) -> list[tuple[str, PresenceState]]:
    taken = []
    while (change := board.take()) is not None:
        taken.append((change.presence.user_id, change.presence.state))
    return taken


def test_presence_is_told_when_it_changes_and_an_older_report_is_dropped() -> None:
    board = PresenceBoard()
    board.watch(["u2", "u3"])
    board.receive(update(("u2", ONLINE, 5), ("u9", ONLINE, 5), snapshot=True))
    assert changes(board) == [("u2", PresenceState.ONLINE)]
    board.receive(update(("u2", AWAY, 4)))
    board.receive(update(("u2", ONLINE, 6)))
    assert changes(board) == []
    board.receive(update(("u2", AWAY, 2), snapshot=True))  # another life of the registry: the snapshot is the truth
    assert changes(board) == [("u2", PresenceState.AWAY)]


def test_presence_does_not_haunt() -> None:
    board = PresenceBoard()
    board.watch(["u2"])
    board.receive(update(("u2", ONLINE, 5)))
    assert changes(board) == [("u2", PresenceState.ONLINE)]
    board.lose()
    assert changes(board) == [("u2", PresenceState.UNKNOWN)]
    board.receive(update(("u2", ONLINE, 5), snapshot=True))
    assert changes(board) == [("u2", PresenceState.ONLINE)]
    board.unwatch(["u2"])
    board.receive(update(("u2", AWAY, 9)))
    assert changes(board) == []
    assert not board.is_needed


def test_at_most_500_are_watched() -> None:
    board = PresenceBoard()
    board.watch(f"u{number}" for number in range(WATCHED_MAX))
    board.watch(["u0"])
    with pytest.raises(ValueError, match="at most 500"):
        board.watch(["one more"])


# ---- mentions


def test_mentions_are_found_as_people_type_them() -> None:
    text = "@Bob, ask @carol.x. or @all; mail me@bob.org, not `@bob` nor @nobody @here"
    found = mentions_of(text, {"bob": "u2", "carol.x": "u3"})
    assert found == [
        UserMention(start=0, length=4, user_id="u2"),
        UserMention(start=10, length=8, user_id="u3"),
        BroadcastMention(start=23, length=4),
        BroadcastMention(start=text.index("@here"), length=5, audience=BroadcastAudience.HERE),
    ]
    assert [text[one.start : one.start + one.length] for one in found] == ["@Bob", "@carol.x", "@all", "@here"]
