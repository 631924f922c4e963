"""What a CQL server does that the contract cannot say: write times, outages, hangs, overload, and its schema."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, TypeVar

import pytest
import pytest_asyncio
from cassandra.cluster import Session
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubbub_server.adapters.cql import schema
from hubbub_server.adapters.cql.cluster import new_cluster
from hubbub_server.adapters.cql.message_store import SELECTS, CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.session import CqlSession
from hubbub_server.adapters.cql.store import reading_session, writing_session
from hubbub_server.adapters.cql.timestamps import timestamp_of
from hubbub_server.adapters.cql.topic_directory import CqlTopicDirectory
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.events import MemberRole
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.ports.projection import ProjectionBatch
from tests.contract.test_projection import check_holds, deliveries, histories
from tests.support.cassandra import KEYSPACE, CassandraServer
from tests.support.rows import (
    SENDER,
    applied_row,
    block_row,
    client_id,
    conversation_id,
    conversation_row,
    entry_row,
    event_row,
    mark_row,
    member_row,
    membership_row,
    mention_row,
    message_row,
    messages_batch,
    reader_row,
    settings_row,
    shard_row,
    user_id,
)
from tests.support.services import Services
from tests.support.stores import OpenStore, open_cql_store
from tests.support.waiting import until

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(300)]

ROOM = conversation_id("croom")
ALICE = user_id("ualice")
T = TypeVar("T")


@pytest_asyncio.fixture
async def server(services: Services) -> CassandraServer:
    """The shared server, running, with empty tables."""
    server = services.cassandra()
    await start_ready(server)
    await asyncio.to_thread(server.empty_tables)
    return server


@pytest_asyncio.fixture
async def store(services: Services) -> AsyncIterator[OpenStore]:
    """The four ports on it."""
    async with open_cql_store(services) as opened:
        yield opened


async def start_ready(server: CassandraServer) -> None:
    server.start()
    await asyncio.to_thread(server.wait_ready)


async def until_served(call: Callable[[], Awaitable[T]], *, pause_s: float = 0.05) -> T:
    """Repeats a call until the store answers; it has a minute to come back."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await call()
            except StoreUnavailable:
                await asyncio.sleep(pause_s)


# ---- the timestamp law


async def write_times(session: Session, table: str) -> dict[str, set[int]]:
    """Returns the write times of every column that is no key, as the server has them."""

    def read() -> dict[str, set[int]]:
        columns = session.execute(
            "SELECT column_name, kind FROM system_schema.columns WHERE keyspace_name = %s AND table_name = %s",
            (KEYSPACE, table),
        )
        names = [name for name, kind in columns if kind in ("regular", "static")]
        return {
            name: {when for (when,) in session.execute(f"SELECT writetime({name}) FROM {table}") if when is not None}
            for name in names
        }

    return await asyncio.to_thread(read)


async def test_every_cell_on_the_server_carries_the_place_of_its_event(
    store: OpenStore, server: CassandraServer
) -> None:
    """Law: of all tables and columns that there are, so one that is added later is looked at too."""
    await store.projection.apply(
        ProjectionBatch(
            events=[event_row(ROOM, 2, epoch=3)],
            messages=[message_row(ROOM, 7, position=4, epoch=3)],
            conversations=[conversation_row(ROOM, 5, epoch=3)],
            settings=[settings_row(ROOM, 14, ReceiptsMode.OFF, epoch=3)],
            members=[member_row(ROOM, ALICE, 6, None, epoch=3)],
            memberships=[membership_row(ALICE, ROOM, 8, joined=True, epoch=3)],
            marks=[mark_row(ROOM, ALICE, 7, mention=8)],
            blocks=[block_row(ROOM, ALICE, 12, epoch=3)],
            mentions=[mention_row(ROOM, ALICE, 7, position=4, epoch=3)],
            entries=[entry_row(ALICE, "preferences", 8, epoch=3)],
            readers=[reader_row(ROOM, ALICE, 13, 7, epoch=3)],
            deliveries=[reader_row(ROOM, ALICE, 15, 7, epoch=3)],
            applied=[
                applied_row(ROOM, 9, epoch=3, id_floor_ms=70, has_unknown_event=True),
                applied_row(ALICE, 10, epoch=3, id_floor_ms=71, has_unknown_event=True),
            ],
            shard=shard_row(11, epoch=3),
        )
    )
    session = server.admin()
    positions = {
        "events": {"": 2},
        "messages": {"": 4},
        "message_ids": {"": 4},
        "conversations": {"": 6, "applied_": 9, "settings_": 5, "block": 12, "receipts_": 14},
        "user_topics": {"": 8, "applied_": 10},
        "mentions": {"": 4},
        "timed_mentions": {"": 4},
        "timed_mention_buckets": {},
        "readers": {"": 13},
        "deliveries": {"": 15},
        "applied_shards": {"": 11},
    }
    settings_columns = {"kind", "title", "creator_id", "creation_hash"}
    tables = await asyncio.to_thread(
        session.execute, "SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s", (KEYSPACE,)
    )

    assert {name for (name,) in tables} == {*positions, "schema_versions", "mentions_by_time"}  # the last: no writes
    for table, by_prefix in positions.items():
        for column, times in (await write_times(session, table)).items():
            named = f"settings_{column}" if table == "conversations" and column in settings_columns else column
            prefix = max((p for p in by_prefix if named.startswith(p)), key=len)
            is_merged = column == "applied_id_floor_ms" or column.startswith("mark_")
            expected = 0 if is_merged else timestamp_of(3, by_prefix[prefix])
            assert times == {expected}, f"{table}.{column}"
    versions = await write_times(session, "schema_versions")
    assert versions == {"statement": {timestamp_of(1, n) for n in range(1, len(schema.MIGRATIONS) + 1)}}


