"""Reads where topics stand."""

import sqlite3
from collections.abc import Sequence
from typing import Final

from hubbub_server.adapters.sqlite.connections import SqliteConnections
from hubbub_server.app.stored_topic import stored_conversation, stored_user_topic
from hubbub_server.domain.events import ConversationKind, MemberRole
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.ports.projection import (
    AppliedRow,
    BlockRow,
    ConversationRow,
    EntryRow,
    MemberMarkRow,
    MemberRow,
    MembershipRow,
    ShardRow,
)
from hubbub_server.ports.topic_directory import StoredTopic

_APPLIED: Final = """
    SELECT epoch, position, sequence, commit_time_ms, last_message_number, last_counted_number, id_floor_ms,
        has_unknown_event
    FROM applied_topics WHERE topic_id = ?"""

_CONVERSATION: Final = """
    SELECT epoch, position, kind, title, creator_id, creation_hash FROM conversations WHERE conversation_id = ?"""

_SETTINGS: Final = "SELECT receipts_limit FROM conversation_settings WHERE conversation_id = ?"

_MEMBERS: Final = "SELECT user_id, epoch, position, role FROM members WHERE conversation_id = ?"

_MEMBERSHIPS: Final = """
    SELECT conversation_id, epoch, position, joined, source_epoch, source_position FROM memberships
    WHERE user_id = ?"""

_MARKS: Final = """
    SELECT user_id, message_number, counted_number, mention_number FROM member_marks WHERE conversation_id = ?"""

_BLOCKS: Final = """
    SELECT user_id, epoch, position, blocked, source_epoch, source_position FROM blocks WHERE conversation_id = ?"""

_ENTRIES: Final = "SELECT entry, epoch, position, framed FROM user_entries WHERE user_id = ?"

_TOPICS: Final = "SELECT topic_id FROM applied_topics WHERE topic_id > ? ORDER BY topic_id LIMIT ?"

_ROLES: Final = {None: None} | {role.value: role for role in MemberRole}


class SqliteTopicDirectory:
    """Implements TopicDirectory on a reader's connections, which its caller opens and closes."""

    def __init__(self, reader: SqliteConnections) -> None:
        self._reader = reader

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        """Reads a topic's state."""

        def read(connection: sqlite3.Connection) -> StoredTopic | None:
            applied = _read_applied(connection, topic_id)
            if applied is None:
                return None
            if is_user_id(topic_id):
                memberships = _read_memberships(connection, topic_id)
                return stored_user_topic(topic_id, applied, memberships, _read_entries(connection, topic_id))
            if is_conversation_id(topic_id):
                return stored_conversation(
                    topic_id,
                    applied,
                    _read_conversation(connection, topic_id),
                    _read_members(connection, topic_id),
                    _read_marks(connection, topic_id),
                    _read_blocks(connection, topic_id),
                    _read_receipts_limit(connection, topic_id),
                )
            raise ValueError(f"{topic_id!r} is no topic id")

        return await self._reader.run(read)

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        """Reads how far a topic is applied."""
        return await self._reader.run(lambda connection: _read_applied(connection, topic_id))

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied."""
        return await self._reader.run(lambda connection: read_shard(connection, shard))

    async def list_topics(self, *, after: TopicId | None, limit: int) -> Sequence[TopicId]:
        """Lists topics of which something is applied, in the order of their ids."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        return await self._reader.run(
            lambda connection: [row[0] for row in connection.execute(_TOPICS, (after or "", limit))]
        )


def read_shard(connection: sqlite3.Connection, shard: int) -> ShardRow | None:
    """Reads how far a shard is applied; None when it never was."""
    row = connection.execute("SELECT epoch, sequence FROM applied_shards WHERE shard = ?", (shard,)).fetchone()
    return None if row is None else ShardRow(shard=shard, epoch=row[0], sequence=row[1])


def _read_applied(connection: sqlite3.Connection, topic_id: TopicId) -> AppliedRow | None:
    row = connection.execute(_APPLIED, (topic_id,)).fetchone()
    if row is None:
        return None
    return AppliedRow(
        topic_id=topic_id,
        epoch=row[0],
        position=row[1],
        sequence=row[2],
        commit_time_ms=row[3],
        last_message_number=row[4],
        last_counted_number=row[5],
        id_floor_ms=row[6],
        has_unknown_event=bool(row[7]),
    )


def _read_conversation(connection: sqlite3.Connection, conversation_id: ConversationId) -> ConversationRow | None:
    row = connection.execute(_CONVERSATION, (conversation_id,)).fetchone()
    if row is None:
        return None
    return ConversationRow(
        conversation_id=conversation_id,
        epoch=row[0],
        position=row[1],
        kind=ConversationKind(row[2]),
        title=row[3],
        creator_id=row[4],
        creation_hash=row[5],
    )


def _read_receipts_limit(connection: sqlite3.Connection, conversation_id: ConversationId) -> ReceiptsMode:
    row = connection.execute(_SETTINGS, (conversation_id,)).fetchone()
    return ReceiptsMode.FULL if row is None else ReceiptsMode(row[0])


def _read_members(connection: sqlite3.Connection, conversation_id: ConversationId) -> list[MemberRow]:
    return [
        MemberRow(conversation_id=conversation_id, user_id=user_id, epoch=epoch, position=position, role=_ROLES[role])
        for user_id, epoch, position, role in connection.execute(_MEMBERS, (conversation_id,))
    ]


def _read_memberships(connection: sqlite3.Connection, user_id: UserId) -> list[MembershipRow]:
    return [
        MembershipRow(
            user_id=user_id,
            conversation_id=conversation_id,
            epoch=epoch,
            position=position,
            joined=bool(joined),
            source_epoch=source_epoch,
            source_position=source_position,
        )
        for conversation_id, epoch, position, joined, source_epoch, source_position in connection.execute(
            _MEMBERSHIPS, (user_id,)
        )
    ]


def _read_marks(connection: sqlite3.Connection, conversation_id: ConversationId) -> list[MemberMarkRow]:
    return [
        MemberMarkRow(
            conversation_id=conversation_id,
            user_id=user_id,
            message_number=message_number,
            counted_number=counted_number,
            mention_number=mention_number,
        )
        for user_id, message_number, counted_number, mention_number in connection.execute(_MARKS, (conversation_id,))
    ]


def _read_blocks(connection: sqlite3.Connection, conversation_id: ConversationId) -> list[BlockRow]:
    return [
        BlockRow(
            conversation_id=conversation_id,
            user_id=user_id,
            epoch=epoch,
            position=position,
            blocked=bool(blocked),
            source_epoch=source_epoch,
            source_position=source_position,
        )
        for user_id, epoch, position, blocked, source_epoch, source_position in connection.execute(
            _BLOCKS, (conversation_id,)
        )
    ]


def _read_entries(connection: sqlite3.Connection, user_id: UserId) -> list[EntryRow]:
    return [
        EntryRow(user_id=user_id, entry=entry, epoch=epoch, position=position, framed=framed)
        for entry, epoch, position, framed in connection.execute(_ENTRIES, (user_id,))
    ]
