"""Counters where their order of news matters, one case each; the machine beside it tries all of them together."""

from datetime import UTC, datetime, timedelta

import pytest
from hubbub.chat.v1 import event_pb2
from hubbub.chat.v1 import marker_service_pb2 as markers_pb
from hubbub.conversation.v1 import conversation_pb2, message_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb

from hubbub_client.counter_board import CounterBoard, Read
from hubbub_client.kept import Counters

ME, ROOM = "u1", "c1"
NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)


def head(topic_id: str, position: int, *, epoch: int = 1) -> conversation_pb2.TopicHead:
    """A head of a topic that has nothing but messages after the two events that made it."""
    cursor = conversation_pb2.Cursor(topic_id=topic_id, epoch=epoch, position=position)
    number = max(0, position - 2) if topic_id != ME else 0
    return conversation_pb2.TopicHead(cursor=cursor, last_message_number=number, last_counted_number=number)


def message(number: int, *, sender_id: str = "u2", mentioned: str = "") -> event_pb2.Event:
    pb = message_pb2.Message(message_number=number, counted_number=number, sender_id=sender_id)
    if mentioned:
        pb.content.text.entities.add(start=0, length=1).user_mention.user_id = mentioned
    sent = event_pb2.MessageSent(message=pb)
    return event_pb2.Event(topic_id=ROOM, epoch=1, position=number + 2, message_sent=sent)


def marker(number: int) -> read_state_pb2.ReadMarker:
    return read_state_pb2.ReadMarker(epoch=1, message_number=number, counted_number=number)


def read(position: int, number: int) -> event_pb2.Event:
    moved = event_pb2.ReadMarkerMoved(conversation_id=ROOM, marker=marker(number))
    return event_pb2.Event(topic_id=ME, epoch=1, position=position, read_marker_moved=moved)


def view(last: int, *, read_to: int = 0, mentions: int = 0) -> conversations_pb.ConversationView:
    return conversations_pb.ConversationView(
        conversation=conversation_pb2.Conversation(conversation_id=ROOM),
        membership=conversation_pb2.Member(user_id=ME, join_position=2),
        head=head(ROOM, last + 2),
        read_state=read_state_pb2.ReadState(
            marker=marker(read_to), unread_count=last - read_to, mention_count=mentions
        ),
    )


def counters_answer(*named: markers_pb.ConversationCounters, own_position: int = 1) -> markers_pb.GetCountersResponse:
    return markers_pb.GetCountersResponse(
        counters=named, cursor=conversation_pb2.Cursor(topic_id=ME, epoch=1, position=own_position)
    )


def numbers(board: CounterBoard) -> tuple[int, int, bool]:
    counters = board.counters(NOW)
    one = counters.of(ROOM)
    return one.unread_count, one.mention_count, counters.is_exact


@pytest.fixture
def board() -> CounterBoard:
    """Connected, with the first read wanted; the own topic has one event, the room five messages."""
    board = CounterBoard(ME)
    board.start_own(1)
    for each in (head(ME, 1), head(ROOM, 7)):
        board.hear_head(each)
    board.connect(0)
    return board


def base(board: CounterBoard, *, read_to: int = 0, mentions: int = 0) -> None:
    assert board.next_read() is Read.ALL
    board.receive_all([view(5, read_to=read_to, mentions=mentions)], [])


def test_counts_from_the_first_read_on(board: CounterBoard) -> None:
    assert numbers(board) == (0, 0, False)
    base(board, read_to=3)
    assert numbers(board) == (2, 0, True)
    board.receive_event(message(6, mentioned=ME))
    board.receive_event(message(6, mentioned=ME))
    assert numbers(board) == (3, 1, True)
    board.receive_event(message(7, sender_id=ME))  # sending is reading (C25)
    assert numbers(board) == (0, 0, True)


def test_a_marker_that_comes_before_its_message_counts(board: CounterBoard) -> None:
    base(board, read_to=5)
    board.receive_event(read(2, 6))
    board.receive_event(message(6, mentioned=ME))
    assert numbers(board) == (0, 0, True)
    board.receive_event(read(3, 4))  # a late one never takes it back
    assert numbers(board) == (0, 0, True)


def test_a_late_marker_does_not_make_a_mention_unread(board: CounterBoard) -> None:
    base(board, read_to=5)
    board.receive_event(read(2, 6))
    board.receive_event(read(3, 4))
    board.receive_event(message(6, mentioned=ME))
    assert numbers(board) == (0, 0, True)


def test_a_marker_among_summed_mentions_is_read_again(board: CounterBoard) -> None:
    base(board, mentions=3)
    assert numbers(board) == (5, 3, True)
    board.receive_event(read(2, 2))
    assert not numbers(board)[2]
    assert board.next_read() == ROOM
    board.receive_view(ROOM, view(5, read_to=2, mentions=1))
    assert numbers(board) == (3, 1, True)


def test_what_comes_while_a_read_is_open_is_not_lost(board: CounterBoard) -> None:
    assert board.next_read() is Read.ALL
    board.receive_event(message(6, mentioned=ME))
    board.receive_event(read(2, 4))
    board.receive_all([view(5)], [])
    assert numbers(board) == (2, 1, True)


