"""What a SQLite file does that the contract cannot say: killed writers, files that come and go, hangs and overload."""

import asyncio
import os
import random
import signal
import sqlite3
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest

from hubbub_server.adapters.sqlite import event_store, message_store, topic_directory
from hubbub_server.adapters.sqlite.event_store import SqliteEventStore
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.adapters.sqlite.schema import MIGRATIONS
from hubbub_server.adapters.sqlite.topic_directory import SqliteTopicDirectory
from hubbub_server.domain.errors import StoreUnavailable
from tests.support.rows import conversation_id, messages_batch
from tests.support.waiting import until

pytestmark = pytest.mark.asyncio

ROOM = conversation_id("croom")
BATCH = 20
REPOSITORY = Path(__file__).resolve().parents[2]
WRITER = f"""
import asyncio, sys
from pathlib import Path
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from tests.support.rows import conversation_id, messages_batch

async def main():
    start = int(sys.argv[2])
    async with SqliteProjection(Path(sys.argv[1])) as projection:
        while True:
            await projection.apply(messages_batch(conversation_id("{ROOM}"), range(start, start + {BATCH})))
            start += {BATCH}
            print(start - 1, flush=True)

asyncio.run(main())
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store.db"


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


async def write_until_killed(path: Path, start: int, batches: int) -> int:
    """Runs a writer in a process of its own, kills it at some moment, and returns what it said was applied last."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), str(start), cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    applied = 0
    try:
        async with asyncio.timeout(20):
            for _ in range(batches):
                applied = int(await process.stdout.readline())
    finally:
        process.send_signal(signal.SIGKILL)
        rest = await process.stdout.read()
        await process.wait()
    return int(rest.split()[-1]) if rest else applied


async def test_killed_writer_leaves_whole_batches_and_what_it_confirmed(path: Path) -> None:
    """G8: the floor is never ahead of its rows, in another process, whenever the writer dies."""
    start = 1
    async with open_reader(path) as reader:
        directory, messages, events = SqliteTopicDirectory(reader), SqliteMessageStore(reader), SqliteEventStore(reader)
        for _ in range(6):
            writing = asyncio.create_task(write_until_killed(path, start, random.randint(1, 15)))
            looks = 0
            while not writing.done() or looks == 0:
                try:
                    applied = await directory.read_applied(ROOM)
                except StoreUnavailable:
                    continue
                if applied is None:
                    continue
                last = applied.position
                assert last % BATCH == 0
                rows = await messages.read_range(ROOM, first_number=last - BATCH + 1, last_number=last)
                assert [row.message_number for row in rows] == list(range(last - BATCH + 1, last + 1))
                assert len(await events.read_after(ROOM, after_position=last - BATCH, limit=BATCH)) == BATCH
                looks += 1
            confirmed = await writing
            applied = await directory.read_applied(ROOM)
            assert applied is not None
            assert applied.position >= confirmed
            start = applied.position + 1

        numbers = [
            row.message_number
            for first in range(1, start, 200)
            for row in await messages.read_range(ROOM, first_number=first, last_number=first + 199)
        ]
        assert numbers == list(range(1, start))


async def test_killed_writer_leaves_a_file_that_a_first_reader_can_open(path: Path) -> None:
    """The -wal and -shm files of the dead are there, and nobody has them open."""
    confirmed = await write_until_killed(path, 1, 3)

    async with open_reader(path) as reader:
        applied = await SqliteTopicDirectory(reader).read_applied(ROOM)

    assert applied is not None
    assert applied.position >= confirmed


async def test_reader_opens_a_file_that_was_closed_cleanly(path: Path) -> None:
    """Then there is no -wal file, and a read-only connection must manage without one."""
    async with SqliteProjection(path) as projection:
        await projection.apply(messages_batch(ROOM, [1]))
    assert os.listdir(path.parent) == [path.name]

    async with open_reader(path) as reader:
        assert await SqliteTopicDirectory(reader).read_applied(ROOM) is not None


async def test_reader_waits_for_the_file_without_a_restart(path: Path) -> None:
    """G8: a node starts before the worker has made the store."""
    async with open_reader(path) as reader:
        directory = SqliteTopicDirectory(reader)
        with pytest.raises(StoreUnavailable):
            await directory.load(ROOM)
        put(path, b"")
        with pytest.raises(StoreUnavailable):
            await directory.load(ROOM)

        async with SqliteProjection(path) as projection:
            await projection.apply(messages_batch(ROOM, [1]))
            assert await directory.load(ROOM) is not None


