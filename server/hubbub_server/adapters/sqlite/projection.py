"""The write side: applies batches of the log to the tables. Only the worker opens it.

Rows carry (epoch, position) of their cause and give way only to newer ones, so batches may come again and in any order.
"""

import sqlite3
import time
from operator import attrgetter
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from hubbub_server.adapters.sqlite.connections import SqliteConnections
from hubbub_server.adapters.sqlite.schema import migrate
from hubbub_server.adapters.sqlite.topic_directory import read_shard
from hubbub_server.ports.projection import (
    ConversationRow,
    MemberRow,
    ProjectionBatch,
    SettingsRow,
    ShardRow,
    require_not_set_back,
)

_WAL_KEPT_BYTES: Final = 64 * 1024 * 1024
_BUSY_PAUSE_S: Final = 0.01

_PUT_EVENT: Final = """
    INSERT INTO events (topic_id, position, epoch, framed) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, framed = excluded.framed
    WHERE excluded.epoch > events.epoch"""

_PUT_MESSAGE: Final = """
    INSERT INTO messages (conversation_id, message_number, epoch, position, counted_number, sender_id,
        client_message_id, content_hash, commit_time_ms, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position,
        counted_number = excluded.counted_number, sender_id = excluded.sender_id,
        client_message_id = excluded.client_message_id, content_hash = excluded.content_hash,
        commit_time_ms = excluded.commit_time_ms, body = excluded.body
    WHERE (excluded.epoch, excluded.position) > (messages.epoch, messages.position)"""

_PUT_CONVERSATION: Final = """
    INSERT INTO conversations (conversation_id, epoch, position, kind, title, creator_id, creation_hash)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, kind = excluded.kind,
        title = excluded.title, creator_id = excluded.creator_id, creation_hash = excluded.creation_hash
    WHERE (excluded.epoch, excluded.position) > (conversations.epoch, conversations.position)"""

_PUT_SETTINGS: Final = """
    INSERT INTO conversation_settings (conversation_id, epoch, position, receipts_limit) VALUES (?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position,
        receipts_limit = excluded.receipts_limit
    WHERE (excluded.epoch, excluded.position) > (conversation_settings.epoch, conversation_settings.position)"""

_PUT_MEMBER: Final = """
    INSERT INTO members (conversation_id, user_id, epoch, position, role) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, role = excluded.role
    WHERE (excluded.epoch, excluded.position) > (members.epoch, members.position)"""

_PUT_MEMBERSHIP: Final = """
    INSERT INTO memberships (user_id, conversation_id, epoch, position, joined, source_epoch, source_position)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, joined = excluded.joined,
        source_epoch = excluded.source_epoch, source_position = excluded.source_position
    WHERE (excluded.epoch, excluded.position) > (memberships.epoch, memberships.position)"""

_MERGE_MARK: Final = """
    INSERT INTO member_marks (conversation_id, user_id, message_number, counted_number, mention_number)
    VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET message_number = max(message_number, excluded.message_number),
        counted_number = max(counted_number, excluded.counted_number),
        mention_number = max(mention_number, excluded.mention_number)"""

_PUT_BLOCK: Final = """
    INSERT INTO blocks (conversation_id, user_id, epoch, position, blocked, source_epoch, source_position)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, blocked = excluded.blocked,
        source_epoch = excluded.source_epoch, source_position = excluded.source_position
    WHERE (excluded.epoch, excluded.position) > (blocks.epoch, blocks.position)"""

_PUT_MENTION: Final = """
    INSERT INTO mentions (conversation_id, user_id, message_number, epoch, position, sender_id)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, sender_id = excluded.sender_id
    WHERE (excluded.epoch, excluded.position) > (mentions.epoch, mentions.position)"""

_PUT_TIMED_MENTION: Final = """
    INSERT INTO mentions_by_time (target, commit_time_ms, conversation_id, message_number, epoch, position, sender_id)
    VALUES (?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, sender_id = excluded.sender_id
    WHERE (excluded.epoch, excluded.position) > (mentions_by_time.epoch, mentions_by_time.position)"""

