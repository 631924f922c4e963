"""The engine's rules, one by one; `test_sync_engine_machine.py` tries their combinations."""

from google.rpc import code_pb2
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2

from hubbub_client import events
from hubbub_client.model import Cursor
from hubbub_client.sync_engine import REQUEST_MAX_CURSORS, SyncEngine
from tests.unit.client.model_server import ME, rejection


def head(topic_id: str, position: int, epoch: int = 1) -> conversation_pb2.TopicHead:
    cursor = conversation_pb2.Cursor(topic_id=topic_id, epoch=epoch, position=position)
    return conversation_pb2.TopicHead(cursor=cursor)


def heads(*names: conversation_pb2.TopicHead) -> frame_pb2.ServerFrame:
    return frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=names, complete=True))


def heartbeat(*names: conversation_pb2.TopicHead, resume_token: str = "") -> frame_pb2.ServerFrame:
    return frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(heads=names, resume_token=resume_token, live=True))


def caught_up(*names: conversation_pb2.TopicHead) -> frame_pb2.ServerFrame:
    return frame_pb2.ServerFrame(caught_up=frame_pb2.CaughtUp(heads=names))


def said(topic_id: str, *positions: int, epoch: int = 1) -> frame_pb2.ServerFrame:
    sent = event_pb2.MessageSent(message=message_pb2.Message(message_number=1))
    return frame_pb2.ServerFrame(
        events=[
            event_pb2.Event(topic_id=topic_id, epoch=epoch, position=position, message_sent=sent)
            for position in positions
        ]
    )


def new_engine(*, ready_limit: int = 1_000, early_limit: int = 1_000) -> SyncEngine:
    """An engine that is connected, at position 0 of c1 and c2."""
    cursors = [Cursor(topic_id, 1, 0) for topic_id in (ME, "c1", "c2")]
    engine = SyncEngine(ME, cursors, ready_limit=ready_limit, early_limit=early_limit)
    engine.receive_live(heads(head(ME, 0), head("c1", 0), head("c2", 0)))
    return engine


def taken(engine: SyncEngine) -> list[tuple[str, int]]:
    """Topic and position of every topic event that is ready."""
    places = []
    while (delivery := engine.take()) is not None:
        if isinstance(delivery.item, events.TopicEvent):
            places.append((delivery.item.cursor.topic_id, delivery.item.cursor.position))
    return places


def test_nothing_is_asked_for_while_nothing_is_behind() -> None:
    engine = new_engine()
    engine.receive_live(said("c1", 1, 2))

    assert engine.next_request() is None
    assert engine.is_caught_up
    assert taken(engine) == [("c1", 1), ("c1", 2)]


def test_an_event_that_came_early_is_kept_and_follows_the_one_that_was_missing() -> None:
    engine = new_engine()
    engine.receive_live(said("c1", 2, 3))
    assert engine.next_request() == [Cursor("c1", 1, 0)]

    engine.receive_sync(said("c1", 1))

    assert taken(engine) == [("c1", 1), ("c1", 2), ("c1", 3)]


def test_an_early_event_without_room_is_fetched_again() -> None:
    engine = new_engine(early_limit=1)
    engine.receive_live(said("c1", 2, 3))
    engine.next_request()
    engine.receive_sync(said("c1", 1))
    engine.receive_sync(caught_up(head("c1", 1)))
    engine.finish_request()
    assert engine.next_request() is None

    engine.receive_live(heartbeat(head("c1", 3)))

    assert engine.next_request() == [Cursor("c1", 1, 2)]


def test_what_was_heard_during_a_request_is_asked_for_after_it() -> None:
    """C15."""
    engine = new_engine(early_limit=0)
    engine.receive_live(heartbeat(head("c1", 1)))
    engine.next_request()
    engine.receive_live(said("c1", 3))
    engine.receive_sync(said("c1", 1))
    engine.receive_sync(caught_up(head("c1", 1)))
    engine.finish_request()

    assert engine.next_request() == [Cursor("c1", 1, 1)]


