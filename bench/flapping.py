"""1,000 users who come and go, and what their watchers on another node hear of it.

*Within the grace*: every 10 s each user's session ends and another one begins, on this node or the other, 5 s later.
Watchers are told nothing. *Beyond it*: gone for 13 s, there for 7. A user has six changes at once, since people do come
and go; when those are used up watchers are told of each user once a minute at most. `--users`, `--minutes` for a trial.
"""

import argparse
import asyncio
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from itertools import cycle
from pathlib import Path
from typing import Any, Final

from hubbub.presence.v1 import presence_service_pb2 as pb

from bench.figure import write_figure
from bench.presence_clients import Callers, Sessions, Watchers, user, watching
from bench.process import machine_cpu_s
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import CHANGE_EVERY_S, CHANGES_AT_ONCE, GRACE_S
from tests.support.cluster import Cluster, Process

USERS: Final = 1_000
WITHIN_TURNS: Final = 12
WITHIN_S: Final = (5.0, 5.0)
"""Gone for, there for."""
BEYOND_S: Final = (13.0, 7.0)
BURST_TURNS: Final = 6
MINUTES: Final = 6.0
_SETTLE_S: Final = 5.0


class Flapping:
    """Users whose sessions end and begin, on both nodes in turn."""

    def __init__(self, callers: Callers, nodes: Sequence[Process], watchers: Watchers, users: Sequence[UserId]) -> None:
        """Nobody is there yet."""
        self._callers = callers
        self._nodes = cycle(nodes)
        self._watchers = watchers
        self._users = users
        self._sessions: Sessions | None = None
        self.gone_max_s = 0.0
        """For how long any of them was gone at most: from before the first one ended until the last one was back."""

    async def begin(self) -> None:
        """Everybody comes, and is seen."""
        await self._come()
        await self._watchers.until(self._users, pb.PRESENCE_STATE_ONLINE)
        await asyncio.sleep(_SETTLE_S)

    async def _come(self) -> None:
        self._sessions = Sessions(self._callers, next(self._nodes))
        await self._sessions.open(self._users)

    async def flap(self, turns: int, gone_s: float, there_s: float) -> Counter[str]:
        """Goes and comes so often; returns how often watchers were told of each user meanwhile."""
        before = self._watchers.reports.copy()
        self.gone_max_s = 0.0
        for _ in range(turns):
            begun_s = time.monotonic()
            await self.end()
            await asyncio.sleep(gone_s)
            await self._come()
            self.gone_max_s = max(self.gone_max_s, time.monotonic() - begun_s)
            await asyncio.sleep(max(0.0, gone_s + there_s - (time.monotonic() - begun_s)))
        return self._watchers.reports - before

    async def end(self) -> None:
        """Everybody goes."""
        if self._sessions is not None:
            await self._sessions.close()


async def measure(folder: Path, count: int, minutes: float) -> None:
    """Measures and keeps the figure."""
    users = [user(number) for number in range(count)]
    turns = max(1, round(minutes * 60 / sum(BEYOND_S)))
    begun_s, begun_cpu_s = time.monotonic(), machine_cpu_s()
    async with Cluster(folder, nodes=3) as cluster, AsyncExitStack() as stack:
        callers = Callers(cluster.data)
        *nodes, watching_node = sorted(cluster.processes("node"), key=lambda each: each.name)
        watchers = await stack.enter_async_context(watching(callers, watching_node, users))
        await watchers.until(users, pb.PRESENCE_STATE_OFFLINE)  # a registry that is new does not know for a lease
        flapping = Flapping(callers, nodes, watchers, users)
        await flapping.begin()
        within = await flapping.flap(WITHIN_TURNS, *WITHIN_S)
        gone_max_s = flapping.gone_max_s
        print(f"within the grace: {within.total()} reports, gone for {gone_max_s:.1f} s at most", flush=True)
        burst = await flapping.flap(BURST_TURNS, *BEYOND_S)
        print(f"at first beyond it: {burst.total() / count:.1f} reports a user", flush=True)
        beyond_s = time.monotonic()
        beyond = await flapping.flap(turns, *BEYOND_S)
        beyond_minutes = (time.monotonic() - beyond_s) / 60
        await flapping.end()
    load = (machine_cpu_s() - begun_cpu_s) / (time.monotonic() - begun_s) / (os.cpu_count() or 1)
    figures: dict[str, Any] = {
        "users": count,
        "within_grace": {
            "turns": WITHIN_TURNS,
            "gone_max_s": round(gone_max_s, 2),
            "reports": within.total(),
        },
        "beyond_grace_at_first": {
            "turns": BURST_TURNS,
            "seconds_a_turn": sum(BEYOND_S),
            "changes": 2 * BURST_TURNS,
            "reports_of_a_user_mean": round(burst.total() / count, 2),
            "reports_of_a_user_max": max(burst.values(), default=0),
        },
        "beyond_grace_then": {
            "minutes": round(beyond_minutes, 2),
            "changes": 2 * turns,
            "reports_a_user_and_minute_mean": round(beyond.total() / count / beyond_minutes, 3),
            "reports_of_a_user_max": max(beyond.values(), default=0),
        },
        "machine_load_mean": round(load, 2),
    }
    holds = (
        gone_max_s < GRACE_S
        and not within
        and max(burst.values(), default=0) <= CHANGES_AT_ONCE + BURST_TURNS * sum(BEYOND_S) / CHANGE_EVERY_S + 1
        and beyond.total() / count <= beyond_minutes
        and max(beyond.values(), default=0) <= beyond_minutes + 1  # where the minutes begin is each user's own
    )
    write_figure("flapping", "python -m bench.flapping", figures, holds=holds)


def main() -> None:
    """Runs the measurement on an instance of its own."""
    parser = argparse.ArgumentParser(prog="bench.flapping")
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--minutes", type=float, default=MINUTES)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-flapping-") as folder:
        asyncio.run(measure(Path(folder), options.users, options.minutes))


if __name__ == "__main__":
    main()
