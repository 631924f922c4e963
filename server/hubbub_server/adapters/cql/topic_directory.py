"""Reads where topics stand: one partition each, whole, as of its applied floor (schema.py)."""

from collections.abc import Sequence
from typing import Final

from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.app.stored_topic import stored_conversation, stored_user_topic
from hubbub_server.domain.errors import StoreUnavailable
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

_FLOOR: Final = """applied_epoch, applied_position, applied_sequence, applied_commit_time_ms, applied_message_number,
    applied_counted_number, applied_id_floor_ms, applied_unknown_event"""
_FLOOR_CELLS: Final = 8
_SETTINGS_CELLS: Final = 7
_MARK_CELLS: Final = slice(_FLOOR_CELLS + _SETTINGS_CELLS, _FLOOR_CELLS + _SETTINGS_CELLS + 3)
_BLOCK_CELLS: Final = slice(_MARK_CELLS.stop, _MARK_CELLS.stop + 5)

_CONVERSATION_FLOOR: Final = f"SELECT DISTINCT {_FLOOR} FROM conversations WHERE conversation_id = ?"

_USER_FLOOR: Final = f"SELECT DISTINCT {_FLOOR} FROM user_topics WHERE user_id = ?"

_CONVERSATION: Final = f"""
    SELECT {_FLOOR}, settings_epoch, settings_position, kind, title, creator_id, creation_hash,
        receipts_limit, mark_number, mark_counted_number, mark_mention_number,
        block_epoch, block_position, blocked, block_source_epoch, block_source_position,
        user_id, epoch, position, role
    FROM conversations WHERE conversation_id = ?"""

_USER_TOPIC: Final = f"""
    SELECT {_FLOOR}, framed, conversation_id, epoch, position, joined, source_epoch, source_position
    FROM user_topics WHERE user_id = ?"""

READ_SHARD: Final = "SELECT epoch, sequence FROM applied_shards WHERE shard = ?"

# Every partition of both tables is a topic of which something is applied. All of them have a token above the lowest.
_LOWEST: Final = -(2**63)
_CONVERSATIONS: Final = """
    SELECT DISTINCT conversation_id FROM conversations WHERE token(conversation_id) > ? LIMIT ?"""
_CONVERSATIONS_AFTER: Final = """
    SELECT DISTINCT conversation_id FROM conversations WHERE token(conversation_id) > token(?) LIMIT ?"""
_USERS: Final = "SELECT DISTINCT user_id FROM user_topics WHERE token(user_id) > ? LIMIT ?"
_USERS_AFTER: Final = "SELECT DISTINCT user_id FROM user_topics WHERE token(user_id) > token(?) LIMIT ?"

SELECTS: Final = (
    _CONVERSATION_FLOOR,
    _USER_FLOOR,
    _CONVERSATION,
    _USER_TOPIC,
    READ_SHARD,
    _CONVERSATIONS,
    _CONVERSATIONS_AFTER,
    _USERS,
    _USERS_AFTER,
)

_ROLES: Final = {"": None} | {role.value: role for role in MemberRole}
_TRIES: Final = 5


class CqlTopicDirectory:
    """Implements TopicDirectory on a session, which its caller opens and closes."""

    def __init__(self, session: CqlSession) -> None:
        self._session = session

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        """Reads a topic's state."""
        if is_user_id(topic_id):
            rows = await self._read_partition(_USER_TOPIC, topic_id)
            applied = _applied(topic_id, rows)
            if applied is None:
                return None
            return stored_user_topic(topic_id, applied, _memberships(topic_id, rows), _entries(topic_id, rows))
        if is_conversation_id(topic_id):
            rows = await self._read_partition(_CONVERSATION, topic_id)
            applied = _applied(topic_id, rows)
            if applied is None:
                return None
            return stored_conversation(
                topic_id,
                applied,
                _conversation(topic_id, rows),
                _members(topic_id, rows),
                _marks(topic_id, rows),
                _blocks(topic_id, rows),
                _receipts_limit(rows),
            )
        raise ValueError(f"{topic_id!r} is no topic id")

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        """Reads how far a topic is applied."""
        select = _USER_FLOOR if is_user_id(topic_id) else _CONVERSATION_FLOOR
        return _applied(topic_id, await self._session.read(select, topic_id))

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied."""
        return await read_shard(self._session, shard)

    async def list_topics(self, *, after: TopicId | None, limit: int) -> Sequence[TopicId]:
        """Lists topics of which something is applied: conversations, then users, each in the order of their tokens."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        page: list[Row] = []
        if after is None:
            page = await self._session.read(_CONVERSATIONS, _LOWEST, limit)
        elif is_conversation_id(after):
            page = await self._session.read(_CONVERSATIONS_AFTER, after, limit)
        if after is not None and is_user_id(after):
            page = await self._session.read(_USERS_AFTER, after, limit)
        elif len(page) < limit:
            page = [*page, *await self._session.read(_USERS, _LOWEST, limit - len(page))]
        return [TopicId(topic_id) for (topic_id,) in page]

    async def _read_partition(self, select: str, topic_id: TopicId) -> list[Row]:
        """Reads a partition as of one floor. A large one comes in pages, and the floor may move between them."""
        for _ in range(_TRIES):
            rows = await self._session.read(select, topic_id)
            if len({(epoch, position) for epoch, position, *_ in rows}) <= 1:
                return rows
        raise StoreUnavailable("the topic changes faster than it can be read")


