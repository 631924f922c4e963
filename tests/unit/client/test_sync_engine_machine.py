"""Any order, loss and repetition of frames that the contract allows: each event is handed over once, in order."""

from collections import deque
from typing import Any

from hubbub.chat.v1 import frame_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hubbub_client import events, wire
from hubbub_client.live_progress import Delivery
from hubbub_client.model import Cursor
from hubbub_client.sync_engine import SyncEngine
from tests.unit.client.model_server import ME, SYNC_EVENTS, Log, ModelServer

TOPICS = ("c1", "c2", "c3")
topics = st.sampled_from(TOPICS)


class Application:
    """Checks what it is given against the logs."""

    def __init__(self, server: ModelServer) -> None:
        self.server = server
        self.last: dict[str, Cursor] = {}
        self.ended: dict[str, Cursor] = {}
        self.own_was_skipped = False
        self.own_again: Cursor | None = None  # from where this run reads the own topic again
        self.texts: dict[Cursor, events.TopicEvent] = {}

    def read(self, delivery: Delivery) -> None:
        match delivery.item:
            case events.Connected() | events.CaughtUp() | events.Disconnected():
                return
            case events.GapSkipped(start=start, head=head):
                if start.topic_id in self.last and not self._is_read_again(start):
                    assert start == self.last[start.topic_id]
                assert head.cursor.position > start.position
                self._jump(head.cursor)
            case events.TopicReset(head=head):
                assert head.cursor != self.last.get(head.cursor.topic_id)
                self._jump(head.cursor)
            case events.TopicEnded(topic_id=topic_id):
                self._end(topic_id)
            case item:
                assert isinstance(item, events.TopicEvent)
                self._follow(item)

    def know_present(self) -> None:
        """What happened before the own topic began is not owed."""
        for log in self.server.logs.values():
            self.ended.setdefault(log.topic_id, wire.read_head(log.head).cursor)

    def _is_read_again(self, start: Cursor) -> bool:
        """Tells whether the own topic is read again from there; a Gap says so, though the application has more."""
        again = self.own_again
        if again is None or start.topic_id != ME:
            return False
        return again.position <= start.position < self.last[ME].position

    def _jump(self, head: Cursor) -> None:
        self.last[head.topic_id] = head
        if head.topic_id == ME:
            self.own_was_skipped = True

    def _follow(self, item: events.TopicEvent) -> None:
        cursor = item.cursor
        last = self.last.get(cursor.topic_id)
        if last is None:
            self._begin(cursor)
        else:
            assert (cursor.epoch, cursor.position) == (last.epoch, last.position + 1)
        self.last[cursor.topic_id] = cursor

    def _end(self, topic_id: str) -> None:
        """The end of what was followed, or of a membership of which nothing can be had: over, and its log was lost."""
        if topic_id in self.last:
            self.ended[topic_id] = self.last.pop(topic_id)
            return
        log = self.server.logs[topic_id]
        ended = self.ended.get(topic_id, Cursor(topic_id, 0, 0))
        join = min(join for join in log.joins if join > (ended.epoch, ended.position))
        assert join[0] < log.epoch
        self.ended[topic_id] = Cursor(topic_id, *join)

    def _begin(self, cursor: Cursor) -> None:
        """The first event of a membership is the join; no membership in between is left out without a word."""
        log = self.server.logs[cursor.topic_id]
        if cursor.topic_id == ME:
            assert cursor.position == 1
            return
        assert (cursor.epoch, cursor.position) in log.joins
        if not self.own_was_skipped:
            assert cursor.position == min(self._later_joins(log, cursor.epoch), default=cursor.position)

    def _later_joins(self, log: Log, epoch: int) -> list[int]:
        """Where memberships of this epoch began after what was told as ended; none when that was another epoch."""
        ended = self.ended.get(log.topic_id, Cursor(log.topic_id, epoch, 0))
        if ended.epoch != epoch:
            return []
        return [position for each, position in log.joins if each == epoch and position > ended.position]

    def assert_nothing_is_left_out(self) -> None:
        """A membership that is over was told too, unless its events are lost or the own topic was skipped."""
        for log in self.server.logs.values():
            if log.topic_id not in self.last and not self.own_was_skipped:
                assert self._later_joins(log, log.epoch) == [], log.topic_id


