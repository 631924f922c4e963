"""The store is away for three minutes under load, all nodes are restarted meanwhile, and nothing is refused.

The nodes that were started without a store have none of 1,000 older conversations in memory, nobody who belongs to them
is connected, and then somebody sends into each, at a steady rate. Live delivery is measured at other clients, made of
the SDK, from the begin of a send; the time in which nodes leave and clients change to others is a phase of its own.
History has caught up when the store has applied, in every shard, what the log held when the store was let back.
"""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import grpc.aio
from hubbub.chat.v1 import chat_service_pb2_grpc, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.crowd import User, message, register
from bench.crowd_process import CLIENT_LOAD_MAX, Loads, in_session, load_watched
from bench.figure import machine, percentile, versions, write_figure
from bench.rolling_restart import AS_IN_PRODUCTION, restart
from bench.sessions import SessionsPlan
from hubbub_server.config import read_settings
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.supervisor.data_folder import DataFolder
from hubbub_server.wiring import Core, open_core
from tests.soak.api import open_channel, persist, reason_of, status_of
from tests.soak.outbox import uuid7
from tests.support.cluster import Cluster

DOWN_S = 180.0
COLD_TOPICS = 1_000
SESSIONS = 60
GROUP_SIZE = 3
RATE_PER_S = 50.0
COLD_PER_S = 25.0
MADE_AT_ONCE = 8
SETTLING_S = 10.0
BEFORE_S = 60.0
CAUGHT_UP_WITHIN_S = 300.0
CALL_TIMEOUT_S = 10.0
UNAFFECTED = 1.5
"""Largest ratio of the p99 of live delivery, without the store to with it, that counts as unaffected."""
WITHOUT_STORE = ("down", "cold_sends", "down_still")
"""Phases that are compared with "before"."""


@dataclass
class ColdSends:
    """What became of the sends into conversations that no node had in memory."""

    first_tries_refused: int = 0
    failures: list[str] = field(default_factory=list)
    took_s: list[float] = field(default_factory=list)
    """Of each that was acknowledged, with its repeats."""


@dataclass
class Course:
    """What was done, and when: phases by name, each from its begin to that of the next."""

    begins: dict[str, float] = field(default_factory=dict)
    restarts: list[dict[str, Any]] = field(default_factory=list)
    cold: ColdSends = field(default_factory=ColdSends)
    records_written_meanwhile: int = 0
    store_answers_after_s: float | None = None
    """Since it was let back, as `caught_up_after_s`; None: it did not."""
    caught_up_after_s: float | None = None

    def begin(self, phase: str) -> None:
        """Ends the phase before."""
        print(f"{phase} begins", flush=True)
        self.begins[phase] = time.monotonic()

    @property
    def windows(self) -> dict[str, tuple[float, float]]:
        """Begin and end of all phases but the last, which only ends the one before."""
        times = list(self.begins.values())
        return dict(zip(self.begins, pairwise(times), strict=False))


def judge(
    course: Course,
    *,
    deliveries: Sequence[tuple[float, float]],
    failed_sends: Sequence[str],
    settled: dict[str, int],
    loads: Loads,
) -> tuple[dict[str, Any], bool]:
    """Makes the figures and says whether the promise was kept. `settled` counts what must not be."""
    taken = {
        name: [(heard - sent) * 1000 for heard, sent in deliveries if begin <= sent < end]
        for name, (begin, end) in course.windows.items()
    }
    live = {
        name: {"seconds": round(course.windows[name][1] - course.windows[name][0], 1), **_delivery(each)}
        for name, each in taken.items()
    }
    ratios = {
        name: round(percentile(taken[name], 0.99) / percentile(taken["before"], 0.99), 2)
        for name in WITHOUT_STORE
        if taken["before"] and taken[name]
    }
    cold = course.cold
    figures = {
        "live_by_phase": live,
        "p99_over_before": ratios,
        "failed_live_sends": len(failed_sends),
        "first_failure": failed_sends[0] if failed_sends else "",
        **settled,
        "cold_sends": len(cold.took_s) + len(cold.failures),
        "cold_first_tries_refused": cold.first_tries_refused,
        "cold_failed": len(cold.failures),
        "cold_first_failure": cold.failures[0] if cold.failures else "",
        "cold_ms": _spread([taken_s * 1000 for taken_s in cold.took_s]),
        "records_written_meanwhile": course.records_written_meanwhile,
        "store_answers_after_s": course.store_answers_after_s,
        "caught_up_after_s": course.caught_up_after_s,
        **loads.figures(),
    }
    holds = (
        not (failed_sends or any(settled.values()) or cold.failures)
        and bool(cold.took_s)
        and len(ratios) == len(WITHOUT_STORE)
        and max(ratios.values()) <= UNAFFECTED
        and course.caught_up_after_s is not None
        and max(loads.clients) < CLIENT_LOAD_MAX
    )
    return figures, holds


