"""The store is away for three minutes under load, all nodes are restarted meanwhile, and nothing is refused.

The nodes that were started without a store have none of 1,000 older conversations in memory, nobody who belongs to them
is connected, and then somebody sends into each. Live delivery is measured at other clients, from the begin of a send,
before and during the outage; the restart itself, in which clients change nodes, is a phase of its own.
"""

import argparse
import asyncio
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc.aio
from hubbub.chat.v1 import chat_service_pb2_grpc, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.crowd import User, message, register
from bench.crowd_process import ClientProcess, in_session
from bench.figure import machine, percentile, versions, write_figure
from bench.rolling_restart import AS_IN_PRODUCTION, restart
from bench.sessions import SessionsPlan
from tests.soak.api import open_channel, persist, reason_of, status_of
from tests.soak.outbox import uuid7
from tests.support.cluster import Cluster

SESSIONS: Final = 60
GROUP_SIZE: Final = 3
RATE_PER_S: Final = 50.0
AT_ONCE: Final = 8
SHARDS: Final = 8
BEFORE_S: Final = 60.0
CAUGHT_UP_WITHIN_S: Final = 300.0
CALL_TIMEOUT_S: Final = 10.0
UNAFFECTED: Final = 1.5
"""Largest ratio of the p99 of live delivery, without the store to with it, that counts as unaffected."""


@dataclass
class ColdSends:
    """What became of the sends into conversations that no node had in memory."""

    first_tries_refused: int = 0
    failed: int = 0
    first_failure: str = ""
    took_s: tuple[float, ...] = ()


def delivery_ms(deliveries: Sequence[tuple[float, float]], begin: float, end: float) -> list[float]:
    """Returns how long messages took that were sent in a window, from the begin of the send, in milliseconds."""
    return [(heard - sent) * 1000 for heard, sent in deliveries if begin <= sent < end]


def judge(
    *,
    deliveries: Sequence[tuple[float, float]],
    phases: dict[str, tuple[float, float]],
    failed_sends: int,
    settled: dict[str, int],
    cold: ColdSends,
    caught_up: bool,
) -> tuple[dict[str, Any], bool]:
    """Makes the figures of live delivery by phase and says whether the promise was kept."""
    by_phase = {}
    for name, (begin, end) in phases.items():
        taken = delivery_ms(deliveries, begin, end)
        by_phase[name] = {
            "seconds": round(end - begin, 1),
            "deliveries": len(taken),
            "p50_ms": round(percentile(taken, 0.5), 1) if taken else None,
            "p99_ms": round(percentile(taken, 0.99), 1) if taken else None,
            "max_ms": round(max(taken), 1) if taken else None,
        }
    before = delivery_ms(deliveries, *phases["before"])
    during = [ms for name in ("down", "down_after_restarts") for ms in delivery_ms(deliveries, *phases[name])]
    ratio = percentile(during, 0.99) / percentile(before, 0.99) if before and during else float("inf")
    figures = {
        "live_by_phase": by_phase,
        "p99_during_over_before": round(ratio, 2),
        "failed_live_sends": failed_sends,
        **settled,
        "cold_first_tries_refused": cold.first_tries_refused,
        "cold_failed": cold.failed,
        "cold_first_failure": cold.first_failure,
        "cold_p50_ms": round(percentile(list(cold.took_s), 0.5) * 1000, 1) if cold.took_s else None,
        "cold_p99_ms": round(percentile(list(cold.took_s), 0.99) * 1000, 1) if cold.took_s else None,
    }
    is_kept = not (failed_sends or any(settled.values()) or cold.failed) and bool(cold.took_s)
    return figures, is_kept and caught_up and ratio <= UNAFFECTED


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
                call = partial(
                    conversations.CreateConversation, request, metadata=owner.metadata, timeout=CALL_TIMEOUT_S
                )
                topic = (await persist(call)).view.conversation.conversation_id
                await _send(channel, owner, message(topic, "old"))
                topics.append(topic)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(make())
    return topics


async def _send(channel: grpc.aio.Channel, user: User, request: frame_pb2.SendMessageRequest) -> None:
    stub = chat_service_pb2_grpc.ChatServiceStub(channel)
    await persist(partial(stub.SendMessage, request, metadata=user.metadata, timeout=CALL_TIMEOUT_S), for_s=60.0)


