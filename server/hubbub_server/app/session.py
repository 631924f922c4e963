"""One client session: what a stream may say and when, without sockets, tasks or protobuf.

Theory of operation. The driver (`streams.py`) feeds frames, deliveries, answers and time; the session queues frames to
be sent and returns what the driver is to do. States: AWAITING_HELLO → OPENING (Welcome is queued, topics are being
subscribed) → LIVE (every topic is covered) → ENDED. In every state but the first the session delivers; the head of a
topic is always queued before its first event. What waits for the client is in a SendQueue, which holds back and bounds
it: where that is full, Goodbye(SLOW_READER) is the last frame (G6). After ENDED nothing is queued any more.
"""

import random
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Final, Protocol

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
    Hello,
    Outgoing,
    ReadUpTo,
    Reauthenticate,
    Reauthenticated,
    ReceivedUpTo,
    Rejected,
    Reply,
    Reset,
    Send,
    SetTyping,
    Signals,
    StreamCommand,
    TopicEnded,
    TypingSet,
    UnknownFrame,
    Welcome,
)
from hubbub_server.app.send_queue import SendQueue
from hubbub_server.app.session_actions import Action, CheckToken, Mark, OpenTopics, Submit, TellTyping
from hubbub_server.domain.commands import Delivered, Marked, Sent
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.errors import (
    BadCredentials,
    CredentialsExpired,
    HubbubError,
    InvalidField,
    LogUnavailable,
    NodeDraining,
    ProtocolBreach,
    RateLimited,
)
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.limits import HEADS_PER_FRAME, RECORD_MAX_EVENTS, REQUEST_ID_MAX_CHARACTERS

HEARTBEAT_INTERVAL_S: Final = 20.0
HELLO_WITHIN_S: Final = 10.0
CLIENT_SILENCE_S: Final = 90.0
TOKEN_GRACE_S: Final = 60.0
RESET_AFTER_S: Final = 10.0
LOG_LOST_FOR_S: Final = 60.0
MAX_UNANSWERED: Final = 1_024
CONNECT_MAX_AGE_S: Final = 3_600.0
SUBSCRIBE_MAX_AGE_S: Final = 900.0


class SessionState(Enum):
    """Where a session is in its life."""

    AWAITING_HELLO = "awaiting_hello"
    OPENING = "opening"
    LIVE = "live"
    ENDED = "ended"


_ENDED: Final = SessionState.ENDED  # Python 3.11 calls a function for each member of an Enum that is named


class Resume(Protocol):
    """The resume tokens of a stream."""

    def take_up(self, token: str) -> bool:
        """Takes the token of Hello; tells whether it counts."""

    def token(self) -> str:
        """Returns the token of all that was queued until now; "": there is none."""


