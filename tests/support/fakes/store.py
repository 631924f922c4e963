"""The store in memory: Projection, MessageStore, EventStore, TopicDirectory and MarkerStore in one.

Two switches: `is_unavailable` (the store is down: everything raises StoreUnavailable) and `is_frozen` (the projector is
stopped: writes raise it, reads go on with what is applied). Both may be turned at any time.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeVar

from hubbub_server.app.stored_topic import stored_conversation, stored_user_topic
from hubbub_server.domain.errors import StoreUnavailable
from hubbub_server.domain.id_window import IdEntry, IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.ports.marker_store import Mention, MentionPage, TimedMention
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.projection import (
    EVERYBODY,
    AppliedRow,
    BlockRow,
    ConversationRow,
    EntryRow,
    EventRow,
    MemberMarkRow,
    MemberRow,
    MembershipRow,
    MentionRow,
    MessageRow,
    ProjectionBatch,
    ReaderRow,
    SettingsRow,
    ShardRow,
    require_not_set_back,
)
from hubbub_server.ports.topic_directory import StoredTopic


class _Placed(Protocol):
    @property
    def epoch(self) -> int: ...
    @property
    def position(self) -> int: ...


K = TypeVar("K")
R = TypeVar("R", bound=_Placed)


class FakeStore:
    """All five store ports. Counts `applies` (batches), `lookups` and calls `refused`; the next `fail_applies` fail."""

    def __init__(self) -> None:
        self.is_unavailable = False
        self.is_frozen = False
        self.fail_applies = 0
        self.applies = 0
        self.lookups = 0
        self.refused = 0
        self.on_apply: Callable[[ProjectionBatch], None] = lambda batch: None
        self._events: dict[TopicId, dict[int, EventRow]] = {}
        self._messages: dict[ConversationId, dict[int, MessageRow]] = {}
        self._conversations: dict[ConversationId, ConversationRow] = {}
        self._settings: dict[ConversationId, SettingsRow] = {}
        self._members: dict[ConversationId, dict[UserId, MemberRow]] = {}
        self._memberships: dict[UserId, dict[ConversationId, MembershipRow]] = {}
        self._marks: dict[ConversationId, dict[UserId, MemberMarkRow]] = {}
        self._blocks: dict[ConversationId, dict[UserId, BlockRow]] = {}
        self._mentions: dict[tuple[ConversationId, UserId], dict[int, MentionRow]] = {}
        self._entries: dict[UserId, dict[str, EntryRow]] = {}
        self._readers: dict[ConversationId, dict[UserId, ReaderRow]] = {}
        self._deliveries: dict[ConversationId, dict[UserId, ReaderRow]] = {}
        self._applied: dict[TopicId, AppliedRow] = {}
        self._shards: dict[int, ShardRow] = {}

    async def apply(self, batch: ProjectionBatch, *, known: ShardRow | None = None) -> None:
        self._check_available()
        require_not_set_back(self._shards.get(batch.shard.shard), known)
        if self.is_frozen:
            raise StoreUnavailable("the projector is stopped")
        if self.fail_applies > 0:
            self.fail_applies -= 1
            raise StoreUnavailable("the write failed")
        self.on_apply(batch)
        for event in batch.events:
            _put(self._events.setdefault(event.topic_id, {}), event.position, event)
        for message in batch.messages:
            _put(self._messages.setdefault(message.conversation_id, {}), message.message_number, message)
        for conversation in batch.conversations:
            _put(self._conversations, conversation.conversation_id, conversation)
        for settings in batch.settings:
            _put(self._settings, settings.conversation_id, settings)
        for member in batch.members:
            _put(self._members.setdefault(member.conversation_id, {}), member.user_id, member)
        for membership in batch.memberships:
            _put(self._memberships.setdefault(membership.user_id, {}), membership.conversation_id, membership)
        for mark in batch.marks:
            self._merge_mark(mark)
        for block in batch.blocks:
            _put(self._blocks.setdefault(block.conversation_id, {}), block.user_id, block)
        for mention in batch.mentions:
            key = mention.conversation_id, mention.user_id
            _put(self._mentions.setdefault(key, {}), mention.message_number, mention)
        for entry in batch.entries:
            _put(self._entries.setdefault(entry.user_id, {}), entry.entry, entry)
        for reader in batch.readers:
            _put(self._readers.setdefault(reader.conversation_id, {}), reader.user_id, reader)
        for delivery in batch.deliveries:
            _put(self._deliveries.setdefault(delivery.conversation_id, {}), delivery.user_id, delivery)
        for applied in batch.applied:
            self._put_applied(applied)
        shard = self._shards.get(batch.shard.shard)
        if shard is None or (batch.shard.epoch, batch.shard.sequence) > (shard.epoch, shard.sequence):
            self._shards[batch.shard.shard] = batch.shard
        self.applies += 1

    def _merge_mark(self, row: MemberMarkRow) -> None:
        marks = self._marks.setdefault(row.conversation_id, {})
        old = marks.get(row.user_id, row)
        marks[row.user_id] = MemberMarkRow(
            conversation_id=row.conversation_id,
            user_id=row.user_id,
            message_number=max(row.message_number, old.message_number),
            counted_number=max(row.counted_number, old.counted_number),
            mention_number=max(row.mention_number, old.mention_number),
        )

    def _put_applied(self, row: AppliedRow) -> None:
        old = self._applied.get(row.topic_id)
        if old is None:
            self._applied[row.topic_id] = row
            return
        newest = row if (row.epoch, row.position) > (old.epoch, old.position) else old
        self._applied[row.topic_id] = AppliedRow(
            topic_id=newest.topic_id,
            epoch=newest.epoch,
            position=newest.position,
            sequence=newest.sequence,
            commit_time_ms=newest.commit_time_ms,
            last_message_number=newest.last_message_number,
            last_counted_number=newest.last_counted_number,
            id_floor_ms=max(row.id_floor_ms, old.id_floor_ms),
            has_unknown_event=row.has_unknown_event or old.has_unknown_event,
        )

    async def read_shard(self, shard: int) -> ShardRow | None:
        self._check_available()
        return self._shards.get(shard)

    async def list_topics(self, *, after: TopicId | None, limit: int) -> Sequence[TopicId]:
        self._check_available()
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        return [topic_id for topic_id in sorted(self._applied) if after is None or topic_id > after][:limit]

    async def read_after(self, topic_id: TopicId, *, after_position: int, limit: int) -> Sequence[EventRow]:
        self._check_available()
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        rows = self._events.get(topic_id, {})
        return [rows[position] for position in sorted(rows) if position > after_position][:limit]

    async def read_range(
        self, conversation_id: ConversationId, *, first_number: int, last_number: int
    ) -> Sequence[StoredMessage]:
        self._check_available()
        if last_number - first_number >= 200:
            raise ValueError("at most 200 messages")
        rows = self._messages.get(conversation_id, {})
        return [
            StoredMessage(
                message_number=row.message_number,
                counted_number=row.counted_number,
                sender_id=row.sender_id,
                change_position=row.position,
                commit_time_ms=row.commit_time_ms,
                body=row.body,
            )
            for number, row in sorted(rows.items())
            if first_number <= number <= last_number
        ]

    async def find_ids(self, conversation_id: ConversationId, keys: Collection[IdKey]) -> IdLookup:
        self._check_available()
        self.lookups += 1
        wanted = frozenset(keys)
        applied = self._applied.get(conversation_id)
        found = {
            (row.sender_id, row.client_message_id): IdEntry(
                message_number=row.message_number,
                content_hash=row.content_hash,
                epoch=row.epoch,
                position=row.position,
                commit_time_ms=row.commit_time_ms,
            )
            for row in self._messages.get(conversation_id, {}).values()
            if (row.sender_id, row.client_message_id) in wanted
        }
        return IdLookup(applied_position=applied.position if applied else 0, keys=wanted, found=found)

    async def read_mentions(
        self, conversation_id: ConversationId, user_id: UserId, *, after_number: int, before_number: int, limit: int
    ) -> MentionPage:
        self._check_available()
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        applied = self._applied.get(conversation_id)
        rows = {
            **self._mentions.get((conversation_id, user_id), {}),
            **self._mentions.get((conversation_id, EVERYBODY), {}),
        }
        mentions = [
            Mention(message_number=number, sender_id=rows[number].sender_id)
            for number in sorted(rows, reverse=True)
            if after_number < number < before_number
        ]
        return MentionPage(applied_number=applied.last_message_number if applied else 0, mentions=mentions[:limit])

    async def read_mentions_by_time(
        self, target: UserId | ConversationId, *, before: TimedMention | None, limit: int
    ) -> Sequence[TimedMention]:
        self._check_available()
        if not 1 <= limit <= 1_000:
            raise ValueError(f"limit {limit} is not in 1 to 1,000")
        found = [
            TimedMention(
                commit_time_ms=row.commit_time_ms,
                conversation_id=row.conversation_id,
                message_number=row.message_number,
                sender_id=row.sender_id,
            )
            for rows in self._mentions.values()
            for row in rows.values()
            if row.target == target
        ]
        return sorted((each for each in found if before is None or each < before), reverse=True)[:limit]

    async def read_readers(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        self._check_available()
        return {row.user_id: row.message_number for row in self._readers.get(conversation_id, {}).values()}

    async def read_deliveries(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        self._check_available()
        return {row.user_id: row.message_number for row in self._deliveries.get(conversation_id, {}).values()}

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        self._check_available()
        applied = self._applied.get(topic_id)
        if applied is None:
            return None
        if is_user_id(topic_id):
            memberships = self._memberships.get(topic_id, {}).values()
            return stored_user_topic(topic_id, applied, memberships, self._entries.get(topic_id, {}).values())
        if is_conversation_id(topic_id):
            members = self._members.get(topic_id, {}).values()
            marks, blocks = self._marks.get(topic_id, {}).values(), self._blocks.get(topic_id, {}).values()
            settings = self._settings.get(topic_id)
            limit = settings.receipts_limit if settings else ReceiptsMode.FULL
            return stored_conversation(
                topic_id, applied, self._conversations.get(topic_id), members, marks, blocks, limit
            )
        raise ValueError(f"{topic_id!r} is no topic id")

    async def read_applied(self, topic_id: TopicId) -> AppliedRow | None:
        self._check_available()
        return self._applied.get(topic_id)

    def _check_available(self) -> None:
        if self.is_unavailable:
            self.refused += 1
            raise StoreUnavailable("the store is down")


def _put(rows: dict[K, R], key: K, row: R) -> None:
    old = rows.get(key)
    if old is None or (row.epoch, row.position) > (old.epoch, old.position):
        rows[key] = row