_PUT_ENTRY: Final = """
    INSERT INTO user_entries (user_id, entry, epoch, position, framed) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, framed = excluded.framed
    WHERE (excluded.epoch, excluded.position) > (user_entries.epoch, user_entries.position)"""

_PUT_READER: Final = """
    INSERT INTO readers (conversation_id, user_id, epoch, position, message_number) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position,
        message_number = excluded.message_number
    WHERE (excluded.epoch, excluded.position) > (readers.epoch, readers.position)"""

_PUT_DELIVERY: Final = """
    INSERT INTO deliveries (conversation_id, user_id, epoch, position, message_number) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position,
        message_number = excluded.message_number
    WHERE (excluded.epoch, excluded.position) > (deliveries.epoch, deliveries.position)"""

_PUT_APPLIED: Final = """
    INSERT INTO applied_topics (topic_id, epoch, position, sequence, commit_time_ms, last_message_number,
        last_counted_number, id_floor_ms, has_unknown_event)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, position = excluded.position, sequence = excluded.sequence,
        commit_time_ms = excluded.commit_time_ms, last_message_number = excluded.last_message_number,
        last_counted_number = excluded.last_counted_number
    WHERE (excluded.epoch, excluded.position) > (applied_topics.epoch, applied_topics.position)"""

# These two are not ordered but merged, so an older batch counts as well.
_MERGE_APPLIED: Final = """
    UPDATE applied_topics SET id_floor_ms = max(id_floor_ms, ?), has_unknown_event = max(has_unknown_event, ?)
    WHERE topic_id = ?"""

_PUT_SHARD: Final = """
    INSERT INTO applied_shards (shard, epoch, sequence) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET epoch = excluded.epoch, sequence = excluded.sequence
    WHERE (excluded.epoch, excluded.sequence) > (applied_shards.epoch, applied_shards.sequence)"""

# Values in the order of the statements above.
_EVENT_CELLS: Final = attrgetter("topic_id", "position", "epoch", "framed")
_MESSAGE_CELLS: Final = attrgetter(
    *("conversation_id", "message_number", "epoch", "position", "counted_number", "sender_id"),
    *("client_message_id", "content_hash", "commit_time_ms", "body"),
)
_MEMBERSHIP_CELLS: Final = attrgetter(
    *("user_id", "conversation_id", "epoch", "position", "joined", "source_epoch", "source_position")
)
_MARK_CELLS: Final = attrgetter("conversation_id", "user_id", "message_number", "counted_number", "mention_number")
_BLOCK_CELLS: Final = attrgetter(
    *("conversation_id", "user_id", "epoch", "position", "blocked", "source_epoch", "source_position")
)
_MENTION_CELLS: Final = attrgetter(*("conversation_id", "user_id", "message_number", "epoch", "position", "sender_id"))
_TIMED_MENTION_CELLS: Final = attrgetter(
    *("target", "commit_time_ms", "conversation_id", "message_number", "epoch", "position", "sender_id")
)
_ENTRY_CELLS: Final = attrgetter("user_id", "entry", "epoch", "position", "framed")
_READER_CELLS: Final = attrgetter("conversation_id", "user_id", "epoch", "position", "message_number")
_APPLIED_CELLS: Final = attrgetter(
    *("topic_id", "epoch", "position", "sequence", "commit_time_ms", "last_message_number"),
    *("last_counted_number", "id_floor_ms", "has_unknown_event"),
)
_MERGED_CELLS: Final = attrgetter("id_floor_ms", "has_unknown_event", "topic_id")


