"""One open stream: makes happen what its session says, for any transport.

A transport feeds `receive` and `half_close`, writes what `next_frames` returns until it is empty, ends with
`end_error`, and calls `aclose` in any case. It has the only writer of its stream. A transport without a task that waits
sets `on_output` instead and takes frames (`take_frames`) when it can write.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Protocol

import structlog

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.authenticate import Authenticate, Caller
from hubbub_server.app.frames import ClientFrame, Events, Outgoing, Signals, TypingSet
from hubbub_server.app.markers import Markers
from hubbub_server.app.resume import StreamResume
from hubbub_server.app.session import Session
from hubbub_server.app.session_actions import Action, CheckToken, Mark, OpenTopics, Submit, TellTyping
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.domain.commands import Answer, Sent
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.errors import HubbubError, LogUnavailable, Unavailable
from hubbub_server.domain.events import ConversationJoined, MemberRemoved
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.user_topic import Membership, UserTopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock

if TYPE_CHECKING:
    from hubbub_server.app.committer import Pending

_OPENED_AT_ONCE: Final = 32
_COVERED_A_TURN: Final = 256
"""So many topics of a stream are covered before others get a turn."""
_WRITE_MAX_BYTES: Final = 256 * 1024

log = structlog.get_logger()


class Owner(Protocol):
    """What a stream needs of those that it is one of."""

    hub: TopicHub
    authenticate: Authenticate
    clock: Clock
    markers: Markers
    typing: TypingSignals
    command_timeout_s: float
    turns: asyncio.Semaphore
    """Of streams that load their topics."""

    def displace(self, stream: "LiveStream", instance_id: str) -> None:
        """Registers the stream of a running client; the one before it ends."""

    def opened(self, stream: "LiveStream") -> None:
        """The stream covers all its topics."""

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Starts a task of a stream."""

    def forget(self, stream: "LiveStream") -> None:
        """The stream is closed."""


