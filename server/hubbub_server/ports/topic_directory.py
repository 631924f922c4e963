"""Reads the stored state of topics: where activation starts."""

from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.projection import AppliedRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTopic:
    """A topic as the store has it: `state.position == applied.position`, with an empty id window.

    The window's `evicted_position` is `applied.position`, its `floor_ms` is `applied.id_floor_ms`.
    """

    state: TopicState
    applied: AppliedRow


class TopicDirectory(Protocol):
    """Reads where topics stand. Both methods raise StoreUnavailable when the store cannot answer."""

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        """Reads a topic's state as of one applied position (a consistent read); None when nothing of it is applied."""

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        """Reads how far a topic is applied; None when nothing of it is."""
