"""Presence: 2,000 watched sessions on a node that is killed, or frozen, with Valkey flushed meanwhile or not.

Watchers on another node see everybody of the dead node offline within 15 s: from its end on, also when Valkey is
flushed a second later; when it is flushed as the lease is about to run out, nobody knows anything for a lease (they see
"unknown"), so then from the flush on. 60 s later nobody haunts, neither on the streams that watched nor on new ones.
After a flush under live sessions everybody is known again within a lease. `--sessions` for a trial.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from hubbub.presence.v1 import presence_service_pb2 as pb
from redis import Redis

from bench.figure import percentile, write_figure
from bench.presence_clients import PATIENCE_S, Callers, Sessions, Watchers, user, watching
from bench.process import machine_cpu_s
from hubbub_server.domain.ids import UserId
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.cluster import Cluster, Process

SESSIONS: Final = 2_000
DEAD_WITHIN_S: Final = 15.0
GHOSTS_AFTER_S: Final = 60.0
_SETTLE_S: Final = 5.0


@dataclass(frozen=True)
class Loss:
    """How a node is lost: by a signal, with Valkey flushed so long after it; None: it is not."""

    name: str
    signal: int
    flushed_after_s: float | None = None
    counts_from_flush: bool = False


LOSSES: Final = (
    Loss("killed", signal.SIGKILL),
    Loss("frozen", signal.SIGSTOP),
    Loss("killed_and_flushed", signal.SIGKILL, flushed_after_s=1.0),
    Loss("frozen_and_flushed", signal.SIGSTOP, flushed_after_s=1.0),
    Loss("killed_and_flushed_late", signal.SIGKILL, flushed_after_s=7.0, counts_from_flush=True),
)


class Measurement:
    """Two nodes: sessions on the first, streams that watch them on the second."""

    def __init__(self, cluster: Cluster, callers: Callers, watchers: Watchers, users: Sequence[UserId]) -> None:
        """Takes an instance that runs, and streams that watch all users."""
        self._cluster = cluster
        self._callers = callers
        self._watchers = watchers
        self._users = users

    def _node(self, name: str) -> Process:
        return next(each for each in self._cluster.processes("node") if each.name == name)

    async def _open(self) -> tuple[Process, Sessions]:
        node = self._node("node-1")
        sessions = Sessions(self._callers, node)
        await sessions.open(self._users)
        await self._watchers.until(self._users, pb.PRESENCE_STATE_ONLINE)
        await asyncio.sleep(_SETTLE_S)
        return node, sessions

    async def lose(self, loss: Loss) -> dict[str, Any]:
        """Takes the node away with all sessions on it; returns how long it took until that was seen, and who haunts."""
        node, sessions = await self._open()
        self._cluster.hold("node-1")
        os.kill(node.pid, loss.signal)
        gone_s = counted_from_s = time.monotonic()
        if loss.flushed_after_s is not None:
            await asyncio.sleep(loss.flushed_after_s)
            self._flush()
            counted_from_s = time.monotonic() if loss.counts_from_flush else gone_s
        await self._watchers.until(self._users, pb.PRESENCE_STATE_OFFLINE)
        seen = self._spread(counted_from_s)
        await asyncio.sleep(max(0.0, GHOSTS_AFTER_S - (time.monotonic() - gone_s)))
        ghosts = await self._count_ghosts()
        await sessions.close()
        await self._bring_back(node)
        print(f"{loss.name}: {seen}, {ghosts} ghosts", flush=True)
        return {**seen, "counted_from": "flush" if loss.counts_from_flush else "signal", "ghosts_after_60_s": ghosts}

    async def _count_ghosts(self) -> int:
        """Counts who is not offline, for those who watched all the time or for those who begin now."""
        async with watching(self._callers, self._node("node-2"), self._users) as late:
            async with asyncio.timeout(PATIENCE_S):
                while len(late.state) < len(self._users):  # noqa: ASYNC110  # many conditions
                    await asyncio.sleep(0.05)
            offline = pb.PRESENCE_STATE_OFFLINE
            return sum({self._watchers.state[each], late.state[each]} != {offline} for each in self._users)

    async def _bring_back(self, node: Process) -> None:
        with suppress(ProcessLookupError):  # it was killed, or is frozen
            os.kill(node.pid, signal.SIGKILL)
        self._cluster.release("node-1")
        async with asyncio.timeout(PATIENCE_S):
            while not any(each.name == "node-1" and each.pid != node.pid for each in self._cluster.processes("node")):  # noqa: ASYNC110  # processes tell nobody
                await asyncio.sleep(0.1)
        await asyncio.sleep(_SETTLE_S)

    async def flush_under_all(self) -> dict[str, float]:
        """Empties Valkey under all sessions; returns how long it took until everybody was known again."""
        _, sessions = await self._open()
        self._flush()
        flushed_s = time.monotonic()
        async with asyncio.timeout(PATIENCE_S):
            while pb.PRESENCE_STATE_UNSPECIFIED not in self._watchers.state.values():  # noqa: ASYNC110  # many conditions
                await asyncio.sleep(0.01)
        await self._watchers.until(self._users, pb.PRESENCE_STATE_ONLINE)
        healed = self._spread(flushed_s)
        await sessions.close()
        return healed

    def _flush(self) -> None:
        (valkey,) = self._cluster.processes("valkey")
        password = (self._cluster.data / "secrets" / "valkey_password").read_text().strip()
        with Redis(port=valkey.ports["redis"], password=password) as redis:
            redis.flushall()

    def _spread(self, since_s: float) -> dict[str, float]:
        took = [self._watchers.changed_s[each] - since_s for each in self._users]
        return {"p50_s": round(percentile(took, 0.5), 2), "p99_s": round(percentile(took, 0.99), 2)}


async def measure(folder: Path, count: int) -> None:
    """Measures and keeps the figure."""
    users = [user(number) for number in range(count)]
    begun_s, begun_cpu_s = time.monotonic(), machine_cpu_s()
    async with Cluster(folder, nodes=2) as cluster, AsyncExitStack() as stack:
        callers = Callers(cluster.data)
        node = next(each for each in cluster.processes("node") if each.name == "node-2")
        watchers = await stack.enter_async_context(watching(callers, node, users))
        await watchers.until(users, pb.PRESENCE_STATE_OFFLINE)
        measurement = Measurement(cluster, callers, watchers, users)
        losses = {loss.name: await measurement.lose(loss) for loss in LOSSES}
        flushed = await measurement.flush_under_all()
    load = (machine_cpu_s() - begun_cpu_s) / (time.monotonic() - begun_s) / (os.cpu_count() or 1)
    holds = (
        all(each["p99_s"] <= DEAD_WITHIN_S and not each["ghosts_after_60_s"] for each in losses.values())
        and flushed["p99_s"] <= LEASE_S
    )
    figures = {"sessions": count, **losses, "flushed_under_live_sessions": flushed, "machine_load_mean": round(load, 2)}
    write_figure("presence", "python -m bench.presence", figures, holds=holds)


def main() -> None:
    """Runs the measurement on an instance of its own."""
    parser = argparse.ArgumentParser(prog="bench.presence")
    parser.add_argument("--sessions", type=int, default=SESSIONS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-presence-") as folder:
        asyncio.run(measure(Path(folder), options.sessions))


if __name__ == "__main__":
    main()
