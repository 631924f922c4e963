"""What the own topic told one run of the process, the next one knows: memberships follow each other without a hole."""

from collections.abc import Sequence

from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2

from hubbub_client import events
from hubbub_client.model import Cursor
from hubbub_client.sync_engine import SyncEngine
from tests.unit.client.model_server import ME
from tests.unit.client.test_sync_engine import caught_up, head, heads, heartbeat, joined, new_engine, removed, said


def left(topic_id: str, *, own_position: int, leave_position: int, epoch: int = 1) -> frame_pb2.ServerFrame:
    news = event_pb2.ConversationLeft(conversation_id=topic_id, leave_position=leave_position, epoch=epoch)
    return frame_pb2.ServerFrame(
        events=[event_pb2.Event(topic_id=ME, epoch=1, position=own_position, conversation_left=news)]
    )


def added(topic_id: str, position: int) -> frame_pb2.ServerFrame:
    member = conversation_pb2.Member(user_id=ME, join_position=position)
    news = event_pb2.MembersAdded(members=[member])
    return frame_pb2.ServerFrame(
        events=[event_pb2.Event(topic_id=topic_id, epoch=1, position=position, members_added=news)]
    )


def processed(engine: SyncEngine) -> list[tuple[str, int]]:
    """Processes everything that is ready; returns topic and position of each event, and (topic, -1) for an end."""
    places = []
    while (delivery := engine.take()) is not None:
        if isinstance(delivery.item, events.TopicEnded):
            places.append((delivery.item.topic_id, -1))
        elif isinstance(delivery.item, events.TopicEvent):
            places.append((delivery.item.cursor.topic_id, delivery.item.cursor.position))
        engine.mark_processed(delivery)
    return places


def run_again(cursors: Sequence[Cursor], *names: conversation_pb2.TopicHead) -> SyncEngine:
    """Another run of the process, connected."""
    engine = SyncEngine(ME, cursors)
    engine.receive_live(heads(*names))
    return engine


def told_of_a_return() -> SyncEngine:
    """A run that has c1 up to 1, and was told that this membership ended at 2 and the next began at 3."""
    engine = new_engine()
    engine.receive_live(said("c1", 1))
    engine.receive_live(left("c1", own_position=1, leave_position=2))
    engine.receive_live(joined("c1", own_position=2, join_position=3))
    assert processed(engine) == [("c1", 1), (ME, 1), (ME, 2)]
    return engine


def test_what_a_conversation_has_not_followed_is_read_again_by_the_next_run() -> None:
    cursors = told_of_a_return().processed_cursors()

    assert [cursor for cursor in cursors if cursor.topic_id == ME] == [Cursor(ME, 1, 2), Cursor(ME, 1, 0)]
    assert cursors[-1] == Cursor(ME, 1, 0)


def test_a_membership_whose_join_an_earlier_run_was_told_is_not_left_out() -> None:
    """It began and ended around the restart: leave 2, join 3, restart, leave 4, join 5."""
    engine = run_again(told_of_a_return().processed_cursors(), head(ME, 4), head("c1", 5), head("c2", 0))
    assert set(engine.next_request() or ()) == {Cursor(ME, 1, 0), Cursor("c1", 1, 1)}

    engine.receive_sync(left("c1", own_position=1, leave_position=2))
    engine.receive_sync(joined("c1", own_position=2, join_position=3))
    engine.receive_sync(left("c1", own_position=3, leave_position=4))
    engine.receive_sync(joined("c1", own_position=4, join_position=5))
    for frame in (removed("c1", 2), added("c1", 3), removed("c1", 4), added("c1", 5)):
        engine.receive_sync(frame)

    own = [(ME, 3), (ME, 4)]
    assert processed(engine) == [*own, ("c1", 2), ("c1", -1), ("c1", 3), ("c1", 4), ("c1", -1), ("c1", 5)]


