"""Rolling restart: three nodes leave and come back one after the other, under load, behind Envoy.

1,000 clients made of the SDK, each a user with a connection of its own, two to a conversation, send 200 messages a
second. Each node gets SIGTERM, leaves as in production, is started again by `up`; the next one follows when health says
SERVING. Sends, ends of streams and returns are what the clients saw; a client is live again when its stream covers all
its topics.
"""

import argparse
import asyncio
import os
import signal
import tempfile
import time
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.crowd_process import CLIENT_LOAD_MAX, ClientProcess, Loads, in_session, load_watched
from bench.figure import machine, percentile, versions, write_figure
from bench.sessions import SessionsPlan
from hubbub_server.config import NodeSettings
from tests.soak.api import open_channel
from tests.support.cluster import Cluster, Process

NODES: Final = 3
GROUP_SIZE: Final = 2
CLIENT_PROCESSES: Final = 4
CALM_S: Final = 15.0
BACK_WITHIN_S: Final = 90.0
LIVE_AGAIN_MAX_S: Final = 5.0
SHARE_MAX: Final = 0.1
_NODE = NodeSettings()
AS_IN_PRODUCTION: Final = {
    "HUBBUB_NODE__ANNOUNCE_S": str(_NODE.announce_s),
    "HUBBUB_NODE__DRAIN_TIMEOUT_S": str(_NODE.drain_timeout_s),
}
"""For the environment of a cluster: `hubbub up` is in a hurry otherwise."""


@dataclass(frozen=True)
class Absence:
    """A session without a live stream, from the end of one to the next that covers all topics."""

    begin: float
    end: float
    reason: str
    failed_tries: int = 0

    @property
    def seconds(self) -> float:
        """How long it lasted."""
        return self.end - self.begin


def absences(ends: Sequence[tuple[int, float, str]], lives: Sequence[tuple[int, float]]) -> tuple[list[Absence], int]:
    """Pairs the first end of a stream with the next return of the same session.

    Tries that failed in between belong to the same absence. Returns the number of sessions that never came back, too.
    """
    found: list[Absence] = []
    lost = 0
    for session in {session for session, _, _ in ends}:
        returns = sorted(at for who, at in lives if who == session)
        back = float("-inf")
        for at, reason in sorted((at, reason) for who, at, reason in ends if who == session):
            if at < back:
                continue
            index = bisect_right(returns, at)
            if index == len(returns):
                lost += 1
                break
            back = returns[index]
            tries = sum(at < again < back for who, again, _ in ends if who == session)
            found.append(Absence(at, back, reason, tries))
    return sorted(found, key=lambda each: each.end), lost


def busiest_second(times: Sequence[float]) -> int:
    """Counts what falls into the fullest second, wherever that begins."""
    ordered = sorted(times)
    return max((bisect_right(ordered, at + 1.0) - index for index, at in enumerate(ordered)), default=0)


def by_second(times: Sequence[float]) -> list[int]:
    """Counts by second, from the first one on."""
    if not times:
        return []
    first = min(times)
    counts = Counter(int(at - first) for at in times)
    return [counts[second] for second in range(max(counts) + 1)]


