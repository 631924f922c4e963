"""Opens a session for what the four ports need."""

from hubbub_server.adapters.cql import event_store, message_store, projection, topic_directory
from hubbub_server.adapters.cql.cluster import CqlEndpoint
from hubbub_server.adapters.cql.session import CqlSession


def open_reader(endpoint: CqlEndpoint) -> CqlSession:
    """Returns a session for the three reading stores; open it with `async with`. The store need not be up yet."""
    return CqlSession(endpoint, selects=(*event_store.SELECTS, *message_store.SELECTS, *topic_directory.SELECTS))


def open_writer(endpoint: CqlEndpoint) -> CqlSession:
    """Returns a session for the projection; open it with `async with`."""
    return CqlSession(endpoint, selects=projection.SELECTS, inserts=projection.INSERTS)
