"""What grows with the number of streams, members and messages: nothing should. Three curves.

* streams, 100 to 10,000 on the edge: CPU of the node for a send that all of them hear; what each further stream adds.
  A send has a cost of its own, so the curve is judged by its slope: from 100 to 1,000, and from 1,000 to 10,000. What
  streams cost by being there (heartbeats) is measured without sends, and not counted as a cost of sends.
* members, 10 to 1,000 in a conversation: CPU of the node for a send that one stream hears.
* messages, 1 K to 1 M in a conversation: a page of 50 at random places of the SQLite store (CQL: `bench.cql_page`).

For a trial: `--seconds`, `--rounds`, `--scale` of streams, members and messages, `--only streams|members|messages`.
"""

import argparse
import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, Final

from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from bench.crowd import User, create_group, register
from bench.crowd_process import receiving, sending
from bench.fanout import measure_round, send_steadily
from bench.figure import write_figure
from bench.hubbub_target import hubbub
from bench.process import cpu_s
from bench.receivers import ReceiversPlan
from bench.senders import SendersPlan
from bench.target import Target
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.ports.projection import ProjectionBatch
from tests.soak.api import open_channel
from tests.support.cluster import Cluster
from tests.support.rows import conversation_id, message_row, shard_row

APART_MAX: Final = 1.25
_STREAMS: Final = ((100, 20.0), (1_000, 12.0), (10_000, 2.0))
"""And sends a second: enough of both to be measured, and clients that are not busy."""
_STREAMS_A_CONNECTION: Final = 20
_MEMBERS: Final = (10, 100, 1_000)
_MEMBERS_A_CALL: Final = 400
_MEMBERS_SENDS_PER_S: Final = 50.0
_MESSAGES: Final = (1_000, 10_000, 100_000, 1_000_000)
_PAGE: Final = 50
_PAGES: Final = 1_000
_BATCH: Final = 2_000
_WARM_UP_S: Final = 3.0


def slopes(points: Sequence[tuple[int, float]]) -> list[float]:
    """Returns what each further one costs between neighbouring points of (how many, cost)."""
    return [
        (cost - cost_before) / (count - before) for (before, cost_before), (count, cost) in itertools.pairwise(points)
    ]


def largest_over_smallest(values: Sequence[float]) -> float:
    """Returns how far values are apart; infinite when one is not positive, which is noise."""
    return max(values) / min(values) if min(values) > 0 else float("inf")


async def measure_streams(seconds: float, rounds: int, scale: float) -> None:
    """Costs of a send by the number of streams that hear it, on one instance."""
    points: list[tuple[int, float]] = []
    idle_us: dict[str, int] = {}
    async with hubbub("edge") as target:
        for streams, sends_per_s in _STREAMS:
            connections = max(2, round(streams * scale / _STREAMS_A_CONNECTION))
            plan = ReceiversPlan(
                **asdict(target.opening),
                connections=connections // 2,
                streams_a_connection=_STREAMS_A_CONNECTION,
            )
            opened = connections // 2 * 2 * _STREAMS_A_CONNECTION
            async with receiving([plan] * 2) as processes:
                send = partial(send_steadily, target, sends_per_s)
                await send(_WARM_UP_S)
                idle_us[str(opened)] = round(await _idle_us(target, seconds))
                taken = [await measure_round(target, processes, send, seconds) for _ in range(rounds)]
            all_of_it_us = median(each["cpu_us"] for each in taken) * opened
            points.append((opened, all_of_it_us - idle_us[str(opened)] / sends_per_s))
            print(f"{opened} streams: {points[-1][1]:.0f} us a send", flush=True)
    added_us = slopes(points)
    _write(
        "growth_streams",
        "CPU of the node for a send of 200 bytes, by the number of streams of the edge that hear it",
        {
            "cpu_us_per_send": {str(count): round(cost) for count, cost in points},
            "cpu_us_a_second_without_sends": idle_us,
            "cpu_us_that_a_stream_adds": [round(each, 2) for each in added_us],
        },
        added_us,
    )


async def _idle_us(target: Target, seconds: float) -> float:
    """Measures the CPU of a second without sends, in µs. Not for long: the stream that sends would count as silent."""
    before_s = sum(map(cpu_s, target.delivering))
    await asyncio.sleep(seconds)
    return (sum(map(cpu_s, target.delivering)) - before_s) / seconds * 1e6