def test_a_membership_that_was_told_and_is_over_by_now_is_not_left_out() -> None:
    """Here the conversation answers first, and ends before the own topic is read again."""
    engine = run_again(told_of_a_return().processed_cursors(), head(ME, 3))
    engine.next_request()
    for frame in (removed("c1", 2), added("c1", 3), removed("c1", 4)):
        engine.receive_sync(frame)
    engine.receive_sync(left("c1", own_position=1, leave_position=2))
    engine.receive_sync(joined("c1", own_position=2, join_position=3))
    engine.receive_sync(left("c1", own_position=3, leave_position=4))
    engine.receive_sync(caught_up(head(ME, 3)))
    engine.finish_request()
    assert engine.next_request() == [Cursor("c1", 1, 2)]
    engine.receive_sync(added("c1", 3))
    engine.receive_sync(removed("c1", 4))

    assert processed(engine) == [("c1", 2), ("c1", -1), (ME, 3), ("c1", 3), ("c1", 4), ("c1", -1)]
    assert engine.processed_cursors() == [Cursor("c2", 1, 0), Cursor(ME, 1, 3)]


def test_the_own_topic_has_one_cursor_once_the_conversations_have_followed_it() -> None:
    engine = told_of_a_return()
    engine.next_request()
    for frame in (removed("c1", 2), added("c1", 3)):
        engine.receive_sync(frame)
    assert len(engine.processed_cursors()) == 4

    processed(engine)

    assert engine.processed_cursors() == [Cursor("c1", 1, 3), Cursor("c2", 1, 0), Cursor(ME, 1, 2)]


def test_a_membership_that_is_over_is_not_told_again_when_the_own_topic_is_read_again() -> None:
    first = told_of_a_return()
    first.receive_live(joined("c3", own_position=3, join_position=1))
    first.receive_live(added("c3", 1))
    first.receive_live(removed("c3", 2))
    first.receive_live(left("c3", own_position=4, leave_position=2))
    processed(first)
    engine = run_again(first.processed_cursors(), head(ME, 4), head("c1", 3), head("c2", 0))
    assert Cursor(ME, 1, 0) in (engine.next_request() or ())

    engine.receive_sync(left("c1", own_position=1, leave_position=2))
    engine.receive_sync(joined("c1", own_position=2, join_position=3))
    engine.receive_sync(joined("c3", own_position=3, join_position=1))
    engine.receive_sync(left("c3", own_position=4, leave_position=2))
    for frame in (removed("c1", 2), added("c1", 3), caught_up(head(ME, 4), head("c1", 3))):
        engine.receive_sync(frame)
    engine.finish_request()

    assert processed(engine) == [("c1", 2), ("c1", -1), ("c1", 3)]
    assert engine.next_request() == [Cursor("c1", 1, 3)]
    engine.receive_sync(caught_up(head("c1", 3)))
    engine.finish_request()
    assert engine.next_request() is None
    assert not engine.relist_needed


def test_a_run_that_ends_before_it_has_read_again_leaves_the_same_to_the_next() -> None:
    cursors = told_of_a_return().processed_cursors()
    engine = run_again(cursors, head(ME, 2), head("c1", 3))
    engine.next_request()
    engine.receive_sync(left("c1", own_position=1, leave_position=2))
    assert processed(engine) == []

    assert engine.processed_cursors() == cursors


def test_a_store_of_one_cursor_a_topic_repeats_the_own_topic_and_misses_nothing() -> None:
    kept = {cursor.topic_id: cursor for cursor in told_of_a_return().processed_cursors()}
    engine = run_again(list(kept.values()), head(ME, 2), head("c1", 3), head("c2", 0))
    engine.next_request()
    engine.receive_sync(left("c1", own_position=1, leave_position=2))
    engine.receive_sync(joined("c1", own_position=2, join_position=3))
    for frame in (removed("c1", 2), added("c1", 3)):
        engine.receive_sync(frame)

    assert processed(engine) == [(ME, 1), (ME, 2), ("c1", 2), ("c1", -1), ("c1", 3)]


