"""The open streams of this node: opens them, lets time pass for them, sends them away.

Nothing here is authoritative: a client that comes back to another node finds everything there.
"""

import asyncio
import random
from collections.abc import Coroutine
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self

import structlog

from hubbub_server.app.authenticate import Authenticate, Caller
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.markers import Markers
from hubbub_server.app.resume import ResumeTokens, StreamResume
from hubbub_server.app.session import LOG_LOST_FOR_S, Session
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.track_presence import TrackedSession, TrackPresence
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.domain.errors import LogUnavailable, NodeDraining, Unavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock, IdSource

if TYPE_CHECKING:
    from hubbub_server.domain.ids import UserId

_TICK_S: Final = 1.0
_SLICES: Final = 10
"""No slice has more than a tenth of the streams, so no second has more than a tenth of the clients coming back."""
_SLICE_PAUSE_MAX_S: Final = 1.0
_ENDED_A_SECOND: Final = 50
"""So few clients are no storm: a node with few streams need not take its time."""
_RETRY_SPREAD_S: Final = 5.0
MAX_OPENING: Final = 10_000
DRAIN_TIMEOUT_S: Final = 15.0
_TURNS: Final = 16
"""So many streams load their topics at once, each of them many perhaps; the others wait, in the order of Hellos."""

log = structlog.get_logger()


class Streams:
    """All open streams of this node. Use as `async with`; the block owns the tasks of streams."""

    def __init__(  # noqa: PLR0913  # the use cases and ports, and what tests make small
        self,
        *,
        hub: TopicHub,
        authenticate: Authenticate,
        clock: Clock,
        ids: IdSource,
        resume_tokens: ResumeTokens,
        markers: Markers,
        typing: TypingSignals,
        command_timeout_s: float = 8.0,
        drain_timeout_s: float = DRAIN_TIMEOUT_S,
        max_opening: int = MAX_OPENING,
        tracker: TrackPresence | None = None,
    ) -> None:
        """`command_timeout_s` bounds the answer to a command; `drain_timeout_s` the end of all streams in `drain`.

        `max_opening` bounds the streams that are being opened or wait for their turn, inclusive.
        With a `tracker`, each is a session of its user from Hello on.
        """
        self.hub = hub
        self.authenticate = authenticate
        self.clock = clock
        self.markers = markers
        self.typing = typing
        self.command_timeout_s = command_timeout_s
        self.turns = asyncio.Semaphore(_TURNS)
        self._ids = ids
        self._resume_tokens = resume_tokens
        self._drain_timeout_s = drain_timeout_s
        self._max_opening = max_opening
        self._streams: set[LiveStream] = set()
        self._opening: set[LiveStream] = set()
        self._instances: dict[tuple[UserId, str], LiveStream] = {}
        self._instance_of: dict[LiveStream, tuple[UserId, str]] = {}
        self._tracker = tracker
        self._sessions: dict[LiveStream, TrackedSession] = {}
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
        resume = StreamResume(self._resume_tokens, self.hub, caller)
        session = Session(
            session_id=self._ids.new_id("s"),
            caller=caller,
            takes_commands=takes_commands,
            now_s=self.clock.monotonic_s(),
            now_ms=self.clock.now_ms(),
            resume=resume,
        )
        stream = LiveStream(session, resume, self)
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
        if self._tracker is not None:
            self._sessions[stream] = self._tracker.open(stream.caller.user_id)

    def forget(self, stream: LiveStream) -> None:
        """The stream is closed."""
        self._streams.discard(stream)
        self._opening.discard(stream)
        key = self._instance_of.pop(stream, None)
        if key is not None and self._instances.get(key) is stream:
            del self._instances[key]
        if (session := self._sessions.pop(stream, None)) is not None:
            session.close()
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