async def measure_members(seconds: float, rounds: int, scale: float) -> None:
    """Costs of a send by the number of members of its conversation, on one instance."""
    costs: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        async with Cluster(Path(folder), nodes=1) as cluster:
            users = await register(cluster.port, round(_MEMBERS[-1] * scale))
            users.reverse()  # who sends is the one whose token was made last
            node = cluster.processes("node")[0]
            for count in (round(members * scale) for members in _MEMBERS):
                topic = await _big_group(cluster.port, users[:count])
                plan = SendersPlan(
                    port=node.stream_port, by="stream", connections=1, senders=((users[0].token, (topic,)),)
                )
                async with sending([plan]) as (process,):
                    await process.ask(op="run", seconds=_WARM_UP_S, rate_per_s=_MEMBERS_SENDS_PER_S)
                    taken = []
                    for _ in range(rounds):
                        before_s = cpu_s(node.pid)
                        answer = await process.ask(op="run", seconds=seconds, rate_per_s=_MEMBERS_SENDS_PER_S)
                        taken.append((cpu_s(node.pid) - before_s) / answer["sent"] * 1e6)
                costs[str(count)] = median(taken)
                print(f"{count} members: {costs[str(count)]:.0f} us a send", flush=True)
    _write(
        "growth_members",
        "CPU of the node for a send of 200 bytes that one stream hears, by the number of members",
        {"cpu_us_per_send": {count: round(cost) for count, cost in costs.items()}},
        list(costs.values()),
    )


async def _big_group(port: int, users: list[User]) -> str:
    """Makes a group; a call takes only so many members."""
    first, rest = users[1:_MEMBERS_A_CALL], users[_MEMBERS_A_CALL:]
    topic = await create_group(port, users[0], first)
    async with open_channel(port) as channel:
        stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)
        for start in range(0, len(rest), _MEMBERS_A_CALL):
            user_ids = [user.user_id for user in rest[start : start + _MEMBERS_A_CALL]]
            request = conversation_service_pb2.AddMembersRequest(conversation_id=topic, user_ids=user_ids)
            await stub.AddMembers(request, metadata=users[0].metadata, timeout=10.0)
    return topic


async def measure_messages(pages: int, scale: float) -> None:
    """Times of a page by the number of messages, on one SQLite file with a conversation of each size."""
    sizes = [round(size * scale) for size in _MESSAGES]
    taken: dict[int, list[float]] = {size: [] for size in sizes}
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        path = Path(folder) / "store.sqlite"
        async with SqliteProjection(path) as projection:
            for size in sizes:
                await _fill(projection, size)
                print(f"{size} messages are written", flush=True)
        async with open_reader(path) as reader:
            store = SqliteMessageStore(reader)
            for _ in range(pages):
                for size in random.sample(sizes, len(sizes)):  # whatever disturbs the machine disturbs all alike
                    taken[size].append(await _read_page(store, size))
    medians_us = [median(taken[size]) * 1e6 for size in sizes]
    _write(
        "growth_messages",
        f"a page of {_PAGE} messages of 200 bytes at random places of a SQLite file, one read at a time",
        {"page_median_us": {str(size): round(each) for size, each in zip(sizes, medians_us, strict=True)}},
        medians_us,
    )


async def _fill(projection: SqliteProjection, size: int) -> None:
    topic_id = conversation_id(f"c{size}")
    for start in range(1, size + 1, _BATCH):
        numbers = range(start, min(start + _BATCH, size + 1))
        messages = [message_row(topic_id, number, body=bytes(200)) for number in numbers]
        await projection.apply(ProjectionBatch(messages=messages, shard=shard_row()))


async def _read_page(store: SqliteMessageStore, size: int) -> float:
    first = random.randint(1, size - _PAGE + 1)
    begin = time.perf_counter()
    messages = await store.read_range(conversation_id(f"c{size}"), first_number=first, last_number=first + _PAGE - 1)
    taken_s = time.perf_counter() - begin
    assert len(messages) == _PAGE
    return taken_s


def _write(name: str, what: str, curve: dict[str, Any], judged: Sequence[float]) -> None:
    apart = largest_over_smallest(judged)
    figures = {"what": what, "apart_max": APART_MAX, **curve, "largest_over_smallest": round(min(apart, 999.0), 2)}
    write_figure(name, "python -m bench.growth", figures, holds=apart <= APART_MAX)


async def main() -> None:
    """Reads the options; measures the curves."""
    parser = argparse.ArgumentParser(prog="bench.growth")
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    parser.add_argument("--only", nargs="*", default=["streams", "members", "messages"])
    options = parser.parse_args()
    if "streams" in options.only:
        await measure_streams(options.seconds, options.rounds, options.scale)
    if "members" in options.only:
        await measure_members(options.seconds, options.rounds, options.scale)
    if "messages" in options.only:
        await measure_messages(_PAGES, options.scale)


if __name__ == "__main__":
    asyncio.run(main())