async def send_cold(port: int, owner: User, topics: Sequence[str]) -> ColdSends:
    """Sends one message into each by unary call; a refusal that passes is repeated, as the SDK does, and counted."""
    cold = ColdSends()
    taken: list[float] = []
    waiting = iter(topics)
    async with open_channel(port) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)

        async def send() -> None:
            for topic in waiting:  # shared: each takes the next one
                request, begin = message(topic, "new"), time.monotonic()
                try:
                    try:
                        await stub.SendMessage(request, metadata=owner.metadata, timeout=CALL_TIMEOUT_S)
                    except grpc.aio.AioRpcError:
                        cold.first_tries_refused += 1
                        await _send(channel, owner, request)
                except grpc.aio.AioRpcError as error:
                    cold.failed += 1
                    cold.first_failure = cold.first_failure or f"{error.code().name} {reason_of(status_of(error))}"
                else:
                    taken.append(time.monotonic() - begin)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(AT_ONCE):
                tasks.create_task(send())
    cold.took_s = tuple(taken)
    return cold


async def _lag(cluster: Cluster) -> float | None:
    """Adds up what the projectors have not applied; None while a shard has no projector that tells."""
    lags: dict[str, float] = {}
    for worker in cluster.processes("worker"):
        try:
            page = await cluster.read_metrics(worker)
        except (OSError, ValueError):
            return None
        for line in page.splitlines():
            if line.startswith("hubbub_worker_lag_records{") and 'role="projector"' in line:
                labels, _, value = line.rpartition(" ")
                lags[labels] = float(value)
    return sum(lags.values()) if len(lags) == SHARDS else None


async def _caught_up(cluster: Cluster) -> bool:
    """Waits until the projectors have nothing left; False when that takes too long."""
    end = time.monotonic() + CAUGHT_UP_WITHIN_S
    while time.monotonic() < end:
        if await _lag(cluster) == 0:
            return True
        await asyncio.sleep(0.25)
    return False


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
    plan = SessionsPlan(cluster.port, SESSIONS, GROUP_SIZE, RATE_PER_S)
    async with in_session([plan]) as (clients,):
        (owner,) = await register(cluster.port, 1)
        topics = await make_topics(cluster.port, owner, count)
        await clients.ask(op="report")
        await clients.ask(op="send")
        marks = [time.monotonic()]
        await asyncio.sleep(min(BEFORE_S, seconds))
        (store,) = cluster.processes("cassandra")
        marks.append(time.monotonic())
        restarts, cold, behind = await _outage(cluster, store.name, seconds, owner, topics, marks)
        released = time.monotonic()
        is_caught_up = await _caught_up(cluster)
        caught_up_s = time.monotonic() - released
        settled = await clients.ask(op="quiet")
        report = await clients.ask(op="report")
        difference = await verify(cluster) if is_caught_up else "not asked"
    phases = dict(zip(("before", "down", "restarts", "down_after_restarts"), zip(marks, marks[1:], strict=False), strict=True))
    figures, holds = judge(
        deliveries=report["deliveries"],
        phases=phases,
        failed_sends=sum(bool(error) for _, _, error in report["sends"]),
        settled=settled,
        cold=cold,
        caught_up=is_caught_up and not difference,
    )
    is_whole = seconds >= 180 and count >= 1_000
    write_figure(
        "store_down",
        "python -m bench.store_down",
        {
            "what": f"store killed and kept down for {seconds:g} s, 3 nodes restarted, then {count} cold conversations",
            "machine": machine(),
            "versions": versions(),
            "live_messages_per_s": RATE_PER_S,
            "restarts": restarts,
            "cold_topics": count,
            "records_behind_at_its_end": behind,
            "caught_up_s_after_release": round(caught_up_s, 1),
            "verify": difference,
            **figures,
        },
        holds=holds if is_whole else None,
    )


async def _outage(
    cluster: Cluster, store: str, seconds: float, owner: User, topics: Sequence[str], marks: list[float]
) -> tuple[list[dict[str, Any]], ColdSends, float | None]:
    """Keeps the store down for a time; meanwhile restarts all nodes, then sends into what none of them knows."""
    end = time.monotonic() + seconds
    cluster.hold(store)
    try:
        for process in cluster.processes("cassandra"):
            cluster.kill(process)
        await asyncio.sleep(seconds / 6)
        marks.append(time.monotonic())
        before = cluster.processes("node")
        restarts = [await restart(cluster, node) for node in before]
        assert not {node.pid for node in before} & {node.pid for node in cluster.processes("node")}
        print(restarts, flush=True)
        marks.append(time.monotonic())
        cold = await send_cold(cluster.port, owner, topics)
        assert not cluster.processes("cassandra"), "the store came back too early"
        await asyncio.sleep(max(0.0, end - time.monotonic()))
        behind = await _lag(cluster)
        marks.append(time.monotonic())
    finally:
        cluster.release(store)
    return restarts, cold, behind


async def main() -> None:
    """Runs a cluster and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--topics", type=int, default=1_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(
            Path(folder), nodes=3, workers=2, nats=3, store="cql", with_valkey=True, environment=AS_IN_PRODUCTION
        ) as cluster:
            await measure(cluster, arguments.seconds, arguments.topics)


if __name__ == "__main__":
    asyncio.run(main())
