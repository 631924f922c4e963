"""Reads where topics stand: one partition each, whole, as of its applied floor (schema.py)."""

from typing import Final

from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.app.stored_topic import stored_conversation, stored_user_topic
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.events import ConversationKind, MemberRole
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.ports.projection import AppliedRow, ConversationRow, MemberRow, MembershipRow
from hubbub_server.ports.topic_directory import StoredTopic

_FLOOR: Final = """applied_epoch, applied_position, applied_sequence, applied_commit_time_ms, applied_message_number,
    applied_counted_number, applied_id_floor_ms, applied_unknown_event"""
_FLOOR_CELLS: Final = 8

_CONVERSATION_FLOOR: Final = f"SELECT DISTINCT {_FLOOR} FROM conversations WHERE conversation_id = ?"

_USER_FLOOR: Final = f"SELECT DISTINCT {_FLOOR} FROM user_topics WHERE user_id = ?"

_CONVERSATION: Final = f"""
    SELECT {_FLOOR}, settings_epoch, settings_position, kind, title, creator_id, creation_hash,
        user_id, epoch, position, role
    FROM conversations WHERE conversation_id = ?"""

_USER_TOPIC: Final = f"""
    SELECT {_FLOOR}, conversation_id, epoch, position, joined, source_epoch, source_position
    FROM user_topics WHERE user_id = ?"""

SELECTS: Final = (_CONVERSATION_FLOOR, _USER_FLOOR, _CONVERSATION, _USER_TOPIC)

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
            return None if applied is None else stored_user_topic(topic_id, applied, _memberships(topic_id, rows))
        if is_conversation_id(topic_id):
            rows = await self._read_partition(_CONVERSATION, topic_id)
            applied = _applied(topic_id, rows)
            if applied is None:
                return None
            return stored_conversation(topic_id, applied, _conversation(topic_id, rows), _members(topic_id, rows))
        raise ValueError(f"{topic_id!r} is no topic id")

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        """Reads how far a topic is applied."""
        select = _USER_FLOOR if is_user_id(topic_id) else _CONVERSATION_FLOOR
        return _applied(topic_id, await self._session.read(select, topic_id))

    async def _read_partition(self, select: str, topic_id: TopicId) -> list[Row]:
        """Reads a partition as of one floor. A large one comes in pages, and the floor may move between them."""
        for _ in range(_TRIES):
            rows = await self._session.read(select, topic_id)
            if len({(epoch, position) for epoch, position, *_ in rows}) <= 1:
                return rows
        raise StoreUnavailable("the topic changes faster than it can be read")


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
    epoch, position, kind, title, creator_id, creation_hash = rows[0][_FLOOR_CELLS : _FLOOR_CELLS + 6]
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


def _members(conversation_id: ConversationId, rows: list[Row]) -> list[MemberRow]:
    return [
        MemberRow(conversation_id=conversation_id, user_id=user_id, epoch=epoch, position=position, role=_ROLES[role])
        for *_, user_id, epoch, position, role in rows
        if user_id is not None  # a partition with nothing but its floor has one row, without a key
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
        if conversation_id is not None  # as above
    ]
