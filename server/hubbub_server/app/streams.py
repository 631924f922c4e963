"""The open streams of this node: drives sessions with tasks and time, for any transport.

A transport calls `Streams.open`, feeds `receive` and `half_close`, writes what `next_frames` returns until it is empty,
ends with `end_error`, and calls `aclose` in any case. It has the only writer of its stream. A transport without a task
that waits sets `on_output` instead and takes frames (`take_frames`) when it can write. Nothing here is authoritative: a
client that comes back to another node finds everything there.
"""

import asyncio
import random
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Any, Final, Self

import structlog

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.authenticate import Authenticate, Caller
from hubbub_server.app.frames import ClientFrame, Outgoing
from hubbub_server.app.session import LOG_LOST_FOR_S, Action, CheckToken, OpenTopics, Session, Submit
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.commands import Answer, Sent
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import HubbubError, LogUnavailable, NodeDraining, Unavailable
from hubbub_server.domain.events import ConversationJoined, MemberRemoved
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock, IdSource

_OPENED_AT_ONCE: Final = 32
_WRITE_MAX_BYTES: Final = 256 * 1024
_TICK_S: Final = 1.0
_SLICES: Final = 10
"""No slice has more than a tenth of the streams, so no second has more than a tenth of the clients coming back."""
_SLICE_PAUSE_MAX_S: Final = 1.0
_ENDED_A_SECOND: Final = 50
"""So few clients are no storm: a node with few streams need not take its time."""
_RETRY_SPREAD_S: Final = 5.0
MAX_OPENING: Final = 1_000

log = structlog.get_logger()


