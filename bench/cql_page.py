"""A page of 50 on CQL at 1 K, 100 K and 1 M messages of one conversation, beside the bare driver's read of its rows.

The conversations are written by the projection, as workers do it, and counted; then the server is started again, so
that all rows lie in files and none in its write buffer. Pages are read one at a time, at random places and at the
newest end. A round reads one page of each size and kind twice, by the adapter and by the driver, in random order, so
that whatever disturbs the machine disturbs all alike. The driver executes its own prepared statement for each bucket
that the page touches and gets tuples, of which nothing is made.
"""

import argparse
import asyncio
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from cassandra.cluster import Session

from bench.figure import machine, percentile, versions, write_figure
from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.schema import bucket_of
from hubbub_server.adapters.cql.store import open_projection, open_stores
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.ids import ConversationId
from hubbub_server.ports.projection import ProjectionBatch
from tests.support.cassandra import CassandraServer, cassandra_server
from tests.support.rows import conversation_id, message_row, shard_row

SIZES = (1_000, 100_000, 1_000_000)
PAGE = 50
ROUNDS = 1_000
WARM_UP_ROUNDS = 500
BODY = bytes(200)
BATCH = 2_000
BATCH_TIMEOUT_S = 120.0
TIMES_THE_DRIVER_MAX = 2.0
APART_MAX = 1.25
KINDS = ("random", "newest")
_BARE_READ = """
    SELECT message_number, position, commit_time_ms, body FROM messages
    WHERE conversation_id = ? AND bucket = ? AND message_number >= ? AND message_number <= ?"""


@dataclass(frozen=True)
class Place:
    """A kind of page in a conversation of a size."""

    topic_id: ConversationId
    size: int
    kind: str

    def draw(self) -> int:
        """Returns the number of a page's first message."""
        newest = self.size - PAGE + 1
        return newest if self.kind == "newest" else random.randint(1, newest)


@dataclass
class Taken:
    """How long the reads at a place took, in seconds."""

    ours: list[float] = field(default_factory=list)
    driver: list[float] = field(default_factory=list)


async def fill(server: CassandraServer, topic_id: ConversationId, size: int) -> None:
    """Writes a conversation as the projector does: batch by batch, each until it is stored."""
    async with open_projection(server.endpoint) as projection:
        for start in range(1, size + 1, BATCH):
            numbers = range(start, min(start + BATCH, size + 1))
            messages = [message_row(topic_id, number, body=BODY) for number in numbers]
            async with asyncio.timeout(BATCH_TIMEOUT_S):
                await _apply(projection, ProjectionBatch(messages=messages, shard=shard_row()))


async def _apply(projection: CqlProjection, batch: ProjectionBatch) -> None:
    while True:
        try:
            return await projection.apply(batch)
        except StoreUnavailable as error:
            print(f"once more: {error}", flush=True)
            await asyncio.sleep(error.retry_after_s)


def count(driver: Session, topic_id: ConversationId, size: int) -> int:
    """Counts the messages of a conversation, bucket by bucket."""
    prepared = driver.prepare("SELECT count(*) FROM messages WHERE conversation_id = ? AND bucket = ?")
    return sum(driver.execute(prepared, (topic_id, bucket)).one()[0] for bucket in range(bucket_of(size) + 1))