def _delivery(taken_ms: list[float]) -> dict[str, Any]:
    return {"deliveries": len(taken_ms), **_spread(taken_ms)}


def _spread(values: list[float]) -> dict[str, float]:
    if not values:
        return {}
    return {
        "p50": round(percentile(values, 0.5), 1),
        "p99": round(percentile(values, 0.99), 1),
        "max": round(max(values), 1),
    }


async def make_topics(port: int, owner: User, count: int) -> list[str]:
    """Makes conversations of the owner alone, each with a message."""
    waiting = iter(range(count))
    topics: list[str] = []
    async with open_channel(port) as channel:
        conversations = conversation_service_pb2_grpc.ConversationServiceStub(channel)

        async def make() -> None:
            for _ in waiting:  # shared: each takes the next one
                request = conversation_service_pb2.CreateConversationRequest(request_id=uuid7())
                request.group.title = "cold"
                create = partial(
                    conversations.CreateConversation, request, metadata=owner.metadata, timeout=CALL_TIMEOUT_S
                )
                topic = (await persist(create)).view.conversation.conversation_id
                await persist(_sending(channel, owner, message(topic, "old")))
                topics.append(topic)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(MADE_AT_ONCE):
                tasks.create_task(make())
    return topics


def _sending(
    channel: grpc.aio.Channel, user: User, request: frame_pb2.SendMessageRequest
) -> Callable[[], Coroutine[Any, Any, frame_pb2.SendMessageResponse]]:
    """Returns a send that can be repeated."""
    stub = chat_service_pb2_grpc.ChatServiceStub(channel)

    async def send() -> frame_pb2.SendMessageResponse:
        answer: frame_pb2.SendMessageResponse = await stub.SendMessage(
            request, metadata=user.metadata, timeout=CALL_TIMEOUT_S
        )
        return answer

    return send


async def send_cold(port: int, owner: User, topics: Sequence[str], cold: ColdSends) -> None:
    """Sends one message into each; what is refused and may pass is repeated, as the SDK does, and counted."""

    async def send(topic: str) -> None:
        sending, begin = _sending(channel, owner, message(topic, "new")), time.monotonic()
        try:
            try:
                await sending()
            except grpc.aio.AioRpcError:
                cold.first_tries_refused += 1
                await persist(sending, for_s=60.0)
        except grpc.aio.AioRpcError as error:
            cold.failures.append(f"{error.code().name} {reason_of(status_of(error))}")
        else:
            cold.took_s.append(time.monotonic() - begin)

    due = time.monotonic()
    async with open_channel(port) as channel, asyncio.TaskGroup() as tasks:
        for topic in topics:
            tasks.create_task(send(topic))
            due += 1 / COLD_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))


async def log_ends(core: Core) -> list[int]:
    """Reads the last sequence of each shard's log."""
    return [(await core.log_shards.read_bounds(shard)).last_sequence for shard in range(core.shards)]


async def catch_up(core: Core, ends: Sequence[int]) -> tuple[float | None, float | None]:
    """Waits until the store has applied the log up to these ends, or for long enough.

    Returns the seconds until the store answered first, and until it had applied all; None for what never was.
    """
    begin = time.monotonic()
    answered_s: float | None = None
    for shard, end in enumerate(ends):
        applied = -1
        while applied < end:
            with suppress(StoreUnavailable):
                row = await core.directory.read_shard(shard)
                applied = row.sequence if row else 0
                answered_s = answered_s or round(time.monotonic() - begin, 1)
            if time.monotonic() - begin > CAUGHT_UP_WITHIN_S:
                return answered_s, None
            await asyncio.sleep(0.05)
    return answered_s, round(time.monotonic() - begin, 1)


