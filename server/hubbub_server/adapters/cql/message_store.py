"""Reads messages."""

from collections.abc import Collection, Sequence
from typing import Final

from hubbub_server.adapters.cql.schema import bucket_of, id_slot
from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.adapters.cql.side_by_side import side_by_side
from hubbub_server.domain.id_window import IdEntry, IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId
from hubbub_server.ports.message_store import StoredMessage

_RANGE: Final = """
    SELECT message_number, counted_number, sender_id, position, commit_time_ms, body FROM messages
    WHERE conversation_id = ? AND bucket = ? AND message_number >= ? AND message_number <= ?"""

_APPLIED_POSITION: Final = "SELECT DISTINCT applied_position FROM conversations WHERE conversation_id = ?"

_BY_CLIENT_ID: Final = """
    SELECT message_number, content_hash, epoch, position, commit_time_ms FROM message_ids
    WHERE conversation_id = ? AND slot = ? AND sender_id = ? AND client_message_id = ?"""

SELECTS: Final = (_RANGE, _APPLIED_POSITION, _BY_CLIENT_ID)


class CqlMessageStore:
    """Implements MessageStore on a session, which its caller opens and closes."""

    def __init__(self, session: CqlSession) -> None:
        self._session = session

    async def read_range(
        self, conversation_id: ConversationId, *, first_number: int, last_number: int
    ) -> Sequence[StoredMessage]:
        """Reads messages by number, both ends inclusive; they lie in two buckets at most."""
        if last_number - first_number >= 200:
            raise ValueError("at most 200 messages")
        first_number = max(first_number, 1)
        if last_number < first_number:
            return []
        rows: list[Row] = []
        for bucket in range(bucket_of(last_number), bucket_of(first_number) - 1, -1):  # newest first, as they lie
            rows += await self._session.read(_RANGE, conversation_id, bucket, first_number, last_number)
        return [
            StoredMessage(
                message_number=message_number,
                counted_number=counted_number,
                sender_id=sender_id,
                change_position=position,
                commit_time_ms=commit_time_ms,
                body=body,
            )
            for message_number, counted_number, sender_id, position, commit_time_ms, body in reversed(rows)
            if commit_time_ms is not None and body is not None  # else a change came before its creation
        ]

    async def find_ids(self, conversation_id: ConversationId, keys: Collection[IdKey]) -> IdLookup:
        """Looks client ids up, each in a read that begins after the position is known."""
        wanted = frozenset(keys)
        applied = await self._session.read(_APPLIED_POSITION, conversation_id)
        found: dict[IdKey, IdEntry] = {}

        async def look_up(key: IdKey) -> None:
            sender_id, client_id = key
            rows = await self._session.read(_BY_CLIENT_ID, conversation_id, id_slot(client_id), sender_id, client_id)
            for message_number, content_hash, epoch, position, commit_time_ms in rows:
                found[key] = IdEntry(
                    message_number=message_number,
                    content_hash=content_hash,
                    epoch=epoch,
                    position=position,
                    commit_time_ms=commit_time_ms,
                )

        await side_by_side(look_up, wanted)
        return IdLookup(applied_position=(applied[0][0] if applied else None) or 0, keys=wanted, found=found)
