"""Reads the stored state of topics: where activation starts when there is no snapshot."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.projection import AppliedRow, EntryRow, ShardRow


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredTopic:
    """A topic as the store has it: `state.position == applied.position`, with an empty id window.

    The window's `evicted_position` is `applied.position`, its `floor_ms` is `applied.id_floor_ms`.
    `entries` of a user's topic are not in its state yet: they are bytes (app/stored_topic.py: `whole_state`).
    """

    state: TopicState
    applied: AppliedRow
    entries: Sequence[EntryRow] = ()


class TopicDirectory(Protocol):
    """Reads where topics and shards stand. Every method raises StoreUnavailable when the store cannot answer."""

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        """Reads a topic's state as of one applied position (a consistent read); None when nothing of it is applied."""

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        """Reads how far a topic is applied; None when nothing of it is."""

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied; None when it never was."""

    async def list_topics(self, *, after: TopicId | None, limit: int) -> Sequence[TopicId]:
        """Lists up to `limit` (1 to 1,000) topics of which something is applied, in an order of the store's own.

        `after` is the last one of the page before, None for the first page; the page after the last one is empty.
        """