def test_who_is_behind_in_many_asks_for_counters_and_knows_at_once() -> None:
    board = CounterBoard(ME, behind_max=0)
    board.start_own(1)
    board.hear_head(head(ME, 1))
    board.hear_head(head(ROOM, 7))
    board.connect(0)
    base(board)
    board.disconnect()
    board.hear_head(head(ROOM, 12))
    board.connect(1)
    assert board.next_read() is Read.COUNTERS
    state = read_state_pb2.ReadState(marker=marker(5), unread_count=6, mention_count=2)
    named = markers_pb.ConversationCounters(conversation_id=ROOM, read_state=state, position=13)
    board.receive_counters(counters_answer(named))
    assert numbers(board) == (6, 2, True)
    for number in range(6, 12):  # Sync brings them afterwards; they are counted already
        board.receive_event(message(number, mentioned=ME))
    assert numbers(board) == (6, 2, True)
    board.receive_event(message(12, mentioned=ME))
    assert numbers(board) == (7, 3, True)


def test_what_counters_do_not_name_is_read() -> None:
    board = CounterBoard(ME, behind_max=0)
    board.start_own(1)
    board.hear_head(head(ROOM, 7))
    board.connect(0)
    base(board, mentions=2)
    board.hear_head(head(ROOM, 12))
    board.connect(1)
    assert board.next_read() is Read.COUNTERS
    board.receive_counters(counters_answer())
    assert numbers(board) == (0, 0, True)


def test_a_block_counts_summed_mentions_anew_and_single_ones_at_once(board: CounterBoard) -> None:
    base(board, read_to=5)
    board.receive_event(message(6, mentioned=ME))
    blocked = event_pb2.UserBlocked(user_id="u2")
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, user_blocked=blocked))
    assert numbers(board) == (1, 0, True)
    unblocked = event_pb2.UserUnblocked(user_id="u2")
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=3, user_unblocked=unblocked))
    assert numbers(board) == (1, 1, True)


def test_unblocking_reads_again_what_a_read_left_out(board: CounterBoard) -> None:
    base(board, mentions=0)
    unblocked = event_pb2.UserUnblocked(user_id="u2")
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, user_unblocked=unblocked))
    assert board.next_read() == ROOM


@pytest.mark.parametrize("epoch", [1, 2])
def test_what_is_skipped_is_read_again(board: CounterBoard, epoch: int) -> None:
    base(board, read_to=5)
    board.skip(head(ROOM, 40, epoch=epoch))
    assert not board.counters(NOW).is_exact
    assert board.next_read() == ROOM
    board.skip(head(ROOM, 50, epoch=epoch))  # once more, while that is read
    board.give_up()
    assert board.next_read() == ROOM


def test_skipped_news_of_the_own_topic_read_everything_again(board: CounterBoard) -> None:
    base(board)
    board.skip(head(ME, 2_000))
    assert not board.counters(NOW).is_exact
    assert board.next_read() is Read.ALL


def test_a_mute_leaves_the_badge_and_comes_back_by_time(board: CounterBoard) -> None:
    base(board, read_to=3)
    changed = event_pb2.ConversationPreferencesChanged(conversation_id=ROOM)
    changed.preferences.mute_end_time.FromDatetime(NOW + timedelta(minutes=5))
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, conversation_preferences_changed=changed))
    told = board.take(NOW)
    assert told is not None
    assert (told.counters.badge_count, told.counters.of(ROOM).unread_count) == (0, 2)
    assert board.take(NOW) is None
    end = board.next_end()
    assert end == NOW + timedelta(minutes=5)
    told = board.take(end)
    assert told is not None
    assert (told.counters.badge_count, told.conversation_ids) == (2, frozenset({ROOM}))


def test_a_mark_as_unread_counts_one_and_ends_by_reading(board: CounterBoard) -> None:
    base(board, read_to=5)
    marked = event_pb2.ConversationMarkedUnread(conversation_id=ROOM)
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, conversation_marked_unread=marked))
    assert board.counters(NOW).badge_count == 1
    assert board.unread_mark_position(ROOM) == 2
    board.receive_event(read(3, 5))
    assert board.counters(NOW) == Counters(is_exact=True)


def test_a_conversation_counts_from_the_join_and_ends_with_the_membership(board: CounterBoard) -> None:
    base(board, read_to=5)
    joined = event_pb2.ConversationJoined(conversation_id="c2", join_position=30, epoch=1)
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, conversation_joined=joined))
    assert not board.counters(NOW).is_exact
    assert board.next_read() == "c2"
    board.receive_view("c2", None)
    assert board.counters(NOW).is_exact
    board.receive_event(message(6))
    board.forget(ROOM)
    assert board.counters(NOW) == Counters(is_exact=True)


def test_news_are_told_once(board: CounterBoard) -> None:
    base(board, read_to=5)
    assert board.take(NOW) is not None  # exact now
    assert board.take(NOW) is None
    board.receive_event(message(6))
    board.receive_event(message(7))
    told = board.take(NOW)
    assert told is not None
    assert told.counters.of(ROOM).unread_count == 2
    board.disconnect()
    told = board.take(NOW)
    assert told is not None
    assert (told.counters.is_exact, told.conversation_ids) == (False, frozenset())


def test_join_that_the_own_topic_tells_after_a_read_brought_it_is_read_again(board: CounterBoard) -> None:
    """Found by the machine of lost logs: it ends what the user kept of the membership before, which the read had."""
    base(board)
    joined = event_pb2.ConversationJoined(conversation_id=ROOM, join_position=2, epoch=1)
    board.receive_event(event_pb2.Event(topic_id=ME, epoch=1, position=2, conversation_joined=joined))
    assert numbers(board) == (5, 0, False)
    assert board.next_read() == ROOM
    board.receive_view(ROOM, view(5, read_to=3))
    assert numbers(board) == (2, 0, True)