class SqliteProjection:
    """Implements Projection on one file, which it creates and migrates when it is opened.

    A file that is removed while open is not made anew: what was acknowledged to the log would be missing in it.
    """

    def __init__(self, path: Path, *, timeout_s: float = 10.0) -> None:
        self._timeout_s = timeout_s
        self._is_new_allowed = True
        self._connections = SqliteConnections(
            path, connect=self._connect, begin="BEGIN IMMEDIATE", connections=1, timeout_s=timeout_s, max_waiting=64
        )

    async def __aenter__(self) -> Self:
        """Opens the file. Raises StoreUnavailable."""
        await self._connections.__aenter__()
        try:
            await self._connections.run(lambda _: None)
        except BaseException:
            await self._connections.__aexit__(None, None, None)
            raise
        self._is_new_allowed = False
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the file after the running call."""
        await self._connections.__aexit__(exc_type, exc, traceback)

    async def apply(self, batch: ProjectionBatch, *, known: ShardRow | None = None) -> None:
        """Writes a batch in one transaction, synced to disk when it returns."""
        await self._connections.run(lambda connection: _apply(connection, batch, known))

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied; None when it never was."""
        return await self._connections.run(lambda connection: read_shard(connection, shard))

    def _connect(self, path: Path) -> sqlite3.Connection:
        mode = "rwc" if self._is_new_allowed else "rw"
        connection = sqlite3.connect(
            f"{path.absolute().as_uri()}?mode={mode}",
            uri=True,
            isolation_level=None,
            check_same_thread=False,
            timeout=self._timeout_s,
        )
        try:
            _switch_to_wal(connection, time.monotonic() + self._timeout_s)
            connection.execute("PRAGMA synchronous = FULL")  # acknowledged to the log only when it is on the disk
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_KEPT_BYTES}")
            migrate(connection)
        except BaseException:
            connection.close()
            raise
        return connection


def _switch_to_wal(connection: sqlite3.Connection, deadline_s: float) -> None:
    """Waits for others that open a new file at the same moment: SQLite itself would not."""
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline_s:
                raise
            time.sleep(_BUSY_PAUSE_S)
        else:
            return


def _apply(connection: sqlite3.Connection, batch: ProjectionBatch, known: ShardRow | None) -> None:
    require_not_set_back(read_shard(connection, batch.shard.shard), known)
    connection.executemany(_PUT_EVENT, map(_EVENT_CELLS, batch.events))
    connection.executemany(_PUT_MESSAGE, map(_MESSAGE_CELLS, batch.messages))
    connection.executemany(_PUT_CONVERSATION, map(_conversation_cells, batch.conversations))
    connection.executemany(_PUT_SETTINGS, map(_settings_cells, batch.settings))
    connection.executemany(_PUT_MEMBER, map(_member_cells, batch.members))
    connection.executemany(_PUT_MEMBERSHIP, map(_MEMBERSHIP_CELLS, batch.memberships))
    connection.executemany(_MERGE_MARK, map(_MARK_CELLS, batch.marks))
    connection.executemany(_PUT_BLOCK, map(_BLOCK_CELLS, batch.blocks))
    connection.executemany(_PUT_MENTION, map(_MENTION_CELLS, batch.mentions))
    connection.executemany(_PUT_TIMED_MENTION, map(_TIMED_MENTION_CELLS, batch.mentions))
    connection.executemany(_PUT_ENTRY, map(_ENTRY_CELLS, batch.entries))
    connection.executemany(_PUT_READER, map(_READER_CELLS, batch.readers))
    connection.executemany(_PUT_DELIVERY, map(_READER_CELLS, batch.deliveries))
    connection.executemany(_PUT_APPLIED, map(_APPLIED_CELLS, batch.applied))
    connection.executemany(_MERGE_APPLIED, map(_MERGED_CELLS, batch.applied))
    connection.execute(_PUT_SHARD, (batch.shard.shard, batch.shard.epoch, batch.shard.sequence))


def _conversation_cells(row: ConversationRow) -> tuple[object, ...]:
    return (
        row.conversation_id,
        row.epoch,
        row.position,
        row.kind.value,
        row.title,
        row.creator_id,
        row.creation_hash,
    )


def _settings_cells(row: SettingsRow) -> tuple[object, ...]:
    return row.conversation_id, row.epoch, row.position, row.receipts_limit.value


def _member_cells(row: MemberRow) -> tuple[object, ...]:
    return row.conversation_id, row.user_id, row.epoch, row.position, row.role.value if row.role else None