async def outage(cluster: Cluster, core: Core, seconds: float, owner: User, topics: Sequence[str]) -> Course:
    """Keeps the store down for a time; meanwhile restarts all nodes, then sends into what none of them knows."""
    course = Course()
    course.begin("settling")
    await catch_up(core, await log_ends(core))  # with what was made for this run: it shall not slow what follows
    await asyncio.sleep(SETTLING_S)
    course.begin("before")
    await asyncio.sleep(min(BEFORE_S, seconds))
    (store,) = cluster.processes("cassandra")
    ends = await log_ends(core)
    cluster.hold(store.name)
    try:
        cluster.kill(store)
        course.begin("down")
        end = time.monotonic() + seconds
        await asyncio.sleep(seconds / 6)
        course.begin("restarts")
        before = cluster.processes("node")
        course.restarts = [await restart(cluster, node) for node in before]
        assert not {node.pid for node in before} & {node.pid for node in cluster.processes("node")}
        course.begin("cold_sends")
        await send_cold(cluster.port, owner, topics, course.cold)
        course.begin("down_still")
        await asyncio.sleep(max(seconds / 9, end - time.monotonic()))
        assert not cluster.processes("cassandra"), "the store came back too early"
        ends_now = await log_ends(core)
    finally:
        cluster.release(store.name)
    course.begin("catching_up")
    course.records_written_meanwhile = sum(ends_now) - sum(ends)
    course.store_answers_after_s, course.caught_up_after_s = await catch_up(core, ends_now)
    course.begin("end")
    return course


async def verify(cluster: Cluster) -> str:
    """Compares log and store: empty when they agree, else what `hubbub log verify` says."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "hubbub_server", "log", "verify", "--data", str(cluster.data)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    return "" if process.returncode == 0 else said.decode()[-500:]


async def measure(cluster: Cluster, seconds: float, count: int) -> None:
    """Takes the store away, and keeps the figure."""
    os.environ.update(DataFolder(cluster.data).read_settings())
    plan = SessionsPlan(cluster.port, SESSIONS, GROUP_SIZE, RATE_PER_S)
    async with in_session([plan]) as processes, AsyncExitStack() as stack:
        core = await open_core(stack, read_settings(), "bench", partial(print, "the log is gone for good"))
        (owner,) = await register(cluster.port, 1)
        topics = await make_topics(cluster.port, owner, count)
        (clients,) = processes
        await clients.ask(op="report")
        async with load_watched(processes) as loads:
            await clients.ask(op="send")
            course = await outage(cluster, core, seconds, owner, topics)
            settled = await clients.ask(op="quiet")
        report = await clients.ask(op="report")
        difference = await verify(cluster)
    figures, holds = judge(
        course,
        deliveries=report["deliveries"],
        failed_sends=[error for _, _, error in report["sends"] if error],
        settled=settled,
        loads=loads,
    )
    is_whole = seconds >= DOWN_S and count >= COLD_TOPICS
    write_figure(
        "store_down",
        "python -m bench.store_down",
        {
            "what": f"store killed and kept down for {seconds:g} s, 3 nodes restarted, then {count} cold conversations",
            "machine": machine(),
            "versions": versions(),
            "live_messages_per_s": RATE_PER_S,
            "cold_messages_per_s": COLD_PER_S,
            "restarts": course.restarts,
            **figures,
            "log_verify": difference,
        },
        holds=holds and not difference if is_whole else None,
    )


async def main() -> None:
    """Runs a cluster and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=DOWN_S)
    parser.add_argument("--topics", type=int, default=COLD_TOPICS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(
            Path(folder), nodes=3, workers=2, nats=3, store="cql", with_valkey=True, environment=AS_IN_PRODUCTION
        ) as cluster:
            await measure(cluster, arguments.seconds, arguments.topics)


if __name__ == "__main__":
    asyncio.run(main())
