"""The client's side of delivery, sans-IO: frames in, events for the application out, each exactly once and in order.

Theory of operation. For each topic the engine knows a `cursor` (everything up to it is handed over) and a `head` (the
newest position heard of in the cursor's epoch). A topic is *behind* when its head is above its cursor, or when it is
*doubted*: something was heard that only a Sync can settle (another epoch, an end without the removal before it). The
caller reads two sources and feeds both:

* `receive_live`: frames of Connect or Subscribe. Events apply only directly above the cursor; what comes early is kept
  aside, bounded, and fetched again when it was dropped. Heads and Heartbeat raise heads, so a lost event shows as a
  topic that is behind.
* `receive_sync`: frames of one Sync request at a time, made of `next_request()` and ended by `finish_request()`,
  whether complete or cut. Both sources are spliced by position, so it does not matter which one brings an event.

A Sync reads the log itself, so its CaughtUp is the truth about everything heard *before* the request: the head is
forgotten when the request is made and heard again from its answer. A head that was wrong thus costs one request and
not a loop. Topics that a request did not move are *stalled* until `retry_stalled()`, so a topic that cannot be served
never makes the caller spin.

What is ready waits in a bounded queue. When it is full, live events are not applied, only heard of: the topic falls
behind and Sync fetches them once there is room. So a slow application never stops the reading of the stream, on which
answers to sends come too.

Who is in which conversation comes from the user's own topic: ConversationJoined starts a topic one position before
the join, the user's own MemberRemoved ends it (or lets it jump to a later join that is known already). A client
without cursors starts every topic at the head that the first complete Heads name. What the own topic told and a
conversation had not come to when the process ended is read again from the own topic (`processed_cursors.py`): it is
followed where the conversation still has it ahead, and not handed over again.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from google.rpc import status_pb2
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2

from hubbub_client import events, wire
from hubbub_client.boards import Boards
from hubbub_client.errors import ConversationNotFound, error_of_status
from hubbub_client.live_progress import Delivery, LiveProgress
from hubbub_client.model import Cursor
from hubbub_client.processed_cursors import ProcessedCursors, place

REQUEST_MAX_CURSORS: Final = 500
# The own topic had no event when this client was new, so Heads did not name it: its first event will tell the epoch.
_NO_EPOCH: Final = 0


@dataclass(slots=True)
class _Topic:
    cursor: Cursor
    head: int
    doubted: bool = False
    joins: list[Cursor] = field(default_factory=list)  # just before each later join that is known, in order
    left: Cursor | None = None  # the newest removal known from the own topic
    early: dict[int, event_pb2.Event] = field(default_factory=dict)

    @property
    def is_behind(self) -> bool:
        return self.doubted or self.head > self.cursor.position


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a topic was like when it went into the request."""

    topic: _Topic
    cursor: Cursor
    head: int
    doubted: bool