@dataclass
class Seen:
    """What the clients saw, and how busy they were."""

    sends: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin, end, and the error if it failed."""
    deliveries: list[tuple[float, float]] = field(default_factory=list)
    """When a message was heard, and the begin of its send."""
    away: list[Absence] = field(default_factory=list)
    wrong: Counter[str] = field(default_factory=Counter)
    """How often something happened that must not."""
    restarts: list[float] = field(default_factory=list)
    """When each began."""
    loads: Loads = field(default_factory=Loads)


async def restart(cluster: Cluster, node: Process) -> dict[str, Any]:
    """Ends a node with SIGTERM and waits until its next life serves."""
    begin = time.monotonic()
    os.kill(node.pid, signal.SIGTERM)
    async with asyncio.timeout(BACK_WITHIN_S):
        while not (again := [p for p in cluster.processes("node") if p.name == node.name and p.pid != node.pid]):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # processes tell nobody
        gone = time.monotonic()
        async with open_channel(again[0].grpc_port) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            while not await _serves(health):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    return {"node": node.name, "left_s": round(gone - begin, 1), "serves_after_s": round(time.monotonic() - begin, 1)}


async def _serves(health: Any) -> bool:
    try:
        answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def judge(seen: Seen) -> tuple[dict[str, Any], bool]:
    """Makes the figures and says whether the bounds were kept."""
    failed = [error for _, _, error in seen.sends if error]
    begins = [begin for begin, _, _ in seen.sends]
    send_s = [end - begin for begin, end, _ in seen.sends]
    heard_s = [heard - sent for heard, sent in seen.deliveries]
    returns = [each.end for each in seen.away]
    away_s = [each.seconds for each in seen.away] or [float("inf")]
    share = _share(returns)
    by_restart = [
        [at for at in returns if begin <= at < end]
        for begin, end in zip(seen.restarts, [*seen.restarts[1:], float("inf")], strict=True)
    ]
    figures = {
        "sends": len(seen.sends),
        "failed_sends": len(failed),
        "first_failure": failed[0] if failed else "",
        "sends_per_s": round(len(seen.sends) / (max(begins) - min(begins)), 1),
        **_times("send", send_s),
        "deliveries": len(seen.deliveries),
        **_times("delivery", heard_s),
        **{name: seen.wrong[name] for name in ("missed", "repeated", "dead", "never_back")},
        "reconnects": len(returns),
        "reasons": dict(Counter(each.reason for each in seen.away)),
        "tries_that_failed": sum(each.failed_tries for each in seen.away),
        **_times("live_again", away_s),
        "largest_share_of_a_second": round(share, 3),
        "largest_share_of_a_second_within_each_restart": [round(_share(times), 3) for times in by_restart],
        "reconnects_by_second_of_each_restart": [by_second(times) for times in by_restart],
        **seen.loads.figures(),
    }
    holds = (
        not failed
        and not seen.wrong.total()
        and percentile(away_s, 0.99) <= LIVE_AGAIN_MAX_S
        and share <= SHARE_MAX
        and max(seen.loads.clients) < CLIENT_LOAD_MAX
    )
    return figures, holds


def _share(times: Sequence[float]) -> float:
    """Returns the part of them in the fullest second."""
    return busiest_second(times) / len(times) if times else 0.0


def _times(name: str, seconds: list[float]) -> dict[str, float]:
    marks = (("p50", percentile(seconds, 0.5)), ("p99", percentile(seconds, 0.99)), ("max", max(seconds)))
    return {f"{name}_{mark}_s": round(value, 3) for mark, value in marks}


async def run_load(cluster: Cluster, processes: Sequence[ClientProcess]) -> tuple[Seen, list[dict[str, Any]]]:
    """Restarts all nodes under load; returns what was seen, and what came of each restart."""
    seen = Seen()
    restarts: list[dict[str, Any]] = []
    for process in processes:
        await process.ask(op="report")  # of the opening
    async with load_watched(processes) as seen.loads:
        for process in processes:
            await process.ask(op="send")
        await asyncio.sleep(CALM_S)
        for node in cluster.processes("node"):
            seen.restarts.append(time.monotonic())
            restarts.append(await restart(cluster, node))
            print(restarts[-1], flush=True)
        await asyncio.sleep(CALM_S)
    for process in processes:
        seen.wrong.update(await process.ask(op="quiet"))
        report = await process.ask(op="report")
        seen.sends += report["sends"]
        seen.deliveries += report["deliveries"]
        away, never_back = absences(report["ends"], report["lives"])
        seen.away += away
        seen.wrong["never_back"] += never_back
    return seen, restarts


async def measure(cluster: Cluster, sessions: int, rate_per_s: float) -> None:
    """Measures and keeps the figure."""
    plan = SessionsPlan(cluster.port, sessions // CLIENT_PROCESSES, GROUP_SIZE, rate_per_s / CLIENT_PROCESSES)
    async with in_session([plan] * CLIENT_PROCESSES) as processes:
        print("all sessions are live", flush=True)
        seen, restarts = await run_load(cluster, processes)
    figures, holds = judge(seen)
    is_whole = sessions >= 1_000 and rate_per_s >= 200
    write_figure(
        "rolling_restart",
        "python -m bench.rolling_restart",
        {
            "what": f"{NODES} nodes restarted in turn, {sessions} sessions in conversations of {GROUP_SIZE},"
            f" {rate_per_s:g} messages/s, through Envoy",
            "machine": machine(),
            "versions": versions(),
            "sessions": sessions,
            "restarts": restarts,
            **figures,
        },
        holds=holds if is_whole else None,
    )


async def main() -> None:
    """Runs a cluster and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sessions", type=int, default=1_000)
    parser.add_argument("--rate", type=float, default=200.0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=NODES, nats=3, environment=AS_IN_PRODUCTION) as cluster:
            await measure(cluster, arguments.sessions, arguments.rate)


if __name__ == "__main__":
    asyncio.run(main())
