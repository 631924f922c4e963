"""What a peer of the stream edge may use: one set of bounds for a trusted proxy, another for strangers.

A proxy carries thousands of clients on one connection, and what one of them does must not end it: the proxy has bounds
of its own for its clients, and these here are wider. A stranger is one client.
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """So many at once, and so many more a second."""

    burst: int
    per_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeLimits:
    """Bounds of one connection, inclusive; beyond them it ends, or where said only the stream."""

    max_connections: int
    """Connections at once; one more is closed at once."""
    max_streams: int
    """Streams of a connection at once; one more is refused by itself when the peer has not heard of the bound yet."""
    header_max_bytes: int
    """Decoded header fields of a request, 32 bytes counted for each field besides."""
    header_max_fields: int
    """Header fields of a request."""
    calls: Rate
    """Streams that the peer opens, whatever becomes of them."""
    resets: Rate
    """Streams that the peer resets."""
    glitches: Rate
    """Faults of the peer that end only a stream."""
    controls: Rate
    """SETTINGS, PING, answers to PINGs that were not ours, and GOAWAY."""
    idle_frames: Rate
    """Frames that ask for an answer or for work and carry nothing: WINDOW_UPDATE and empty DATA. What we send allows
    for more of them: a client opens its windows as it reads."""
    unused_s: float
    """Life of a connection without streams."""
    metadata_max_bytes: int = 8 * 1024
    """Metadata of one call; more ends only the stream, with RESOURCE_EXHAUSTED, as grpc.aio does."""
    message_max_bytes: int = 1024 * 1024
    """A message of a client; more ends only the stream."""
    window_bytes: int = 64 * 1024
    """What a stream may send before we have read it."""
    preface_within_s: float = 5.0
    """Time for the client's preface and first SETTINGS, and before them for the handshake of TLS."""
    message_within_s: float = 10.0
    """Time for the rest of a message that has begun; ends only the stream."""
    taken_within_s: float = 90.0
    """Time for the client to take a message that is written and waited for; ends only the stream."""
    ping_after_s: float = 60.0
    """Silence of the peer after which we ask whether it lives."""
    pong_within_s: float = 20.0
    """Time for the answer."""
    blocked_s: float = 30.0
    """How long the peer may take nothing from its socket."""
    finish_within_s: float = 10.0
    """How long a stream may take for its last bytes; ends only the stream."""


TRUSTED_PROXY: Final = EdgeLimits(
    max_connections=2_000,
    max_streams=1_000,
    header_max_bytes=64 * 1024,
    header_max_fields=256,
    calls=Rate(burst=50_000, per_s=20_000),
    resets=Rate(burst=20_000, per_s=5_000),
    glitches=Rate(burst=20_000, per_s=5_000),
    controls=Rate(burst=200, per_s=20),
    idle_frames=Rate(burst=100_000, per_s=50_000),
    unused_s=3_600.0,
)
STRANGERS: Final = EdgeLimits(
    max_connections=20_000,
    max_streams=100,
    header_max_bytes=16 * 1024,
    header_max_fields=64,
    calls=Rate(burst=1_000, per_s=200),
    resets=Rate(burst=200, per_s=20),
    glitches=Rate(burst=200, per_s=20),
    controls=Rate(burst=20, per_s=1),
    idle_frames=Rate(burst=2_000, per_s=500),
    unused_s=300.0,
)


class Allowance:
    """Counts against a Rate."""

    __slots__ = ("_filled_at_s", "_rate", "_tokens")

    def __init__(self, rate: Rate, now_s: float) -> None:
        """Begins full."""
        self._rate = rate
        self._tokens: float = rate.burst
        self._filled_at_s = now_s

    def takes(self, count: int, now_s: float) -> bool:
        """Takes `count`; False: there are not so many left."""
        self.gives((now_s - self._filled_at_s) * self._rate.per_s)
        self._filled_at_s = now_s
        self._tokens -= count
        return self._tokens >= 0

    def gives(self, count: float) -> None:
        """Gives some back, up to the burst."""
        self._tokens = min(self._rate.burst, self._tokens + count)
