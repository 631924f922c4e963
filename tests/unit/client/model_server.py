"""A server in memory that does what the contract allows a server to do, for tests of the client's engine."""

from collections import deque
from dataclasses import dataclass, field

from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2

from hubbub_client.model import Cursor

ME = "u1"
SYNC_EVENTS = 6  # more missing events than this become a Gap


def rejection(topic_id: str, reason: str, code: int) -> frame_pb2.ServerFrame:
    """A Rejected for one topic of a Sync."""
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(domain="hubbub", reason=f"ERROR_REASON_{reason}"))
    status = status_pb2.Status(code=code, message="refused", details=[detail])
    return frame_pb2.ServerFrame(rejected=frame_pb2.Rejected(topic_id=topic_id, status=status))


@dataclass
class Log:
    """One topic: its present life, what is left of its events, and when the user was in it."""

    topic_id: str
    epoch: int = 1
    base: int = 0  # events up to here are gone
    events: list[event_pb2.Event] = field(default_factory=list)
    joins: list[tuple[int, int]] = field(default_factory=list)  # (epoch, position)
    is_member: bool = True
    removed_at: int = 0

    @property
    def position(self) -> int:
        return self.base + len(self.events)

    @property
    def head(self) -> conversation_pb2.TopicHead:
        cursor = conversation_pb2.Cursor(topic_id=self.topic_id, epoch=self.epoch, position=self.position)
        return conversation_pb2.TopicHead(cursor=cursor)

    def append(self, event: event_pb2.Event) -> event_pb2.Event:
        event.topic_id, event.epoch, event.position = self.topic_id, self.epoch, self.position + 1
        self.events.append(event)
        return event

    def after(self, position: int, last: int) -> list[event_pb2.Event]:
        return self.events[max(0, position - self.base) : last - self.base]


