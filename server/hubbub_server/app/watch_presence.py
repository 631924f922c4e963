"""The streams of those who watch: whom each watches, and what it is told when.

Theory of operation. A stream queues nothing: it knows what it has told of each user, and which of them may show
something else since (*due*). When the last frame was a second ago and somebody due is known, there is output; the frame
is made when the transport takes it, of what everybody shows then. So a frame has the newest of each user, whoever comes
and goes between two of them is not told of, and a client that does not read costs nothing. What a user shows is on the
board; whether the watcher may know of it, Privacy is asked for each frame. What is not known 2 s after somebody began
to be watched is told as unknown.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Events, Outgoing
from hubbub_server.app.presence_board import PresenceBoard
from hubbub_server.app.privacy import Privacy
from hubbub_server.app.track_presence import TrackedSession, TrackPresence
from hubbub_server.domain.errors import CredentialsExpired, HubbubError, InvalidField, NodeDraining
from hubbub_server.domain.ids import UserId, is_user_id
from hubbub_server.domain.presence import UNKNOWN, WATCHED_MAX, Activity, Shown, is_news
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock

FRAME_INTERVAL_S: Final = 1.0
SIGN_OF_LIFE_S: Final = 20.0
_KNOWN_WITHIN_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.25
_TOKEN_GRACE_S: Final = 60.0
_END_WITHIN_S: Final = 10.0
_TICK_S: Final = 1.0
_RETRY_SPREAD_S: Final = 5.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchCommand:
    """A frame of the watcher. `activity` None: it says nothing. `is_background`: it shows nobody for now."""

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    activity: Activity | None = None
    is_background: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceReport:
    """What one user shows to the watcher."""

    user_id: str
    shown: Shown
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WatchFrame:
    """Changes, joined; with `is_snapshot` the whole watched set."""

    reports: tuple[PresenceReport, ...]
    is_snapshot: bool


class WatchStream:
    """One stream of a watcher, for any transport (see LiveStream). Implements Watcher."""

    def __init__(self, caller: Caller, session: TrackedSession, streams: "PresenceStreams") -> None:
        """Made by `PresenceStreams.open`."""
        self.caller = caller
        self.end_error: HubbubError | None = None
        self.is_ended = False
        self._session = session
        self._streams = streams
        self._watched: dict[str, Shown | None] = {}
        """What was told of each."""
        self._unknown: dict[str, float] = {}
        """Of whom nothing is known yet, since they began to be watched."""
        self._due: dict[str, None] = {}
        self._version = 0
        self._is_started = False
        self._is_background = False
        self._snapshot_due_s: float | None = None
        """Since when a snapshot is due."""
        self._loop = asyncio.get_running_loop()
        self._told_s = self._loop.time()
        self._paced_s = float("-inf")
        self._ended_s = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._is_closed = False
        self._abort: Callable[[], None] | None = None
        self._ready = asyncio.Event()
        self._wake: Callable[[], None] = self._ready.set
        streams.privacy.follow(caller.user_id, self._on_facts)

    # ---- for the transport

    def receive(self, command: WatchCommand) -> None:
        """Takes a frame of the client. Never raises for what the client did."""
        if self.is_ended or self._is_closed:
            return
        for user_id in command.removed:
            self._remove(user_id)
        for user_id in command.added:
            if user_id not in self._watched:
                if len(self._watched) == WATCHED_MAX:
                    self._end(InvalidField("added_user_ids", f"at most {WATCHED_MAX} users watched"))
                    return
                self._add(user_id)
        if not self._is_started:
            self._is_started = True
            self._snapshot_due_s = self._loop.time()
        if command.activity is not None:
            self._session.report(command.activity)
            if self._is_background and not command.is_background:
                self._snapshot_due_s = self._loop.time()
            self._is_background = command.is_background
        self._look()

    def break_off(self, error: HubbubError) -> None:
        """The transport met something that no frame can be made of."""
        self._end(error)

    def half_close(self) -> None:
        """The client sent its last frame."""
        self._end(None)

    @property
    def has_output(self) -> bool:
        """Tells whether there are frames to take, or the end is to be told."""
        return self.is_ended or self._is_frame_due()

    async def next_frames(self) -> Sequence[Outgoing]:
        """Waits for frames to write; empty: the stream has ended, or was closed."""
        while not self._is_closed:
            frames = self.take_frames()
            if frames or self.is_ended:
                return frames
            self._ready.clear()
            await self._ready.wait()
        return ()

    def on_output(self, callback: Callable[[], None], hand_over: Callable[[Events], bool]) -> None:
        """Sets what is called when there may be frames, the end, or `aclose`; from then on no task waits.

        Nothing is handed over: a frame is made when it is taken.
        """
        self._wake = callback
        callback()

    def take_frames(self, max_bytes: int = 0) -> Sequence[Outgoing]:
        """Takes the frame to write now, whatever `max_bytes`: it has at most 500 users; empty: there is none."""
        if self._is_closed or self.is_ended or not self._is_frame_due():
            return ()
        frame = self._frame()
        if frame.reports or frame.is_snapshot:
            self._paced_s = self._loop.time()
        elif not self._is_sign_of_life_due():
            self._look()
            return ()
        self._told_s = self._loop.time()
        metrics.presence_reports.inc(len(frame.reports))
        self._look()
        return (Events(body=self._streams.encode(frame), count=len(frame.reports)),)

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Sets what resets the transport when it has not ended 10 s after it should have."""
        self._abort = callback

    async def aclose(self) -> None:
        """The transport is gone: forgets everything of this stream. Idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop_timer()
        for user_id in tuple(self._watched):
            self._remove(user_id)
        self._streams.privacy.unfollow(self.caller.user_id, self._on_facts)
        self._session.close()
        self._streams.forget(self)
        self._wake()

    # ---- who is watched

    def _add(self, user_id: str) -> None:
        self._watched[user_id] = None
        self._unknown[user_id] = self._loop.time()
        if is_user_id(user_id):
            self._streams.privacy.follow(user_id, self.on_change)
            self._streams.board.watch(user_id, self)
        self._note_change(user_id)

    def _remove(self, user_id: str) -> None:
        if user_id not in self._watched:
            return
        del self._watched[user_id]
        self._unknown.pop(user_id, None)
        self._due.pop(user_id, None)
        if is_user_id(user_id):
            self._streams.privacy.unfollow(user_id, self.on_change)
            self._streams.board.unwatch(user_id, self)

    def on_change(self, user_id: UserId) -> None:
        """See Watcher; also: what the user's own topic says may be something else."""
        self._note_change(user_id)
        self._look()

    def _on_facts(self, _user_id: UserId) -> None:
        """The watcher's own topic says something else: it may see others."""
        for user_id in self._watched:
            self._note_change(user_id)
        self._look()

    def on_doubt(self) -> None:
        """See Watcher."""
        if self._is_started:
            self._snapshot_due_s = self._loop.time()
            self._look()

    def _note_change(self, user_id: str) -> None:
        if user_id in self._unknown:
            if self._shown(user_id) is None:
                return
            del self._unknown[user_id]
        self._due[user_id] = None

    def _shown(self, user_id: str) -> Shown | None:
        """Returns what the watcher may know now; None: it is not known what that is."""
        board = self._streams.board
        if not is_user_id(user_id):
            return board.hidden
        may_see = self._streams.privacy.may_see(self.caller.user_id, user_id)
        known = board.shown(user_id)
        if may_see is None or known is None:
            return None
        return known if may_see else board.hidden

    # ---- what is told when

    def _look(self) -> None:
        """Wakes the transport if there is a frame, or sees to it that this is looked at again in time."""
        if self._is_closed or self.is_ended or not self._is_started or self._is_background:
            return
        if self._is_frame_due():
            self._wake()
        elif self._timer is None and (self._snapshot_due_s is not None or self._due or self._unknown):
            pause_s = self._paced_s + FRAME_INTERVAL_S - self._loop.time()
            self._timer = self._loop.call_later(pause_s + 0.001 if pause_s > 0 else _LOOK_AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._timer = None
        self._look()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _is_frame_due(self) -> bool:
        return self._is_started and (self._is_sign_of_life_due() or self._has_news())

    def _is_sign_of_life_due(self) -> bool:
        return self._loop.time() >= self._told_s + SIGN_OF_LIFE_S

    def _has_news(self) -> bool:
        now_s = self._loop.time()
        if self._is_background or now_s < self._paced_s + FRAME_INTERVAL_S:
            return False
        has_waited = any(now_s >= since_s + _KNOWN_WITHIN_S for since_s in islice(self._unknown.values(), 1))
        if self._snapshot_due_s is not None:
            return not self._unknown or has_waited
        return bool(self._due) or has_waited

    def _frame(self) -> WatchFrame:
        """Makes a frame of what everybody shows now; without reports if nothing is new, or it is not the time."""
        if not self._has_news():
            return WatchFrame(reports=(), is_snapshot=False)
        is_snapshot, self._snapshot_due_s = self._snapshot_due_s is not None, None
        last_s = self._loop.time() - _KNOWN_WITHIN_S
        late = [user_id for user_id, since_s in self._unknown.items() if is_snapshot or since_s <= last_s]
        for user_id in late:
            del self._unknown[user_id]
        told = [*self._watched] if is_snapshot else [*self._due, *late]
        self._due.clear()
        self._version = max(self._streams.board.now_ms, self._version + 1)
        reports = []
        for user_id in told:
            after = self._shown(user_id) or UNKNOWN
            if is_snapshot or is_news(self._watched[user_id], after):
                self._watched[user_id] = after
                reports.append(PresenceReport(user_id=user_id, shown=after, version=self._version))
        return WatchFrame(reports=tuple(reports), is_snapshot=is_snapshot)

    # ---- ends

    def _end(self, error: HubbubError | None) -> None:
        if not self.is_ended:
            self.is_ended = True
            self.end_error = error
            self._ended_s = self._loop.time()
            self._stop_timer()
            self._wake()

    def drain(self, retry_after_s: float) -> None:
        """The node is leaving."""
        self._end(NodeDraining("this node is leaving", retry_after_s=retry_after_s))

    def tick(self, now_ms: int) -> None:
        """Lets time pass: the token ends, signs of life are due, and who does not take the end is given up."""
        if now_ms > self.caller.token_expire_time_ms + _TOKEN_GRACE_S * 1000:
            self._end(CredentialsExpired("the access token ended"))
        if self.is_ended:
            if self._abort is not None and self._loop.time() > self._ended_s + _END_WITHIN_S:
                self._abort()
        elif self._is_frame_due():
            self._wake()


class PresenceStreams:
    """All streams of watchers of this node. Use as `async with`; the block owns their clock."""

    def __init__(
        self,
        *,
        board: PresenceBoard,
        privacy: Privacy,
        tracker: TrackPresence,
        clock: Clock,
        encode: Callable[[WatchFrame], bytes],
    ) -> None:
        """Takes what streams need; `encode` makes the bytes that both kinds of stream carry."""
        self.encode = encode
        self.board = board
        self.privacy = privacy
        self._tracker = tracker
        self._clock = clock
        self._streams: set[WatchStream] = set()
        self._is_draining = False
        self._group = asyncio.TaskGroup()
        self._ticker: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the clock."""
        await self._group.__aenter__()
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
        await self._group.__aexit__(None, None, None)

    def __len__(self) -> int:
        """Number of open streams."""
        return len(self._streams)

    def open(self, caller: Caller) -> WatchStream:
        """Opens a stream, which is a session of the caller. The transport must `aclose` it.

        Raises:
            NodeDraining: this node is leaving.
        """
        if self._is_draining:
            raise NodeDraining("this node is leaving", retry_after_s=random.uniform(0.5, _RETRY_SPREAD_S))
        stream = WatchStream(caller, self._tracker.open(caller.user_id), self)
        self._streams.add(stream)
        return stream

    def forget(self, stream: WatchStream) -> None:
        """The stream is closed."""
        self._streams.discard(stream)

    async def _tick_for_ever(self) -> None:
        while True:
            await asyncio.sleep(_TICK_S)
            self.tick()

    def tick(self) -> None:
        """Lets time pass for all streams."""
        now_ms = self._clock.now_ms()
        for stream in tuple(self._streams):
            try:
                stream.tick(now_ms)
            except Exception:  # its transport's fault: the others go on
                log.exception("watch tick failed", user_id=stream.caller.user_id)

    def drain(self) -> None:
        """Ends all streams, each client with a retry delay of its own. What they know stays good meanwhile."""
        self._is_draining = True
        for stream in tuple(self._streams):
            stream.drain(random.uniform(0.0, _RETRY_SPREAD_S))