async def read_shard(session: CqlSession, shard: int) -> ShardRow | None:
    """Reads how far a shard is applied; None when it never was."""
    for epoch, sequence in await session.read(READ_SHARD, shard):
        return ShardRow(shard=shard, epoch=epoch, sequence=sequence)
    return None


def _applied(topic_id: TopicId, rows: list[Row]) -> AppliedRow | None:
    if not rows or rows[0][0] is None:
        return None
    epoch, position, sequence, commit_time_ms, message_number, counted_number, id_floor_ms, unknown_event = rows[0][:8]
    return AppliedRow(
        topic_id=topic_id,
        epoch=epoch,
        position=position,
        sequence=sequence,
        commit_time_ms=commit_time_ms,
        last_message_number=message_number,
        last_counted_number=counted_number,
        id_floor_ms=id_floor_ms or 0,
        has_unknown_event=bool(unknown_event),
    )


def _conversation(conversation_id: ConversationId, rows: list[Row]) -> ConversationRow | None:
    settings = rows[0][_FLOOR_CELLS : _FLOOR_CELLS + _SETTINGS_CELLS]
    epoch, position, kind, title, creator_id, creation_hash, _ = settings
    if kind is None:
        return None
    return ConversationRow(
        conversation_id=conversation_id,
        epoch=epoch,
        position=position,
        kind=ConversationKind(kind),
        title=title,
        creator_id=creator_id,
        creation_hash=creation_hash,
    )


def _receipts_limit(rows: list[Row]) -> ReceiptsMode:
    limit = rows[0][_FLOOR_CELLS + _SETTINGS_CELLS - 1]
    return ReceiptsMode.FULL if limit is None else ReceiptsMode(limit)


def _members(conversation_id: ConversationId, rows: list[Row]) -> list[MemberRow]:
    return [
        MemberRow(conversation_id=conversation_id, user_id=user_id, epoch=epoch, position=position, role=_ROLES[role])
        for *_, user_id, epoch, position, role in rows
        if role
        is not None  # a partition with nothing but its floor has one row, without a key; others have marks alone
    ]


def _marks(conversation_id: ConversationId, rows: list[Row]) -> list[MemberMarkRow]:
    return [
        MemberMarkRow(
            conversation_id=conversation_id,
            user_id=row[-4],
            message_number=message_number,
            counted_number=counted_number,
            mention_number=mention_number,
        )
        for row in rows
        for message_number, counted_number, mention_number in [row[_MARK_CELLS]]
        if message_number is not None
    ]


def _blocks(conversation_id: ConversationId, rows: list[Row]) -> list[BlockRow]:
    return [
        BlockRow(
            conversation_id=conversation_id,
            user_id=row[-4],
            epoch=epoch,
            position=position,
            blocked=blocked,
            source_epoch=source_epoch,
            source_position=source_position,
        )
        for row in rows
        for epoch, position, blocked, source_epoch, source_position in [row[_BLOCK_CELLS]]
        if epoch is not None
    ]


def _memberships(user_id: UserId, rows: list[Row]) -> list[MembershipRow]:
    return [
        MembershipRow(
            user_id=user_id,
            conversation_id=conversation_id,
            epoch=epoch,
            position=position,
            joined=joined,
            source_epoch=source_epoch,
            source_position=source_position,
        )
        for *_, conversation_id, epoch, position, joined, source_epoch, source_position in rows
        if joined is not None  # as above, and others are entries
    ]


def _entries(user_id: UserId, rows: list[Row]) -> list[EntryRow]:
    return [
        EntryRow(user_id=user_id, entry=entry, epoch=epoch, position=position, framed=framed)
        for *_, framed, entry, epoch, position, _, _, _ in rows
        if framed is not None
    ]