def test_a_log_that_was_made_anew_is_asked_for_when_the_stream_says_so() -> None:
    """C19: also where its head is the one that this client has, or below; no heartbeat says it again."""
    engine = new_engine()
    engine.receive_live(said("c1", 1, 2))
    assert taken(engine) == [("c1", 1), ("c1", 2)]

    engine.receive_live(frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head("c1", 1, epoch=2))))
    engine.receive_live(heartbeat(resume_token="a token that covers the new log"))

    assert engine.resume_token == ""
    assert engine.next_request() == [Cursor("c1", 1, 2)]


def test_a_head_that_the_log_does_not_confirm_is_forgotten() -> None:
    """C18, C22."""
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 9)))
    engine.next_request()
    engine.receive_sync(caught_up(head("c1", 0)))
    engine.finish_request()

    assert engine.next_request() is None
    assert engine.is_caught_up


def test_a_request_that_was_cut_leaves_its_topics_behind() -> None:
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 9), head("c2", 1)))
    engine.next_request()
    engine.receive_sync(said("c1", 1))
    engine.finish_request()

    assert engine.next_request() == [Cursor("c1", 1, 1)]
    assert not engine.is_caught_up


def test_a_topic_that_a_request_did_not_move_waits_for_the_pause() -> None:
    """C18."""
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 1)))
    engine.next_request()
    engine.receive_sync(rejection("c1", "BACKEND_UNAVAILABLE", code_pb2.UNAVAILABLE))
    engine.receive_sync(caught_up())
    engine.finish_request()

    assert engine.next_request() is None
    assert engine.has_stalled
    engine.retry_stalled()
    assert engine.next_request() == [Cursor("c1", 1, 0)]


def test_one_request_is_open_at_a_time_and_carries_at_most_500_cursors() -> None:
    topic_ids = [f"c{number}" for number in range(REQUEST_MAX_CURSORS + 1)]
    engine = SyncEngine(ME, [Cursor(topic_id, 1, 0) for topic_id in (ME, *topic_ids)])
    engine.receive_live(heads(head(ME, 0), *(head(topic_id, 1) for topic_id in topic_ids)))

    first = engine.next_request()
    assert first is not None
    assert len(first) == REQUEST_MAX_CURSORS == 500
    assert engine.next_request() is None
    for cursor in first:
        engine.receive_sync(said(cursor.topic_id, 1))
    engine.finish_request()
    taken(engine)
    assert engine.next_request() == [Cursor(topic_ids[-1], 1, 0)]


def test_nothing_is_asked_for_before_all_heads_are_there_nor_after_the_stream_ended() -> None:
    engine = SyncEngine(ME, [Cursor(ME, 1, 0), Cursor("c1", 1, 0)])
    engine.receive_live(frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=[head("c1", 1)])))
    assert engine.next_request() is None
    engine.receive_live(heads(head(ME, 0)))
    assert engine.next_request() == [Cursor("c1", 1, 0)]
    engine.finish_request()
    engine.close_stream()
    engine.retry_stalled()
    assert engine.next_request() is None


def test_a_full_queue_leaves_live_events_to_sync_and_sync_waits_for_room() -> None:
    """C86."""
    engine = new_engine(ready_limit=4)
    engine.receive_live(said("c1", 1, 2, 3, 4, 5, 6))
    assert not engine.has_room
    assert engine.next_request() is None

    got = taken(engine)

    assert got == [("c1", position) for position in range(1, len(got) + 1)]
    assert len(got) < 6
    assert engine.next_request() == [Cursor("c1", 1, len(got))]


def test_a_resume_token_is_taken_only_when_nothing_is_missing() -> None:
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 1), resume_token="too early"))
    assert engine.resume_token == ""

    engine.receive_live(said("c1", 1))
    engine.receive_live(heartbeat(resume_token="good"))

    assert engine.resume_token == "good"


def joined(topic_id: str, *, own_position: int, join_position: int, epoch: int = 1) -> frame_pb2.ServerFrame:
    news = event_pb2.ConversationJoined(conversation_id=topic_id, join_position=join_position, epoch=epoch)
    return frame_pb2.ServerFrame(
        events=[event_pb2.Event(topic_id=ME, epoch=1, position=own_position, conversation_joined=news)]
    )