def test_an_own_topic_too_far_behind_to_be_read_again_is_told_as_skipped() -> None:
    engine = run_again(told_of_a_return().processed_cursors(), head(ME, 5_000))
    engine.next_request()
    gap = frame_pb2.Gap(head=head(ME, 5_000))
    getattr(gap, "from").CopyFrom(head(ME, 0).cursor)
    engine.receive_sync(frame_pb2.ServerFrame(gap=gap))

    skipped = [one.item for one in iter(engine.take, None) if isinstance(one.item, events.GapSkipped)]
    assert [item.start for item in skipped] == [Cursor(ME, 1, 0)]
    assert engine.relist_needed


def test_a_membership_that_is_over_when_it_begins_is_read_to_its_end() -> None:
    """The leaving came during the request whose answer brings the join, and the rest of the answer is lost."""
    engine = new_engine()
    engine.receive_live(heartbeat(head(ME, 3), head("c1", 2)))
    assert set(engine.next_request() or ()) == {Cursor(ME, 1, 0), Cursor("c1", 1, 0)}
    engine.receive_sync(left("c1", own_position=1, leave_position=1))
    engine.receive_sync(joined("c1", own_position=2, join_position=2))
    engine.receive_sync(left("c1", own_position=3, leave_position=3))
    engine.receive_sync(removed("c1", 1))
    engine.receive_sync(added("c1", 2))
    engine.finish_request()
    assert processed(engine)[-1] == ("c1", 2)

    assert engine.next_request() == [Cursor("c1", 1, 2)]
    engine.receive_sync(removed("c1", 3))
    assert processed(engine) == [("c1", 3), ("c1", -1)]
    assert Cursor("c1", 1, 3) not in engine.processed_cursors()


def test_a_leaving_of_a_lost_log_is_not_taken_for_that_of_the_new_one() -> None:
    """C19: the conversation was ahead of the own topic, which tells of memberships that are over by now."""
    engine = SyncEngine(ME, [Cursor(ME, 1, 0), Cursor("c1", 2, 14)])
    engine.receive_live(heads(head(ME, 3)))
    engine.next_request()
    engine.receive_sync(removed("c1", 15, epoch=2))
    engine.receive_sync(left("c1", own_position=1, leave_position=8, epoch=1))
    engine.receive_sync(joined("c1", own_position=2, join_position=14, epoch=2))
    engine.receive_sync(left("c1", own_position=3, leave_position=15, epoch=2))
    engine.receive_sync(caught_up(head(ME, 3)))
    engine.finish_request()

    assert processed(engine) == [("c1", 15), ("c1", -1), (ME, 1), (ME, 2), (ME, 3)]
    assert engine.next_request() is None
    assert engine.processed_cursors() == [Cursor(ME, 1, 3)]


def test_a_join_that_was_told_while_a_reset_was_under_way_is_not_forgotten() -> None:
    """C19: the answer is as old as its request; the new life went on meanwhile."""
    engine = new_engine()
    engine.receive_live(said("c1", 9, epoch=2))
    engine.next_request()
    engine.receive_live(joined("c1", own_position=1, join_position=11, epoch=2))
    engine.receive_sync(frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head("c1", 9, epoch=2))))
    engine.receive_sync(caught_up(head("c1", 9, epoch=2)))
    engine.finish_request()
    engine.receive_live(removed("c1", 10, epoch=2))
    engine.receive_live(said("c1", 11, epoch=2))

    assert processed(engine) == [(ME, 1), ("c1", 10), ("c1", -1), ("c1", 11)]


def test_news_of_a_lost_log_outlive_the_end_of_a_membership() -> None:
    """C19: they came during the request whose answer, made before, ends one membership and begins the next."""
    engine = new_engine()
    engine.receive_live(joined("c1", own_position=1, join_position=2))
    engine.next_request()
    engine.receive_live(heartbeat(head("c1", 1)))
    engine.next_request()
    engine.receive_live(heartbeat(head("c1", 11, epoch=2)))
    engine.receive_sync(removed("c1", 1))
    engine.receive_sync(added("c1", 2))
    engine.receive_sync(caught_up(head("c1", 2)))
    engine.finish_request()

    assert engine.next_request() == [Cursor("c1", 1, 2)]
