"""Signals as bytes. Those that the sender's node makes are the bytes that clients get."""

from typing import Protocol

from hubbub_server.domain.signals import Signal


class SignalCodec(Protocol):
    """The one form of signals, between nodes and on streams."""

    def encode(self, signal: Signal) -> bytes:
        """Returns the body of a frame; bodies may be joined. Raises ValueError for an UnknownSignal."""

    def decode(self, body: bytes) -> Signal:
        """Reads a body. Raises ValueError when it is none."""
