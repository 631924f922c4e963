"""HTTP/2 of one connection, without I/O: the only module that knows ngh2 (libnghttp2).

ngh2 raises when it is told to send on a stream that has just been closed, which is nobody's fault: here that is
answered with False. It drops its whole session when a peer breaks a bound of the configuration: `PeerBreach`, after
which nothing can be sent any more. A breach that HTTP/2 has an answer for is queued as GOAWAY and ends with the event
ConnectionClosed instead. Receive windows are ours to open (`consume`): what nobody has read yet holds the peer back.
"""

from collections.abc import Iterable
from contextlib import suppress
from functools import lru_cache
from typing import Final

from ngh2 import (
    Configuration,
    Connection,
    ConnectionClosed,
    DataReceived,
    ErrorCode,
    Event,
    GoAwayReceived,
    NGH2Error,
    PingAcknowledged,
    PingReceived,
    RequestReceived,
    Role,
    Setting,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from hubbub_server.edge.limits import EdgeLimits

__all__ = [
    "ConnectionClosed",
    "DataReceived",
    "ErrorCode",
    "Event",
    "GoAwayReceived",
    "Http2",
    "PeerBreach",
    "PingAcknowledged",
    "PingReceived",
    "RequestReceived",
    "SettingsReceived",
    "StreamClosed",
    "StreamReset",
    "TrailersReceived",
    "WindowUpdated",
]

Headers = Iterable[tuple[bytes, bytes]]

# Windows of streams bound what is in memory; one that all streams share would let a stream hold up the others.
_CONNECTION_WINDOW_BYTES: Final = 2**31 - 1
_MAX_OUTBOUND_ACKS: Final = 1_000
# libnghttp2 1.6x counts partial reads of a frame header as CONTINUATION frames: a tight bound ends slow peers.
_MAX_CONTINUATIONS: Final = 64
_MAX_SETTINGS: Final = 32


class PeerBreach(Exception):
    """The peer broke a bound or the protocol itself; the connection is over and nothing can be told."""


@lru_cache
def _configuration_of(limits: EdgeLimits) -> Configuration:
    return Configuration(
        auto_window_update=False,
        max_deflate_dynamic_table_size=0,  # what we send is short, and most connections have one stream
        max_outbound_ack=_MAX_OUTBOUND_ACKS,
        max_settings=_MAX_SETTINGS,
        max_continuations=_MAX_CONTINUATIONS,
        stream_reset_rate_limit=(limits.resets.burst, limits.resets.per_s),
        glitch_rate_limit=(limits.glitches.burst, limits.glitches.per_s),
        max_inbound_header_list_size=limits.header_max_bytes,
        max_inbound_header_count=limits.header_max_fields,
    )


class Http2:
    """The server's side of one connection."""

    __slots__ = ("_connection",)

    def __init__(self, limits: EdgeLimits) -> None:
        """Takes the bounds; the settings are the first output."""
        self._connection = Connection(Role.SERVER, _configuration_of(limits))
        self._connection.initiate_connection(
            {
                Setting.MAX_CONCURRENT_STREAMS: limits.max_streams,
                Setting.INITIAL_WINDOW_SIZE: limits.window_bytes,
                Setting.MAX_HEADER_LIST_SIZE: limits.header_max_bytes,
                Setting.NO_RFC7540_PRIORITIES: 1,
            }
        )
        self._connection.set_local_window_size(_CONNECTION_WINDOW_BYTES)

    def receive(self, data: bytes) -> list[Event]:
        """Takes bytes of the peer, returns what they mean.

        Raises:
            PeerBreach: see there.
        """
        try:
            self._connection.receive_data(data)
        except (NGH2Error, ValueError, MemoryError) as exc:
            raise PeerBreach(str(exc)) from exc
        return self._connection.events()

    def events(self) -> list[Event]:
        """Returns what sending has led to."""
        return self._connection.events()

    def output(self, max_bytes: int) -> bytes:
        """Returns at most so many bytes for the peer; fewer: there are no more for now.

        Raises:
            PeerBreach: see there.
        """
        try:
            return self._connection.data_to_send(max_bytes)
        except (NGH2Error, ValueError, MemoryError) as exc:
            raise PeerBreach(str(exc)) from exc

    def send_headers(self, stream_id: int, headers: Headers, *, end_stream: bool = False) -> bool:
        """Queues the response's headers; False: the stream is gone."""
        try:
            self._connection.send_response(stream_id, list(headers), end_stream=end_stream)
        except NGH2Error:
            return False
        return True

    def send_body(self, stream_id: int, data: bytes) -> bool:
        """Queues bytes behind those that are queued; False: the stream is gone."""
        try:
            self._connection.send_data(stream_id, data)
        except NGH2Error:
            return False
        return True

    def send_trailers(self, stream_id: int, trailers: Headers) -> bool:
        """Ends our side when everything queued is sent; False: the stream is gone."""
        try:
            self._connection.send_trailers(stream_id, list(trailers))
        except NGH2Error:
            return False
        return True

    def end_body(self, stream_id: int) -> None:
        """Ends our side without trailers when everything queued is sent."""
        with suppress(NGH2Error):
            self._connection.end_stream(stream_id)

    def queued_bytes(self, stream_id: int) -> int:
        """Returns how much of a stream's body waits for its window, the connection's, or the socket."""
        try:
            return self._connection.queued_body_size(stream_id)
        except NGH2Error:
            return 0

    def window_bytes(self, stream_id: int) -> int:
        """Returns how much of a stream's body may be sent, queued bytes included; 0 when it is gone."""
        try:
            return self._connection.stream_remote_window_size(stream_id)
        except NGH2Error:
            return 0

    @property
    def peer_window_bytes(self) -> int:
        """The window of a stream of which nothing was sent."""
        return self._connection.remote_settings[Setting.INITIAL_WINDOW_SIZE]

    def is_window_open(self, stream_id: int) -> bool:
        """Tells whether anything of a stream's body may be sent; nothing may on one that is gone."""
        try:
            return self._connection.remote_window_size > 0 and self.window_bytes(stream_id) > 0
        except NGH2Error:
            return False

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Ends a stream at once, with what is queued."""
        with suppress(NGH2Error):
            self._connection.reset_stream(stream_id, code)

    def consume(self, stream_id: int, size_bytes: int) -> None:
        """Lets the peer send so many more bytes; those of a stream that is gone count for the connection."""
        with suppress(NGH2Error, ValueError):
            self._connection.acknowledge_received_data(size_bytes, stream_id)

    def ping(self) -> None:
        """Asks whether the peer lives: PingAcknowledged."""
        with suppress(NGH2Error):
            self._connection.ping()

    def announce_leaving(self) -> None:
        """Tells the peer to open no more streams here; those on their way are still taken."""
        with suppress(NGH2Error):
            self._connection.send_shutdown_notice()

    def leave(self) -> None:
        """Names the last stream that is served; later ones are refused, and the peer knows that they were not."""
        with suppress(NGH2Error):
            self._connection.send_goaway(ErrorCode.NO_ERROR)

    def terminate(self, code: ErrorCode, *, text: bytes = b"") -> None:
        """Ends the connection and all its streams; the last output says why."""
        with suppress(NGH2Error):
            if text:
                self._connection.send_goaway(code, debug_data=text)
            self._connection.terminate_connection(code)