async def test_reader_follows_a_file_that_was_replaced(path: Path, tmp_path: Path) -> None:
    """A restored backup is read at once, not the ghost of the file before."""
    backup = tmp_path / "backup.db"
    async with SqliteProjection(backup) as projection:
        await projection.apply(messages_batch(ROOM, [1]))
    async with SqliteProjection(path) as projection:
        await projection.apply(messages_batch(ROOM, [1, 2]))
    async with open_reader(path) as reader:
        directory = SqliteTopicDirectory(reader)
        assert await directory.load(ROOM) is not None

        for suffix in ("-wal", "-shm"):
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        backup.rename(path)

        applied = await directory.read_applied(ROOM)
        assert applied is not None
        assert applied.position == 1


async def test_damaged_file_is_unavailable_until_it_is_repaired(path: Path, tmp_path: Path) -> None:
    put(path, b"this is no database, and it is longer than the header of one " * 100)
    async with open_reader(path) as reader:
        directory = SqliteTopicDirectory(reader)
        with pytest.raises(StoreUnavailable):
            await directory.load(ROOM)
        with pytest.raises(StoreUnavailable):
            async with SqliteProjection(path):
                pass

        os.unlink(path)
        async with SqliteProjection(path) as projection:
            await projection.apply(messages_batch(ROOM, [1]))
            assert await directory.load(ROOM) is not None


async def test_writer_never_makes_a_removed_file_anew(path: Path) -> None:
    """G1: what was acknowledged to the log would be missing in the new one."""
    async with SqliteProjection(path) as projection:
        await projection.apply(messages_batch(ROOM, [1]))
        for file in path.parent.iterdir():
            file.unlink()

        with pytest.raises(StoreUnavailable):
            await projection.apply(messages_batch(ROOM, [2]))

        assert os.listdir(path.parent) == []


async def test_writer_that_finds_the_file_locked_is_unavailable_and_then_goes_on(path: Path) -> None:
    async with SqliteProjection(path, timeout_s=0.3) as projection:
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreUnavailable):
                await projection.apply(messages_batch(ROOM, [1]))
            other.execute("ROLLBACK")

        await projection.apply(messages_batch(ROOM, [1]))


async def test_writers_that_open_a_new_file_at_once_wait_for_one_another(path: Path) -> None:
    """Two workers that start together: the one that comes second finds a lock that SQLite does not wait for."""
    first = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    first.execute("BEGIN IMMEDIATE")
    asyncio.get_running_loop().call_later(0.05, first.close)

    async with SqliteProjection(path) as second:
        assert await second.read_shard(0) is None


async def test_reader_is_not_kept_waiting_by_the_writer(path: Path) -> None:
    async with SqliteProjection(path) as projection, open_reader(path, timeout_s=0.5) as reader:
        await projection.apply(messages_batch(ROOM, [1]))
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            assert await SqliteTopicDirectory(reader).read_applied(ROOM) is not None


async def test_statement_that_takes_too_long_is_ended(path: Path) -> None:
    """A slow read costs its caller the time-out and the others nothing for longer."""
    endless = "WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT max(x) FROM n"
    async with SqliteProjection(path) as projection, open_reader(path, connections=1, timeout_s=0.3) as reader:
        await projection.apply(messages_batch(ROOM, [1]))
        with pytest.raises(StoreUnavailable):
            await reader.run(lambda connection: connection.execute(endless).fetchone())

        assert await SqliteTopicDirectory(reader).read_applied(ROOM) is not None


async def test_too_many_waiting_calls_are_refused_at_once(path: Path) -> None:
    """Every queue is bounded: two run, three wait, the next one hears so."""
    async with SqliteProjection(path), open_reader(path, connections=2, timeout_s=5, max_waiting=3) as reader:
        go = threading.Event()
        running = [asyncio.create_task(reader.run(lambda _: go.wait())) for _ in range(5)]
        await asyncio.sleep(0)
        with pytest.raises(StoreUnavailable, match="too many"):
            await reader.run(lambda _: None)
        go.set()

        assert await asyncio.gather(*running) == [True] * 5


