"""The tables. Migrations only add, one statement a version, so old and new nodes work side by side.

Partitions are read as a whole or by key, and are bounded: events and messages in buckets of 4,096 by position and by
number (never empty, as both are dense), client ids in slots by hash, members and memberships by topic. Mentions are
sparse: in buckets of 65,536 by number, of which some are empty. Mentions by time are in buckets of 30 days, and each
target has a row for each of them that is not empty, so nobody looks through years without any.

A topic's applied floor is static in the partition of its members (a conversation) or memberships (a user's topic).
Whatever belongs to its state is written together with its floor as one mutation of that partition, which replicas apply
whole and in isolation: so one read of the partition is a state as of its floor. `applied_id_floor_ms` and
`applied_unknown_event` are no part of what an older floor may not overwrite: the former is a merged cell
(timestamps.py), of the latter only `true` is ever written.

Not used: counters, CDC, views, secondary indexes, lightweight transactions, collections. ScyllaDB has tablets without
them, and none of them keeps the timestamp law.
"""

import re
import zlib
from typing import Any, Final

from cassandra import InvalidRequest

from hubbub_server.adapters.cql.cluster import CqlEndpoint, new_cluster
from hubbub_server.adapters.cql.errors import map_errors
from hubbub_server.adapters.cql.timestamps import timestamp_of
from hubbub_server.domain.errors import StoreUnavailable

ROWS_PER_BUCKET: Final = 4_096
MENTIONED_PER_BUCKET: Final = 65_536
MENTION_BUCKET_MS: Final = 30 * 24 * 3_600_000
_ID_SLOTS: Final = 64
_DDL_TIMEOUT_S: Final = 30.0
_COLUMN_IS_THERE: Final = ("already exists", "conflicts with an existing column")
"""What Cassandra and what ScyllaDB say of a column that is to be added once more."""
_LEVELED: Final = "compaction = {'class': 'LeveledCompactionStrategy'}"
"""For rows that are written again; both servers have it. Never TWCS: replays write into old windows."""

_APPLIED: Final = """
    applied_epoch bigint static, applied_position bigint static, applied_sequence bigint static,
    applied_commit_time_ms bigint static, applied_message_number bigint static, applied_counted_number bigint static,
    applied_id_floor_ms bigint static, applied_unknown_event boolean static,"""

_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,47}")

_VERSIONS: Final = "CREATE TABLE IF NOT EXISTS schema_versions (version int PRIMARY KEY, statement text)"

# Version = place in the list, from 1. Entries are never changed once released.
MIGRATIONS: Final[tuple[str, ...]] = (
    """CREATE TABLE IF NOT EXISTS events (
    topic_id text, bucket int, position bigint, epoch bigint, framed blob,
    PRIMARY KEY ((topic_id, bucket), position))""",
    # epoch, position: of the last event of the conversation that changed the message
    f"""CREATE TABLE IF NOT EXISTS messages (
    conversation_id text, bucket int, message_number bigint, epoch bigint, position bigint, counted_number bigint,
    sender_id text, client_message_id text, content_hash text, commit_time_ms bigint, body blob,
    PRIMARY KEY ((conversation_id, bucket), message_number))
    WITH CLUSTERING ORDER BY (message_number DESC) AND {_LEVELED}""",
    f"""CREATE TABLE IF NOT EXISTS message_ids (
    conversation_id text, slot int, sender_id text, client_message_id text, message_number bigint, content_hash text,
    epoch bigint, position bigint, commit_time_ms bigint,
    PRIMARY KEY ((conversation_id, slot), sender_id, client_message_id)) WITH {_LEVELED}""",
    # role is '' after the member left; then position is where they left
    f"""CREATE TABLE IF NOT EXISTS conversations (
    conversation_id text, user_id text, {_APPLIED}
    settings_epoch bigint static, settings_position bigint static, kind text static, title text static,
    creator_id text static, creation_hash text static,
    epoch bigint, position bigint, role text, PRIMARY KEY (conversation_id, user_id)) WITH {_LEVELED}""",
    # epoch, position: in the user's topic; source_epoch, source_position: in the conversation
    f"""CREATE TABLE IF NOT EXISTS user_topics (
    user_id text, conversation_id text, {_APPLIED}
    epoch bigint, position bigint, joined boolean, source_epoch bigint, source_position bigint,
    PRIMARY KEY (user_id, conversation_id)) WITH {_LEVELED}""",
    "CREATE TABLE IF NOT EXISTS applied_shards (shard int PRIMARY KEY, epoch bigint, sequence bigint)",
    # mark_…: merged cells, also of the row '*', which is no member; block_…: of who refuses the other side's messages
    """ALTER TABLE conversations ADD (
    mark_number bigint, mark_counted_number bigint, mark_mention_number bigint,
    block_epoch bigint, block_position bigint, blocked boolean, block_source_epoch bigint,
    block_source_position bigint)""",
    # of rows whose conversation_id is the name of an entry, which no id of a conversation looks like
    "ALTER TABLE user_topics ADD (framed blob)",
    # user_id is '*' for mentions of all
    f"""CREATE TABLE IF NOT EXISTS mentions (
    conversation_id text, user_id text, bucket int, message_number bigint, epoch bigint, position bigint,
    sender_id text, PRIMARY KEY ((conversation_id, user_id, bucket), message_number))
    WITH CLUSTERING ORDER BY (message_number DESC) AND {_LEVELED}""",
    # epoch, position: in the topic of user_id
    f"""CREATE TABLE IF NOT EXISTS readers (
    conversation_id text, user_id text, epoch bigint, position bigint, message_number bigint,
    PRIMARY KEY (conversation_id, user_id)) WITH {_LEVELED}""",
    # not written any more: one partition a target. What is there is read; timed_mentions has what came since
    f"""CREATE TABLE IF NOT EXISTS mentions_by_time (
    target text, commit_time_ms bigint, conversation_id text, message_number bigint, epoch bigint, position bigint,
    sender_id text, PRIMARY KEY (target, commit_time_ms, conversation_id, message_number))
    WITH CLUSTERING ORDER BY (commit_time_ms DESC, conversation_id DESC, message_number DESC) AND {_LEVELED}""",
    # null: never changed
    "ALTER TABLE conversations ADD (receipts_limit text static)",
    # as readers: how far their devices have received
    f"""CREATE TABLE IF NOT EXISTS deliveries (
    conversation_id text, user_id text, epoch bigint, position bigint, message_number bigint,
    PRIMARY KEY (conversation_id, user_id)) WITH {_LEVELED}""",
    # target: a user, or a conversation whose members all are meant
    f"""CREATE TABLE IF NOT EXISTS timed_mentions (
    target text, bucket int, commit_time_ms bigint, conversation_id text, message_number bigint, epoch bigint,
    position bigint, sender_id text,
    PRIMARY KEY ((target, bucket), commit_time_ms, conversation_id, message_number))
    WITH CLUSTERING ORDER BY (commit_time_ms DESC, conversation_id DESC, message_number DESC) AND {_LEVELED}""",
    # which buckets of timed_mentions are not empty: twelve rows a year
    f"""CREATE TABLE IF NOT EXISTS timed_mention_buckets (
    target text, bucket int, PRIMARY KEY (target, bucket))
    WITH CLUSTERING ORDER BY (bucket DESC) AND {_LEVELED}""",
)