class Session:
    """The state machine of one stream. Every method is synchronous and never raises for what the client did."""

    __slots__ = (
        "_ages_out_s",
        "_changed_heads",
        "_ended_s",
        "_hand_over",
        "_heard_s",
        "_heartbeat_due_s",
        "_is_half_closed",
        "_out",
        "_pending_heads",
        "_resume",
        "_started_s",
        "_takes_commands",
        "_token_ends_s",
        "_unanswered",
        "caller",
        "end_error",
        "goodbye_reason",
        "must_reset",
        "session_id",
        "state",
    )

    def __init__(
        self,
        *,
        session_id: str,
        caller: Caller,
        takes_commands: bool,
        now_s: float,
        now_ms: int,
        resume: Resume | None = None,
    ) -> None:
        """`takes_commands` is False for Subscribe. `now_s` is monotonic, `now_ms` Unix time.

        Without `resume` tokens are ignored, and none are given.
        """
        self.session_id = session_id
        self.caller = caller
        self.state = SessionState.AWAITING_HELLO
        self.end_error: HubbubError | None = None
        self.goodbye_reason: GoodbyeReason | None = None
        self.must_reset = False
        self._takes_commands = takes_commands
        self._resume = resume
        self._out = SendQueue()
        self._pending_heads: list[TopicHead] = []
        self._changed_heads: dict[TopicId, TopicHead] = {}
        self._unanswered: dict[str, None] = {}  # an empty set takes 216 bytes, an empty dict 64
        self._hand_over: Callable[[Events], bool] = _takes_nothing
        self._is_half_closed = False
        self._started_s = now_s
        self._heard_s = now_s
        self._heartbeat_due_s = now_s + HEARTBEAT_INTERVAL_S
        self._token_ends_s = now_s
        self._set_token_end(now_s, now_ms)
        self._ended_s: float | None = None
        max_age_s = CONNECT_MAX_AGE_S if takes_commands else SUBSCRIBE_MAX_AGE_S
        self._ages_out_s = now_s + max_age_s * random.uniform(0.8, 1.0)

    def _set_token_end(self, now_s: float, now_ms: int) -> None:
        grace_s = TOKEN_GRACE_S if self._takes_commands else 0.0
        self._token_ends_s = now_s + (self.caller.token_expire_time_ms - now_ms) / 1000 + grace_s

    @property
    def is_ended(self) -> bool:
        """Tells whether the last frame is queued; what is queued may still be taken."""
        return self.state is _ENDED

    @property
    def has_output(self) -> bool:
        """Tells whether a transport has something to do: frames to write, or the end."""
        out = self._out
        return bool(out.passing or (out.frames and not out.is_holding)) or self.state is _ENDED

    @property
    def buffered_bytes(self) -> int:
        """What waits for the client; Goodbye, Lagging and signals are not counted."""
        return self._out.buffered_bytes

    def take(self, max_bytes: int) -> Sequence[Outgoing]:
        """Takes frames to be sent now, in order: at least one if there is any, and no more than `max_bytes` of them."""
        return self._out.take(max_bytes)

    # ---- from the client

    def receive(self, frame: ClientFrame, now_s: float) -> Sequence[Action]:
        """Takes a frame of the client and returns what is to be done about it."""
        if self.is_ended:
            return ()
        self._heard_s = now_s
        match frame:
            case Hello():
                return self._receive_hello(frame)
            case _ if self.state is SessionState.AWAITING_HELLO:
                self._breach("Hello comes first")
            case StreamCommand():
                return self._receive_command(frame)
            case Ack(processed_events=processed):
                if not self._out.acknowledge(processed):
                    self._breach("an Ack never goes back and never beyond what was sent")
            case UnknownFrame():
                self._breach("a frame without a payload that this server knows")
        return ()

    def _receive_hello(self, hello: Hello) -> Sequence[Action]:
        if self.state is not SessionState.AWAITING_HELLO:
            self._breach("Hello comes once")
            return ()
        self.state = SessionState.OPENING
        if self._takes_commands and hello.ack_window_events:
            self._out.window_events = max(hello.ack_window_events, RECORD_MAX_EVENTS)
        self._push(
            Welcome(
                session_id=self.session_id,
                user_id=self.caller.user_id,
                heartbeat_interval_s=HEARTBEAT_INTERVAL_S,
                ack_window_events=self._out.window_events,
                token_expire_time_ms=self.caller.token_expire_time_ms,
                resumed=self._resume is not None and self._resume.take_up(hello.resume_token),
            )
        )
        return (OpenTopics(instance_id=hello.instance_id),)

    def _receive_command(self, command: StreamCommand) -> Sequence[Action]:
        request_id = command.request_id
        if request_id in self._unanswered:
            self._breach("request_id is still unanswered")
            return ()
        error = self._refusal(command)
        if error is not None:
            self._push(Rejected(request_id=request_id[:REQUEST_ID_MAX_CHARACTERS], error=error))
            return ()
        self._unanswered[request_id] = None
        match command.payload:
            case Reauthenticate(access_token=access_token):
                return (CheckToken(request_id=request_id, access_token=access_token),)
            case Send() as send:
                return (Submit(request_id=request_id, send=send),)
            case SetTyping() as typing:
                return (TellTyping(request_id=request_id, command=typing),)
            case ReadUpTo() | ReceivedUpTo() as mark:
                return (Mark(request_id=request_id, mark=mark),)
            case _:
                return ()

    def _refusal(self, command: StreamCommand) -> HubbubError | None:
        if not 1 <= len(command.request_id) <= REQUEST_ID_MAX_CHARACTERS:
            return InvalidField("command.request_id", f"1 to {REQUEST_ID_MAX_CHARACTERS} characters")
        if isinstance(command.payload, HubbubError):
            return command.payload
        if len(self._unanswered) >= MAX_UNANSWERED:
            return RateLimited("too many commands of this stream are unanswered", retry_after_s=0.5)
        return None

    def half_close(self) -> None:
        """The client has sent its last frame: the stream ends with OK once its commands are answered."""
        self._is_half_closed = True
        if not self._unanswered:
            self._end(None)

    def break_off(self, error: HubbubError) -> None:
        """The transport met something that no frame can be made of: a protocol breach."""
        self._goodbye(GoodbyeReason.PROTOCOL, error, reconnect=False)

    # ---- from the topics

    def topic_opened(self, head: TopicHead) -> None:
        """A topic is covered from `head` on; told before its first event."""
        self._pending_heads.append(head)
        if self.state is SessionState.LIVE or len(self._pending_heads) >= HEADS_PER_FRAME:
            self._flush_heads(complete=False)

    def opened(self) -> None:
        """All topics of the user are covered."""
        if self.state is SessionState.OPENING:
            self.state = SessionState.LIVE
            self._flush_heads(complete=True)

    def _flush_heads(self, *, complete: bool) -> None:
        if self._pending_heads or complete:
            heads, self._pending_heads = tuple(self._pending_heads), []
            self._push(Heads(heads=heads, complete=complete))

    def deliver(self, delivery: Delivery) -> bool:
        """Delivers the events of one record of a covered topic; tells whether they were queued.

        Where nothing waits before them, a transport that can write now takes them without the queue.
        """
        self._changed_heads[delivery.topic_id] = delivery.head
        frame = delivery.frame
        out = self._out
        waits = out.frames or out.passing or self._pending_heads or self.state is _ENDED
        if not waits and not (out.window_events and out.would_exceed(frame)) and self._hand_over(frame):
            out.events_sent += frame.count
            return False
        if self._pending_heads:
            self._flush_heads(complete=False)
        self._push(frame)
        return True

    def hand_over_by(self, hand_over: Callable[[Events], bool]) -> None:
        """Sets what takes events for the client at once, or answers False."""
        self._hand_over = hand_over

    def signal(self, frame: Signals) -> bool:
        """Queues a signal, or drops it: the stream is not live, or is read too slowly. Tells whether it is queued."""
        return self.state is SessionState.LIVE and self._out.push_signal(frame)

    def topic_reset(self, head: TopicHead) -> None:
        """The topic's log was recreated."""
        self._flush_heads(complete=False)
        self._changed_heads.pop(head.cursor.topic_id, None)
        self._push(Reset(head=head))

    def topic_ended(self, topic_id: TopicId) -> None:
        """The user is no member any more; nothing of the topic follows."""
        self._changed_heads.pop(topic_id, None)
        self._push(TopicEnded(topic_id=topic_id))

    # ---- answers

    def answer(self, request_id: str, answer: Sent | Marked | Delivered | TypingSet | HubbubError) -> None:
        """Answers a command."""
        if isinstance(answer, HubbubError):
            self._push(Rejected(request_id=request_id, error=answer))
        else:
            self._push(Reply(request_id=request_id, answer=answer))
        self._answered(request_id)

    def reauthenticated(self, request_id: str, caller: Caller, now_s: float, now_ms: int) -> None:
        """Goes on with a newer token; one of another user or device session is refused."""
        if (caller.user_id, caller.device_session_id) != (self.caller.user_id, self.caller.device_session_id):
            self.answer(request_id, BadCredentials("the token is of another sign-in"))
            return
        self.caller = caller
        self._set_token_end(now_s, now_ms)
        answer = Reauthenticated(token_expire_time_ms=caller.token_expire_time_ms)
        self._push(Reply(request_id=request_id, answer=answer))
        self._answered(request_id)

    def _answered(self, request_id: str) -> None:
        self._unanswered.pop(request_id, None)
        if self._is_half_closed and not self._unanswered:
            self._end(None)

    # ---- time

    def tick(self, now_s: float, *, is_live: bool) -> None:
        """Does what is due. Called about once a second."""
        self._out.drop_old_signals()
        if self.is_ended:
            self._ended_s = now_s if self._ended_s is None else self._ended_s
            self.must_reset = now_s - self._ended_s > RESET_AFTER_S
        elif self.state is SessionState.AWAITING_HELLO:
            if now_s - self._started_s > HELLO_WITHIN_S:
                self._breach("no Hello within 10 s")
        elif self._takes_commands and now_s - self._heard_s > CLIENT_SILENCE_S:
            self._goodbye(GoodbyeReason.PROTOCOL, ProtocolBreach("no frame within 90 s"), reconnect=True)
        elif now_s > self._token_ends_s:
            self._goodbye(GoodbyeReason.TOKEN_EXPIRED, CredentialsExpired("the access token ended"), reconnect=True)
        elif now_s > self._ages_out_s:
            self._goodbye(GoodbyeReason.MAX_AGE, None, reconnect=True)
        elif now_s >= self._heartbeat_due_s:
            self._heartbeat_due_s = now_s + HEARTBEAT_INTERVAL_S
            self._heartbeat(is_live)

    def _heartbeat(self, is_live: bool) -> None:
        if self._out.is_holding:
            self._push(Heartbeat(heads=(), resume_token="", live=is_live))
            return
        topic_ids = list(self._changed_heads)[:HEADS_PER_FRAME]
        heads = tuple(self._changed_heads.pop(topic_id) for topic_id in topic_ids)
        self._push(Heartbeat(heads=heads, resume_token=self._token(), live=is_live))

    def _token(self) -> str:
        is_told = self.state is SessionState.LIVE and not self._pending_heads
        return self._resume.token() if self._resume is not None and is_told else ""

    # ---- ends

    def displace(self) -> None:
        """The same instance said Hello again."""
        self._goodbye(GoodbyeReason.DISPLACED, None, reconnect=False)

    def drain(self, retry_delay_s: float) -> None:
        """The node is leaving."""
        error = NodeDraining("this node is leaving", retry_after_s=max(retry_delay_s, 0.1))
        self._goodbye(GoodbyeReason.DRAINING, error, reconnect=True, retry_delay_s=retry_delay_s)

    def cut_off(self, error: LogUnavailable, retry_delay_s: float) -> None:
        """The topics cannot be had, or the log has been lost for long: another node may have it."""
        self._goodbye(GoodbyeReason.DRAINING, error, reconnect=True, retry_delay_s=retry_delay_s)

    def _breach(self, rule: str) -> None:
        self.break_off(ProtocolBreach(rule))

    def _goodbye(
        self, reason: GoodbyeReason, error: HubbubError | None, *, reconnect: bool, retry_delay_s: float = 0.0
    ) -> None:
        if not self.is_ended:
            token = self._token() if reconnect and reason is not GoodbyeReason.SLOW_READER else ""
            self.goodbye_reason = reason
            goodbye = Goodbye(reason=reason, reconnect=reconnect, retry_delay_s=retry_delay_s, resume_token=token)
            self._end(error, goodbye)

    def _end(self, error: HubbubError | None, goodbye: Goodbye | None = None) -> None:
        if not self.is_ended:  # the first end counts
            self.state = SessionState.ENDED
            self.end_error = error
            self._out.end(goodbye)

    def _push(self, frame: Outgoing) -> None:
        if self.state is not _ENDED and not self._out.push(frame):
            error = RateLimited("the stream was read too slowly", retry_after_s=1.0)
            self._goodbye(GoodbyeReason.SLOW_READER, error, reconnect=True, retry_delay_s=1.0)


def _takes_nothing(_: Events) -> bool:
    return False
