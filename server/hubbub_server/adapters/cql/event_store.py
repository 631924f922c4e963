"""Reads events."""

from collections.abc import Sequence
from typing import Final

from hubbub_server.adapters.cql.schema import bucket_of
from hubbub_server.adapters.cql.session import CqlSession, Row
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.projection import EventRow

_AFTER: Final = """
    SELECT epoch, position, framed FROM events WHERE topic_id = ? AND bucket = ? AND position > ? LIMIT ?"""

SELECTS: Final = (_AFTER,)


class CqlEventStore:
    """Implements EventStore on a session, which its caller opens and closes."""

    def __init__(self, session: CqlSession) -> None:
        self._session = session

    async def read_after(self, topic_id: TopicId, *, after_position: int, limit: int) -> Sequence[EventRow]:
        """Reads up to `limit` events with larger positions. Positions are dense, so they lie in two buckets at most."""
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        after_position = max(after_position, 0)
        rows: list[Row] = []
        for bucket in range(bucket_of(after_position + 1), bucket_of(after_position + limit) + 1):
            rows += await self._session.read(_AFTER, topic_id, bucket, after_position, limit - len(rows))
            if len(rows) == limit:
                break
        return [
            EventRow(topic_id=topic_id, epoch=epoch, position=position, framed=framed)
            for epoch, position, framed in rows
        ]