async def test_mentions_of_before_there_were_buckets_are_found(store: OpenStore, server: CassandraServer) -> None:
    """Among the others, by time; one that was projected again since is found once."""
    session = server.admin()
    before = (
        "INSERT INTO mentions_by_time (target, commit_time_ms, conversation_id, message_number, epoch, position,"
        " sender_id) VALUES (%s, %s, %s, %s, 1, %s, %s) USING TIMESTAMP %s"
    )
    for number in (1, 2):
        row = (str(ALICE), number, str(ROOM), number, number, SENDER, timestamp_of(1, number))
        await asyncio.to_thread(session.execute, before, row)
    rows = [mention_row(ROOM, ALICE, number) for number in (2, 3)]
    await store.projection.apply(ProjectionBatch(mentions=rows, shard=shard_row()))

    found = await store.markers.read_mentions_by_time(ALICE, before=None, limit=9)
    assert [mention.message_number for mention in found] == [3, 2, 1]
    assert await store.markers.read_mentions_by_time(ALICE, before=found[1], limit=9) == found[2:]


async def test_mentions_by_time_lie_in_partitions_of_thirty_days(store: OpenStore, server: CassandraServer) -> None:
    rows = [mention_row(ROOM, ALICE, day, time_ms=day * 24 * 3_600_000) for day in range(1, 91)]
    await store.projection.apply(ProjectionBatch(mentions=rows, shard=shard_row()))

    counts = await asyncio.to_thread(
        server.admin().execute, "SELECT count(*) FROM timed_mentions GROUP BY target, bucket"
    )
    assert sorted(count for (count,) in counts) == [1, 29, 30, 30]


async def test_change_without_its_creation_is_no_message(store: OpenStore, server: CassandraServer) -> None:
    """C52: a change that was projected first waits, unseen, for its creation, and is not overwritten by it."""
    session = server.admin()
    change = "UPDATE messages USING TIMESTAMP %s SET body = %s WHERE conversation_id = %s AND bucket = 0"
    await asyncio.to_thread(
        session.execute, f"{change} AND message_number = 1", (timestamp_of(1, 9), b"changed", str(ROOM))
    )

    assert await store.messages.read_range(ROOM, first_number=1, last_number=9) == []

    await store.projection.apply(messages_batch(ROOM, [1]))
    (message,) = await store.messages.read_range(ROOM, first_number=1, last_number=9)
    assert message.body == b"changed"


@given(data=st.data())
@settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
async def test_two_workers_at_once_end_in_the_same_rows(
    store: OpenStore, server: CassandraServer, data: st.DataObject
) -> None:
    """A worker that was thought dead goes on writing beside its successor: nothing orders their writes."""
    room, alice, batches = data.draw(histories())
    ways = [data.draw(deliveries(batches)) for _ in range(2)]

    async def work(projection: Any, delivered: list[ProjectionBatch]) -> None:
        for batch in delivered:
            await projection.apply(batch)

    async with writing_session(server.endpoint) as other, asyncio.TaskGroup() as group:
        group.create_task(work(store.projection, ways[0]))
        group.create_task(work(CqlProjection(other), ways[1]))

    await check_holds(store, batches, conversation_id(room), user_id(alice))


