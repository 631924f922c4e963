"""Clients of PresenceService for measurements: sessions of users whom nobody registered, and who watches them."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import grpc.aio
from hubbub.presence.v1 import presence_service_pb2 as pb
from hubbub.presence.v1.presence_service_pb2_grpc import PresenceServiceStub

from hubbub_server.adapters.crypto.key_files import read_signer
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.domain.presence import WATCHED_MAX
from hubbub_server.ports.credentials import AccessClaims
from tests.support.cluster import Process

PATIENCE_S: Final = 90.0
_STREAMS_A_CHANNEL: Final = 90
_FIRST_WATCHER: Final = 900_000
_TOKEN_S: Final = 3_600.0


def user(number: int) -> UserId:
    """Returns one of many users."""
    return UserId(TopicId(f"ubench{number}"))


class Callers:
    """Tokens of users that nobody registered: nodes believe the signature."""

    def __init__(self, data: Path) -> None:
        """Reads the key of the instance."""
        self._clock = SystemClock()
        self._signer = read_signer(data / "secrets", issuer="hubbub", audience="hubbub", clock=self._clock)

    def token(self, user_id: UserId) -> str:
        """Returns an access token of a user."""
        claims = AccessClaims(
            user_id=user_id,
            device_session_id=DeviceSessionId(f"d{user_id}"),
            generation=1,
            expire_time_ms=self._clock.now_ms() + round(_TOKEN_S * 1000),
        )
        return self._signer.sign(claims)

    def metadata(self, user_id: UserId) -> tuple[tuple[str, str], ...]:
        """Returns what a call of a user carries."""
        return (("authorization", f"Bearer {self.token(user_id)}"),)


class Sessions:
    """Streams that watch nobody: each is a session of its user."""

    def __init__(self, callers: Callers, process: Process) -> None:
        """Takes the node."""
        self._callers = callers
        self._address = f"127.0.0.1:{process.stream_port}"
        self._channels: list[grpc.aio.Channel] = []
        self._calls: list[Any] = []

    async def open(self, users: Sequence[UserId]) -> None:
        """Opens a session for each user, and waits until the node has answered all."""
        for start in range(0, len(users), _STREAMS_A_CHANNEL):
            channel = grpc.aio.insecure_channel(self._address, options=[("grpc.use_local_subchannel_pool", 1)])
            self._channels.append(channel)
            stub = PresenceServiceStub(channel)
            opened = [
                stub.Watch(metadata=self._callers.metadata(each)) for each in users[start : start + _STREAMS_A_CHANNEL]
            ]
            for call in opened:
                await call.write(pb.WatchRequest(own_activity=pb.ACTIVITY_ACTIVE))
            for call in opened:
                await call.read()
            self._calls += opened

    async def close(self) -> None:
        """Ends all sessions."""
        for call in self._calls:
            call.cancel()
        for channel in self._channels:
            await channel.close()


class Watchers:
    """Streams on one node that together watch each user once."""

    def __init__(self) -> None:
        self.state: dict[str, int] = {}
        self.changed_s: dict[str, float] = {}
        """When what is told of each became that."""
        self.reports: Counter[str] = Counter()
        """How often each was told of."""

    async def read(self, call: Any) -> None:
        """Reads one stream to its end."""
        async for response in call:
            now_s = time.monotonic()
            for presence in response.update.presences:
                self.reports[presence.user_id] += 1
                if self.state.get(presence.user_id) != presence.state:
                    self.state[presence.user_id] = presence.state
                    self.changed_s[presence.user_id] = now_s

    async def until(self, users: Sequence[UserId], state: int) -> None:
        """Waits until all users are so."""
        async with asyncio.timeout(PATIENCE_S):
            while any(self.state.get(each) != state for each in users):  # noqa: ASYNC110  # many conditions
                await asyncio.sleep(0.05)


@asynccontextmanager
async def watching(callers: Callers, process: Process, users: Sequence[UserId]) -> AsyncIterator[Watchers]:
    """Watches users, 500 a stream."""
    watchers = Watchers()
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{process.stream_port}", options=options) as channel,
        asyncio.TaskGroup() as group,
    ):
        reading = []
        for start in range(0, len(users), WATCHED_MAX):
            call = PresenceServiceStub(channel).Watch(metadata=callers.metadata(user(_FIRST_WATCHER + start)))
            await call.write(pb.WatchRequest(added_user_ids=users[start : start + WATCHED_MAX]))
            reading.append(group.create_task(watchers.read(call)))
        yield watchers
        for task in reading:
            task.cancel()
