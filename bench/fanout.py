"""Fan-out, one table from one run: what each event that reaches a stream costs servers, ours and foreign ones.

Each target is started, measured and stopped, one after the other, under the same streams and texts. A *busy* topic
always has some texts in flight: the next one is sent when one is acknowledged, and a target gets as many as it bears
without losing streams. A *quiet* one gets a text now and then, on schedule, and each is acknowledged before the next is
due. CPU time is that of the processes that deliver, from /proc; what a send costs them is in it, and is also shown by
itself: it was measured before the streams were opened. Deliveries are counted at the clients, which must stay below
70 % of a core. Streams go straight to the server, as from a proxy, or through Envoy where a target says so.

For a trial: `--seconds`, `--rounds`, `--scale` of the connections, `--only` of the targets, `--cases`.
"""

import argparse
import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager
from dataclasses import asdict, dataclass, replace
from functools import partial
from statistics import median
from typing import Any, Final

from bench import centrifugo_target
from bench.crowd_process import CLIENT_LOAD_MAX, ClientProcess, receiving
from bench.figure import percentile, write_figure
from bench.hubbub_target import hubbub
from bench.process import cpu_s, resident_bytes
from bench.receivers import ReceiversPlan
from bench.target import Target

_CLIENT_PROCESSES: Final = 2
_WARM_UP_S: Final = 3.0
_SETTLE_S: Final = 3.0
_TEXT_BYTES: Final = 200