async def test_state_is_never_read_ahead_of_its_floor(store: OpenStore) -> None:
    """C15: members and floor come from one mutation; a reader in between would see who joined later."""
    members = 40
    done = asyncio.Event()

    async def write() -> None:
        for position in range(1, members + 1):
            await store.projection.apply(
                ProjectionBatch(
                    conversations=[conversation_row(ROOM)],
                    members=[member_row(ROOM, user_id(f"u{position}"), position, MemberRole.MEMBER)],
                    applied=[applied_row(ROOM, position)],
                    shard=shard_row(position),
                )
            )
        done.set()

    async def read() -> int:
        looks = 0
        while not done.is_set():
            stored = await store.directory.load(ROOM)
            if stored is not None:
                assert len(stored.state.members) == stored.applied.position  # type: ignore[union-attr]  # a room
                looks += 1
        return looks

    async with asyncio.TaskGroup() as group:
        reading = group.create_task(read())
        group.create_task(write())

    assert reading.result() > 0


async def test_batch_larger_than_a_mutation_may_be_is_written(store: OpenStore) -> None:
    """Servers refuse mutations of more than 16 MiB; a fetch of 100 records of 200 KiB is 20."""
    body = bytes(200 * 1024)
    await store.projection.apply(
        ProjectionBatch(
            events=[replace(event_row(ROOM, n), framed=body) for n in range(1, 101)],
            messages=[message_row(ROOM, n, body=body) for n in range(1, 101)],
            applied=[applied_row(ROOM, 100)],
            shard=shard_row(100),
        )
    )

    messages = await store.messages.read_range(ROOM, first_number=1, last_number=100)

    assert [len(message.body) for message in messages] == [len(body)] * 100
    assert len(await store.events.read_after(ROOM, after_position=0, limit=1_000)) == 100


# ---- outages


async def test_store_that_comes_later_and_goes_and_comes_back(server: CassandraServer) -> None:
    """G8: nodes start without the store, fail at once while it is away, and go on by themselves when it is there."""
    server.kill()
    async with reading_session(server.endpoint) as session, writing_session(server.endpoint) as writer:
        directory, projection = CqlTopicDirectory(session), CqlProjection(writer)
        with pytest.raises(StoreUnavailable):
            await directory.load(ROOM)
        with pytest.raises(StoreUnavailable):
            await projection.read_shard(0)

        await start_ready(server)
        await until_served(lambda: directory.load(ROOM))
        await until_served(lambda: projection.apply(messages_batch(ROOM, [1])))

        server.kill()
        for number in range(2, 22):
            with pytest.raises(StoreUnavailable):
                await directory.load(ROOM)
            with pytest.raises(StoreUnavailable):
                await projection.apply(messages_batch(ROOM, [number]))
        started_s = time.monotonic()
        with pytest.raises(StoreUnavailable):
            await directory.load(ROOM)
        assert time.monotonic() - started_s < 0.5

        await start_ready(server)
        stored = await until_served(lambda: directory.load(ROOM))
        assert stored is not None
        assert stored.applied.position == 1
        # Each batch is several writes, and an open breaker lets one of them through.
        await until_served(lambda: projection.apply(messages_batch(ROOM, [2])), pause_s=1.5)
        assert [
            m.message_number for m in await CqlMessageStore(session).read_range(ROOM, first_number=1, last_number=9)
        ] == [1, 2]


async def test_frozen_store_costs_a_few_timeouts_and_then_nothing(server: CassandraServer) -> None:
    """A server that hangs holds its connections open: the breaker refuses what would only wait."""
    session = CqlSession(server.endpoint, selects=SELECTS, read_timeout_s=0.3)
    async with session:
        store = CqlMessageStore(session)
        await store.read_range(ROOM, first_number=1, last_number=1)
        server.freeze()
        try:
            slow = 0
            while True:
                started_s = time.monotonic()
                with pytest.raises(StoreUnavailable) as error:
                    await store.read_range(ROOM, first_number=1, last_number=1)
                if "a moment ago" in str(error.value):
                    break
                slow += 1
            assert time.monotonic() - started_s < 0.1
            assert slow <= 6
        finally:
            server.thaw()
        await until_served(lambda: store.read_range(ROOM, first_number=1, last_number=1))


