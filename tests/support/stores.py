"""Every implementation of the store ports, for the contract suites. A new store joins by one entry in STORES."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hubbub_server.adapters.sqlite.event_store import SqliteEventStore
from hubbub_server.adapters.sqlite.message_store import SqliteMessageStore
from hubbub_server.adapters.sqlite.projection import SqliteProjection
from hubbub_server.adapters.sqlite.reader import open_reader
from hubbub_server.adapters.sqlite.topic_directory import SqliteTopicDirectory
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.topic_directory import TopicDirectory
from tests.support.fakes.store import FakeStore


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenStore:
    """The four ports of one store, open and empty."""

    projection: Projection
    messages: MessageStore
    events: EventStore
    directory: TopicDirectory


@asynccontextmanager
async def open_fake_store(folder: Path) -> AsyncIterator[OpenStore]:
    """Opens the store in memory."""
    store = FakeStore()
    yield OpenStore(projection=store, messages=store, events=store, directory=store)


@asynccontextmanager
async def open_sqlite_store(folder: Path) -> AsyncIterator[OpenStore]:
    """Opens a SQLite file in `folder`."""
    path = folder / "store.db"
    async with SqliteProjection(path) as projection, open_reader(path) as reader:
        yield OpenStore(
            projection=projection,
            messages=SqliteMessageStore(reader),
            events=SqliteEventStore(reader),
            directory=SqliteTopicDirectory(reader),
        )


STORES: dict[str, Callable[[Path], AbstractAsyncContextManager[OpenStore]]] = {
    "fake": open_fake_store,
    "sqlite": open_sqlite_store,
}