Send = Callable[[float], Awaitable[int]]
"""Sends for so many seconds, returns how many texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """How streams lie on connections, and the bounds that are promised for it."""

    figure: str
    connections: int
    streams_a_connection: int
    sends_per_s: float | None
    """Of a quiet topic; None: it is a busy one."""
    cpu_us_max: float | None
    kb_max: float | None
    """Resident memory of the server for each stream, in KB of 1,024 bytes."""
    least_ratios: dict[str, float]

    @property
    def streams(self) -> int:
        """Streams of all client processes."""
        return self.connections * self.streams_a_connection


@dataclass(frozen=True, slots=True, kw_only=True)
class Contestant:
    """A target and what it has done when it acknowledges."""

    name: str
    persists: str
    in_flight: int
    """Texts of a busy topic that are not acknowledged yet, at any time."""
    start: Callable[[], AbstractAsyncContextManager[Target]]


_OURS: Final = "one record in JetStream, written and synced to disk"
_CENTRIFUGO_IN_FLIGHT: Final = 2
"""With 4 it began to cut off streams as too slow."""
CONTESTANTS: Final = (
    Contestant(name="edge", persists=_OURS, in_flight=32, start=partial(hubbub, "edge")),
    Contestant(name="grpc.aio", persists=_OURS, in_flight=32, start=partial(hubbub, "grpc.aio")),
    Contestant(name="edge behind Envoy", persists=_OURS, in_flight=32, start=partial(hubbub, "envoy")),
    Contestant(
        name="centrifugo",
        persists="nothing: memory engine without history",
        in_flight=_CENTRIFUGO_IN_FLIGHT,
        start=partial(centrifugo_target.centrifugo, in_valkey=False),
    ),
    Contestant(
        name="centrifugo with history",
        persists="the newest 1,000 texts of a channel in Valkey, AOF synced to disk",
        in_flight=_CENTRIFUGO_IN_FLIGHT,
        start=partial(centrifugo_target.centrifugo, in_valkey=True),
    ),
)
CASES: Final = (
    Case(
        figure="fan_out",
        connections=50,
        streams_a_connection=20,
        sends_per_s=None,
        cpu_us_max=1.5,
        kb_max=None,
        least_ratios={"grpc.aio": 15.0, "centrifugo": 3.0, "centrifugo with history": 3.0},
    ),
    Case(
        figure="fan_out_quiet",
        connections=50,
        streams_a_connection=20,
        sends_per_s=12.0,
        cpu_us_max=None,
        kb_max=None,
        least_ratios={},
    ),
    Case(
        figure="fan_out_own_connections",
        connections=4_000,
        streams_a_connection=1,
        sends_per_s=None,
        cpu_us_max=12.0,
        kb_max=16.0,
        least_ratios={},
    ),
    Case(
        figure="fan_out_own_connections_quiet",
        connections=4_000,
        streams_a_connection=1,
        sends_per_s=3.0,
        cpu_us_max=None,
        kb_max=None,
        least_ratios={},
    ),
)


async def measure(case: Case, contestant: Contestant, seconds: float, rounds: int) -> dict[str, Any]:
    """Starts one target and measures one case on it."""
    async with contestant.start() as target:
        if case.sends_per_s is None:
            send: Send = partial(send_in_flight, target, contestant.in_flight)
        else:
            send = partial(send_steadily, target, case.sends_per_s)
        send_us = await _cost_of_a_send(target, send, seconds / 2)
        before_bytes = sum(map(resident_bytes, target.delivering))
        plan = ReceiversPlan(
            **asdict(target.opening),
            connections=case.connections // _CLIENT_PROCESSES,
            streams_a_connection=case.streams_a_connection,
        )
        async with receiving([plan] * _CLIENT_PROCESSES) as processes:
            await asyncio.sleep(_SETTLE_S)
            streams_bytes = sum(map(resident_bytes, target.delivering)) - before_bytes
            await send(_WARM_UP_S)
            taken = [await measure_round(target, processes, send, seconds) for _ in range(rounds)]
            gone = [end for each in taken for end in each["ended"]]
    result: dict[str, Any] = {
        name: round(median(each[name] for each in taken), digits) for name, digits in _COLUMNS.items()
    }
    return {
        "persists_before_its_ack": contestant.persists,
        "in_flight": contestant.in_flight if case.sends_per_s is None else 1,
        **result,
        "cpu_us_per_send": round(send_us),
        "cpu_us_beyond_sends": round(median(each["cpu_us"] - send_us / case.streams for each in taken), 2),
        "kb_per_stream": round(streams_bytes / case.streams / 1024, 1),
        "busiest_client_load": round(max(each["client_load"] for each in taken), 2),
        "streams_that_ended": len(gone),
        "rounds_cpu_us": [round(each["cpu_us"], 2) for each in taken],
    }


_COLUMNS: Final = {
    "cpu_us": 2,
    "cpu_us_with_others": 2,
    "deliveries_per_s": 0,
    "delivered_share": 4,
    "latency_p50_ms": 1,
    "latency_p99_ms": 1,
}


async def _cost_of_a_send(target: Target, send: Send, seconds: float) -> float:
    """Measures what a send costs the delivering processes when nobody but the sender listens, in µs."""
    await send(_WARM_UP_S)
    before_s = sum(map(cpu_s, target.delivering))
    sent = await send(seconds)
    return (sum(map(cpu_s, target.delivering)) - before_s) / sent * 1e6


async def measure_round(target: Target, processes: list[ClientProcess], send: Send, seconds: float) -> dict[str, Any]:
    """Measures one window of `send`; `processes` hear the topic."""
    before = [await process.ask(op="count") for process in processes]
    delivering_s, others_s = (sum(map(cpu_s, pids)) for pids in (target.delivering, target.others))
    begin_s = time.monotonic()
    sent = await send(seconds)
    took_s = time.monotonic() - begin_s
    used_s = sum(map(cpu_s, target.delivering)) - delivering_s
    others_used_s = sum(map(cpu_s, target.others)) - others_s
    after = [await process.ask(op="count") for process in processes]
    deliveries = sum(b["events"] - a["events"] for a, b in zip(before, after, strict=True))
    latencies_ms = [ms for each in after for ms in each["latencies_ms"]] or [0.0]
    return {
        "cpu_us": used_s / max(deliveries, 1) * 1e6,
        "cpu_us_with_others": (used_s + others_used_s) / max(deliveries, 1) * 1e6,
        "deliveries_per_s": deliveries / took_s,
        "delivered_share": deliveries / (sent * sum(each["streams"] for each in after)),
        "latency_p50_ms": percentile(latencies_ms, 0.5),
        "latency_p99_ms": percentile(latencies_ms, 0.99),
        "client_load": max(b["cpu_s"] - a["cpu_s"] for a, b in zip(before, after, strict=True)) / took_s,
        "ended": [end for each in after for end in each["ended"]],
    }


async def send_steadily(target: Target, sends_per_s: float, seconds: float) -> int:
    """Sends on schedule; a text carries the time at which it was due. Returns how many were sent."""
    begin_s = time.monotonic()
    count = round(sends_per_s * seconds)
    for number in range(count):
        due_s = begin_s + number / sends_per_s
        await asyncio.sleep(max(0.0, due_s - time.monotonic()))
        await target.send(f"{due_s} ".ljust(_TEXT_BYTES, "x"))
    await asyncio.sleep(max(0.0, begin_s + seconds - time.monotonic()))
    return count


async def send_in_flight(target: Target, in_flight: int, seconds: float) -> int:
    """Keeps so many texts in flight; a text carries the time at which it was sent. Returns how many were sent."""
    end_s = time.monotonic() + seconds
    sent = 0

    async def send_on() -> None:
        nonlocal sent
        while (now_s := time.monotonic()) < end_s:
            await target.send(f"{now_s} ".ljust(_TEXT_BYTES, "x"))
            sent += 1

    async with asyncio.TaskGroup() as tasks:
        for _ in range(in_flight):
            tasks.create_task(send_on())
    return sent


async def run(case: Case, seconds: float, rounds: int, scale: float, only: Collection[str]) -> None:
    """Measures a case on all targets and keeps the figure."""
    case = replace(case, connections=max(_CLIENT_PROCESSES, int(case.connections * scale)))
    rows = {}
    for contestant in CONTESTANTS:
        if contestant.name not in only:
            continue
        if contestant.name.startswith("centrifugo") and not centrifugo_target.is_possible():
            print(f"{contestant.name}: not measured, there is no Go to build it", flush=True)
            continue
        rows[contestant.name] = await measure(case, contestant, seconds, rounds)
        print(case.figure, contestant.name, rows[contestant.name], flush=True)
    if "edge" not in rows:
        return  # a trial
    ours = rows["edge"]
    ratios = {name: round(row["cpu_us"] / ours["cpu_us"], 1) for name, row in rows.items() if name != "edge"}
    write_figure(
        case.figure,
        "python -m bench.fanout",
        {
            "what": f"{case.streams} streams on {case.connections} connections, texts of {_TEXT_BYTES} bytes to all, "
            + ("as many as each bears" if case.sends_per_s is None else f"{case.sends_per_s:g} a second")
            + "; CPU of the processes that deliver",
            "cpu_us_max": case.cpu_us_max,
            "kb_max": case.kb_max,
            "targets": rows,
            "times_the_cpu_of_the_edge": ratios,
            "least_times": case.least_ratios,
            "window_s": seconds,
            "rounds": rounds,
        },
        holds=None
        if case.cpu_us_max is None
        else ours["cpu_us"] <= case.cpu_us_max
        and (case.kb_max is None or ours["kb_per_stream"] <= case.kb_max)
        and all(ratios.get(name, 0.0) >= least for name, least in case.least_ratios.items())
        and all(row["busiest_client_load"] < CLIENT_LOAD_MAX for row in rows.values()),
    )


async def main() -> None:
    """Reads the options; measures all cases."""
    parser = argparse.ArgumentParser(prog="bench.fanout")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=[contestant.name for contestant in CONTESTANTS])
    parser.add_argument("--cases", nargs="*", default=[case.figure for case in CASES])
    options = parser.parse_args()
    for case in CASES:
        if case.figure not in options.cases:
            continue
        await run(case, options.seconds, options.rounds, options.scale, options.only)


if __name__ == "__main__":
    asyncio.run(main())
