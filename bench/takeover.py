"""How long sends and live delivery pause when one part fails: each failure alone, on a whole cluster, 50 messages/s.

Clients are made of the SDK and stay for all failures. Of each failure: the slowest send and the longest time in which
no send was acknowledged; the latest message after its acknowledgement, and the longest time in which a client had no
live stream. A part that is killed is kept down for a while, but for nodes and Envoy, which come back by themselves.
"""

import argparse
import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.crowd_process import ClientProcess, in_session
from bench.figure import machine, versions, write_figure
from bench.rolling_restart import absences
from bench.sessions import SessionsPlan
from hubbub_server.domain.ids import TopicId, shard_of
from tests.support.cluster import Cluster, Process

SESSIONS: Final = 60
GROUP_SIZE: Final = 3
RATE_PER_S: Final = 50.0
SHARDS: Final = 8
BEFORE_S: Final = 5.0
AFTER_S: Final = 15.0
BACK_WITHIN_S: Final = 120.0


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One way to fail. `down_s`: how long it is kept down or frozen; 0: it comes back as soon as it can."""

    name: str
    roles: str
    """What fails: a role, of which one process, or "nats leader", or "all nats"."""
    down_s: float
    is_frozen: bool = False
    send_max_s: float | None = None
    """Longest pause of sends that the failure matrix of the design allows, where it names one."""
    live_max_s: float | None = None
    """Longest time that a client may be without its stream, where it names one."""


FAILURES: Final = (
    Failure(name="NATS leader killed", roles="nats leader", down_s=20.0, send_max_s=8.0),
    Failure(name="NATS leader frozen", roles="nats leader", down_s=20.0, is_frozen=True, send_max_s=12.0),
    Failure(name="all NATS restarted", roles="all nats", down_s=0.0),
    Failure(name="node killed", roles="node", down_s=0.0, live_max_s=5.0),
    Failure(name="worker killed", roles="worker", down_s=20.0),
    Failure(name="store stopped", roles="cassandra", down_s=20.0),
    Failure(name="Redis killed", roles="valkey", down_s=20.0),
    Failure(name="Envoy restarted", roles="envoy", down_s=0.0),
)


def longest_silence(times: Sequence[float], begin: float, end: float) -> float:
    """Returns the longest time between two of them, or between one and a bound of the window."""
    marks = [begin, *sorted(at for at in times if begin < at < end), end]
    return max(later - earlier for earlier, later in zip(marks, marks[1:], strict=False))


def row_of(failure: Failure, report: dict[str, Any], window: tuple[float, float]) -> dict[str, Any]:
    """Makes the figures of one failure from what the clients saw in a window from before it to after it."""
    sends = [(begin, end, error) for begin, end, error in report["sends"]]
    acknowledged = {begin: end for begin, end, error in sends if not error}
    after_ack = [heard - acknowledged[begin] for heard, begin in report["deliveries"] if begin in acknowledged]
    away, never_back = absences(report["ends"], report["lives"])
    failed = [error for _, _, error in sends if error]
    return {
        "failure": failure.name,
        "sends": len(sends),
        "failed_sends": len(failed),
        "first_failure": failed[0] if failed else "",
        "slowest_send_s": round(max(end - begin for begin, end, _ in sends), 2),
        "longest_without_an_ack_s": round(longest_silence(list(acknowledged.values()), *window), 2),
        "latest_after_ack_s": round(max(after_ack), 2),
        "sessions_cut": len(away),
        "longest_without_stream_s": round(max((each.end - each.begin for each in away), default=0.0), 2),
        "never_back": never_back,
        "missed": report["missed"],
        "repeated": report["repeated"],
    }


def keeps(failure: Failure, row: dict[str, Any]) -> bool:
    """Says whether a row is within what is promised."""
    return (
        not any(row[name] for name in ("failed_sends", "never_back", "missed", "repeated"))
        and row["slowest_send_s"] <= (failure.send_max_s or float("inf"))
        and row["longest_without_stream_s"] <= (failure.live_max_s or float("inf"))
    )


async def _leader(cluster: Cluster, topics: Sequence[str]) -> Process:
    """Returns the server that leads the shards of most of these conversations."""
    shards = [f"LOG_{shard_of(TopicId(topic), SHARDS)}" for topic in topics]
    async with asyncio.timeout(BACK_WITHIN_S):
        while True:
            with suppress(OSError, ValueError, KeyError):
                page = json.loads(
                    await cluster.read_page(cluster.processes("nats")[0], "http", "/jsz?accounts=true&streams=true")
                )
                streams = [each for account in page["account_details"] for each in account["stream_detail"]]
                leaders = {each["name"]: each["cluster"]["leader"] for each in streams}
                leads = [leaders[shard] for shard in shards]
                busiest = max(set(leads), key=leads.count)
                return next(each for each in cluster.processes("nats") if busiest.endswith(each.name))
            await asyncio.sleep(0.2)


async def _victims(cluster: Cluster, failure: Failure, topics: Sequence[str]) -> list[Process]:
    match failure.roles:
        case "nats leader":
            return [await _leader(cluster, topics)]
        case "all nats":
            return cluster.processes("nats")
        case role:
            return cluster.processes(role)[:1]


@contextmanager
def _failing(cluster: Cluster, failure: Failure, victims: Sequence[Process]) -> Iterator[None]:
    """Kills or freezes; at the end of the block all may come back."""
    if failure.is_frozen:
        for victim in victims:
            os.kill(victim.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for victim in victims:
                with suppress(ProcessLookupError):
                    os.kill(victim.pid, signal.SIGCONT)
        return
    held = victims if failure.down_s else ()
    for victim in held:
        cluster.hold(victim.name)
    try:
        for victim in victims:
            if not cluster.kill(victim):
                raise RuntimeError(f"{victim.name} was dead before it was killed")
        yield
    finally:
        for victim in held:
            cluster.release(victim.name)


async def strike(cluster: Cluster, failure: Failure, clients: ClientProcess) -> dict[str, Any]:
    """Lets one failure happen under load and returns its row."""
    topics = (await clients.ask(op="topics"))["topics"]
    await clients.ask(op="report")  # of before
    begin = time.monotonic()
    await clients.ask(op="send")
    await asyncio.sleep(BEFORE_S)
    victims = await _victims(cluster, failure, topics)
    with _failing(cluster, failure, victims):
        await asyncio.sleep(failure.down_s)
    await _all_back(cluster, [] if failure.is_frozen else victims)
    await asyncio.sleep(AFTER_S)
    end = time.monotonic()
    settled = await clients.ask(op="quiet")
    row = row_of(failure, await clients.ask(op="report") | settled, (begin, end))
    return {**row, "hit": ", ".join(each.name for each in victims), "down_s": failure.down_s}


async def _all_back(cluster: Cluster, victims: Sequence[Process]) -> None:
    """Waits until each of them has another life; that says not yet that it serves."""
    async with asyncio.timeout(BACK_WITHIN_S):
        while True:
            lives = {each.name: each.pid for each in cluster.processes()}
            if all(lives.get(victim.name, victim.pid) != victim.pid for victim in victims):
                return
            await asyncio.sleep(0.1)


async def measure(cluster: Cluster, chosen: Callable[[Failure], bool]) -> None:
    """Lets them happen one after the other and keeps the figure."""
    plan = SessionsPlan(cluster.port, SESSIONS, GROUP_SIZE, RATE_PER_S)
    rows: list[dict[str, Any]] = []
    async with in_session([plan]) as (clients,):
        for failure in filter(chosen, FAILURES):
            row = await strike(cluster, failure, clients)
            rows.append({**row, "keeps": keeps(failure, row)})
            print(json.dumps(rows[-1]), flush=True)
    write_figure(
        "takeover",
        "python -m bench.takeover",
        {
            "what": f"one failure at a time, {SESSIONS} clients of the SDK, {RATE_PER_S:g} messages/s, through Envoy",
            "machine": machine(),
            "versions": versions(),
            "rows": rows,
        },
        holds=all(row["keeps"] for row in rows) if len(rows) == len(FAILURES) else None,
    )


async def main() -> None:
    """Runs a cluster and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", default="", help="a part of the names of failures")
    only = parser.parse_args().only
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=3, workers=2, nats=3, store="cql", with_valkey=True) as cluster:
            await measure(cluster, lambda failure: only in failure.name)


if __name__ == "__main__":
    asyncio.run(main())