class LiveStream:
    """One open stream. Implements Subscriber; its session says what happens, this class makes it happen."""

    __slots__ = (
        "_abort",
        "_expiry",
        "_is_closed",
        "_opening",
        "_ready",
        "_resume",
        "_session",
        "_streams",
        "_tasks",
        "_topics",
        "_typing",
        "_waiting",
        "_wake",
    )

    def __init__(self, session: Session, resume: StreamResume, streams: Owner) -> None:
        """Made by `Streams.open`."""
        self._session = session
        self._resume = resume
        self._streams = streams
        self._ready: asyncio.Event | None = None
        self._wake: Callable[[], None] = _wakes_nobody
        self._topics = resume.topics
        self._tasks: list[asyncio.Task[None]] = []  # an empty set takes 216 bytes
        self._is_closed = False
        self._abort: Callable[[], None] | None = None
        self._opening: asyncio.Semaphore | None = None
        """Bounds the topics that are loaded at once; there is none before the first."""
        self._waiting: list[tuple[float, Pending]] = []
        """Commands without an answer and when they are given up, in order; answered ones may be among them."""
        self._expiry: asyncio.TimerHandle | None = None
        self._typing: asyncio.Lock | None = None
        """Keeps the order of what is told of typing; there is none before the first."""

    @property
    def caller(self) -> Caller:
        """Who is at the other end."""
        return self._session.caller

    @property
    def session_id(self) -> str:
        """Names the stream in logs and in Welcome."""
        return self._session.session_id

    @property
    def is_ended(self) -> bool:
        """Tells whether its last frame is queued."""
        return self._session.is_ended

    @property
    def has_output(self) -> bool:
        """Tells whether there are frames to take, or the end is to be told."""
        return self._session.has_output

    @property
    def end_error(self) -> HubbubError | None:
        """After the end: the error to end with, None for OK."""
        return self._session.end_error

    # ---- for the transport

    def receive(self, frame: ClientFrame) -> None:
        """Takes a frame of the client. Never raises for what the client did."""
        for action in self._session.receive(frame, self._streams.clock.monotonic_s()):
            self._do(action)
        self._wake()

    def break_off(self, error: HubbubError) -> None:
        """The transport met something that no frame can be made of: the stream ends with `error` after Goodbye."""
        self._session.break_off(error)
        self._wake()

    def half_close(self) -> None:
        """The client sent its last frame."""
        self._session.half_close()
        self._wake()

    async def next_frames(self) -> Sequence[Outgoing]:
        """Waits for frames to write; empty: the stream has ended, or was closed."""
        if self._ready is None:
            self._ready = asyncio.Event()
            self._wake = self._ready.set
        while not self._is_closed:
            frames = self.take_frames()
            if frames or self._session.is_ended:
                return frames
            self._ready.clear()
            await self._ready.wait()
        return ()

    def on_output(self, callback: Callable[[], None], hand_over: Callable[[Events], bool]) -> None:
        """Sets what is called, often, when there may be frames, the end, or `aclose`; from then on no task waits.

        It runs in the middle of deliveries: it may only note that there is something to do, and must not raise. Nor
        must `hand_over`, which takes events that nothing waits before, or answers False: then they are queued.
        """
        self._wake = callback
        self._session.hand_over_by(hand_over)
        callback()

    def take_frames(self, max_bytes: int = _WRITE_MAX_BYTES) -> Sequence[Outgoing]:
        """Takes frames to write now, at most `max_bytes` or one; empty: there are none, or the stream was closed."""
        return () if self._is_closed else self._session.take(max_bytes)

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Sets what resets the transport when it has not ended 10 s after its last frame was due."""
        self._abort = callback

    async def aclose(self) -> None:
        """The transport is gone: forgets everything of this stream. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        for task in tuple(self._tasks):
            task.cancel()
        for topic in self._topics.values():
            topic.unsubscribe(self)
        self._topics.clear()
        self._let_expiry_go()
        self._streams.typing.session_ended(self.session_id)
        self._streams.forget(self)
        if self._session.goodbye_reason is not None:
            metrics.goodbyes.labels(reason=self._session.goodbye_reason.value).inc()
        self._wake()

    # ---- doing what the session says

    def _do(self, action: Action) -> None:
        match action:
            case OpenTopics(instance_id=instance_id):
                self._streams.displace(self, instance_id)
                self._spawn(self._open_topics())
            case Submit():
                self._submit(action)
            case TellTyping():
                said_at = self._streams.typing.said(self.caller.user_id, action.command.conversation_id)
                self._spawn(self._tell_typing(action, said_at))
            case Mark():
                self._spawn(self._mark(action))
            case CheckToken(request_id=request_id, access_token=access_token):
                try:
                    caller = self._streams.authenticate.authenticate(access_token)
                except HubbubError as error:
                    self._session.answer(request_id, error)
                else:
                    clock = self._streams.clock
                    self._session.reauthenticated(request_id, caller, clock.monotonic_s(), clock.now_ms())

    async def _tell_typing(self, action: TellTyping, said_at: int) -> None:
        command = action.command
        self._typing = self._typing or asyncio.Lock()
        try:
            async with asyncio.timeout(self._streams.command_timeout_s), self._typing:  # one after the other
                await self._streams.typing.set(
                    self.caller.user_id,
                    command.conversation_id,
                    command.typing,
                    session_id=self.session_id,
                    said_at=said_at,
                )
        except TimeoutError:
            self._session.answer(action.request_id, LogUnavailable("it cannot be told in time who is a member"))
        except HubbubError as error:
            self._session.answer(action.request_id, error)
        except Exception:
            self._session.answer(action.request_id, HubbubError("internal"))
            raise
        else:
            self._session.answer(action.request_id, TypingSet())
        finally:
            self._wake()

    async def _mark(self, action: Mark) -> None:
        try:
            marked = await self._streams.markers.mark(self.caller.user_id, action.mark)
        except HubbubError as error:
            self._session.answer(action.request_id, error)
        except Exception:
            self._session.answer(action.request_id, HubbubError("internal"))
            raise
        else:
            self._session.answer(action.request_id, marked)
        finally:
            self._wake()

    def _submit(self, action: Submit) -> None:
        self._streams.typing.message_submitted(self.caller.user_id, action.send.conversation_id)
        try:
            pending = self._streams.hub.enqueue(
                action.send.conversation_id, action.send.command, session_id=self._session.session_id
            )
        except HubbubError as error:
            self._session.answer(action.request_id, error)
            return
        pending.future.add_done_callback(partial(self._answer, action.request_id))
        self._forget_answered()
        self._waiting.append((asyncio.get_running_loop().time() + self._streams.command_timeout_s, pending))
        if self._expiry is None:
            self._expire()

    def _expire(self) -> None:
        """Ends the waits that took too long, and comes again for the next one: a timer each would cost more."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        while self._waiting:
            end_s, pending = self._waiting[0]
            if end_s > loop.time() and not pending.future.done():
                self._expiry = loop.call_at(end_s, self._expire)
                return
            self._waiting.pop(0)
            pending.expire()

    def _answer(self, request_id: str, future: "asyncio.Future[Answer]") -> None:
        error = LogUnavailable("this node stops") if future.cancelled() else future.exception()
        if error is None:
            answer = future.result()
            assert isinstance(answer, Sent)  # noqa: S101  # by the kind of the command
            self._session.answer(request_id, answer)
        elif isinstance(error, HubbubError):
            self._session.answer(request_id, error)
        else:
            self._session.answer(request_id, HubbubError("internal"))  # logged where it happened
        if self._is_closed:
            self._let_expiry_go()
        self._wake()

    def _forget_answered(self) -> None:
        """Drops answered commands from the front: each once, so it costs the same however many wait."""
        while self._waiting and self._waiting[0][1].future.done():
            self._waiting.pop(0)

    def _let_expiry_go(self) -> None:
        """Leaves no timer behind for a closed stream whose commands are all answered."""
        self._forget_answered()
        if self._expiry is not None and not self._waiting:
            self._expiry.cancel()
            self._expiry = None

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._streams.spawn(coroutine)
        self._tasks.append(task)
        task.add_done_callback(self._tasks.remove)

    async def _open_topics(self) -> None:
        """Covers the user's own topic, then each conversation it names."""
        user_id = self._session.caller.user_id
        try:
            async with self._streams.turns:
                await self._cover_all(user_id)
        except* Exception as errors:
            self._give_up(errors.exceptions[0])
        else:
            self._session.opened()
            self._streams.opened(self)
            self._wake()

    async def _cover_all(self, user_id: UserId) -> None:
        own = self._streams.hub.topic(user_id)
        head = await self._streams.hub.subscribe(user_id, self)
        self._topics[user_id] = own
        self._session.topic_opened(head)
        assert isinstance(own.state, UserTopicState)  # noqa: S101  # by the form of the id
        async with asyncio.TaskGroup() as group:
            for number, membership in enumerate(own.state.joined(), start=1):
                if not self._cover_at_once(membership):
                    group.create_task(self._cover(membership.conversation_id, membership.position, membership))
                if number % _COVERED_A_TURN == 0:
                    await asyncio.sleep(0)

    async def _cover(
        self, conversation_id: ConversationId, position: int, membership: Membership | None = None
    ) -> None:
        """Listens to a conversation that the user joined at `position`, unless the user has been removed since.

        The node may hear of the joining on the user's topic first, and in the conversation late or never. A resumed
        client knows a `membership` perhaps; None: it is news.
        """
        self._opening = self._opening or asyncio.Semaphore(_OPENED_AT_ONCE)
        async with self._opening:
            topic = self._streams.hub.topic(conversation_id)
            await topic.reach(position)
            head = await self._streams.hub.subscribe(conversation_id, self)
        self._take_up(topic, head, membership)

    def _cover_at_once(self, membership: Membership) -> bool:
        """Covers a conversation that this node hears and knows as far as needed: in a storm, nearly every one."""
        topic = self._streams.hub.topic(membership.conversation_id)
        head = topic.subscribe_now(self) if topic.state.position >= membership.position else None
        if head is not None:
            self._take_up(topic, head, membership)
        return head is not None

    def _take_up(self, topic: ActiveTopic, head: TopicHead, membership: Membership | None) -> None:
        """Judges a subscription without an await after it: the state is as of its head."""
        conversation_id = topic.topic_id
        if self._is_closed:
            topic.unsubscribe(self)
            return
        if not _is_member(topic, self._session.caller.user_id):
            topic.unsubscribe(self)
            if self._resume.is_resumed:  # to whom Heads without it say nothing
                self._session.topic_ended(conversation_id)
            return
        self._topics[conversation_id] = topic
        if membership is None or not self._resume.has(topic, membership):
            self._session.topic_opened(head)
        self._wake()

    async def _cover_new(self, conversation_id: ConversationId, position: int) -> None:
        try:
            await self._cover(conversation_id, position)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Ends a stream that would be incomplete without the topic that failed: the client comes again."""
        if isinstance(error, Unavailable):
            log.info("stream not opened", session_id=self.session_id, error=str(error))
            retry_delay_s = random.uniform(0.5, 2.0)
        else:
            log.error("stream not opened", session_id=self.session_id, exc_info=error)
            retry_delay_s = random.uniform(5.0, 30.0)
        self._session.cut_off(LogUnavailable("a topic of this user cannot be opened now"), retry_delay_s)
        self._wake()

    # ---- from the topics

    def on_delivery(self, topic: ActiveTopic, delivery: Delivery) -> None:
        """Queues a record; follows what it says about this user."""
        is_queued = self._session.deliver(delivery)
        for turn in delivery.turns:
            match turn:
                case MemberRemoved(user_id=user_id) if user_id == self._session.caller.user_id:
                    topic.unsubscribe(self)
                    self._topics.pop(topic.topic_id, None)
                    self._session.topic_ended(delivery.topic_id)
                case ConversationJoined(conversation_id=conversation_id, join_position=position):
                    self._spawn(self._cover_new(conversation_id, position))
                case _:
                    pass
        if is_queued or delivery.turns:
            self._wake()

    def on_signal(self, frame: Signals, is_for: Callable[[UserId], bool]) -> None:
        """Queues a signal that is for this user, unless the stream is read too slowly."""
        if is_for(self._session.caller.user_id):
            if self._session.signal(frame):
                self._wake()
            else:
                metrics.dropped_signals.labels(reason="slow").inc()

    def on_reset(self, topic: ActiveTopic) -> None:
        """Tells that the log was recreated, or that the user is no member in the new one.

        The user's own topic may name conversations now that it did not before, and no event will tell of them.
        """
        if isinstance(topic.state, UserTopicState):
            for membership in topic.state.joined():
                if membership.conversation_id not in self._topics:
                    self._spawn(self._cover_new(membership.conversation_id, membership.position))
        if topic.topic_id != self._session.caller.user_id and not _is_member(topic, self._session.caller.user_id):
            topic.unsubscribe(self)
            self._topics.pop(topic.topic_id, None)
            self._session.topic_ended(topic.topic_id)
        else:
            self._session.topic_reset(topic.head)
        self._wake()

    # ---- for Streams

    def displace(self) -> None:
        """Another stream of the same running client took over."""
        self._session.displace()
        self._wake()

    def drain(self, retry_delay_s: float) -> None:
        """The node is leaving."""
        self._session.drain(retry_delay_s)
        self._wake()

    def cut_off(self, error: LogUnavailable, retry_delay_s: float) -> None:
        """The node has lost the log."""
        self._session.cut_off(error, retry_delay_s)
        self._wake()

    def tick(self, now_s: float, *, is_live: bool) -> int:
        """Lets time pass; returns the bytes that wait in the queue."""
        self._session.tick(now_s, is_live=is_live)
        if self._session.must_reset and self._abort is not None:
            self._abort()
        if self._session.has_output:
            self._wake()
        return self._session.buffered_bytes


def _wakes_nobody() -> None:
    """Before its transport waits, a stream has nobody to wake."""


def _is_member(topic: ActiveTopic, user_id: UserId) -> bool:
    return isinstance(topic.state, ConversationState) and user_id in topic.state.members
