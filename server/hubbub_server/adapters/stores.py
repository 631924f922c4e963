"""Opens the store of read models: SQLite, or CQL, whose driver is optional: it is imported when it is asked for.

`cql` are the fields of `cql.cluster.CqlEndpoint`; None means the SQLite file at `path`.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

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


class Stores(NamedTuple):
    """What nodes read from."""

    messages: MessageStore
    events: EventStore
    directory: TopicDirectory
    markers: MarkerStore


@asynccontextmanager
async def open_stores(path: Path, cql: Mapping[str, Any] | None) -> AsyncIterator[Stores]:
    """Opens the reading ports. The store need not be there yet: until it is, calls raise StoreUnavailable."""
    if cql is None:
        async with open_reader(path) as reader:
            yield Stores(
                SqliteMessageStore(reader),
                SqliteEventStore(reader),
                SqliteTopicDirectory(reader),
                SqliteMarkerStore(reader),
            )
        return
    from hubbub_server.adapters.cql import store  # noqa: PLC0415
    from hubbub_server.adapters.cql.cluster import CqlEndpoint  # noqa: PLC0415

    async with store.open_stores(CqlEndpoint(**cql)) as ports:
        yield Stores(*ports)


@asynccontextmanager
async def open_projection(path: Path, cql: Mapping[str, Any] | None) -> AsyncIterator[Projection]:
    """Opens the writing port. Only the worker does."""
    if cql is None:
        async with SqliteProjection(path) as projection:
            yield projection
        return
    from hubbub_server.adapters.cql import store  # noqa: PLC0415
    from hubbub_server.adapters.cql.cluster import CqlEndpoint  # noqa: PLC0415

    async with store.open_projection(CqlEndpoint(**cql)) as opened:
        yield opened


def migrate(cql: Mapping[str, Any] | None) -> str:
    """Makes the tables, or adds what they lack, and says what was done; blocks. Raises StoreUnavailable."""
    if cql is None:
        return "nothing to do: the worker migrates its SQLite file itself"
    from hubbub_server.adapters.cql import schema  # noqa: PLC0415
    from hubbub_server.adapters.cql.cluster import CqlEndpoint  # noqa: PLC0415

    steps = schema.migrate(CqlEndpoint(**cql))
    return f"the store has version {len(schema.MIGRATIONS)}, {steps} steps new"
