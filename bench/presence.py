"""Presence: 2,000 sessions on a node that is killed, or frozen; Valkey flushed; 1,000 users who flap every 10 s.

Watchers on another node see everybody of the dead node offline within 15 s, and nobody haunts 60 s later. After a
flush everybody is known again within a lease. Who flaps within the grace causes no message at all.
"""

import asyncio
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
from hubbub.presence.v1 import presence_service_pb2 as pb
from hubbub.presence.v1.presence_service_pb2_grpc import PresenceServiceStub
from redis import Redis

from bench.figure import percentile, write_figure
from hubbub_server.adapters.crypto.key_files import read_signer
from hubbub_server.adapters.system.clock import SystemClock
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.domain.presence import WATCHED_MAX
from hubbub_server.ports.credentials import AccessClaims
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.cluster import Cluster, Process

SESSIONS, FLAPPING = 2_000, 1_000
DEAD_WITHIN_S, GHOSTS_AFTER_S = 15.0, 60.0
FLAPS, FLAP_EVERY_S, AWAY_S = 6, 10.0, 5.0
_STREAMS_A_CHANNEL = 90
_SETTLE_S = 5.0
_PATIENCE_S = 60.0
_TOKEN_S = 3_600.0


def _user(number: int) -> UserId:
    return UserId(TopicId(f"ubench{number}"))


class Callers:
    """Tokens of users that nobody registered: nodes believe the signature."""

    def __init__(self, data: Path) -> None:
        """Reads the key of the instance."""
        self._clock = SystemClock()
        self._signer = read_signer(data / "secrets", issuer="hubbub", audience="hubbub", clock=self._clock)

    def metadata(self, user_id: UserId) -> tuple[tuple[str, str], ...]:
        """Returns what a call of a user carries."""
        claims = AccessClaims(
            user_id=user_id,
            device_session_id=DeviceSessionId(f"d{user_id}"),
            generation=1,
            expire_time_ms=self._clock.now_ms() + round(_TOKEN_S * 1000),
        )
        return (("authorization", f"Bearer {self._signer.sign(claims)}"),)


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
    """Streams on one node that together watch all users."""

    def __init__(self) -> None:
        self.state: dict[str, int] = {}
        self.changed_s: dict[str, float] = {}
        self.reports = 0

    async def read(self, call: Any) -> None:
        """Reads one stream to its end."""
        async for response in call:
            now_s = time.monotonic()
            self.reports += len(response.update.presences)
            for presence in response.update.presences:
                if self.state.get(presence.user_id) != presence.state:
                    self.state[presence.user_id] = presence.state
                    self.changed_s[presence.user_id] = now_s

    async def until(self, users: Sequence[UserId], state: int) -> None:
        """Waits until all users are so."""
        async with asyncio.timeout(_PATIENCE_S):
            while any(self.state.get(each) != state for each in users):  # noqa: ASYNC110  # many conditions
                await asyncio.sleep(0.05)


@asynccontextmanager
async def watching(callers: Callers, process: Process, users: Sequence[UserId]) -> AsyncIterator[Watchers]:
    """Watches users, 500 a stream."""
    watchers = Watchers()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{process.stream_port}") as channel, asyncio.TaskGroup() as group:
        reading = []
        for start in range(0, len(users), WATCHED_MAX):
            call = PresenceServiceStub(channel).Watch(metadata=callers.metadata(_user(900_000 + start)))
            await call.write(pb.WatchRequest(added_user_ids=users[start : start + WATCHED_MAX]))
            reading.append(group.create_task(watchers.read(call)))
        yield watchers
        for task in reading:
            task.cancel()


def _spread(watchers: Watchers, users: Sequence[UserId], since_s: float) -> dict[str, float]:
    took = [watchers.changed_s[each] - since_s for each in users]
    return {"p50_s": round(percentile(took, 0.5), 2), "p99_s": round(percentile(took, 0.99), 2)}


