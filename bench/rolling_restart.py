"""Rolling restart: three nodes leave and come back one after the other, under load, behind Envoy.

1,000 clients made of the SDK, each a user with a connection of its own, ten to a conversation, send 200 messages a
second. Each node gets SIGTERM, leaves as it likes to, is started again by `up`; the next one follows when health says
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
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
from grpc_health.v1 import health_pb2

from bench.crowd_process import ClientProcess, in_session
from bench.figure import machine, percentile, versions, write_figure
from bench.process import cpu_s
from bench.sessions import SessionsPlan
from tests.soak.api import open_channel
from tests.support.cluster import Cluster, Process

NODES = 3
GROUP_SIZE = 10
AS_IN_PRODUCTION = {"HUBBUB_UP__NODES_LEAVE_AT_ONCE": "false"}
CLIENT_PROCESSES = 4
CALM_S = 15.0
BACK_WITHIN_S = 90.0
CPU_WINDOW_S = 5.0
LIVE_AGAIN_MAX_S = 5.0
SHARE_MAX = 0.1
CLIENT_CPU_MAX = 0.7


@dataclass(frozen=True)
class Absence:
    """A session without a live stream, from the end of one to the next that covers all topics."""

    begin: float
    end: float
    reason: str
    failed_tries: int = 0


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


def spread(times: Sequence[float]) -> list[int]:
    """Counts by second, from the first one on."""
    if not times:
        return []
    first = min(times)
    counts = Counter(int(at - first) for at in times)
    return [counts[second] for second in range(max(counts) + 1)]


@asynccontextmanager
async def load_watched(processes: Sequence[ClientProcess]) -> AsyncIterator[list[float]]:
    """Yields a list to which the load of the busiest process is added every few seconds, as a part of one core."""
    loads: list[float] = []

    async def watch() -> None:
        while True:
            before, begin = [cpu_s(each.pid) for each in processes], time.monotonic()
            await asyncio.sleep(CPU_WINDOW_S)
            used = [cpu_s(each.pid) - was for each, was in zip(processes, before, strict=True)]
            loads.append(max(used) / (time.monotonic() - begin))

    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch())
        yield loads
        watching.cancel()


async def restart(cluster: Cluster, node: Process) -> dict[str, Any]:
    """Ends a node with SIGTERM and waits until its next life serves."""
    begin = time.monotonic()
    os.kill(node.pid, signal.SIGTERM)
    async with asyncio.timeout(BACK_WITHIN_S):
        while not (again := [p for p in cluster.processes("node") if p.name == node.name and p.pid != node.pid]):  # noqa: ASYNC110
            await asyncio.sleep(0.1)  # processes tell nobody
        gone = time.monotonic()
        async with open_channel(again[0].grpc_port) as channel:
            while not await _serves(channel):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
    return {"node": node.name, "left_s": round(gone - begin, 1), "serves_after_s": round(time.monotonic() - begin, 1)}


async def _serves(channel: grpc.aio.Channel) -> bool:
    check = channel.unary_unary(
        "/grpc.health.v1.Health/Check",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    try:
        answer = await check(health_pb2.HealthCheckRequest(), timeout=2.0)
    except grpc.aio.AioRpcError:
        return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def run_load(
    cluster: Cluster, processes: Sequence[ClientProcess]
) -> tuple[list[dict[str, Any]], list[float], list[float]]:
    """Restarts all nodes under load; returns what came of each, when each began, and loads of the clients."""
    restarts: list[dict[str, Any]] = []
    begins: list[float] = []
    async with load_watched(processes) as loads:
        for process in processes:
            await process.ask(op="send")
        await asyncio.sleep(CALM_S)
        for node in cluster.processes("node"):
            begins.append(time.monotonic())
            restarts.append(await restart(cluster, node))
            print(restarts[-1], flush=True)
        await asyncio.sleep(CALM_S)
    return restarts, begins, loads


def judge(
    *,
    sends: Sequence[tuple[float, float, str]],
    away: Sequence[Absence],
    begins: Sequence[float],
    settled: dict[str, int],
    loads: Sequence[float],
) -> tuple[dict[str, Any], bool]:
    """Makes the figures and says whether the bounds were kept. `settled` counts what must not be."""
    failed = [error for _, _, error in sends if error]
    returns = [each.end for each in away]
    lengths = [each.end - each.begin for each in away]
    share = busiest_second(returns) / len(returns) if returns else 1.0
    by_restart = [
        [at for at in returns if begin <= at < end]
        for begin, end in zip(begins, [*begins[1:], float("inf")], strict=True)
    ]
    figures = {
        "sends": len(sends),
        "failed_sends": len(failed),
        "first_failure": failed[0] if failed else "",
        "sends_per_s": round(
            len(sends) / (max(begin for begin, _, _ in sends) - min(begin for begin, _, _ in sends)), 1
        ),
        "send_p50_ms": round(percentile([end - begin for begin, end, _ in sends], 0.5) * 1000, 1),
        "send_p99_ms": round(percentile([end - begin for begin, end, _ in sends], 0.99) * 1000, 1),
        "slowest_send_s": round(max(end - begin for begin, end, _ in sends), 2),
        "reconnects": len(returns),
        "reasons": dict(Counter(each.reason for each in away)),
        "tries_that_failed": sum(each.failed_tries for each in away),
        "live_again_p50_s": round(percentile(lengths, 0.5), 2) if lengths else None,
        "live_again_p99_s": round(percentile(lengths, 0.99), 2) if lengths else None,
        "live_again_max_s": round(max(lengths), 2) if lengths else None,
        "largest_share_of_a_second": round(share, 3),
        "reconnects_by_second_of_each_restart": [spread(times) for times in by_restart],
        "largest_share_within_one_restart": [round(busiest_second(t) / len(t), 3) if t else None for t in by_restart],
        **settled,
        "busiest_client_cpu": round(max(loads), 2),
        "client_cpu_by_window": [round(load, 2) for load in loads],
    }
    holds = (
        bool(returns)
        and not failed
        and not any(settled.values())
        and percentile(lengths, 0.99) <= LIVE_AGAIN_MAX_S
        and share <= SHARE_MAX
        and max(loads) < CLIENT_CPU_MAX
    )
    return figures, holds


async def measure(cluster: Cluster, sessions: int, rate_per_s: float) -> None:
    """Measures and keeps the figure."""
    share = sessions // CLIENT_PROCESSES
    plan = SessionsPlan(cluster.port, share, GROUP_SIZE, rate_per_s / CLIENT_PROCESSES)
    settled: Counter[str] = Counter()
    sends: list[tuple[float, float, str]] = []
    away: list[Absence] = []
    async with in_session([plan] * CLIENT_PROCESSES) as processes:
        print("all sessions are live", flush=True)
        for process in processes:
            await process.ask(op="report")  # of the opening
        restarts, begins, loads = await run_load(cluster, processes)
        for process in processes:
            settled.update(await process.ask(op="quiet"))
            report = await process.ask(op="report")
            sends += [(begin, end, error) for begin, end, error in report["sends"]]
            found, never = absences(report["ends"], report["lives"])
            away += found
            settled["never_back"] += never
    figures, holds = judge(sends=sends, away=away, begins=begins, settled=dict(settled), loads=loads)
    is_whole = sessions >= 1_000 and rate_per_s >= 200 and len(restarts) == NODES
    write_figure(
        "rolling_restart",
        "python -m bench.rolling_restart",
        {
            "what": f"{NODES} nodes restarted in turn, {sessions} sessions, {rate_per_s:g} messages/s, through Envoy",
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
    parser.add_argument("--nats", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=NODES, nats=arguments.nats, environment=AS_IN_PRODUCTION) as cluster:
            await measure(cluster, arguments.sessions, arguments.rate)


if __name__ == "__main__":
    asyncio.run(main())