class LiveStream:
    """One open stream. Implements Subscriber; its session says what happens, this class makes it happen."""

    def __init__(self, session: Session, streams: "Streams") -> None:
        """Made by `Streams.open`."""
        self._session = session
        self._streams = streams
        self._ready = asyncio.Event()
        self._wake: Callable[[], None] = self._ready.set
        self._topics: set[ActiveTopic] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False
        self._abort: Callable[[], None] | None = None
        self._opening = asyncio.Semaphore(_OPENED_AT_ONCE)

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
        while not self._is_closed:
            frames = self.take_frames()
            if frames or self._session.is_ended:
                return frames
            self._ready.clear()
            await self._ready.wait()
        return ()

    def on_output(self, callback: Callable[[], None]) -> None:
        """Sets what is called, often, when there may be frames, the end, or `aclose`; from then on no task waits.

        It runs in the middle of deliveries: it may only note that there is something to do, and must not raise.
        """
        self._wake = callback
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
        for topic in self._topics:
            topic.unsubscribe(self)
        self._topics.clear()
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
            case CheckToken(request_id=request_id, access_token=access_token):
                try:
                    caller = self._streams.authenticate.authenticate(access_token)
                except HubbubError as error:
                    self._session.answer(request_id, error)
                else:
                    clock = self._streams.clock
                    self._session.reauthenticated(request_id, caller, clock.monotonic_s(), clock.now_ms())

    def _submit(self, action: Submit) -> None:
        try:
            pending = self._streams.hub.enqueue(
                action.send.conversation_id, action.send.command, session_id=self._session.session_id
            )
        except HubbubError as error:
            self._session.answer(action.request_id, error)
            return
        timer = asyncio.get_running_loop().call_later(self._streams.command_timeout_s, pending.expire)
        pending.future.add_done_callback(partial(self._answer, action.request_id, timer))

    def _answer(self, request_id: str, timer: asyncio.TimerHandle, future: "asyncio.Future[Answer]") -> None:
        timer.cancel()
        error = LogUnavailable("this node stops") if future.cancelled() else future.exception()
        if error is None:
            answer = future.result()
            assert isinstance(answer, Sent)  # noqa: S101  # by the kind of the command
            self._session.answer(request_id, answer)
        elif isinstance(error, HubbubError):
            self._session.answer(request_id, error)
        else:
            self._session.answer(request_id, HubbubError("internal"))  # logged where it happened
        self._wake()

    def _spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        task = self._streams.spawn(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open_topics(self) -> None:
        """Covers the user's own topic, then each conversation it names."""
        user_id = self._session.caller.user_id
        try:
            own = self._streams.hub.topic(user_id)
            head = await self._streams.hub.subscribe(user_id, self)
            self._topics.add(own)
            self._session.topic_opened(head)
            assert isinstance(own.state, UserTopicState)  # noqa: S101  # by the form of the id
            async with asyncio.TaskGroup() as group:
                for membership in own.state.joined():
                    group.create_task(self._cover(membership.conversation_id, membership.position))
        except* Exception as errors:
            self._give_up(errors.exceptions[0])
        else:
            self._session.opened()
            self._streams.opened(self)
            self._wake()

    async def _cover(self, conversation_id: ConversationId, position: int) -> None:
        """Listens to a conversation that the user joined at `position`, unless the user has been removed since.

        The node may hear of the joining on the user's topic first, and in the conversation late or never.
        """
        async with self._opening:
            topic = self._streams.hub.topic(conversation_id)
            await topic.reach(position)
            head = await self._streams.hub.subscribe(conversation_id, self)
        # from here on without await: the check and the head are as of the subscription
        if self._is_closed or not _is_member(topic, self._session.caller.user_id):
            topic.unsubscribe(self)
            return
        self._topics.add(topic)
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
        self._session.deliver(delivery)
        for turn in delivery.turns:
            match turn:
                case MemberRemoved(user_id=user_id) if user_id == self._session.caller.user_id:
                    topic.unsubscribe(self)
                    self._topics.discard(topic)
                    self._session.topic_ended(delivery.topic_id)
                case ConversationJoined(conversation_id=conversation_id, join_position=position):
                    self._spawn(self._cover_new(conversation_id, position))
                case _:
                    pass
        self._wake()

    def on_reset(self, topic: ActiveTopic) -> None:
        """Tells that the log was recreated, or that the user is no member in the new one."""
        if topic.topic_id != self._session.caller.user_id and not _is_member(topic, self._session.caller.user_id):
            topic.unsubscribe(self)
            self._topics.discard(topic)
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


def _is_member(topic: ActiveTopic, user_id: UserId) -> bool:
    return isinstance(topic.state, ConversationState) and user_id in topic.state.members


class Streams:
    """All open streams of this node. Use as `async with`; the block owns the tasks of streams."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        authenticate: Authenticate,
        clock: Clock,
        ids: IdSource,
        command_timeout_s: float = 8.0,
        drain_timeout_s: float = 15.0,
        max_opening: int = MAX_OPENING,
    ) -> None:
        """`command_timeout_s` bounds the answer to a command; `drain_timeout_s` the end of all streams in `drain`.

        `max_opening` bounds the streams that are being opened at once, inclusive: each of them may load many topics.
        """
        self.hub = hub
        self.authenticate = authenticate
        self.clock = clock
        self.command_timeout_s = command_timeout_s
        self._ids = ids
        self._drain_timeout_s = drain_timeout_s
        self._max_opening = max_opening
        self._streams: set[LiveStream] = set()
        self._opening: set[LiveStream] = set()
        self._instances: dict[tuple[UserId, str], LiveStream] = {}
        self._instance_of: dict[LiveStream, tuple[UserId, str]] = {}
        self._group = asyncio.TaskGroup()
        self._ticker: asyncio.Task[None] | None = None
        self._is_draining = False
        self._is_empty = asyncio.Event()
        self._live_at_s = 0.0
        self._cut_slice = 0
        """Streams to end a second, since the log has been lost for long; 0 before that."""

    async def __aenter__(self) -> Self:
        """Starts the clock of the streams."""
        await self._group.__aenter__()
        self._live_at_s = self.clock.monotonic_s()
        self._ticker = self._group.create_task(self._tick_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes what is still open; nothing opens any more."""
        self._is_draining = True
        if self._ticker is not None:
            self._ticker.cancel()
        for stream in tuple(self._streams):
            await stream.aclose()
        await self._group.__aexit__(kind, error, trace)

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def open(self, caller: Caller, *, takes_commands: bool) -> LiveStream:
        """Opens a stream; `takes_commands` is False for Subscribe. The transport must `aclose` it.

        Raises:
            NodeDraining: this node is leaving.
            LogUnavailable: this node has lost the log.
            Unavailable: too many streams are being opened.
        """
        self._admit()
        session = Session(
            session_id=self._ids.new_id("s"),
            caller=caller,
            takes_commands=takes_commands,
            now_s=self.clock.monotonic_s(),
            now_ms=self.clock.now_ms(),
        )
        stream = LiveStream(session, self)
        self._streams.add(stream)
        self._opening.add(stream)
        metrics.streams.set(len(self._streams))
        return stream

    def _admit(self) -> None:
        """Raises what a client is to hear that comes at a bad moment; each is told another time to come again."""
        retry_after_s = random.uniform(0.5, _RETRY_SPREAD_S)
        if self._is_draining:
            raise NodeDraining("this node is leaving", retry_after_s=retry_after_s)
        if not self.hub.is_live():
            raise LogUnavailable("this node has lost the log", retry_after_s=retry_after_s)
        if len(self._opening) >= self._max_opening:
            metrics.refused_streams.inc()
            raise Unavailable("too many streams are being opened", retry_after_s=retry_after_s)

    def opened(self, stream: LiveStream) -> None:
        """The stream covers all its topics: it makes room for another one."""
        self._opening.discard(stream)

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        """Starts a task of a stream; its fault is logged and ends nothing else."""
        task = self._group.create_task(_contained(coroutine))
        task.add_done_callback(lambda _: coroutine.close())  # of a task that was cancelled before it began
        return task

    def displace(self, stream: LiveStream, instance_id: str) -> None:
        """Registers the stream of a running client; the one before it ends with DISPLACED."""
        key = (stream.caller.user_id, instance_id)
        before = self._instances.get(key)
        if before is not None:
            before.displace()
        self._instances[key] = stream
        self._instance_of[stream] = key

    def forget(self, stream: LiveStream) -> None:
        """The stream is closed."""
        self._streams.discard(stream)
        self._opening.discard(stream)
        key = self._instance_of.pop(stream, None)
        if key is not None and self._instances.get(key) is stream:
            del self._instances[key]
        metrics.streams.set(len(self._streams))
        if not self._streams:
            self._is_empty.set()

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """Lets time pass for all streams. After 60 s without the log they end in slices, to find a node that has it."""
        now_s = self.clock.monotonic_s()
        is_live = self.hub.is_live()
        buffered_bytes = 0
        for stream in tuple(self._streams):
            try:
                buffered_bytes += stream.tick(now_s, is_live=is_live)
            except Exception:  # its transport's fault: the others go on
                log.exception("stream tick failed", session_id=stream.session_id)
        metrics.stream_buffer_bytes.set(buffered_bytes)
        if is_live:
            self._live_at_s, self._cut_slice = now_s, 0
        elif now_s - self._live_at_s > LOG_LOST_FOR_S:
            self._end_a_slice()

    def _end_a_slice(self) -> None:
        """Ends a tenth of the streams that were there when the log had been lost for long."""
        left = [stream for stream in self._streams if not stream.is_ended]
        self._cut_slice = self._cut_slice or _slice_of(len(left))
        for stream in left[: self._cut_slice]:
            stream.cut_off(LogUnavailable("this node has lost the log"), random.uniform(0.0, _RETRY_SPREAD_S))

    async def drain(self, *, announced_for_s: float = 0.0) -> None:
        """Ends all streams in slices, each client with a retry delay of its own; bounded by `drain_timeout_s`.

        Before that it waits `announced_for_s`, while balancers learn that this node is leaving: till then they send new
        streams here, which are taken. A node without streams does not wait.
        """
        await self._wait_empty(announced_for_s)
        self._is_draining = True
        streams = tuple(self._streams)
        size = _slice_of(len(streams))
        slices = -(-len(streams) // size)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + self._drain_timeout_s
        pause_s = min(_SLICE_PAUSE_MAX_S, size / _ENDED_A_SECOND, 0.8 * self._drain_timeout_s / max(slices, 1))
        for start in range(0, len(streams), size):
            for stream in streams[start : start + size]:
                stream.drain(random.uniform(0.0, _SLICE_PAUSE_MAX_S))
            await self._wait_empty(pause_s)
        await self._wait_empty(end_s - loop.time())
        if self._streams:
            log.warning("streams did not end in time", streams=len(self._streams))

    async def _wait_empty(self, timeout_s: float) -> None:
        """Waits until no stream is open, or for a time."""
        if not self._streams or timeout_s <= 0:
            return
        self._is_empty.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._is_empty.wait()


def _slice_of(streams: int) -> int:
    return max(1, streams // _SLICES)


async def _contained(coroutine: Coroutine[Any, Any, None]) -> None:
    try:
        await coroutine
    except Exception:
        log.exception("stream task failed")