def test_a_late_event_does_not_hide_the_newer_epoch_of_a_topic_whose_join_has_not_come() -> None:
    """A heartbeat names a head once: nothing else would tell that the log was lost (C19)."""
    engine = new_engine()
    engine.receive_live(heartbeat(head("c3", 6, epoch=2)))
    engine.receive_live(said("c3", 1))
    engine.receive_live(joined("c3", own_position=1, join_position=1))
    engine.receive_live(said("c3", 1))

    assert taken(engine) == [(ME, 1), ("c3", 1)]
    assert engine.next_request() == [Cursor("c3", 1, 1)]


def removed(topic_id: str, position: int, epoch: int = 1) -> frame_pb2.ServerFrame:
    gone = event_pb2.MemberRemoved(user_id=ME)
    return frame_pb2.ServerFrame(
        events=[event_pb2.Event(topic_id=topic_id, epoch=epoch, position=position, member_removed=gone)]
    )


def test_a_head_past_the_removal_tells_of_another_join_also_when_it_was_heard_before_the_request() -> None:
    """The own topic told that join to the process before this one, which had not come so far in the conversation."""
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 3)))
    assert engine.next_request() == [Cursor("c1", 1, 0)]
    engine.receive_sync(said("c1", 1))
    engine.receive_sync(removed("c1", 2))
    engine.receive_sync(said("c1", 3))
    engine.receive_sync(caught_up(head("c1", 3)))
    engine.finish_request()
    assert engine.next_request() == [Cursor(ME, 1, 0)]  # it may tell by now
    engine.receive_sync(caught_up(head(ME, 0)))
    engine.finish_request()

    assert engine.relist_needed


def test_joins_are_taken_in_their_order_whoever_tells_them() -> None:
    """The list of conversations tells the newest one; what the own topic tells after that may be older."""
    engine = new_engine()
    engine.receive_live(heartbeat(head(ME, 5_000)))
    engine.next_request()
    engine.receive_sync(frame_pb2.ServerFrame(gap=frame_pb2.Gap(head=head(ME, 5_000))))
    engine.relist([Cursor("c1", 1, 7), Cursor("c2", 1, 0)])
    engine.receive_live(joined("c1", own_position=5_001, join_position=3))
    engine.receive_live(said("c1", 1))
    engine.receive_live(removed("c1", 2))
    engine.receive_live(said("c1", 3))

    assert taken(engine) == [(ME, 5_001), ("c1", 1), ("c1", 2), ("c1", 3)]


def test_the_list_starts_only_what_the_own_topic_will_not_tell() -> None:
    """It knows the newest membership of each conversation: those before it would be left out."""
    engine = SyncEngine(ME, [Cursor(ME, 1, 0)])
    engine.receive_live(heads(head(ME, 0), head("c1", 3)))
    assert engine.relist_needed
    engine.relist([Cursor("c1", 1, 2), Cursor("c2", 1, 6)])
    assert engine.next_request() == [Cursor("c1", 1, 2)]
    engine.receive_live(joined("c2", own_position=1, join_position=3))
    engine.receive_live(said("c2", 3))

    assert taken(engine) == [(ME, 1), ("c2", 3)]


def test_a_later_join_is_in_the_epoch_that_its_news_names() -> None:
    engine = new_engine()
    engine.receive_live(joined("c1", own_position=1, join_position=8, epoch=2))
    engine.receive_live(said("c1", 1))
    engine.receive_live(removed("c1", 2))
    engine.receive_live(said("c1", 8, epoch=2))

    assert taken(engine) == [(ME, 1), ("c1", 1), ("c1", 2), ("c1", 8)]


def test_an_event_of_another_epoch_is_not_applied_but_asked_about() -> None:
    """C19."""
    engine = new_engine()
    engine.receive_live(said("c1", 1, epoch=2))

    assert taken(engine) == []
    assert engine.next_request() == [Cursor("c1", 1, 0)]