class ModelServer:
    """Logs, one live stream with a queue for each topic, and answers to Sync.

    Args:
        sync_events: when more events are missing, a Gap is told instead.
    """

    def __init__(self, sync_events: int = SYNC_EVENTS) -> None:
        self.sync_events = sync_events
        self.logs = {ME: Log(ME)}
        self.live: dict[str, deque[frame_pb2.ServerFrame]] = {}
        self.is_open = False
        self.changed: set[str] = set()  # topics with events since the last heartbeat of the stream
        self.tokens: list[list[conversation_pb2.TopicHead]] = []  # a resume token is an index

    # ---- what happens

    def _happen(self, log: Log, event: event_pb2.Event) -> event_pb2.Event:
        event = log.append(event)
        if self.is_open and log.is_member:
            self.live[log.topic_id].append(frame_pb2.ServerFrame(events=[event]))
            self.changed.add(log.topic_id)
        return event

    def say(self, topic_id: str) -> None:
        number = self.logs[topic_id].position + 1
        message = message_pb2.Message(message_number=number)
        self._happen(self.logs[topic_id], event_pb2.Event(message_sent=event_pb2.MessageSent(message=message)))

    def say_something_new(self, topic_id: str) -> None:
        """An event of a kind that this client does not know."""
        self._happen(self.logs[topic_id], event_pb2.Event(message_number=1))

    def join(self, topic_id: str) -> None:
        log = self.logs.setdefault(topic_id, Log(topic_id, is_member=False))
        log.is_member = True
        if self.is_open:
            self.live.setdefault(topic_id, deque()).append(
                frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=[log.head]))
            )
        member = conversation_pb2.Member(user_id=ME, join_position=log.position + 1)
        added = self._happen(log, event_pb2.Event(members_added=event_pb2.MembersAdded(members=[member])))
        log.joins.append((log.epoch, added.position))
        joined = event_pb2.ConversationJoined(conversation_id=topic_id, join_position=added.position, epoch=log.epoch)
        self._happen(self.logs[ME], event_pb2.Event(conversation_joined=joined))

    def leave(self, topic_id: str) -> None:
        log = self.logs[topic_id]
        removed = self._happen(log, event_pb2.Event(member_removed=event_pb2.MemberRemoved(user_id=ME)))
        log.is_member, log.removed_at = False, removed.position
        if self.is_open:
            self.live[topic_id].append(frame_pb2.ServerFrame(topic_ended=frame_pb2.TopicEnded(topic_id=topic_id)))
        left = event_pb2.ConversationLeft(conversation_id=topic_id, leave_position=removed.position, epoch=log.epoch)
        self._happen(self.logs[ME], event_pb2.Event(conversation_left=left))

    def recreate(self, topic_id: str) -> None:
        """The log was lost: it goes on above everything stored, in a new epoch."""
        log = self.logs[topic_id]
        log.epoch, log.base, log.events = log.epoch + 1, log.position + 5, []
        if self.is_open and log.is_member:
            self.live.setdefault(topic_id, deque()).append(frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=log.head)))

    # ---- the stream

    def mine(self) -> list[Log]:
        return [log for log in self.logs.values() if log.is_member and (log.topic_id != ME or log.position)]

    def open(self, frames: int, resume_token: str = "") -> list[frame_pb2.ServerFrame]:
        """Opens the stream: Welcome, then Heads in this many frames, the last one complete.

        With a token Heads name only what moved after it.
        """
        self.is_open, self.changed = True, set()
        self.live = {topic_id: deque() for topic_id in self.logs}
        known = self.tokens[int(resume_token)] if resume_token else []
        heads = [log.head for log in self.mine() if log.head not in known]
        size = -(-len(heads) // frames) or 1
        parts = [heads[start : start + size] for start in range(0, len(heads), size)] or [[]]
        return [
            frame_pb2.ServerFrame(welcome=frame_pb2.Welcome(resumed=bool(resume_token))),
            *(frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=part, complete=part is parts[-1])) for part in parts),
        ]

    def cut(self) -> None:
        self.is_open, self.live = False, {}

    def heartbeat(self) -> frame_pb2.ServerFrame:
        self.tokens.append([log.head for log in self.mine()])
        heads = [log.head for log in self.mine() if log.topic_id in self.changed]
        self.changed = set()
        beat = frame_pb2.Heartbeat(heads=heads, live=True, resume_token=str(len(self.tokens) - 1))
        return frame_pb2.ServerFrame(heartbeat=beat)

    # ---- Sync

    def answer(self, cursors: list[Cursor], busy: frozenset[str] = frozenset()) -> list[frame_pb2.ServerFrame]:
        """Answers one request as of now; topics in `busy` cannot be served."""
        frames: list[frame_pb2.ServerFrame] = []
        heads = []
        for cursor in cursors:
            log = self.logs.get(cursor.topic_id)
            if cursor.topic_id in busy:
                frames.append(rejection(cursor.topic_id, "BACKEND_UNAVAILABLE", code_pb2.UNAVAILABLE))
            elif log is None or not (log.is_member or log.removed_at):
                frames.append(rejection(cursor.topic_id, "CONVERSATION_NOT_FOUND", code_pb2.NOT_FOUND))
            else:
                frames.extend(self._answer_topic(log, cursor))
                heads.append(log.head)
        frames.append(frame_pb2.ServerFrame(caught_up=frame_pb2.CaughtUp(heads=heads)))
        return frames

    def _answer_topic(self, log: Log, cursor: Cursor) -> list[frame_pb2.ServerFrame]:
        last = log.position if log.is_member else log.removed_at
        head = log.head
        head.cursor.position = last
        frames: list[frame_pb2.ServerFrame] = []
        if cursor.epoch != log.epoch or (log.is_member and cursor.position > last):
            if log.is_member:
                return [frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head))]
        elif cursor.position < log.base or last - cursor.position > self.sync_events:
            gap = frame_pb2.Gap(head=head)
            getattr(gap, "from").CopyFrom(
                conversation_pb2.Cursor(topic_id=log.topic_id, epoch=cursor.epoch, position=cursor.position)
            )
            frames.append(frame_pb2.ServerFrame(gap=gap))
        else:
            missing = log.after(cursor.position, last)
            frames.extend(
                frame_pb2.ServerFrame(events=missing[start : start + 2]) for start in range(0, len(missing), 2)
            )
        if not log.is_member:
            frames.append(frame_pb2.ServerFrame(topic_ended=frame_pb2.TopicEnded(topic_id=log.topic_id)))
        return frames
