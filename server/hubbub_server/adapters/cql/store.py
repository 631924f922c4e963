"""Opens the five ports on their sessions. The store need not be up: until it is, calls raise StoreUnavailable."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from hubbub_server.adapters.cql import event_store, marker_store, message_store, projection, topic_directory
from hubbub_server.adapters.cql.cluster import CqlEndpoint
from hubbub_server.adapters.cql.event_store import CqlEventStore
from hubbub_server.adapters.cql.marker_store import CqlMarkerStore
from hubbub_server.adapters.cql.message_store import CqlMessageStore
from hubbub_server.adapters.cql.projection import CqlProjection
from hubbub_server.adapters.cql.session import CqlSession
from hubbub_server.adapters.cql.topic_directory import CqlTopicDirectory


def reading_session(endpoint: CqlEndpoint) -> CqlSession:
    """Returns the session that the reading stores share."""
    modules = (event_store, marker_store, message_store, topic_directory)
    return CqlSession(endpoint, selects=[select for module in modules for select in module.SELECTS])


def writing_session(endpoint: CqlEndpoint) -> CqlSession:
    """Returns the session of the projection."""
    return CqlSession(endpoint, selects=projection.SELECTS, inserts=projection.INSERTS)


@asynccontextmanager
async def open_stores(
    endpoint: CqlEndpoint,
) -> AsyncIterator[tuple[CqlMessageStore, CqlEventStore, CqlTopicDirectory, CqlMarkerStore]]:
    """Opens what nodes read from."""
    async with reading_session(endpoint) as session:
        yield CqlMessageStore(session), CqlEventStore(session), CqlTopicDirectory(session), CqlMarkerStore(session)


@asynccontextmanager
async def open_projection(endpoint: CqlEndpoint) -> AsyncIterator[CqlProjection]:
    """Opens what the worker writes to."""
    async with writing_session(endpoint) as session:
        yield CqlProjection(session)