async def test_hanging_disk_uses_up_the_slots_and_nothing_else(path: Path) -> None:
    """Calls fail in time while it hangs, no thread is added, and all is well afterwards."""
    async with SqliteProjection(path), open_reader(path, connections=2, timeout_s=0.1) as reader:
        disk = threading.Event()
        threads = threading.active_count()
        for _ in range(6):
            with pytest.raises(StoreUnavailable):
                await reader.run(lambda _: disk.wait(10))
        assert threading.active_count() <= threads + 2
        disk.set()

        async def works() -> bool:
            try:
                return await reader.run(lambda _: True)
            except StoreUnavailable:
                return False

        async with asyncio.timeout(5):
            while not await works():
                pass


async def test_cancelled_call_leaves_no_transaction_open(path: Path) -> None:
    async with SqliteProjection(path) as projection:
        for number in range(1, 30):
            applying = asyncio.create_task(projection.apply(messages_batch(ROOM, [number])))
            for _ in range(number % 5):
                await asyncio.sleep(0)
            applying.cancel()
            await asyncio.gather(applying, return_exceptions=True)

        await projection.apply(messages_batch(ROOM, [30]))
        async with open_reader(path) as reader:
            applied = await SqliteTopicDirectory(reader).read_applied(ROOM)

    assert applied is not None
    assert applied.position == 30


async def test_closed_store_is_unavailable(path: Path) -> None:
    async with SqliteProjection(path) as projection, open_reader(path) as reader:
        await projection.apply(messages_batch(ROOM, [1]))

    with pytest.raises(StoreUnavailable):
        await projection.apply(messages_batch(ROOM, [2]))
    with pytest.raises(StoreUnavailable):
        await SqliteTopicDirectory(reader).load(ROOM)


async def test_file_of_a_newer_version_is_refused_by_the_writer_and_left_as_it_is(path: Path) -> None:
    """New columns would stay empty for what this version projects."""
    newer = len(MIGRATIONS) + 1
    async with SqliteProjection(path) as projection:
        await projection.apply(messages_batch(ROOM, [1]))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"PRAGMA user_version = {newer}")

    with pytest.raises(StoreUnavailable, match=f"version {newer}"):
        async with SqliteProjection(path):
            pass

    async with open_reader(path) as reader:
        assert await SqliteTopicDirectory(reader).read_applied(ROOM) is not None


async def test_reopened_file_keeps_what_it_had(path: Path) -> None:
    for number in (1, 2, 3):
        async with SqliteProjection(path) as projection:
            await projection.apply(messages_batch(ROOM, [number]))

    async with open_reader(path) as reader:
        rows = await SqliteMessageStore(reader).read_range(ROOM, first_number=1, last_number=9)

    assert [row.message_number for row in rows] == [1, 2, 3]


async def test_what_was_applied_is_synced_to_the_disk(path: Path) -> None:
    """G1: it is acknowledged to the log right after. WAL syncs at each commit only with synchronous = FULL (2)."""
    async with SqliteProjection(path) as projection:
        settings = await projection._connections.run(
            lambda connection: [
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")
            ]
        )

    assert settings == ["wal", 2]


async def test_threads_end_with_the_store(path: Path) -> None:
    before = threading.active_count()
    async with SqliteProjection(path) as projection, open_reader(path) as reader:
        await projection.apply(messages_batch(ROOM, [1]))
        await SqliteTopicDirectory(reader).load(ROOM)
        assert threading.active_count() > before

    await until(lambda: threading.active_count() == before)


@pytest.mark.parametrize(
    ("statement", "key"),
    [
        (message_store._RANGE, "(conversation_id=? AND message_number>? AND message_number<?)"),
        (message_store._BY_CLIENT_ID, "(conversation_id=? AND sender_id=? AND client_message_id=?)"),
        (event_store._AFTER, "(topic_id=? AND position>?)"),
        (topic_directory._APPLIED, "(topic_id=?)"),
        (topic_directory._CONVERSATION, "(conversation_id=?)"),
        (topic_directory._MEMBERS, "(conversation_id=?)"),
        (topic_directory._MEMBERSHIPS, "(user_id=?)"),
    ],
)
async def test_read_goes_straight_to_its_rows(path: Path, statement: str, key: str) -> None:
    """The cost of a read does not grow with the conversation: by the whole key, without a scan or a sort."""
    async with SqliteProjection(path), open_reader(path) as reader:
        parameters = ("x",) * statement.count("?")
        plan = await reader.run(lambda c: c.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall())

    ((*_, step),) = plan
    assert step.startswith("SEARCH")
    assert step.endswith(key)