async def _lose(cluster: Cluster, watchers: Watchers, callers: Callers, users: Sequence[UserId], number: int) -> Any:
    """Takes node-1 away by a signal, with all sessions on it; returns how long that took to be seen, and who haunts."""
    node = next(each for each in cluster.processes("node") if each.name == "node-1")
    sessions = Sessions(callers, node)
    await sessions.open(users)
    await watchers.until(users, pb.PRESENCE_STATE_ONLINE)
    await asyncio.sleep(_SETTLE_S)
    cluster.hold("node-1")
    os.kill(node.pid, number)
    gone_s = time.monotonic()
    await watchers.until(users, pb.PRESENCE_STATE_OFFLINE)
    seen = _spread(watchers, users, gone_s)
    await asyncio.sleep(max(0.0, GHOSTS_AFTER_S - (time.monotonic() - gone_s)))
    ghosts = sum(watchers.state[each] != pb.PRESENCE_STATE_OFFLINE for each in users)
    await sessions.close()
    if number == signal.SIGSTOP:
        os.kill(node.pid, signal.SIGKILL)
    cluster.release("node-1")
    async with asyncio.timeout(_PATIENCE_S):
        while not any(each.name == "node-1" and each.pid != node.pid for each in cluster.processes("node")):  # noqa: ASYNC110  # processes tell nobody
            await asyncio.sleep(0.1)
    await asyncio.sleep(_SETTLE_S)
    return {**seen, "ghosts_after_60_s": ghosts}


async def _flush(cluster: Cluster, watchers: Watchers, callers: Callers, users: Sequence[UserId]) -> dict[str, float]:
    """Empties Valkey under all sessions; returns how long it took until everybody was known again."""
    sessions = Sessions(callers, cluster.processes("node")[0])
    await sessions.open(users)
    await watchers.until(users, pb.PRESENCE_STATE_ONLINE)
    (valkey,) = cluster.processes("valkey")
    password = (cluster.data / "secrets" / "valkey_password").read_text().strip()
    with Redis(port=valkey.ports["redis"], password=password) as redis:
        redis.flushall()
    flushed_s = time.monotonic()
    async with asyncio.timeout(_PATIENCE_S):
        while pb.PRESENCE_STATE_UNSPECIFIED not in watchers.state.values():  # noqa: ASYNC110  # many conditions
            await asyncio.sleep(0.05)
    await watchers.until(users, pb.PRESENCE_STATE_ONLINE)
    healed = _spread(watchers, users, flushed_s)
    await sessions.close()
    await watchers.until(users, pb.PRESENCE_STATE_OFFLINE)
    return healed


async def _flap(cluster: Cluster, watchers: Watchers, callers: Callers, users: Sequence[UserId]) -> int:
    """Lets users go and come back every 10 s; returns how many reports that caused."""
    nodes = cluster.processes("node")
    sessions = Sessions(callers, nodes[0])
    await sessions.open(users)
    await watchers.until(users, pb.PRESENCE_STATE_ONLINE)
    await asyncio.sleep(_SETTLE_S)
    before = watchers.reports
    for turn in range(FLAPS):
        begun_s = time.monotonic()
        await sessions.close()
        await asyncio.sleep(AWAY_S)
        sessions = Sessions(callers, nodes[turn % len(nodes)])
        await sessions.open(users)
        await asyncio.sleep(max(0.0, FLAP_EVERY_S - (time.monotonic() - begun_s)))
    reports = watchers.reports - before
    await sessions.close()
    return reports


async def measure(folder: Path) -> None:
    """Measures and keeps the figure."""
    users = [_user(number) for number in range(SESSIONS)]
    async with Cluster(folder, nodes=2) as cluster, AsyncExitStack() as stack:
        callers = Callers(cluster.data)
        node = next(each for each in cluster.processes("node") if each.name == "node-2")
        watchers = await stack.enter_async_context(watching(callers, node, users))
        await watchers.until(users, pb.PRESENCE_STATE_OFFLINE)
        figures = {
            "sessions": SESSIONS,
            "killed": await _lose(cluster, watchers, callers, users, signal.SIGKILL),
            "frozen": await _lose(cluster, watchers, callers, users, signal.SIGSTOP),
            "flushed": await _flush(cluster, watchers, callers, users),
            "flapping_users": FLAPPING,
            "reports_of_flapping": await _flap(cluster, watchers, callers, users[:FLAPPING]),
        }
    lost = [figures["killed"], figures["frozen"]]
    holds = (
        all(each["p99_s"] <= DEAD_WITHIN_S and not each["ghosts_after_60_s"] for each in lost)
        and figures["flushed"]["p99_s"] <= LEASE_S
        and not figures["reports_of_flapping"]
    )
    write_figure("presence", "python -m bench.presence", figures, holds=holds)


def main() -> None:
    """Runs the measurement on an instance of its own."""
    with tempfile.TemporaryDirectory(prefix="hubbub-presence-") as folder:
        asyncio.run(measure(Path(folder)))


if __name__ == "__main__":
    main()
