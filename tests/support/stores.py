"""Every implementation of the store ports, for the contract suites. A new store joins by one entry in STORES."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass

from hubbub_server.adapters.cql.event_store import CqlEventStore
from hubbub_server.adapters.cql.marker_store import CqlMarkerStore
from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.store import reading_session, writing_session
from hubbub_server.adapters.cql.topic_directory import CqlTopicDirectory
from hubbub_server.adapters.sqlite.event_store import SqliteEventStore
from hubbub_server.adapters.sqlite.marker_store import SqliteMarkerStore
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.adapters.sqlite.topic_directory import SqliteTopicDirectory
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.marker_store import MarkerStore
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.topic_directory import TopicDirectory
from tests.support.fakes.store import FakeStore
from tests.support.services import Services


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """The five ports of one store, open and empty."""

    projection: Projection
    messages: MessageStore
    events: EventStore
    directory: TopicDirectory
    markers: MarkerStore


@asynccontextmanager
async def open_fake_store(services: Services) -> AsyncIterator[OpenStore]:
    """Opens the store in memory."""
    store = FakeStore()
    yield OpenStore(projection=store, messages=store, events=store, directory=store, markers=store)


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
            markers=SqliteMarkerStore(reader),
        )


@asynccontextmanager
async def open_cql_store(services: Services) -> AsyncIterator[OpenStore]:
    """Empties the tables of the shared CQL server."""
    server = services.cassandra()
    await asyncio.to_thread(server.empty_tables)
    async with writing_session(server.endpoint) as writer, reading_session(server.endpoint) as reader:
        yield OpenStore(
            projection=CqlProjection(writer),
            messages=CqlMessageStore(reader),
            events=CqlEventStore(reader),
            directory=CqlTopicDirectory(reader),
            markers=CqlMarkerStore(reader),
        )


STORES: dict[str, Callable[[Services], AbstractAsyncContextManager[OpenStore]]] = {
    "fake": open_fake_store,
    "sqlite": open_sqlite_store,
    "cql": open_cql_store,
}
