"""Every implementation of the store ports, for the contract suites. A new store joins by one entry in STORES."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass

from cassandra.cluster import Cluster

from hubbub_server.adapters.cql import store as cql_store
from hubbub_server.adapters.cql.cluster import CqlEndpoint, new_cluster
from hubbub_server.adapters.cql.event_store import CqlEventStore
from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.schema import migrate
from hubbub_server.adapters.cql.topic_directory import CqlTopicDirectory
from hubbub_server.adapters.sqlite.event_store import SqliteEventStore
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.adapters.sqlite.topic_directory import SqliteTopicDirectory
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.topic_directory import TopicDirectory
from tests.support.cassandra import DATACENTER
from tests.support.fakes.store import FakeStore
from tests.support.services import Services

_TABLES = ("events", "messages", "message_ids", "conversations", "user_topics", "applied_shards")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """The four ports of one store, open and empty."""

    projection: Projection
    messages: MessageStore
    events: EventStore
    directory: TopicDirectory


@asynccontextmanager
async def open_fake_store(services: Services) -> AsyncIterator[OpenStore]:
    """Opens the store in memory."""
    store = FakeStore()
    yield OpenStore(projection=store, messages=store, events=store, directory=store)


@asynccontextmanager
async def open_sqlite_store(services: Services) -> AsyncIterator[OpenStore]:
    """Opens a SQLite file in a new folder."""
    path = services.folder() / "store.db"
    async with SqliteProjection(path) as projection, open_reader(path) as reader:
        yield OpenStore(
            projection=projection,
            messages=SqliteMessageStore(reader),
            events=SqliteEventStore(reader),
            directory=SqliteTopicDirectory(reader),
        )


@asynccontextmanager
async def open_cql_store(services: Services) -> AsyncIterator[OpenStore]:
    """Empties the tables of the shared CQL server."""
    endpoint = cql_endpoint(services.cassandra().port)
    await asyncio.to_thread(empty_tables, endpoint)
    async with cql_store.open_writer(endpoint) as writer, cql_store.open_reader(endpoint) as reader:
        yield OpenStore(
            projection=CqlProjection(writer),
            messages=CqlMessageStore(reader),
            events=CqlEventStore(reader),
            directory=CqlTopicDirectory(reader),
        )


def cql_endpoint(port: int, *, keyspace: str = "hubbub_test") -> CqlEndpoint:
    """Returns where a server of the tests is."""
    return CqlEndpoint(contact_points=("127.0.0.1",), port=port, datacenter=DATACENTER, keyspace=keyspace)


def empty_tables(endpoint: CqlEndpoint) -> None:
    """Makes the tables or removes all that is in them; blocks."""
    if migrate(endpoint, replicas=1, tablets=None):
        return
    with shutting(new_cluster(endpoint)) as cluster:
        session = cluster.connect(endpoint.keyspace)
        for done in [session.execute_async(f"TRUNCATE {table}", timeout=60) for table in _TABLES]:
            done.result()


@contextmanager
def shutting(cluster: Cluster) -> Iterator[Cluster]:
    """Shuts a cluster of the driver down when the block ends."""
    try:
        yield cluster
    finally:
        cluster.shutdown()


STORES: dict[str, Callable[[Services], AbstractAsyncContextManager[OpenStore]]] = {
    "fake": open_fake_store,
    "sqlite": open_sqlite_store,
    "cql": open_cql_store,
}
