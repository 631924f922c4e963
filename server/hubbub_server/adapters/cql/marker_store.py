"""Reads markers and mentions."""

from collections.abc import Mapping, Sequence
from typing import Final

from hubbub_server.adapters.cql.schema import mention_bucket_of, time_bucket_of
from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.ports.marker_store import Mention, MentionPage, TimedMention
from hubbub_server.ports.projection import EVERYBODY

_APPLIED_NUMBER: Final = "SELECT DISTINCT applied_message_number FROM conversations WHERE conversation_id = ?"

_MENTIONS: Final = """
    SELECT message_number, sender_id FROM mentions
    WHERE conversation_id = ? AND user_id = ? AND bucket = ? AND message_number > ? AND message_number < ? LIMIT ?"""

_BUCKETS: Final = "SELECT bucket FROM timed_mention_buckets WHERE target = ? AND bucket <= ?"

_BY_TIME: Final = """
    SELECT commit_time_ms, conversation_id, message_number, sender_id FROM timed_mentions
    WHERE target = ? AND bucket = ? AND (commit_time_ms, conversation_id, message_number) < (?, ?, ?) LIMIT ?"""

_BY_TIME_BEFORE_BUCKETS: Final = """
    SELECT commit_time_ms, conversation_id, message_number, sender_id FROM mentions_by_time
    WHERE target = ? AND (commit_time_ms, conversation_id, message_number) < (?, ?, ?) LIMIT ?"""

_READERS: Final = "SELECT user_id, message_number FROM readers WHERE conversation_id = ?"

_DELIVERIES: Final = "SELECT user_id, message_number FROM deliveries WHERE conversation_id = ?"

SELECTS: Final = (
    *(_APPLIED_NUMBER, _MENTIONS, _BUCKETS, _BY_TIME, _BY_TIME_BEFORE_BUCKETS),
    *(_READERS, _DELIVERIES),
)

_NEVER: Final = (2**53, "", 0)
"""After every mention; its bucket is an int, too."""


class CqlMarkerStore:
    """Implements MarkerStore on a session, which its caller opens and closes."""

    def __init__(self, session: CqlSession) -> None:
        self._session = session

    async def read_mentions(
        self, conversation_id: ConversationId, user_id: UserId, *, after_number: int, before_number: int, limit: int
    ) -> MentionPage:
        """Reads the newest mentions of a user, or of everybody, bucket by bucket from the newest applied one on."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        rows = await self._session.read(_APPLIED_NUMBER, conversation_id)
        applied_number = (rows[0][0] if rows else None) or 0
        found: dict[int, Mention] = {}
        newest = mention_bucket_of(min(before_number - 1, applied_number))
        for bucket in range(newest, mention_bucket_of(after_number + 1) - 1, -1):
            for target in (user_id, EVERYBODY):
                ends = (after_number, before_number, limit)
                for number, sender_id in await self._session.read(_MENTIONS, conversation_id, target, bucket, *ends):
                    found[number] = Mention(message_number=number, sender_id=sender_id)
            if len(found) >= limit:
                break
        newest_first = [found[number] for number in sorted(found, reverse=True)]
        return MentionPage(applied_number=applied_number, mentions=newest_first[:limit])

    async def read_mentions_by_time(
        self, target: UserId | ConversationId, *, before: TimedMention | None, limit: int
    ) -> Sequence[TimedMention]:
        """Reads the newest mentions before one, newest first, bucket by bucket."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        end = (before.commit_time_ms, before.conversation_id, before.message_number) if before else _NEVER
        rows: list[Row] = []
        for (bucket,) in await self._session.read(_BUCKETS, target, time_bucket_of(end[0])):
            rows += await self._session.read(_BY_TIME, target, bucket, *end, limit - len(rows))
            if len(rows) == limit:
                break
        rows += await self._session.read(_BY_TIME_BEFORE_BUCKETS, target, *end, limit)
        found = {
            TimedMention(commit_time_ms=time_ms, conversation_id=room, message_number=number, sender_id=sender_id)
            for time_ms, room, number, sender_id in rows
        }
        return sorted(found, reverse=True)[:limit]

    async def read_readers(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users have read."""
        return dict(await self._session.read(_READERS, conversation_id))

    async def read_deliveries(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users have received."""
        return dict(await self._session.read(_DELIVERIES, conversation_id))
