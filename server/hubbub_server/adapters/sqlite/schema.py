"""The tables. Versioned by `PRAGMA user_version`; a migration only adds, so nodes of the version before go on reading.

Rows of a topic lie together in the order in which they are read. `epoch` and `position` name the event that a row
comes from, in the log of the topic that the row belongs to.
"""

import sqlite3
from typing import Final

from hubbub_server.domain.errors import StoreUnavailable

# Position of the list = version before. Entries are never changed once released.
MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    (
        """CREATE TABLE events (
            topic_id TEXT NOT NULL,
            position INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            framed BLOB NOT NULL,
            PRIMARY KEY (topic_id, position)
        ) STRICT, WITHOUT ROWID""",
        # epoch, position: of the last event of the conversation that changed the message
        """CREATE TABLE messages (
            conversation_id TEXT NOT NULL,
            message_number INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            counted_number INTEGER NOT NULL,
            sender_id TEXT NOT NULL,
            client_message_id TEXT NOT NULL,
            content_hash TEXT NOT NULL,
            commit_time_ms INTEGER NOT NULL,
            body BLOB NOT NULL,
            PRIMARY KEY (conversation_id, message_number)
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX messages_by_client_id ON messages (conversation_id, sender_id, client_message_id)",
        """CREATE TABLE conversations (
            conversation_id TEXT NOT NULL PRIMARY KEY,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            kind TEXT NOT NULL,
            title TEXT NOT NULL,
            creator_id TEXT NOT NULL,
            creation_hash TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        # role is NULL after the member left; then position is where they left
        """CREATE TABLE members (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            role TEXT,
            PRIMARY KEY (conversation_id, user_id)
        ) STRICT, WITHOUT ROWID""",
        # epoch, position: in the user's topic; source_epoch, source_position: in the conversation
        """CREATE TABLE memberships (
            user_id TEXT NOT NULL,
            conversation_id TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            joined INTEGER NOT NULL,
            source_epoch INTEGER NOT NULL,
            source_position INTEGER NOT NULL,
            PRIMARY KEY (user_id, conversation_id)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE applied_topics (
            topic_id TEXT NOT NULL PRIMARY KEY,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            sequence INTEGER NOT NULL,
            commit_time_ms INTEGER NOT NULL,
            last_message_number INTEGER NOT NULL,
            last_counted_number INTEGER NOT NULL,
            id_floor_ms INTEGER NOT NULL,
            has_unknown_event INTEGER NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE applied_shards (
            shard INTEGER NOT NULL PRIMARY KEY,
            epoch INTEGER NOT NULL,
            sequence INTEGER NOT NULL
        ) STRICT""",
    ),
    (
        # merged by maximum; user_id is '*' for mentions of all
        """CREATE TABLE member_marks (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            message_number INTEGER NOT NULL,
            counted_number INTEGER NOT NULL,
            mention_number INTEGER NOT NULL,
            PRIMARY KEY (conversation_id, user_id)
        ) STRICT, WITHOUT ROWID""",
        # source_epoch, source_position: in the topic of user_id, who refuses
        """CREATE TABLE blocks (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            blocked INTEGER NOT NULL,
            source_epoch INTEGER NOT NULL,
            source_position INTEGER NOT NULL,
            PRIMARY KEY (conversation_id, user_id)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE mentions (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            message_number INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            sender_id TEXT NOT NULL,
            PRIMARY KEY (conversation_id, user_id, message_number)
        ) STRICT, WITHOUT ROWID""",
        # target is a user, or a conversation whose members all are meant
        """CREATE TABLE mentions_by_time (
            target TEXT NOT NULL,
            commit_time_ms INTEGER NOT NULL,
            conversation_id TEXT NOT NULL,
            message_number INTEGER NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            sender_id TEXT NOT NULL,
            PRIMARY KEY (target, commit_time_ms, conversation_id, message_number)
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE conversation_settings (
            conversation_id TEXT NOT NULL PRIMARY KEY,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            receipts_limit TEXT NOT NULL
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE user_entries (
            user_id TEXT NOT NULL,
            entry TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            framed BLOB NOT NULL,
            PRIMARY KEY (user_id, entry)
        ) STRICT, WITHOUT ROWID""",
        # epoch, position: in the topic of user_id
        """CREATE TABLE readers (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            message_number INTEGER NOT NULL,
            PRIMARY KEY (conversation_id, user_id)
        ) STRICT, WITHOUT ROWID""",
        # as readers: how far their devices have received
        """CREATE TABLE deliveries (
            conversation_id TEXT NOT NULL,
            user_id TEXT NOT NULL,
            epoch INTEGER NOT NULL,
            position INTEGER NOT NULL,
            message_number INTEGER NOT NULL,
            PRIMARY KEY (conversation_id, user_id)
        ) STRICT, WITHOUT ROWID""",
    ),
)


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the file to this version, in one transaction.

    Raises:
        StoreUnavailable: a newer version wrote it, so this one would leave its new columns empty.
    """
    connection.execute("BEGIN IMMEDIATE")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StoreUnavailable(f"the store has version {version}, this program knows {len(MIGRATIONS)}")
    for statements in MIGRATIONS[version:]:
        for statement in statements:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(MIGRATIONS)}")
    connection.execute("COMMIT")
