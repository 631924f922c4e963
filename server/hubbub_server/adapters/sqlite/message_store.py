"""Reads messages."""

import sqlite3
from collections.abc import Collection, Sequence
from typing import Final

from hubbub_server.adapters.sqlite.connections import SqliteConnections
from hubbub_server.domain.id_window import IdEntry, IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId
from hubbub_server.ports.message_store import StoredMessage

_RANGE: Final = """
    SELECT message_number, counted_number, sender_id, position, commit_time_ms, body FROM messages
    WHERE conversation_id = ? AND message_number BETWEEN ? AND ? ORDER BY message_number"""

_APPLIED_POSITION: Final = "SELECT position FROM applied_topics WHERE topic_id = ?"

# Without being told, the planner may walk through the whole conversation instead.
_BY_CLIENT_ID: Final = """
    SELECT message_number, content_hash, epoch, position, commit_time_ms FROM messages
    INDEXED BY messages_by_client_id WHERE conversation_id = ? AND sender_id = ? AND client_message_id = ?"""


class SqliteMessageStore:
    """Implements MessageStore on a reader's connections, which its caller opens and closes."""

    def __init__(self, reader: SqliteConnections) -> None:
        self._reader = reader

    async def read_range(
        self, conversation_id: ConversationId, *, first_number: int, last_number: int
    ) -> Sequence[StoredMessage]:
        """Reads messages by number, both ends inclusive."""
        if last_number - first_number >= 200:
            raise ValueError("at most 200 messages")

        def read(connection: sqlite3.Connection) -> list[StoredMessage]:
            return [
                StoredMessage(
                    message_number=message_number,
                    counted_number=counted_number,
                    sender_id=sender_id,
                    change_position=position,
                    commit_time_ms=commit_time_ms,
                    body=body,
                )
                for (
                    message_number,
                    counted_number,
                    sender_id,
                    position,
                    commit_time_ms,
                    body,
                ) in connection.execute(_RANGE, (conversation_id, first_number, last_number))
            ]

        return await self._reader.run(read)

    async def find_ids(self, conversation_id: ConversationId, keys: Collection[IdKey]) -> IdLookup:
        """Looks client ids up."""
        wanted = frozenset(keys)

        def read(connection: sqlite3.Connection) -> IdLookup:
            applied = connection.execute(_APPLIED_POSITION, (conversation_id,)).fetchone()
            found = {}
            for key in wanted:
                row = connection.execute(_BY_CLIENT_ID, (conversation_id, *key)).fetchone()
                if row is not None:
                    found[key] = IdEntry(
                        message_number=row[0], content_hash=row[1], epoch=row[2], position=row[3], commit_time_ms=row[4]
                    )
            return IdLookup(applied_position=applied[0] if applied else 0, keys=wanted, found=found)

        return await self._reader.run(read)
