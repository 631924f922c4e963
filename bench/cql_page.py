"""A page of 50 on CQL: at 1 K, 100 K (and 1 M) messages of one conversation, beside the bare driver's read.

Pages lie at random places. The adapter's read and the driver's are taken in turn, on the same server and rows. The
driver's is `execute` of the same prepared statement for one bucket, rows as tuples, nothing made of them.
"""

import argparse
import asyncio
import random
import time
from statistics import median

from cassandra.cluster import Session

from bench.figure import machine, percentile, versions, write_figure
from hubbub_server.adapters.cql import message_store
from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.schema import ROWS_PER_BUCKET
from hubbub_server.adapters.cql.store import reading_session, writing_session
from hubbub_server.domain.ids import ConversationId
from hubbub_server.ports.projection import ProjectionBatch
from tests.support.cassandra import CassandraServer, cassandra_server
from tests.support.rows import conversation_id, message_row, shard_row

PAGE = 50
PAGES = 400
ROUNDS = 8
WARM_UP_PAGES = 300
BODY = bytes(200)
BATCH = 2_000
MOST_TIMES_THE_DRIVER = 2.0
MOST_APART = 1.25


async def fill(server: CassandraServer, topic_id: ConversationId, size: int) -> None:
    """Writes a conversation as the projector does."""
    async with writing_session(server.endpoint) as session:
        projection = CqlProjection(session)
        for start in range(1, size + 1, BATCH):
            numbers = range(start, min(start + BATCH, size + 1))
            await projection.apply(
                ProjectionBatch(
                    messages=[message_row(topic_id, number, body=BODY) for number in numbers], shard=shard_row()
                )
            )


def places(size: int, pages: int) -> list[tuple[int, int]]:
    """Draws pages within one bucket, as nearly all are, so that both sides read one partition."""
    drawn: list[tuple[int, int]] = []
    while len(drawn) < pages:
        first = random.randint(1, size - PAGE + 1)
        if first // ROWS_PER_BUCKET == (first + PAGE - 1) // ROWS_PER_BUCKET:
            drawn.append((first, first + PAGE - 1))
    return drawn


async def read_pages(
    store: CqlMessageStore, driver: Session, topic_id: ConversationId, size: int, pages: int
) -> tuple[list[float], list[float]]:
    """Returns seconds of the adapter's and of the driver's reads."""
    prepared = driver.prepare(message_store._RANGE)
    ours: list[float] = []
    bare: list[float] = []
    for first, last in places(size, pages):
        started = time.perf_counter()
        messages = await store.read_range(topic_id, first_number=first, last_number=last)
        ours.append(time.perf_counter() - started)
        started = time.perf_counter()
        rows = driver.execute(prepared, (topic_id, first // ROWS_PER_BUCKET, first, last)).all()
        bare.append(time.perf_counter() - started)
        assert len(messages) == len(rows) == PAGE
    return ours, bare


async def measure(server: CassandraServer, sizes: list[int]) -> None:
    """Fills, reads and keeps the figure. The sizes take turns: a server gets faster while it warms up."""
    driver = server.admin()
    topics = {size: conversation_id(f"c{size}") for size in sizes}
    filled_s = {}
    for size, topic_id in topics.items():
        begin = time.monotonic()
        await fill(server, topic_id, size)
        filled_s[size] = round(time.monotonic() - begin, 1)
        print(f"{size} messages written in {filled_s[size]} s", flush=True)
    ours: dict[int, list[float]] = {size: [] for size in sizes}
    bare: dict[int, list[float]] = {size: [] for size in sizes}
    async with reading_session(server.endpoint) as session:
        store = CqlMessageStore(session)
        for size, topic_id in topics.items():
            await read_pages(store, driver, topic_id, size, WARM_UP_PAGES)
        for _ in range(ROUNDS):
            for size, topic_id in topics.items():
                ours_now, bare_now = await read_pages(store, driver, topic_id, size, PAGES // ROUNDS)
                ours[size] += ours_now
                bare[size] += bare_now
    by_size = {size: {"filled_s": filled_s[size], **_figures(ours[size], bare[size])} for size in sizes}
    medians = [figures["median_ms"] for figures in by_size.values()]
    apart = max(medians) / min(medians)
    most = max(figures["times_the_driver"] for figures in by_size.values())
    write_figure(
        "cql_page",
        "python -m bench.cql_page",
        {
            "what": "a page of 50 messages of 200 bytes on one Cassandra node, one read at a time",
            "machine": machine(),
            "versions": versions(),
            "pages": PAGES,
            "by_messages": {str(size): figures for size, figures in by_size.items()},
            "largest_median_over_smallest": round(apart, 2),
            "most_times_the_driver": most,
        },
        holds=most <= MOST_TIMES_THE_DRIVER and apart <= MOST_APART,
    )


def _figures(ours: list[float], bare: list[float]) -> dict[str, float]:
    return {
        "median_ms": round(median(ours) * 1000, 3),
        "p99_ms": round(percentile(ours, 0.99) * 1000, 3),
        "driver_median_ms": round(median(bare) * 1000, 3),
        "times_the_driver": round(median(ours) / median(bare), 2),
    }


async def main() -> None:
    """Runs a server and measures on it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--sizes", type=int, nargs="+", default=[1_000, 100_000, 1_000_000])
    sizes = parser.parse_args().sizes
    with cassandra_server() as server:
        await measure(server, sizes)


if __name__ == "__main__":
    asyncio.run(main())
