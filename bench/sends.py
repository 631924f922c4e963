"""Durable sends to one node: how many there can be, into many conversations or one, and how long they take at a rate.

Sends are commands on streams of the edge, as clients send them, from sans-IO processes that stay below 70 % of a core;
each is acknowledged after its record is synced. As fast as can be: with a fixed number unanswered. At a rate: on a
schedule that waits for nobody, with times that count from when a send was due (coordinated omission). "Delivered" is
the moment at which a stream of the conversation hears it, the sender's own included.

For a trial: `--seconds`, `--rounds`, `--conversations`, `--only many|hot|latency`.
"""

import argparse
import asyncio
import itertools
import tempfile
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from bench.crowd import User, create_group, register
from bench.crowd_process import CLIENT_LOAD_MAX, ClientProcess, sending
from bench.figure import percentile, write_figure
from bench.process import cpu_s
from bench.senders import SendersPlan
from tests.support.cluster import Cluster

_USERS: Final = 20
_CLIENT_PROCESSES: Final = 2
_CONVERSATIONS: Final = 400
_WARM_UP_S: Final = 3.0
MANY_PER_S: Final = 5_000.0
HOT_PER_S: Final = 20_000.0
LATENCY_AT: Final = 1_000.0
LATENCY_P99_MS: Final = 15.0
RATES_PER_S: Final = (100.0, 500.0, LATENCY_AT, 2_000.0)
_MANY_WINDOW: Final = 512
_HOT_WINDOW: Final = 1_600


