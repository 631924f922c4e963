"""Streams on fakes, open and read to the end."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Heads, Hello, Outgoing
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.resume import ResumeTokens
from hubbub_server.app.streams import MAX_OPENING, Streams
from hubbub_server.domain.ids import DeviceSessionId, UserId
from tests.support.app_node import AppCluster, AppNode, message_id

HELLO = Hello(instance_id=message_id(1))


def caller(user_id: UserId) -> Caller:
    return Caller(user_id=user_id, device_session_id=DeviceSessionId("d1"), token_expire_time_ms=10**15)


@asynccontextmanager
async def streams_of(node: AppNode, cluster: AppCluster, *, max_opening: int = MAX_OPENING) -> AsyncIterator[Streams]:
    async with Streams(
        hub=node.hub,
        authenticate=None,  # type: ignore[arg-type]  # no token is checked here
        clock=cluster.clock,
        ids=cluster.ids,
        resume_tokens=ResumeTokens(b"k" * 16, cluster.clock),
        markers=node.markers,
        typing=node.typing,
        max_opening=max_opening,
    ) as streams:
        yield streams


async def open_stream(streams: Streams, user_id: UserId) -> LiveStream:
    stream = streams.open(caller(user_id), takes_commands=True)
    stream.receive(HELLO)
    frames: list[Outgoing] = []
    while not any(isinstance(frame, Heads) and frame.complete for frame in frames):
        frames += await stream.next_frames()
    return stream
