"""Reads events."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from hubbub_server.adapters.sqlite.connections import SqliteConnections
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.projection import EventRow

_AFTER: Final = """
    SELECT epoch, position, framed FROM events WHERE topic_id = ? AND position > ? ORDER BY position LIMIT ?"""


class SqliteEventStore:
    """Implements EventStore on a reader's connections, which its caller opens and closes."""

    def __init__(self, reader: SqliteConnections) -> None:
        self._reader = reader

    async def read_after(self, topic_id: TopicId, *, after_position: int, limit: int) -> Sequence[EventRow]:
        """Reads up to `limit` events with larger positions."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")

        def read(connection: sqlite3.Connection) -> list[EventRow]:
            return [
                EventRow(topic_id=topic_id, epoch=epoch, position=position, framed=framed)
                for epoch, position, framed in connection.execute(_AFTER, (topic_id, after_position, limit))
            ]

        return await self._reader.run(read)
