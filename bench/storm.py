"""Reconnect storm: thousands of sessions come back to one node at once, without resume tokens and with them.

All connections are cut; meanwhile a part of the conversations gets a message; then all sessions come back. Measured
are the bytes of gRPC messages that clients sent and got until all were live again, how long that took, and the node.
"""

import argparse
import asyncio
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from hubbub.chat.v1 import chat_service_pb2_grpc
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.crowd import User, register, send
from bench.crowd_process import CLIENT_LOAD_MAX, ClientProcess, in_storm
from bench.figure import write_figure
from bench.process import cpu_s, resident_bytes
from bench.storm_clients import StormPlan
from tests.soak.api import open_channel
from tests.soak.outbox import uuid7
from tests.support.cluster import Cluster, Process

CLIENT_PROCESSES: Final = 2
ALL_LIVE_MAX_S: Final = 15.0
TOKENS_AFTER_S: Final = 75.0
"""Two head checks and a heartbeat: tokens cover everything then."""
_SAMPLE_S: Final = 0.2
_CREATED_AT_ONCE: Final = 8
_CREATED_WITHIN_S: Final = 60.0

Group = tuple[str, User]
"""A conversation, and one of its members."""


async def populate(cluster: Cluster, node: Process, options: argparse.Namespace) -> tuple[list[User], list[Group]]:
    """Makes users, and groups so that each user is in `conversations` of them."""
    users = await register(cluster.port, options.users)
    parts = [users[start : start + options.group_size] for start in range(0, len(users), options.group_size)]
    at_once = asyncio.Semaphore(_CREATED_AT_ONCE)
    async with open_channel(node.grpc_port) as channel, asyncio.TaskGroup() as tasks:
        stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)

        async def create(members: list[User]) -> Group:
            request = conversation_service_pb2.CreateConversationRequest(request_id=uuid7())
            request.group.title = "storm"
            request.group.user_ids.extend(user.user_id for user in members[1:])
            async with at_once:
                answer = await stub.CreateConversation(request, metadata=members[0].metadata, timeout=_CREATED_WITHIN_S)
            return answer.view.conversation.conversation_id, members[0]

        created = [tasks.create_task(create(part)) for _ in range(options.conversations) for part in parts]
    return users, [task.result() for task in created]


async def say_something(port: int, groups: list[Group]) -> None:
    """Sends one message to each of these groups."""
    async with open_channel(port) as channel:
        stub = chat_service_pb2_grpc.ChatServiceStub(channel)
        for group, user in groups:
            await send(stub, user, group, "x" * 100)


async def watch_memory(pid: int, peak: list[int]) -> None:
    """Keeps the largest resident memory of a process."""
    while True:
        peak[0] = max(peak[0], resident_bytes(pid))
        await asyncio.sleep(_SAMPLE_S)


async def storm(
    processes: list[ClientProcess], node: Process, news: list[Group], *, with_token: bool
) -> dict[str, Any]:
    """Cuts all sessions, lets some conversations move, and lets all come back."""
    for process in processes:
        await process.ask(op="cut")
    await say_something(node.grpc_port, news)
    peak = [resident_bytes(node.pid)]
    pids = [node.pid, *(process.pid for process in processes)]
    before_s, begin = [cpu_s(pid) for pid in pids], time.monotonic()
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(watch_memory(node.pid, peak))
        answers = await asyncio.gather(*(process.ask(op="storm", with_token=with_token) for process in processes))
        watching.cancel()
    elapsed_s = time.monotonic() - begin
    node_s, *clients_s = [cpu_s(pid) - before for pid, before in zip(pids, before_s, strict=True)]
    errors = sum((Counter(answer["errors"]) for answer in answers), Counter[str]())
    return {
        "all_live_s": round(max(answer["live_s"] for answer in answers), 2),
        **{name: sum(answer[name] for answer in answers) for name in ("sent_bytes", "received_bytes", "heads")},
        "syncs": sum(answer["syncs"] for answer in answers),
        "errors": dict(errors),
        "node_cpu_s": round(node_s, 2),
        "node_peak_mib": round(peak[0] / 2**20),
        "busiest_client_load": round(max(clients_s) / elapsed_s, 2),
    }


def _holds(measured: dict[str, Any]) -> bool:
    is_client_idle = measured["busiest_client_load"] < CLIENT_LOAD_MAX
    return is_client_idle and measured["all_live_s"] <= ALL_LIVE_MAX_S and not measured["errors"]


async def measure(options: argparse.Namespace, cluster: Cluster) -> None:
    """Measures both storms on one instance and keeps the figure."""
    node = cluster.processes("node")[0]
    users, groups = await populate(cluster, node, options)
    port = node.grpc_port if options.transport == "grpc.aio" else node.stream_port
    news = groups[:: max(1, round(1 / options.moved))]
    plan = StormPlan(port, tuple(user.token for user in users), options.sessions // CLIENT_PROCESSES)
    async with in_storm([plan] * CLIENT_PROCESSES) as processes:
        rounds = {}
        for with_token in (False, True):
            await asyncio.sleep(TOKENS_AFTER_S)
            name = "with_tokens" if with_token else "without_tokens"
            rounds[name] = await storm(processes, node, news, with_token=with_token)
            print(name, rounds[name], flush=True)
        tokens = sum([(await process.ask(op="tokens"))["tokens"] for process in processes])
    without, tokened = rounds["without_tokens"], rounds["with_tokens"]
    write_figure(
        "storm" if options.sessions >= 5_000 else f"storm_{options.sessions}",
        f"python -m bench.storm --sessions {options.sessions} --users {options.users}",
        {
            "what": f"{options.sessions} sessions of {options.users} users with {options.conversations} conversations "
            f"each come back to one node at once ({options.transport}); {len(news)} of {len(groups)} have news",
            "sessions_with_token": tokens,
            **rounds,
            "received_ratio": round(without["received_bytes"] / tokened["received_bytes"], 1),
        },
        holds=all(map(_holds, rounds.values())),
    )


async def main() -> None:
    """Runs an instance and measures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sessions", type=int, default=5_000)
    parser.add_argument("--users", type=int, default=500)
    parser.add_argument("--conversations", type=int, default=50, help="of each user")
    parser.add_argument("--group-size", type=int, default=10)
    parser.add_argument("--moved", type=float, default=0.05, help="part of the conversations that have news")
    parser.add_argument("--transport", choices=("edge", "grpc.aio"), default="edge")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            await measure(options, cluster)


if __name__ == "__main__":
    asyncio.run(main())
