"""What fan-out is measured on: a server that is started, many streams that hear one topic, a sender that awaits acks.

A foreign server is another implementation of `Target`; its module knows its wire.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpening:
    """How a stream is opened that hears the topic."""

    port: int
    path: str
    metadata: tuple[tuple[tuple[str, str], ...], ...]
    """Of the calls, taken in turn."""
    first_message: str
    """Base64 of the request; a zero UUID inside is replaced by one of each stream's own."""
    has_one_request: bool
    """The method takes one request: the client's side ends with it."""
    wire: str
    """Name of the reader in bench/wires.py that finds events in answers."""


class Target(Protocol):
    """A running server with one topic."""

    @property
    def opening(self) -> StreamOpening:
        """How to hear the topic."""

    @property
    def delivering(self) -> Collection[int]:
        """The processes that deliver to streams: ids, for /proc."""

    @property
    def others(self) -> Collection[int]:
        """The processes behind them: log, store, workers, broker."""

    async def send(self, text: str) -> None:
        """Sends a text to the topic; returns with the ack."""
