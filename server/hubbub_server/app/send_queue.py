"""What waits to be sent to the client of one stream: bounded, and held back where the client asked for that.

Theory of operation. Frames leave in order. Half full → Lagging follows, once; full → everything unsent is thrown away
(G6). A client may ask for a window: events beyond that many unacknowledged ones are *held* in the queue, and with them
what comes after. Answers and signs of life pass held events; they say nothing then about what is held. A stream that
ends does not wait for its client: what is held is thrown away, and Goodbye has no resume token.

Signals take their place in the queue, pass held events, and count as nothing. Few of them may wait, none on a stream
that lags, and none from one tick to the one after the next: rather lost than late.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from hubbub_server.app.frames import (
    Events,
    Goodbye,
    Heads,
    Heartbeat,
    Lagging,
    Outgoing,
    Rejected,
    Reply,
    Signals,
)

BUFFER_MAX_EVENTS: Final = 1_024
BUFFER_MAX_BYTES: Final = 1024 * 1024
SIGNALS_MAX_WAITING: Final = 64
_CONTROL_BYTES: Final = 64  # what a control without heads is counted as
_HEAD_BYTES: Final = 64
_PASSES: Final = Reply | Rejected | Heartbeat | Lagging | Signals
"""What need not wait for events before it."""
_NOT_COUNTED: Final = Goodbye | Lagging | Signals
"""What is no part of `buffered_bytes`."""


class SendQueue:
    """Frames that wait. Its session reads `frames` and `passing` for each delivery: a method would cost more."""

    __slots__ = (
        "_buffered_events",
        "_events_acked",
        "_has_ended",
        "_is_lagging",
        "_old_signals",
        "_waiting_signals",
        "buffered_bytes",
        "events_sent",
        "frames",
        "is_holding",
        "passing",
        "window_events",
    )

    def __init__(self) -> None:
        # Lists, since thousands of streams have nothing queued, and an empty deque takes 600 bytes.
        self.frames: list[Outgoing] = []
        self.passing: list[Outgoing] = []
        """What passes the events that are held at the front of `frames`; goes first."""
        self.is_holding = False
        self.window_events = 0
        """Events that may be unacknowledged; 0: any number."""
        self.events_sent = 0
        self._events_acked = 0
        self.buffered_bytes = 0
        self._buffered_events = 0
        self._is_lagging = False
        self._waiting_signals = 0
        self._old_signals = 0
        """How many of those that wait were there at the last tick."""
        self._has_ended = False

    def push(self, frame: Outgoing) -> bool:
        """Queues a frame that is no signal; False: the queue was full, and is empty now."""
        if isinstance(frame, Events):
            self._buffered_events += frame.count
        self.buffered_bytes += _size_bytes(frame)
        self._append(frame)  # counts anew where it begins to hold
        if self._buffered_events > BUFFER_MAX_EVENTS or self.buffered_bytes > BUFFER_MAX_BYTES:
            self._clear()
            return False
        if not self._is_lagging and (
            self._buffered_events > BUFFER_MAX_EVENTS // 2 or self.buffered_bytes > BUFFER_MAX_BYTES // 2
        ):
            self._is_lagging = True
            self._append(Lagging())
        return True

    def push_signal(self, frame: Signals) -> bool:
        """Queues a signal, or drops it where the stream is read too slowly; tells whether it is queued."""
        if self._is_lagging or self._waiting_signals >= SIGNALS_MAX_WAITING:
            return False
        self._waiting_signals += 1
        self._append(frame)
        return True

    def drop_old_signals(self) -> None:
        """Drops what waits, if some of it was there at the last tick: the newest of a slow stream come too late too."""
        if self._old_signals:
            for frames in (self.passing, self.frames):
                kept = [frame for frame in frames if not isinstance(frame, Signals)]
                frames.clear()
                frames.extend(kept)
            self._waiting_signals = 0
            if self.window_events:
                self._judge_window()
        self._old_signals = self._waiting_signals

    def acknowledge(self, processed_events: int) -> bool:
        """Takes an Ack; False: it goes back, or beyond what was sent."""
        if not self._events_acked <= processed_events <= self.events_sent:
            return False
        self._events_acked = processed_events
        if self.window_events:
            self._judge_window()
        return True

    def end(self, goodbye: Goodbye | None) -> None:
        """Queues the last frame, if there is one; from now on nothing is held."""
        self._has_ended = True
        if goodbye is not None:
            self.frames.append(goodbye)
        if self.is_holding:
            self._sort_out()

    def would_exceed(self, events: Events) -> bool:
        """Tells whether the window would be exceeded by these events."""
        return self.events_sent + events.count - self._events_acked > self.window_events

    def take(self, max_bytes: int) -> Sequence[Outgoing]:
        """Takes frames to be sent now, in order: at least one if there is any, and no more than `max_bytes` of them."""
        taken: list[Outgoing] = []
        left_bytes = max_bytes
        while source := self.passing or (None if self.is_holding else self.frames):
            frame = source[0]
            size_bytes = _size_bytes(frame)
            if taken and size_bytes > left_bytes:
                break
            source.pop(0)
            if isinstance(frame, Events):
                self._buffered_events -= frame.count
                self.events_sent += frame.count
            elif isinstance(frame, Signals):
                self._waiting_signals -= 1
                self._old_signals = max(0, self._old_signals - 1)
            if not isinstance(frame, _NOT_COUNTED):
                self.buffered_bytes -= size_bytes
            left_bytes -= size_bytes
            taken.append(frame)
            if self.window_events:
                self._judge_window()
        if not self.frames:
            self._is_lagging = False
        return taken

    def _append(self, frame: Outgoing) -> None:
        if self.is_holding and isinstance(frame, _PASSES):
            self.passing.append(frame)
        else:
            self.frames.append(frame)
            if self.window_events:
                self._judge_window()

    def _clear(self) -> None:
        self.frames.clear()
        self.passing.clear()
        self.is_holding = False
        self._buffered_events = 0
        self.buffered_bytes = 0
        self._waiting_signals = self._old_signals = 0

    def _judge_window(self) -> None:
        """Begins or ends to hold: does the window allow the events at the front of the queue?"""
        front = self.frames[0] if self.frames else None
        is_holding = isinstance(front, Events) and self.would_exceed(front)
        if is_holding and not self.is_holding:
            self._sort_out()
        self.is_holding = is_holding and bool(self.frames)

    def _sort_out(self) -> None:
        """Lets pass what need not wait for held events; after the end nothing waits any more."""
        waiting, self.frames = self.frames, []
        for frame in waiting:
            match frame:
                case Goodbye():
                    self.passing.append(replace(frame, resume_token=""))
                case Heartbeat():
                    self.passing.append(replace(frame, heads=(), resume_token=""))
                    self.frames.append(frame)
                case _ if isinstance(frame, _PASSES):
                    self.passing.append(frame)
                case _:
                    self.frames.append(frame)
        if self._has_ended:
            self.frames.clear()
            self.is_holding = False
        self._buffered_events = sum(frame.count for frame in self.frames if isinstance(frame, Events))
        self.buffered_bytes = sum(
            _size_bytes(frame) for frame in (*self.frames, *self.passing) if not isinstance(frame, _NOT_COUNTED)
        )


def _size_bytes(frame: Outgoing) -> int:
    match frame:
        case Events(body=body) | Signals(body=body):
            return len(body)
        case Heads(heads=heads) | Heartbeat(heads=heads):
            return _CONTROL_BYTES + _HEAD_BYTES * len(heads)
        case _:
            return _CONTROL_BYTES