class Reader:
    """Reads pages in both ways and keeps how long that took."""

    def __init__(self, store: CqlMessageStore, driver: Session) -> None:
        self._store = store
        self._driver = driver
        self._prepared = driver.prepare(_BARE_READ)

    async def ours(self, topic_id: ConversationId, first: int) -> float:
        """Reads a page by the adapter; returns seconds."""
        begin = time.perf_counter()
        messages = await self._store.read_range(topic_id, first_number=first, last_number=first + PAGE - 1)
        taken = time.perf_counter() - begin
        assert [message.message_number for message in messages] == list(range(first, first + PAGE))
        return taken

    async def driver(self, topic_id: ConversationId, first: int) -> float:
        """Reads the same rows by the driver, which blocks; returns seconds."""
        last, rows = first + PAGE - 1, 0
        begin = time.perf_counter()
        for bucket in range(bucket_of(first), bucket_of(last) + 1):
            rows += len(self._driver.execute(self._prepared, (topic_id, bucket, first, last)).all())
        taken = time.perf_counter() - begin
        assert rows == PAGE
        return taken

    async def rounds(self, places: Sequence[Place], count: int) -> dict[Place, Taken]:
        """Reads a page at each place in each round, in both ways."""
        taken = {place: Taken() for place in places}
        for _ in range(count):
            reads = [(place, place.draw(), taken[place]) for place in places]
            for place, first, kept in random.sample(reads, len(reads)):
                ways = [(self.ours, kept.ours), (self.driver, kept.driver)]
                for read, seconds in random.sample(ways, len(ways)):
                    seconds.append(await read(place.topic_id, first))
        return taken


def judge(taken: Mapping[Place, Taken], counted: Mapping[int, int]) -> tuple[dict[str, Any], bool]:
    """Makes the figures of each kind of page by size and says whether the bounds were kept, on all messages."""
    kinds: dict[str, Any] = {}
    for kind in {place.kind: None for place in taken}:
        by_size = {str(place.size): _figures(kept) for place, kept in taken.items() if place.kind == kind}
        medians = [figures["median_ms"] for figures in by_size.values()]
        kinds[kind] = {
            "by_messages": by_size,
            "largest_median_over_smallest": round(max(medians) / min(medians), 2),
            "most_times_the_driver": max(figures["times_the_driver"] for figures in by_size.values()),
        }
    holds = all(
        figures["largest_median_over_smallest"] <= APART_MAX
        and figures["most_times_the_driver"] <= TIMES_THE_DRIVER_MAX
        for figures in kinds.values()
    )
    return kinds, holds and all(size == found for size, found in counted.items())


def _figures(kept: Taken) -> dict[str, float]:
    return {
        "median_ms": round(median(kept.ours) * 1000, 3),
        "p99_ms": round(percentile(kept.ours, 0.99) * 1000, 3),
        "driver_median_ms": round(median(kept.driver) * 1000, 3),
        "driver_p99_ms": round(percentile(kept.driver, 0.99) * 1000, 3),
        "times_the_driver": round(median(kept.ours) / median(kept.driver), 2),
    }


async def measure(server: CassandraServer, sizes: Sequence[int], rounds: int) -> None:
    """Fills, reads and keeps the figure."""
    server.admin()  # makes the tables
    begin = time.monotonic()
    for size in sizes:
        await fill(server, conversation_id(f"c{size}"), size)
        print(f"{size} messages are written after {time.monotonic() - begin:.1f} s", flush=True)
    filled_s = time.monotonic() - begin
    server.kill()
    server.start()
    server.wait_ready()
    driver = server.admin()
    counted = {size: count(driver, conversation_id(f"c{size}"), size) for size in sizes}
    async with open_stores(server.endpoint) as (store, *_):
        reader = Reader(store, driver)
        places = [Place(conversation_id(f"c{size}"), size, kind) for kind in KINDS for size in sizes]
        await reader.rounds(places, WARM_UP_ROUNDS)
        figures, holds = judge(await reader.rounds(places, rounds), counted)
    is_whole = tuple(sizes) == SIZES and rounds >= ROUNDS
    write_figure(
        "cql_page",
        "python -m bench.cql_page",
        {
            "what": f"a page of {PAGE} messages of {len(BODY)} bytes on one Cassandra node, one read at a time",
            "machine": machine(),
            "versions": versions(),
            "filled_by": "CqlProjection.apply, as the projector does it; the server was started again after it",
            "filled_s": round(filled_s, 1),
            "messages_counted": list(counted.values()),
            "rounds": rounds,
            **figures,
        },
        holds=holds if is_whole else None,
    )


async def main() -> None:
    """Runs a server and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    arguments = parser.parse_args()
    with cassandra_server() as server:
        await measure(server, arguments.sizes, arguments.rounds)


if __name__ == "__main__":
    asyncio.run(main())