class SyncEngine:
    """Decides what the application gets and what has to be fetched. Not thread-safe, never blocks, keeps no time.

    Args:
        user_id: the signed-in user, whose own topic has this id.
        cursors: `processed_cursors()` of an earlier run; without any the client is new and starts at the heads.
        ready_limit: items that wait for the application before live events are left to Sync. One frame may exceed it.
        early_limit: events kept aside because an earlier one of their topic is missing, over all topics.
        boards: hears of everything that is handed over, and of heads; made when not given.
    """

    def __init__(
        self,
        user_id: str,
        cursors: Iterable[Cursor] = (),
        *,
        ready_limit: int = 1_000,
        early_limit: int = 1_000,
        boards: Boards | None = None,
    ) -> None:
        self._user_id = user_id
        self._ready_limit, self._early_limit = ready_limit, early_limit
        self._processed = ProcessedCursors(user_id, cursors)
        self._topics = {each: _Topic(cursor, cursor.position) for each, cursor in self._processed.topics.items()}
        # Up to here the own topic is read again; it holds for conversations that it is ahead of, the rest is over.
        self._told_before = self._processed.told_before
        self._before = {} if self._told_before is None else dict(self._processed.topics)
        # New: no joins are known, so every topic of the first complete Heads starts at its head.
        self._is_new = user_id not in self._topics
        self._unclaimed: dict[str, tuple[int, int]] = {}  # (epoch, head) of topics whose join has not come yet
        # Unclaimed ones whose join the own topic will not tell any more, if it is told by now: the list has them.
        self._orphans: set[str] = set()
        self._ended: dict[str, Cursor] = {}  # where topics ended whose leaving the own topic has not told yet
        self._behind: dict[str, None] = {}  # an ordered set
        self._stalled: set[str] = set()
        self._request: dict[str, _Asked] | None = None
        self._request_is_complete = False
        # Between the items: cursors that move without one, once everything before them is processed.
        self._ready: deque[Delivery | Mapping[str, Cursor | None]] = deque()
        self._early_count, self._heads_complete = 0, False
        self._named: set[str] = set()  # topics in the Heads of this stream, until they are complete
        self._is_resumed = False  # the server took the resume token: Heads name only what changed
        self._caught_up_told = False
        self._resume_token = ""
        self.progress = LiveProgress()
        self.boards = boards or Boards(user_id)
        if (own := self._topics.get(user_id)) is not None:
            self.boards.start_own(own.cursor.position)
            if self._told_before is not None:
                own.head = self._told_before.position
                self._judge(own)
        self.relist_needed = self._own_was_skipped = False

    # ---- what the application takes

    def take(self) -> Delivery | None:
        """Returns the next item, or None when none is ready. The one before it is processed by then."""
        while self._ready:
            delivery = self._ready.popleft()
            if not isinstance(delivery, Delivery):
                self._processed.move(delivery)
            elif self._processed.has(delivery.item):
                self.mark_processed(delivery)
            else:
                return delivery
        return None

    def mark_processed(self, delivery: Delivery) -> None:
        """Notes that the application has processed an item: `processed_cursors` and `progress` move with it."""
        self._processed.process(delivery)
        self.progress.mark_processed(delivery)

    def processed_cursors(self) -> list[Cursor]:
        """Returns where a later run resumes without missing anything; empty until the first Heads were complete.

        The own topic may be in it twice (`processed_cursors.py`).
        """
        return [] if self._is_new else self._processed.resume()

    def announce(self, item: events.Connected | events.CaughtUp | events.Disconnected) -> None:
        """Queues news of the connection between the events; dropped when the application reads nothing at all."""
        if len(self._ready) < 2 * self._ready_limit:
            self._ready.append(Delivery(item, {}))

    @property
    def has_room(self) -> bool:
        """Tells whether the queue of ready items is at most half full: only then Sync is worth asking."""
        return len(self._ready) <= self._ready_limit // 2

    @property
    def is_behind(self) -> bool:
        """Tells whether something was heard of that is not handed over or ready."""
        return bool(self._behind)

    @property
    def is_fetching(self) -> bool:
        """Tells whether something is behind, or the answer to a request is still read: it may wait for room."""
        return self.is_behind or self._request is not None

    @property
    def is_caught_up(self) -> bool:
        """Tells whether everything heard of on this stream is handed over or ready."""
        return self._heads_complete and not self._behind and self._request is None and not self.relist_needed

    @property
    def resume_token(self) -> str:
        """The newest token that covers only what is handed over or ready; for the next Hello."""
        return self._resume_token

    # ---- the live stream

    def close_stream(self) -> None:
        """Notes that the live stream ended: nothing is asked for until the Heads of the next one are complete."""
        self._heads_complete, self._caught_up_told, self._is_resumed, self._named = False, False, False, set()
        self._stalled.clear()
        self.progress.start()
        self.boards.disconnect()

    def receive_live(self, frame: frame_pb2.ServerFrame) -> None:
        """Takes a frame of the live stream. Controls about the stream itself and unknown ones change nothing here."""
        for event in frame.events:
            waiting = len(self._ready)
            self._receive_event(event, is_applied=waiting < self._ready_limit)
            self.progress.hear(self._ready[-1] if len(self._ready) > waiting else None)
        match frame.WhichOneof("control"):
            case "welcome":
                self._named, self._is_resumed = set(), frame.welcome.resumed
            case "heads":
                self._receive_heads(frame.heads)
            case "heartbeat":
                for head in frame.heartbeat.heads:
                    self.boards.hear_head(head)
                    self._hear_head(head)
                self._keep_token(frame.heartbeat.resume_token)
            case "goodbye":
                self._keep_token(frame.goodbye.resume_token)
            case "topic_ended":
                # The removal before it ends a topic. Without that one, something was lost or this is of old.
                self._doubt(frame.topic_ended.topic_id)
            case "reset":
                # The log was made anew. Sync says the same, and what of it is to be had; no heartbeat names it again.
                self.boards.hear_head(frame.reset.head)
                self._hear_head(frame.reset.head)
                self._doubt(frame.reset.head.cursor.topic_id)
            case _:
                pass
        self._conclude()

    def _keep_token(self, token: str) -> None:
        if token and self.is_caught_up:
            self._resume_token = token

    def _receive_heads(self, heads: frame_pb2.Heads) -> None:
        for head in heads.heads:
            topic_id = head.cursor.topic_id
            self._named.add(topic_id)
            self.boards.hear_head(head)
            if self._is_new and topic_id not in self._topics:
                self._processed.move({topic_id: self._start(wire.read_cursor(head.cursor)).cursor})
            else:
                self._hear_head(head)
                if topic_id not in self._topics and not self._heads_complete:
                    self._orphans.add(topic_id)
        if heads.complete:
            self._complete_heads()

    def _complete_heads(self) -> None:
        if self._is_new and self._user_id not in self._topics:
            self._processed.move({self._user_id: self._start(Cursor(self._user_id, _NO_EPOCH, 0)).cursor})
        if not self._is_resumed:
            # Every conversation of the user was named, so the others ended while nobody listened.
            for topic_id in set(self._topics) - self._named - {self._user_id}:
                self._doubt(topic_id)
        self._named = set()
        self._is_new, self._heads_complete = False, True
        self.boards.connect(len(self._behind))
        self.announce(events.Connected())

    def _hear_head(self, head: conversation_pb2.TopicHead) -> None:
        self._hear(head.cursor.topic_id, head.cursor.epoch, head.cursor.position)

    def _hear(self, topic_id: str, epoch: int, position: int) -> _Topic | None:
        """Notes that a topic has an event at this position; returns the topic when the position is comparable."""
        topic = self._topics.get(topic_id)
        if topic is None:
            # Epochs only grow: an event of an older one is late, and must not hide that there is a newer one.
            self._unclaimed[topic_id] = max((epoch, position), self._unclaimed.get(topic_id, (epoch, 0)))
            return None
        if topic.cursor.epoch == _NO_EPOCH:
            topic.cursor = Cursor(topic_id, epoch, 0)
        if topic.cursor.epoch != epoch:
            self._doubt(topic_id)
            return None
        topic.head = max(topic.head, position)
        self._judge(topic)
        return topic

    def _doubt(self, topic_id: str) -> None:
        if topic := self._topics.get(topic_id):
            topic.doubted = True
            self._judge(topic)

    def _judge(self, topic: _Topic) -> None:
        if self._topics.get(topic.cursor.topic_id) is not topic:
            return  # ended meanwhile
        if topic.is_behind:
            self._behind[topic.cursor.topic_id] = None
        else:
            self._behind.pop(topic.cursor.topic_id, None)
            self._stalled.discard(topic.cursor.topic_id)

    def _conclude(self) -> None:
        """Draws the conclusions that need all topics."""
        if self._orphans and self._heads_complete and not self._has_news(self._user_id):
            self.relist_needed = True
        if self.is_caught_up and not self._caught_up_told:
            self._caught_up_told = True
            self.announce(events.CaughtUp())

    def _has_news(self, topic_id: str) -> bool:
        """Tells whether news of a topic may still come by the open request or the next one."""
        return topic_id in self._behind or self._asked(topic_id) is not None

    # ---- events of one topic, from either source

    def _receive_event(self, event: event_pb2.Event, *, is_applied: bool) -> None:
        topic = self._hear(event.topic_id, event.epoch, event.position)
        if topic is None or event.position <= topic.cursor.position:
            return
        if event.position == topic.cursor.position + 1:
            if is_applied:
                self._apply(topic, event)
                self._apply_early(topic)
        elif self._early_count < self._early_limit and event.position not in topic.early:
            topic.early[event.position] = event
            self._early_count += 1

    def _apply_early(self, topic: _Topic) -> None:
        """Applies what was kept aside and follows now; drops what lies behind."""
        while topic.early:
            event = topic.early.pop(topic.cursor.position + 1, None)
            if event is None:
                break
            self._early_count -= 1
            self._apply(topic, event)
        for position in [position for position in topic.early if position <= topic.cursor.position]:
            del topic.early[position]
            self._early_count -= 1

    def _apply(self, topic: _Topic, event: event_pb2.Event) -> None:
        topic.cursor = Cursor(event.topic_id, event.epoch, event.position)
        self.boards.receive_event(event)
        cursors: dict[str, Cursor | None] = {event.topic_id: topic.cursor}
        pending = None
        if event.topic_id == self._user_id:
            moved, pending = self._follow_own(event)
            cursors.update(moved)
        self._ready.append(Delivery(wire.read_event(event), cursors, pending))
        self._judge(topic)
        if event.WhichOneof("kind") == "member_removed" and event.member_removed.user_id == self._user_id:
            self._end(topic)

    def _follow_own(self, event: event_pb2.Event) -> tuple[dict[str, Cursor | None], Cursor | None]:
        """Starts or stretches the conversation that an event of the own topic is about.

        Returns the cursors that move with the event, and where the conversation is when it has followed.
        """
        match event.WhichOneof("kind"):
            case "conversation_joined":
                joined = event.conversation_joined
                start = Cursor(joined.conversation_id, joined.epoch, joined.join_position - 1)
                return {} if self._is_over(event, start) else self._join(start), start
            case "conversation_left":
                left = event.conversation_left
                end = Cursor(left.conversation_id, left.epoch, left.leave_position)
                beyond = Cursor(left.conversation_id, left.epoch, left.leave_position + 1)
                return {} if self._is_over(event, end) else self._leave(end), beyond
            case _:
                return {}, None

    def _is_over(self, event: event_pb2.Event, change: Cursor) -> bool:
        """Tells whether an event of the own topic is read again whose conversation had followed it."""
        if self._told_before is None or (event.epoch, event.position) > place(self._told_before):
            return False
        before = self._before.get(change.topic_id)
        return before is None or place(change) < place(before)

    def _join(self, start: Cursor) -> dict[str, Cursor | None]:
        topic = self._topics.get(start.topic_id)
        if topic is None:
            ended = self._ended.get(start.topic_id)
            if ended is not None and place(ended) > place(start):
                return {}  # that membership is over already
            self._start(start)
            self._hear(start.topic_id, start.epoch, start.position + 1)
            return {start.topic_id: start}
        if start != topic.cursor and start not in topic.joins:
            topic.joins = sorted((*topic.joins, start), key=place)  # the list may have told a later one before
        return {}

    def _leave(self, end: Cursor) -> dict[str, Cursor | None]:
        self._unclaimed.pop(end.topic_id, None)
        self._orphans.discard(end.topic_id)
        if topic := self._topics.get(end.topic_id):
            topic.left = end
            self._doubt(end.topic_id)  # its removal has not come yet: Sync fetches it
            return {}
        ended = self._ended.get(end.topic_id, end)
        if place(ended) > place(end):
            return {}  # an older one, perhaps of a life of the log before: the newest is yet to be told
        self._ended.pop(end.topic_id, None)
        return {end.topic_id: None}

    def _start(self, cursor: Cursor) -> _Topic:
        topic = self._topics[cursor.topic_id] = _Topic(cursor, cursor.position)
        if cursor.topic_id == self._user_id:
            self.boards.start_own(cursor.position)
        self._ended.pop(cursor.topic_id, None)
        self._orphans.discard(cursor.topic_id)
        if unclaimed := self._unclaimed.pop(cursor.topic_id, None):
            self._hear(cursor.topic_id, *unclaimed)
        return topic

    def _end(self, topic: _Topic) -> None:
        """Ends a topic, or lets it jump to the later join that is known already."""
        topic_id = topic.cursor.topic_id
        asked = self._asked(topic_id)
        is_doubted = topic.doubted or (asked is not None and asked.doubted)
        head = max(topic.head, self._forget_asked(topic))
        del self._topics[topic_id]
        self._behind.pop(topic_id, None)
        self._stalled.discard(topic_id)
        early, topic.early = topic.early, {}
        joins = [start for start in topic.joins if place(start) >= place(topic.cursor)]
        self.boards.forget(topic_id, is_rejoined=bool(joins))
        if not joins:
            if head > topic.cursor.position:  # it goes on with this user, so there is another join
                self._hear(topic_id, topic.cursor.epoch, head)
                self._orphans.add(topic_id)
                # The own topic has told of it most likely. The list knows the newest membership alone: it comes last.
                self._doubt(self._user_id)
            self._early_count -= len(early)
            is_told = topic.left is not None and place(topic.left) >= place(topic.cursor)
            if not is_told:
                self._ended[topic_id] = topic.cursor  # so that earlier joins and leavings are not taken for news
            self._ready.append(Delivery(events.TopicEnded(topic_id=topic_id), {topic_id: None} if is_told else {}))
            return
        restart = joins[0]
        self._ready.append(Delivery(events.TopicEnded(topic_id=topic_id), {topic_id: restart}))
        fresh = self._start(restart)
        fresh.joins = joins[1:]
        self._hear(topic_id, restart.epoch, restart.position + 1)
        if topic.left is not None and place(topic.left) > place(restart):
            fresh.left = topic.left  # this membership is over too
        if is_doubted:
            # Nobody says it again that this one is over too, or the log lost, and the rest of the answer is not heard.
            self._doubt(topic_id)
        if restart.epoch != topic.cursor.epoch:
            self._early_count -= len(early)
            return
        fresh.early = early
        self._hear(topic_id, restart.epoch, head)
        self._apply_early(fresh)

    # ---- Sync

    def next_request(self) -> list[Cursor] | None:
        """Returns up to 500 cursors to ask Sync for.

        None: nothing is behind, a request is open, room is short, or the counters are to come first.
        """
        if self._request is not None or not self.has_room or not self._heads_complete:
            return None
        if self.boards.counters_come_first:
            return None
        asked: dict[str, _Asked] = {}
        for topic_id in self._behind:
            if topic_id in self._stalled:
                continue
            topic = self._topics[topic_id]
            asked[topic_id] = _Asked(topic, topic.cursor, topic.head, topic.doubted)
            topic.head, topic.doubted = topic.cursor.position, False
            if len(asked) == REQUEST_MAX_CURSORS:
                break
        if not asked:
            return None
        self._request, self._request_is_complete = asked, False
        return [one.cursor for one in asked.values()]

    def receive_sync(self, frame: frame_pb2.ServerFrame) -> None:
        """Takes a frame of the answer to the open request. Applies everything: read the next one when `has_room`."""
        for event in frame.events:
            self._receive_event(event, is_applied=True)
        match frame.WhichOneof("control"):
            case "gap":
                self._skip(frame.gap)
            case "reset":
                self._reset(frame.reset)
            case "topic_ended":
                if asked := self._asked(frame.topic_ended.topic_id):
                    self._end(asked.topic)
            case "rejected":
                self._reject(frame.rejected.topic_id, frame.rejected.status)
            case "caught_up":
                self._request_is_complete = True
                for head in frame.caught_up.heads:
                    if head.cursor.topic_id in self._topics:
                        self.boards.hear_head(head)
                        self._hear_head(head)
            case _:
                pass

    def finish_request(self) -> None:
        """Ends the open request, complete or cut: topics that are still behind are asked for again."""
        request, self._request = self._request or {}, None
        for topic_id, asked in request.items():
            topic = asked.topic
            if not self._request_is_complete:
                self._restore(asked)
            self._judge(topic)
            if topic.is_behind and topic.cursor == asked.cursor:
                self._stalled.add(topic_id)
        self._conclude()

    @property
    def has_stalled(self) -> bool:
        """Tells whether topics wait for `retry_stalled`, because a request did not move them."""
        return bool(self._stalled)

    def retry_stalled(self) -> None:
        """Lets topics that a request did not move be asked for again; call it after a pause."""
        self._stalled.clear()

    def _asked(self, topic_id: str) -> _Asked | None:
        return (self._request or {}).get(topic_id)

    def _forget_asked(self, topic: _Topic) -> int:
        """Takes an ended topic out of the request: what the rest of the answer says is about the ended membership.

        Returns the head that was heard before the request. One past the end was heard in a later membership.
        """
        asked = (self._request or {}).pop(topic.cursor.topic_id, None)
        return asked.head if asked is not None and asked.cursor.epoch == topic.cursor.epoch else 0

    def _restore(self, asked: _Asked) -> None:
        """Puts back what was known before the request: it was not answered."""
        if asked.topic.cursor.epoch == asked.cursor.epoch:
            asked.topic.head = max(asked.topic.head, asked.head)
            asked.topic.doubted |= asked.doubted

    def _reject(self, topic_id: str, status: status_pb2.Status) -> None:
        asked = self._asked(topic_id)
        if asked is None:
            return
        if isinstance(error_of_status(status), ConversationNotFound) and topic_id != self._user_id:
            self._end(asked.topic)
        else:
            self._restore(asked)

    def _skip(self, gap: frame_pb2.Gap) -> None:
        head = wire.read_head(gap.head).cursor
        asked = self._asked(head.topic_id)
        if asked is None or head.epoch != asked.topic.cursor.epoch or head.position <= asked.topic.cursor.position:
            return
        self.boards.skip(gap.head)
        self._jump(asked.topic, head, wire.read_gap(gap))

    def _reset(self, reset: frame_pb2.Reset) -> None:
        head = wire.read_head(reset.head)
        asked = self._asked(head.cursor.topic_id)
        if asked is None:
            return
        if asked.topic.cursor != asked.cursor:  # live events of the old life came in between: ask again
            self._doubt(head.cursor.topic_id)
            return
        topic = asked.topic
        self._early_count -= len(topic.early)
        topic.early = {}
        topic.joins = [start for start in topic.joins if place(start) >= place(head.cursor)]  # told while it was asked
        # What was heard before this moment is not comparable with the new life: one more Sync makes sure.
        topic.head, topic.doubted = head.cursor.position, True
        self.boards.skip(reset.head)
        self._jump(topic, head.cursor, events.TopicReset(head=head))

    def _jump(self, topic: _Topic, head: Cursor, item: events.GapSkipped | events.TopicReset) -> None:
        topic.cursor, topic.head = head, max(topic.head, head.position)
        self._ready.append(Delivery(item, {head.topic_id: head}))
        self._apply_early(topic)
        self._judge(topic)
        if head.topic_id == self._user_id:
            self._own_was_skipped = self.relist_needed = True  # joins may be among what was skipped

    def relist(self, starts: Iterable[Cursor]) -> None:
        """Answers `relist_needed`: one cursor, at the join, of each conversation that ListConversations names now."""
        self.relist_needed = False
        was_skipped, self._own_was_skipped = self._own_was_skipped, False
        gone = set(self._topics) - {self._user_id}
        cursors: dict[str, Cursor | None] = {}
        for start in starts:
            gone.discard(start.topic_id)
            if was_skipped or start.topic_id in self._orphans:  # of the others the own topic tells every membership
                cursors.update(self._join(start))
        for topic_id in gone:
            self._doubt(topic_id)
        if was_skipped:  # their leavings may be among it
            cursors.update(dict.fromkeys(self._ended))
            self._ended.clear()
        self._ready.append(cursors)
        self._orphans.clear()
        self._conclude()