def bucket_of(number: int) -> int:
    """Returns the bucket of a message number or a position."""
    return number // ROWS_PER_BUCKET


def mention_bucket_of(number: int) -> int:
    """Returns the bucket of a message number among mentions."""
    return number // MENTIONED_PER_BUCKET


def time_bucket_of(commit_time_ms: int) -> int:
    """Returns the bucket of a time among mentions by time. Fixed for ever: stored rows depend on it."""
    return commit_time_ms // MENTION_BUCKET_MS


def id_slot(client_message_id: str) -> int:
    """Returns the slot of a client id. Fixed for ever: stored rows depend on it."""
    return zlib.crc32(client_message_id.encode()) % _ID_SLOTS


def keyspace_cql(endpoint: CqlEndpoint) -> str:
    """Returns the statement that makes the keyspace.

    `tablets` cannot be changed later. NOT RUN: no ScyllaDB was at hand, so that part of the text is checked by
    reading only.
    """
    if not _NAME.fullmatch(endpoint.keyspace):
        raise ValueError(f"{endpoint.keyspace!r} is no name for a keyspace")
    if "'" in endpoint.datacenter:
        raise ValueError(f"{endpoint.datacenter!r} is no name for a datacenter")
    text = (
        f"CREATE KEYSPACE IF NOT EXISTS {endpoint.keyspace} WITH replication = "
        f"{{'class': 'NetworkTopologyStrategy', '{endpoint.datacenter}': {endpoint.replicas}}} "
        "AND durable_writes = true"
    )
    if endpoint.tablets is None:
        return text
    return f"{text} AND tablets = {{'enabled': {str(endpoint.tablets).lower()}}}"


def migrate(endpoint: CqlEndpoint) -> int:
    """Makes the keyspace and brings its tables to this version; returns how many versions it went up. Blocks.

    A run that was interrupted is finished by the next one. Run one at a time: servers do not order changes of the
    schema that come from two sides.

    Raises:
        StoreUnavailable: it cannot be done now, or the servers do not agree on the schema yet; run it again.
    """
    cluster = new_cluster(endpoint)
    try:
        with map_errors():
            session = cluster.connect()
            session.use_client_timestamp = False
            _change(session, keyspace_cql(endpoint))
            session.set_keyspace(endpoint.keyspace)
            _change(session, _VERSIONS)
            before = read_version(session)
            for version, statement in enumerate(MIGRATIONS[before:], start=before + 1):
                _change_once(session, statement)
                session.execute(
                    "INSERT INTO schema_versions (version, statement) VALUES (%s, %s) USING TIMESTAMP %s",
                    (version, statement, timestamp_of(1, version)),
                )
            return max(len(MIGRATIONS) - before, 0)
    finally:
        cluster.shutdown()


def read_version(session: Any) -> int:
    """Reads how far the tables are, 0 when nothing is there; blocks. `session` is the driver's, in the keyspace."""
    try:
        return max((version for (version,) in session.execute("SELECT version FROM schema_versions")), default=0)
    except InvalidRequest:
        return 0


def check_version(version: int, *, for_writing: bool) -> None:
    """Refuses tables that this program cannot use.

    Raises:
        StoreUnavailable: they are older; or newer and to be written, which would leave their new columns empty.
    """
    if version < len(MIGRATIONS):
        raise StoreUnavailable(f"the store has version {version} of {len(MIGRATIONS)}: run `hubbub migrate`")
    if for_writing and version > len(MIGRATIONS):
        raise StoreUnavailable(f"the store has version {version}, this program writes {len(MIGRATIONS)}")


def _change_once(session: Any, statement: str) -> None:
    """Makes a change that an interrupted run may have made: ScyllaDB has no IF NOT EXISTS for columns."""
    try:
        _change(session, statement)
    except InvalidRequest as error:
        if not (statement.startswith("ALTER TABLE") and any(text in str(error) for text in _COLUMN_IS_THERE)):
            raise


def _change(session: Any, statement: str) -> None:
    changed = session.execute(statement, timeout=_DDL_TIMEOUT_S)
    if not changed.response_future.is_schema_agreed:
        raise StoreUnavailable("the servers do not agree on the schema yet")
