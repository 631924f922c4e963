"""What a client marks as delivered, and when: once it is processed, where somebody is told, never too often."""

from datetime import UTC, datetime

from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb

from hubbub_client import events
from hubbub_client.delivered_board import INTERVAL_S, SETTLING_S, DeliveredBoard, Mark
from hubbub_client.kept import ConversationSettings, ReadMarker, ReceiptsMode
from hubbub_client.model import Cursor, Member, MemberRole, Message, TopicHead
from hubbub_client.wire import read_conversation
from hubbub_client.wire_kept import write_mode
from tests.support.scripted_server import head

NOW = datetime(2026, 11, 28, tzinfo=UTC)
LATER_S = 1_000.0


def received(number: int, *, sender_id: str = "u2", epoch: int = 1) -> events.MessageReceived:
    message = Message(
        conversation_id="c1",
        message_number=number,
        counted_number=number,
        sender_id=sender_id,
        client_message_id="m",
        text="hello",
        commit_time=NOW,
    )
    return events.MessageReceived(cursor=Cursor("c1", epoch, number), message=message)


def learn(board: DeliveredBoard, mode: ReceiptsMode, position: int = 100, *, epoch: int = 1) -> None:
    view = conversations_pb.ConversationView(head=head("c1", position, epoch=epoch))
    view.conversation.receipts_mode = write_mode(mode)
    board.learn(read_conversation(view))


def board_with(mode: ReceiptsMode, number: int = 1) -> DeliveredBoard:
    """A board that knows the mode of c1 and has told of message 1, at 0 s."""
    board = DeliveredBoard("u1")
    board.receive(received(number), 0.0)
    (mark,) = board.take_due(SETTLING_S, 16)
    learn(board, mode)
    board.finish(mark)
    return board


def take(board: DeliveredBoard, now_s: float) -> list[tuple[int, bool]]:
    return [(mark.number, mark.needs_mode) for mark in board.take_due(now_s, 16)]


def test_a_burst_is_one_mark_and_what_comes_meanwhile_is_the_next_one_two_seconds_later() -> None:
    board = DeliveredBoard("u1")
    for number in (1, 2, 3):
        board.receive(received(number), 0.0)
    assert take(board, SETTLING_S / 2) == []
    (mark,) = board.take_due(SETTLING_S, 16)
    assert (mark.conversation_id, mark.number, mark.needs_mode) == ("c1", 3, True)
    learn(board, ReceiptsMode.FULL)
    assert board.is_wanted(mark)
    board.receive(received(4), 0.5)
    assert take(board, LATER_S) == []  # one at a time
    board.finish(mark)
    board.receive(received(5), 0.6)
    assert take(board, SETTLING_S + INTERVAL_S - 0.01) == []
    assert board.next_due_s() == SETTLING_S + INTERVAL_S
    assert take(board, SETTLING_S + INTERVAL_S) == [(5, False)]


def test_own_messages_and_what_was_told_or_read_are_not_marked() -> None:
    board = board_with(ReceiptsMode.FULL)
    board.receive(received(2, sender_id="u1"), LATER_S)
    board.receive(received(1), LATER_S)
    assert board.is_idle
    board.receive(received(3), LATER_S)
    marker = ReadMarker(epoch=1, message_number=3, counted_number=3)
    board.receive(events.ReadMarkerMoved(cursor=Cursor("u1", 1, 1), conversation_id="c1", marker=marker), LATER_S)
    assert board.is_idle
    board.receive(received(4), LATER_S)
    moved = events.DeliveredMarkerMoved(cursor=Cursor("u1", 1, 2), conversation_id="c1", epoch=1, message_number=4)
    board.receive(moved, LATER_S)
    assert board.is_idle


def test_nothing_is_marked_where_nobody_is_told_until_the_settings_change() -> None:
    board = board_with(ReceiptsMode.COUNT_ONLY)
    board.receive(received(2), LATER_S)
    assert board.is_idle
    settings = ConversationSettings(receipts_limit=ReceiptsMode.FULL)
    board.receive(
        events.ConversationSettingsChanged(cursor=Cursor("c1", 1, 101), actor_id="u2", settings=settings), LATER_S
    )
    board.receive(received(3), LATER_S)
    assert take(board, 2 * LATER_S) == [(3, True)]