class Frames(RuleBasedStateMachine):
    """One client and one server; every step moves one of them or loses something between them."""

    sync_events = SYNC_EVENTS

    def __init__(self) -> None:
        super().__init__()
        self.server = ModelServer(self.sync_events)
        self.application = Application(self.server)
        self.engine = SyncEngine(ME, ready_limit=6, early_limit=3)
        self.answer: list[frame_pb2.ServerFrame] | None = None
        self.asked: list[Cursor] = []
        self.is_new = True

    @initialize(old=st.sets(topics), said=st.integers(0, 3))
    def live_before(self, old: set[str], said: int) -> None:
        for topic_id in sorted(old):
            self.server.join(topic_id)
            for _ in range(said):
                self.server.say(topic_id)

    # ---- what happens on the server

    def _is_member(self, topic_id: str) -> bool:
        return topic_id in self.server.logs and self.server.logs[topic_id].is_member

    @rule(topic_id=topics, count=st.integers(1, 3))
    def say(self, topic_id: str, count: int) -> None:
        if topic_id in self.server.logs:
            for _ in range(count):
                self.server.say(topic_id)

    @rule(topic_id=topics)
    def say_something_new(self, topic_id: str) -> None:
        if topic_id in self.server.logs:
            self.server.say_something_new(topic_id)

    @rule(topic_id=topics)
    def join_or_leave(self, topic_id: str) -> None:
        if self._is_member(topic_id):
            self.server.leave(topic_id)
        else:
            self.server.join(topic_id)

    @rule(topic_id=st.sampled_from((*TOPICS, ME)))
    def recreate(self, topic_id: str) -> None:
        if topic_id in self.server.logs:
            self.server.recreate(topic_id)

    # ---- the live stream

    @precondition(lambda self: not self.server.is_open)
    @rule(frames=st.integers(1, 3), is_resumed=st.booleans(), data=st.data())
    def open_stream(self, frames: int, is_resumed: bool, data: Any) -> None:
        heads = self.server.open(frames, self.engine.resume_token if is_resumed else "")
        arrived = data.draw(st.integers(0, len(heads)))
        for frame in heads[:arrived]:
            self._take_heads(frame)
        if arrived < len(heads):
            self.cut()

    @precondition(lambda self: not self.server.is_open)
    @rule()
    def open_stream_well(self) -> None:
        for frame in self.server.open(1, self.engine.resume_token):
            self._take_heads(frame)

    def _take_heads(self, frame: frame_pb2.ServerFrame) -> None:
        if self.is_new:
            for head in frame.heads.heads:
                if head.cursor.topic_id == ME and ME not in self.application.last:
                    self.application.know_present()
                self.application.last.setdefault(head.cursor.topic_id, wire.read_head(head).cursor)
        self.is_new &= not frame.heads.complete
        self.engine.receive_live(frame)

    @precondition(lambda self: self.server.is_open)
    @rule(topic_id=st.sampled_from((*TOPICS, ME)), count=st.integers(1, 4), is_lost=st.booleans())
    def carry(self, topic_id: str, count: int, is_lost: bool) -> None:
        queue = self.server.live.get(topic_id, deque())
        for _ in range(min(count, len(queue))):
            frame = queue.popleft()
            if not (is_lost and frame.events):
                self.engine.receive_live(frame)

    @precondition(lambda self: self.server.is_open)
    @rule(topic_id=st.sampled_from((*TOPICS, ME)))
    def repeat(self, topic_id: str) -> None:
        for frame in list(self.server.live.get(topic_id, []))[:2]:
            if frame.events:
                self.engine.receive_live(frame)

    @precondition(lambda self: self.server.is_open)
    @rule()
    def heartbeat(self) -> None:
        self.engine.receive_live(self.server.heartbeat())

    @rule()
    def unknown_control(self) -> None:
        self.engine.receive_live(frame_pb2.ServerFrame())
        self.engine.receive_live(frame_pb2.ServerFrame(lagging=frame_pb2.Lagging()))

    @precondition(lambda self: self.server.is_open)
    @rule()
    def cut(self) -> None:
        self.server.cut()
        self.engine.close_stream()

    # ---- Sync

    @rule()
    def ask(self) -> None:
        if self.answer is None and not self.asked and (request := self.engine.next_request()):
            assert len({cursor.topic_id for cursor in request}) == len(request)
            self.asked = request

    @precondition(lambda self: self.asked and self.answer is None)
    @rule(busy=st.frozensets(topics, max_size=1))
    def serve(self, busy: frozenset[str]) -> None:
        self.answer = self.server.answer(self.asked, busy)

    @precondition(lambda self: self.answer)
    @rule(count=st.integers(1, 5))
    def hear_answer(self, count: int) -> None:
        assert self.answer is not None
        for _ in range(min(count, len(self.answer))):
            self.engine.receive_sync(self.answer.pop(0))
        if not self.answer:
            self._finish()

    @precondition(lambda self: self.asked)
    @rule()
    def cut_answer(self) -> None:
        self._finish()

    def _finish(self) -> None:
        self.answer, self.asked = None, []
        self.engine.finish_request()

    @rule()
    def pause_over(self) -> None:
        self.engine.retry_stalled()

    # ---- the application

    @rule(count=st.integers(1, 8))
    def read(self, count: int) -> None:
        for _ in range(count):
            if (delivery := self.engine.take()) is None:
                return
            self.application.read(delivery)
            self.engine.mark_processed(delivery)

    @precondition(lambda self: self.engine.relist_needed)
    @rule()
    def relist(self) -> None:
        self.engine.relist(
            Cursor(log.topic_id, log.epoch if log.joins[-1][0] == log.epoch else log.joins[-1][0], log.joins[-1][1] - 1)
            for log in self.server.mine()
            if log.topic_id != ME
        )

    @rule(is_killed=st.booleans())
    def restart(self, is_killed: bool) -> None:
        """The process ends, or is killed with what was ready; a new one goes on by the cursors of what was read."""
        if not is_killed:
            self.read(10_000)
        if not (cursors := self.engine.processed_cursors()) or self.engine.relist_needed:
            return
        if self.server.is_open:
            self.server.cut()
        self.answer, self.asked = None, []
        self.engine = SyncEngine(ME, cursors, ready_limit=6, early_limit=3)
        self.application.own_again = [cursor for cursor in cursors if cursor.topic_id == ME][-1]
        for cursor in cursors:
            # The own topic had not told yet that it ended: the new process begins where it ended.
            if cursor.epoch:
                self.application.last.setdefault(cursor.topic_id, cursor)

    @invariant()
    def memory_is_bounded(self) -> None:
        assert sum(len(topic.early) for topic in self.engine._topics.values()) == self.engine._early_count <= 3

    def teardown(self) -> None:
        """At rest, the application has everything: nothing is missing, and nothing is asked for any more.

        An open stream heals by what it says: the rest of its frames and one heartbeat with the heads that changed.
        """
        self.read(10_000)
        if self.asked:
            self._finish()
        if self.server.is_open:
            for queue in self.server.live.values():
                for frame in queue:
                    self.engine.receive_live(frame)
            self.heartbeat()
        else:
            for frame in self.server.open(1, self.engine.resume_token):
                self._take_heads(frame)
        for _ in range(40):
            self._settle()
        assert self.engine.next_request() is None
        assert self.engine.is_caught_up
        for log in self.server.mine():
            assert self.application.last.get(log.topic_id) == wire.read_head(log.head).cursor, log.topic_id
        assert set(self.application.last) - {ME} == {log.topic_id for log in self.server.mine()} - {ME}
        self.application.assert_nothing_is_left_out()

    def _settle(self) -> None:
        self.read(10_000)
        self.engine.retry_stalled()
        if self.engine.relist_needed:
            self.relist()
        if request := self.engine.next_request():
            for frame in self.server.answer(request):
                self.engine.receive_sync(frame)
                self.read(10_000)
            self.engine.finish_request()
        self.read(10_000)


Frames.TestCase.settings = settings(max_examples=150, stateful_step_count=60, deadline=None)
TestEveryOrderOfFrames = Frames.TestCase
