"""What a transport needs of the stream behind an RPC: a LiveStream, or one of those who watch presence."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from hubbub_server.app.frames import Events, Outgoing
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.ids import UserId

ReadFrame = Callable[[bytes, UserId], Any]
"""Reads a message of the client of a stream. Raises HubbubError: the stream ends with it."""


class PumpedStream(Protocol):
    """See LiveStream."""

    @property
    def is_ended(self) -> bool:
        """Tells whether its last frame is queued."""

    @property
    def has_output(self) -> bool:
        """Tells whether there are frames to take, or the end is to be told."""

    @property
    def end_error(self) -> HubbubError | None:
        """After the end: the error to end with, None for OK."""

    def receive(self, frame: Any) -> None:
        """Takes a frame of the client. Never raises for what the client did."""

    def break_off(self, error: HubbubError) -> None:
        """The transport met something that no frame can be made of."""

    def half_close(self) -> None:
        """The client sent its last frame."""

    async def next_frames(self) -> Sequence[Outgoing]:
        """Waits for frames to write; empty: the stream has ended, or was closed."""

    def on_output(self, callback: Callable[[], None], hand_over: Callable[[Events], bool]) -> None:
        """Sets what is called, often, when there may be frames, the end, or `aclose`; from then on no task waits."""

    def take_frames(self, max_bytes: int) -> Sequence[Outgoing]:
        """Takes frames to write now, at most `max_bytes` or one; empty: there are none, or the stream was closed."""

    def on_abort(self, callback: Callable[[], None]) -> None:
        """Sets what resets the transport when it has not ended 10 s after its last frame was due."""

    async def aclose(self) -> None:
        """The transport is gone: forgets everything of this stream. Idempotent."""
