"""Remembers what was decoded last. In a worker the roles of a shard read the same records, each in a loop of its own.

What is decoded depends on the bytes alone and is never changed, so whoever asks second gets the same objects.
"""

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

from hubbub_server.domain.events import Event
from hubbub_server.ports.record_codec import DecodedEvent, RecordCodec

_MAX_BYTES: Final = 8 * 1024 * 1024


class DecodedRecords:
    """RecordCodec over another one. Keeps as many of the newest records as have `max_bytes` of bodies together."""

    def __init__(self, codec: RecordCodec, *, max_bytes: int = _MAX_BYTES) -> None:
        """Remembers nothing yet."""
        self._codec = codec
        self._max_bytes = max_bytes
        self._decoded: OrderedDict[bytes, Sequence[DecodedEvent]] = OrderedDict()
        self._bytes = 0

    def encode(self, event: Event) -> bytes:
        """See RecordCodec."""
        return self._codec.encode(event)

    def decode(self, body: bytes) -> Sequence[DecodedEvent]:
        """See RecordCodec."""
        known = self._decoded.get(body)
        if known is not None:
            return known
        decoded = self._codec.decode(body)
        self._decoded[body] = decoded
        self._bytes += len(body)
        while self._bytes > self._max_bytes:
            oldest, _ = self._decoded.popitem(last=False)
            self._bytes -= len(oldest)
        return decoded
