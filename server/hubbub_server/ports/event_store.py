"""Reads events from the store."""

from collections.abc import Sequence
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.projection import EventRow


class EventStore(Protocol):
    """Reads the events of topics as clients get them. Raises StoreUnavailable when the store cannot answer."""

    async def read_after(self, topic_id: TopicId, *, after_position: int, limit: int) -> Sequence[EventRow]:
        """Reads up to `limit` (1 to 1,000) events with larger positions, ascending; what is not applied is missing."""
