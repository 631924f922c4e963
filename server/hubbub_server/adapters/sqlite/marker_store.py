"""Reads markers and mentions."""

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Final

from hubbub_server.adapters.sqlite.connections import SqliteConnections
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.ports.marker_store import Mention, MentionPage, TimedMention
from hubbub_server.ports.projection import EVERYBODY

_APPLIED_NUMBER: Final = "SELECT last_message_number FROM applied_topics WHERE topic_id = ?"

# Two ranges of the primary key, each of at most as many rows as are asked for.
_OF_ONE: Final = """
    SELECT message_number, sender_id FROM (
        SELECT message_number, sender_id FROM mentions
        WHERE conversation_id = ? AND user_id = ? AND message_number > ? AND message_number < ?
        ORDER BY message_number DESC LIMIT ?)"""
_MENTIONS: Final = f"{_OF_ONE} UNION {_OF_ONE} ORDER BY message_number DESC LIMIT ?"

_BY_TIME: Final = """
    SELECT commit_time_ms, conversation_id, message_number, sender_id FROM mentions_by_time
    WHERE target = ? AND (commit_time_ms, conversation_id, message_number) < (?, ?, ?)
    ORDER BY commit_time_ms DESC, conversation_id DESC, message_number DESC LIMIT ?"""

_READERS: Final = "SELECT user_id, message_number FROM readers WHERE conversation_id = ?"

_DELIVERIES: Final = "SELECT user_id, message_number FROM deliveries WHERE conversation_id = ?"

_NEVER: Final = (2**63 - 1, "", 0)
"""After every mention."""


class SqliteMarkerStore:
    """Implements MarkerStore on a reader's connections, which its caller opens and closes."""

    def __init__(self, reader: SqliteConnections) -> None:
        self._reader = reader

    async def read_mentions(
        self, conversation_id: ConversationId, user_id: UserId, *, after_number: int, before_number: int, limit: int
    ) -> MentionPage:
        """Reads the newest mentions of a user, or of everybody."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")

        def read(connection: sqlite3.Connection) -> MentionPage:
            applied = connection.execute(_APPLIED_NUMBER, (conversation_id,)).fetchone()
            ends = (after_number, before_number, limit)
            rows = connection.execute(
                _MENTIONS, (conversation_id, user_id, *ends, conversation_id, EVERYBODY, *ends, limit)
            )
            mentions = [Mention(message_number=number, sender_id=sender_id) for number, sender_id in rows]
            return MentionPage(applied_number=applied[0] if applied else 0, mentions=mentions)

        return await self._reader.run(read)

    async def read_mentions_by_time(
        self, target: UserId | ConversationId, *, before: TimedMention | None, limit: int
    ) -> Sequence[TimedMention]:
        """Reads the newest mentions before one, newest first."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        end = (before.commit_time_ms, before.conversation_id, before.message_number) if before else _NEVER
        rows = await self._reader.run(lambda connection: connection.execute(_BY_TIME, (target, *end, limit)).fetchall())
        return [
            TimedMention(commit_time_ms=time_ms, conversation_id=room, message_number=number, sender_id=sender_id)
            for time_ms, room, number, sender_id in rows
        ]

    async def read_readers(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users have read."""
        return await self._reader.run(lambda connection: dict(connection.execute(_READERS, (conversation_id,))))

    async def read_deliveries(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users have received."""
        return await self._reader.run(lambda connection: dict(connection.execute(_DELIVERIES, (conversation_id,))))