@dataclass(frozen=True, slots=True)
class Scene:
    """A running instance and its client processes."""

    cluster: Cluster
    processes: list[ClientProcess]
    seconds: float

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Lets all processes do the same; returns what they say together, with the CPU time of each server process."""
        servers = self.cluster.processes()
        before = [cpu_s(each.pid) for each in servers]
        answers = await asyncio.gather(*(each.ask(op="run", **command) for each in self.processes))
        used = [cpu_s(each.pid) - was for each, was in zip(servers, before, strict=True)]
        answered = sum(each["answered_in_time"] for each in answers)
        sent = sum(each["sent"] for each in answers)
        ack_ms = [ms for each in answers for ms in each["ack_ms"]] or [0.0]
        delivered_ms = [ms for each in answers for ms in each["delivered_ms"]] or [0.0]
        return {
            "per_s": sum(each["answered_in_time"] / each["seconds"] for each in answers),
            "kept_up": answered / sent if sent else 0.0,
            "failed": sum(sum(each["failed"].values()) for each in answers),
            "ack_p50_ms": percentile(ack_ms, 0.5),
            "ack_p99_ms": percentile(ack_ms, 0.99),
            "delivered_p50_ms": percentile(delivered_ms, 0.5),
            "delivered_p99_ms": percentile(delivered_ms, 0.99),
            "delivered_p999_ms": percentile(delivered_ms, 0.999),
            "busiest_client_load": max(each["client_cpu"] for each in answers),
            "cpu_us": {
                each.name: cpu_used / max(answered, 1) * 1e6 for each, cpu_used in zip(servers, used, strict=True)
            },
        }

    async def rounds(self, count: int, **command: Any) -> dict[str, Any]:
        """Measures again and again; returns the medians, and the worst of what must not be bad once."""
        await self.ask(seconds=_WARM_UP_S, **command)
        taken = [await self.ask(seconds=self.seconds, **command) for _ in range(count)]
        numbers = [name for name in taken[0] if name not in {"cpu_us", "failed", "busiest_client_load"}]
        return {
            **{name: round(median(each[name] for each in taken), 3) for name in numbers},
            "failed": sum(each["failed"] for each in taken),
            "busiest_client_load": round(max(each["busiest_client_load"] for each in taken), 2),
            "cpu_us_per_send": {
                name: round(median(each["cpu_us"][name] for each in taken)) for name in taken[0]["cpu_us"]
            },
            "rounds_per_s": [round(each["per_s"]) for each in taken],
        }


async def _conversations(cluster: Cluster, users: list[User], count: int) -> dict[User, list[str]]:
    """Makes conversations of two, evenly spread; returns those of each sender."""
    pairs = itertools.cycle(zip(users, [*users[1:], users[0]], strict=True))
    made: dict[User, list[str]] = {user: [] for user in users}
    for owner, other in itertools.islice(pairs, count):
        made[owner].append(await create_group(cluster.port, owner, [other]))
    return made


def _plans(cluster: Cluster, topics: dict[User, list[str]]) -> list[SendersPlan]:
    """Divides senders over the client processes."""
    port = cluster.processes("node")[0].stream_port
    senders = [(user.token, tuple(of_user)) for user, of_user in topics.items() if of_user]
    return [
        SendersPlan(port=port, by="stream", connections=2, senders=tuple(senders[index::_CLIENT_PROCESSES]))
        for index in range(_CLIENT_PROCESSES)
    ]


def _write(name: str, what: str, result: dict[str, Any], *, goal: dict[str, float], holds: bool) -> None:
    loads = [each["busiest_client_load"] for each in result.get("rates", {"": result}).values()]
    holds = holds and max(loads) < CLIENT_LOAD_MAX
    write_figure(name, "python -m bench.sends", {"what": what, **goal, **result}, holds=holds)


async def measure_many(cluster: Cluster, topics: dict[User, list[str]], seconds: float, rounds: int) -> None:
    """As many sends as one node takes, into many conversations."""
    async with sending(_plans(cluster, topics)) as processes:
        scene = Scene(cluster, processes, seconds)
        result = await scene.rounds(rounds, window=_MANY_WINDOW // _CLIENT_PROCESSES)
    count = sum(map(len, topics.values()))
    _write(
        "send_many",
        f"{_MANY_WINDOW} sends of 200 bytes unanswered at any time, into {count} conversations of two, one node",
        result,
        goal={"least_per_s": MANY_PER_S},
        holds=result["per_s"] >= MANY_PER_S and not result["failed"],
    )


async def measure_hot(cluster: Cluster, users: list[User], seconds: float, rounds: int) -> None:
    """As many sends as one conversation takes through one node."""
    pair = users[:_CLIENT_PROCESSES]
    topic = await create_group(cluster.port, pair[0], pair[1:])
    async with sending(_plans(cluster, {user: [topic] for user in pair})) as processes:
        scene = Scene(cluster, processes, seconds)
        result = await scene.rounds(rounds, window=_HOT_WINDOW // _CLIENT_PROCESSES)
    _write(
        "send_hot",
        f"{_HOT_WINDOW} sends of 200 bytes unanswered at any time, into one conversation, one node",
        result,
        goal={"least_per_s": HOT_PER_S},
        holds=result["per_s"] >= HOT_PER_S and not result["failed"],
    )


async def measure_latency(cluster: Cluster, topics: dict[User, list[str]], seconds: float, rounds: int) -> None:
    """Times of sends at fixed rates."""
    rates = {}
    async with sending(_plans(cluster, topics)) as processes:
        scene = Scene(cluster, processes, seconds)
        for rate_per_s in RATES_PER_S:
            rates[f"{rate_per_s:g}"] = await scene.rounds(rounds, rate_per_s=rate_per_s / _CLIENT_PROCESSES)
    asked = rates[f"{LATENCY_AT:g}"]
    _write(
        "send_latency",
        "sends of 200 bytes on a schedule, times from when each was due to its ack and to each stream that heard it",
        {"rates": rates},
        goal={"at_per_s": LATENCY_AT, "delivered_p99_ms_max": LATENCY_P99_MS},
        holds=asked["delivered_p99_ms"] <= LATENCY_P99_MS and not asked["failed"],
    )


async def main() -> None:
    """Runs an instance and measures on it."""
    parser = argparse.ArgumentParser(prog="bench.sends")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--conversations", type=int, default=_CONVERSATIONS)
    parser.add_argument("--only", nargs="*", default=["many", "hot", "latency"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            users = await register(cluster.port, _USERS)
            topics = await _conversations(cluster, users, options.conversations)
            if "many" in options.only:
                await measure_many(cluster, topics, options.seconds, options.rounds)
            if "hot" in options.only:
                await measure_hot(cluster, users, options.seconds, options.rounds)
            if "latency" in options.only:
                await measure_latency(cluster, topics, options.seconds, options.rounds)


if __name__ == "__main__":
    asyncio.run(main())