async def test_calls_that_were_given_up_leave_no_trace(server: CassandraServer) -> None:
    """Their answers come later and are dropped, and their slots are free again."""
    async with CqlSession(server.endpoint, selects=SELECTS, max_in_flight=4) as session:
        store = CqlMessageStore(session)
        for n in range(100):
            call = asyncio.ensure_future(store.read_range(conversation_id(f"c{n}"), first_number=1, last_number=1))
            await asyncio.sleep(0)
            call.cancel()
        await asyncio.gather(
            *(store.read_range(conversation_id(f"c{n}"), first_number=1, last_number=1) for n in range(8))
        )

        await until(lambda: session._slots._value == 4)


async def test_more_calls_than_may_wait_are_refused_at_once(server: CassandraServer) -> None:
    async with CqlSession(server.endpoint, selects=SELECTS, max_in_flight=2, max_waiting=10) as session:
        store = CqlMessageStore(session)
        outcomes = await asyncio.gather(
            *(store.read_range(conversation_id(f"c{n}"), first_number=1, last_number=1) for n in range(50)),
            return_exceptions=True,
        )

    refused = [outcome for outcome in outcomes if isinstance(outcome, StoreUnavailable)]
    assert len(refused) == 38
    assert all("too many" in str(error) for error in refused)
    assert [outcome for outcome in outcomes if not isinstance(outcome, StoreUnavailable)] == [[]] * 12


async def test_threads_end_with_the_session(server: CassandraServer) -> None:
    before = threading.active_count()
    async with reading_session(server.endpoint) as session:
        await CqlTopicDirectory(session).load(ROOM)
        assert threading.active_count() > before

    await until(lambda: threading.active_count() <= before)


async def test_closed_session_refuses(server: CassandraServer) -> None:
    async with reading_session(server.endpoint) as session:
        await CqlTopicDirectory(session).load(ROOM)

    with pytest.raises(StoreUnavailable, match="closed"):
        await CqlTopicDirectory(session).load(ROOM)


# ---- the schema


async def test_migrating_again_changes_nothing(server: CassandraServer) -> None:
    assert await asyncio.to_thread(schema.migrate, server.endpoint) == 0


async def test_interrupted_migration_is_finished_by_the_next_run(server: CassandraServer) -> None:
    """Also one that made tables or columns and could not say so any more. Until then nodes are refused, and say why."""
    endpoint = replace(server.endpoint, keyspace="hubbub_interrupted")

    def begin() -> None:
        cluster = new_cluster(endpoint)
        try:
            session = cluster.connect()
            session.execute(schema.keyspace_cql(endpoint), timeout=30)
            session.set_keyspace(endpoint.keyspace)
            session.execute(schema.MIGRATIONS[0], timeout=30)
        finally:
            cluster.shutdown()

    async with reading_session(endpoint) as session:
        with pytest.raises(StoreUnavailable, match="no keyspace: run `hubbub migrate`"):
            await CqlTopicDirectory(session).load(ROOM)
        await asyncio.to_thread(begin)
        assert await asyncio.to_thread(schema.migrate, endpoint) == len(schema.MIGRATIONS)
        server.admin().execute(f"TRUNCATE {endpoint.keyspace}.schema_versions", timeout=60)
        assert await asyncio.to_thread(schema.migrate, endpoint) == len(schema.MIGRATIONS)
        await until_served(lambda: CqlTopicDirectory(session).load(ROOM))


async def test_newer_tables_are_read_but_not_written(server: CassandraServer) -> None:
    """Migrate first, then the programs: old nodes go on, an old worker would leave new columns empty."""
    endpoint = replace(server.endpoint, keyspace="hubbub_newer")
    newer = len(schema.MIGRATIONS) + 1

    def add_version() -> None:
        schema.migrate(endpoint)
        server.admin().execute(
            f"INSERT INTO {endpoint.keyspace}.schema_versions (version, statement) VALUES (%s, %s) USING TIMESTAMP %s",
            (newer, "of a later program", timestamp_of(1, newer)),
        )

    await asyncio.to_thread(add_version)

    async with reading_session(endpoint) as session, writing_session(endpoint) as writer:
        assert await CqlTopicDirectory(session).load(ROOM) is None
        with pytest.raises(StoreUnavailable, match=f"version {newer}"):
            await CqlProjection(writer).read_shard(0)


async def test_id_is_found_by_its_own_sender_only(store: OpenStore) -> None:
    """Ids of other senders and conversations share slots."""
    await store.projection.apply(messages_batch(ROOM, range(1, 200)))

    lookup = await store.messages.find_ids(ROOM, [(SENDER, client_id(150)), (ALICE, client_id(151))])

    assert {key: entry.message_number for key, entry in lookup.found.items()} == {(SENDER, client_id(150)): 150}