def test_a_reset_that_crossed_with_live_events_is_asked_for_again() -> None:
    engine = new_engine()
    engine.receive_live(said("c1", 9, epoch=2))
    engine.next_request()
    engine.receive_live(said("c1", 1))
    engine.receive_sync(frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head("c1", 20, epoch=2))))
    engine.receive_sync(caught_up())
    engine.finish_request()

    assert taken(engine) == [("c1", 1)]
    assert engine.next_request() == [Cursor("c1", 1, 1)]


def test_an_end_without_its_removal_is_asked_about_before_it_is_believed() -> None:
    engine = new_engine()
    engine.receive_live(frame_pb2.ServerFrame(topic_ended=frame_pb2.TopicEnded(topic_id="c1")))

    assert engine.next_request() == [Cursor("c1", 1, 0)]


def test_a_conversation_that_complete_heads_do_not_name_is_asked_about() -> None:
    engine = SyncEngine(ME, [Cursor(ME, 1, 0), Cursor("c1", 1, 5)])
    engine.receive_live(frame_pb2.ServerFrame(welcome=frame_pb2.Welcome()))
    engine.receive_live(heads(head(ME, 0)))

    assert engine.next_request() == [Cursor("c1", 1, 5)]


def test_a_resumed_stream_names_only_what_moved() -> None:
    engine = SyncEngine(ME, [Cursor(ME, 1, 0), Cursor("c1", 1, 5)])
    engine.receive_live(frame_pb2.ServerFrame(welcome=frame_pb2.Welcome(resumed=True)))
    engine.receive_live(heads())

    assert engine.next_request() is None
    assert engine.is_caught_up


def test_cursors_move_when_an_item_is_processed_not_when_it_is_taken() -> None:
    engine = new_engine()
    engine.receive_live(said("c1", 1, 2))
    deliveries = [one for _ in range(4) if (one := engine.take()) and isinstance(one.item, events.MessageReceived)]

    engine.mark_processed(deliveries[0])

    assert Cursor("c1", 1, 1) in engine.processed_cursors()


def test_a_gap_that_live_events_have_closed_already_is_no_news() -> None:
    engine = new_engine()
    engine.receive_live(heartbeat(head("c1", 2)))
    engine.next_request()
    engine.receive_live(said("c1", 1, 2, 3))
    engine.receive_sync(frame_pb2.ServerFrame(gap=frame_pb2.Gap(head=head("c1", 2))))
    engine.receive_sync(said("c1", 3))

    assert taken(engine) == [("c1", 1), ("c1", 2), ("c1", 3)]


def test_news_of_the_new_life_heard_before_its_reset_are_asked_about_after_it() -> None:
    """C19."""
    engine = new_engine()
    engine.receive_live(said("c1", 9, epoch=2))
    engine.next_request()
    engine.receive_live(said("c1", 10, epoch=2))
    engine.receive_sync(frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head("c1", 9, epoch=2))))
    engine.receive_sync(caught_up(head("c1", 9, epoch=2)))
    engine.finish_request()

    assert engine.next_request() == [Cursor("c1", 2, 9)]


def test_leaving_that_the_own_topic_tells_first_fetches_the_removal() -> None:
    engine = new_engine()
    left = event_pb2.ConversationLeft(conversation_id="c1", leave_position=1, epoch=1)
    engine.receive_live(
        frame_pb2.ServerFrame(events=[event_pb2.Event(topic_id=ME, epoch=1, position=1, conversation_left=left)])
    )

    assert engine.next_request() == [Cursor("c1", 1, 0)]


def test_after_a_gap_of_the_own_topic_the_list_starts_what_is_new_and_doubts_what_is_gone() -> None:
    engine = new_engine()
    engine.receive_live(heartbeat(head(ME, 5_000)))
    engine.next_request()
    engine.receive_sync(frame_pb2.ServerFrame(gap=frame_pb2.Gap(head=head(ME, 5_000))))
    engine.receive_sync(caught_up(head(ME, 5_000)))
    engine.finish_request()
    assert engine.relist_needed

    engine.relist([Cursor("c2", 1, 0), Cursor("c3", 1, 4)])

    assert engine.next_request() == [Cursor("c3", 1, 4), Cursor("c1", 1, 0)]