def test_the_mode_is_asked_for_again_only_after_what_may_have_changed_it() -> None:
    member = Member(user_id="u3", role=MemberRole.MEMBER, join_position=101)
    more = events.MembersAdded(cursor=Cursor("c1", 1, 101), actor_id="u2", members=(member,))
    fewer = events.MemberRemoved(cursor=Cursor("c1", 1, 101), actor_id="u2", user_id="u3")
    seen = events.MembersAdded(cursor=Cursor("c1", 1, 100), actor_id="u2", members=(member,))
    asked = {}
    for mode in (ReceiptsMode.FULL, ReceiptsMode.OFF):
        for change in (more, fewer, seen):
            board = board_with(mode)
            board.receive(change, LATER_S)
            board.receive(received(2), LATER_S)
            asked[mode, change] = [needs_mode for _, needs_mode in take(board, 2 * LATER_S)]
    assert [*asked.values()] == [[True], [False], [False], [], [True], []]


def test_a_view_from_before_a_change_says_nothing_of_the_mode_now() -> None:
    board = DeliveredBoard("u1")
    board.receive(received(1), 0.0)
    (mark,) = board.take_due(LATER_S, 16)
    board.receive(events.GapSkipped(start=Cursor("c1", 1, 1), head=gap_head(200), newest_messages=()), LATER_S)
    learn(board, ReceiptsMode.FULL, 150)
    assert board.needs_mode(mark)
    assert not board.is_wanted(mark)
    board.finish(mark, retry_s=LATER_S)
    assert take(board, 2 * LATER_S) == [(1, True)]


def gap_head(position: int, epoch: int = 1) -> TopicHead:
    return TopicHead(cursor=Cursor("c1", epoch, position), last_message_number=9, last_counted_number=9)


def test_after_a_gap_its_newest_message_of_others_is_marked() -> None:
    board = board_with(ReceiptsMode.FULL)
    newest = (received(8).message, received(9, sender_id="u1").message)
    board.receive(events.GapSkipped(start=Cursor("c1", 1, 1), head=gap_head(200), newest_messages=newest), LATER_S)
    assert take(board, 2 * LATER_S) == [(8, True)]


def test_a_new_life_of_the_topic_begins_at_its_first_message() -> None:
    board = board_with(ReceiptsMode.FULL, number=9)
    board.receive(events.TopicReset(head=gap_head(1, epoch=2)), LATER_S)
    board.receive(received(1, epoch=2), LATER_S)
    board.receive(received(10, epoch=1), LATER_S)
    assert take(board, 2 * LATER_S) == [(1, True)]


def test_what_was_not_answered_is_due_again_and_what_was_refused_is_not() -> None:
    board = board_with(ReceiptsMode.FULL)
    board.receive(received(2), LATER_S)
    (mark,) = board.take_due(2 * LATER_S, 16)
    board.finish(mark, retry_s=3 * LATER_S)
    assert take(board, 3 * LATER_S - 1) == []
    (mark,) = board.take_due(3 * LATER_S, 16)
    assert mark.number == 2
    board.finish(mark)
    assert board.is_idle


def test_a_conversation_that_ended_wants_nothing_and_a_later_membership_starts_afresh() -> None:
    board = board_with(ReceiptsMode.FULL)
    board.receive(received(2), LATER_S)
    (mark,) = board.take_due(2 * LATER_S, 16)
    board.receive(events.TopicEnded(topic_id="c1"), 2 * LATER_S)
    assert not board.is_wanted(mark)
    board.receive(received(3), 2 * LATER_S)
    board.finish(mark)
    assert take(board, 3 * LATER_S) == [(3, True)]


def test_so_many_marks_are_out_at_most_and_hurry_makes_the_others_due() -> None:
    board = DeliveredBoard("u1")
    for conversation_id in ("c1", "c2", "c3"):
        event = received(1)
        board.receive(events.MessageReceived(cursor=Cursor(conversation_id, 1, 1), message=event.message), 0.0)
    assert board.take_due(0.0, 2) == []
    board.hurry(0.0)
    out: list[Mark] = board.take_due(0.0, 2)
    assert len(out) == 2
    assert board.take_due(0.0, 2) == []
    board.finish(out[0])
    assert len(board.take_due(0.0, 2)) == 1
