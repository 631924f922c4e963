"""The write side: applies batches of the log to the tables. Only the worker uses it.

A batch becomes one write for each partition that it touches (or a few, when it is large), some of them at a time, in
three steps: events, messages and client ids; then the state of each topic with its floor; then the shard. Each step is
confirmed before the next begins, so a floor is never ahead of its rows, wherever it breaks off.
"""

from collections.abc import Iterable, Iterator
from typing import Final

from hubbub_server.adapters.cql.schema import bucket_of, id_slot, mention_bucket_of, time_bucket_of
from hubbub_server.adapters.cql.session import CqlSession
from hubbub_server.adapters.cql.side_by_side import side_by_side
from hubbub_server.adapters.cql.timestamps import Insert, Write
from hubbub_server.adapters.cql.topic_directory import READ_SHARD, read_shard
from hubbub_server.domain.ids import TopicId, is_conversation_id, is_user_id
from hubbub_server.ports.projection import AppliedRow, ProjectionBatch, ShardRow, require_not_set_back

_EVENT: Final = Insert.into("events", "topic_id", "bucket", "position", "epoch", "framed")
_MESSAGE: Final = Insert.into(
    "messages",
    *("conversation_id", "bucket", "message_number", "epoch", "position", "counted_number", "sender_id"),
    *("client_message_id", "content_hash", "commit_time_ms", "body"),
)
_MESSAGE_ID: Final = Insert.into(
    "message_ids",
    *("conversation_id", "slot", "sender_id", "client_message_id", "message_number", "content_hash"),
    *("epoch", "position", "commit_time_ms"),
)
_SETTINGS: Final = Insert.into(
    "conversations",
    *("conversation_id", "settings_epoch", "settings_position", "kind", "title", "creator_id", "creation_hash"),
)
_RECEIPTS_LIMIT: Final = Insert.into("conversations", "conversation_id", "receipts_limit")
_MEMBER: Final = Insert.into("conversations", "conversation_id", "user_id", "epoch", "position", "role")
_MEMBERSHIP: Final = Insert.into(
    "user_topics",
    *("user_id", "conversation_id", "epoch", "position", "joined", "source_epoch", "source_position"),
)
_MARK: Final = Insert.into(
    "conversations",
    *("conversation_id", "user_id", "mark_number", "mark_counted_number", "mark_mention_number"),
)
_BLOCK: Final = Insert.into(
    "conversations",
    *("conversation_id", "user_id", "block_epoch", "block_position", "blocked"),
    *("block_source_epoch", "block_source_position"),
)
_ENTRY: Final = Insert.into("user_topics", "user_id", "conversation_id", "epoch", "position", "framed")
_MENTION: Final = Insert.into(
    "mentions", "conversation_id", "user_id", "bucket", "message_number", "epoch", "position", "sender_id"
)
_TIMED_MENTION: Final = Insert.into(
    "timed_mentions",
    *("target", "bucket", "commit_time_ms", "conversation_id", "message_number", "epoch", "position", "sender_id"),
)
_MENTION_BUCKET: Final = Insert.into("timed_mention_buckets", "target", "bucket")
_READER: Final = Insert.into("readers", "conversation_id", "user_id", "epoch", "position", "message_number")
_DELIVERY: Final = Insert.into("deliveries", "conversation_id", "user_id", "epoch", "position", "message_number")
_SHARD: Final = Insert.into("applied_shards", "shard", "epoch", "sequence")

_FLOOR: Final = (
    *("applied_epoch", "applied_position", "applied_sequence", "applied_commit_time_ms"),
    *("applied_message_number", "applied_counted_number"),
)


class _Floor:
    """The statements of a topic's floor, in one of the two tables that have it."""

    def __init__(self, table: str, key: str) -> None:
        self.place = Insert.into(table, key, *_FLOOR)
        self.id_floor = Insert.into(table, key, "applied_id_floor_ms")
        self.unknown_event = Insert.into(table, key, "applied_unknown_event")

    def writes(self, row: AppliedRow) -> Iterator[Write]:
        """Yields the writes of one row; what it does not know, it leaves as it is."""
        if row.id_floor_ms:
            yield self.id_floor.merged(row.topic_id, row.id_floor_ms)
        if row.has_unknown_event:
            yield self.unknown_event.at(row.epoch, row.position, row.topic_id, True)
        yield self.place.at(
            *(row.epoch, row.position, row.topic_id, row.epoch, row.position, row.sequence, row.commit_time_ms),
            *(row.last_message_number, row.last_counted_number),
        )


_CONVERSATION_FLOOR: Final = _Floor("conversations", "conversation_id")
_USER_FLOOR: Final = _Floor("user_topics", "user_id")

SELECTS: Final = (READ_SHARD,)
INSERTS: Final = (
    *(_EVENT, _MESSAGE, _MESSAGE_ID, _SETTINGS, _RECEIPTS_LIMIT, _MEMBER, _MEMBERSHIP, _SHARD),
    *(_MARK, _BLOCK, _ENTRY, _MENTION, _TIMED_MENTION, _MENTION_BUCKET, _READER, _DELIVERY),
    *(_CONVERSATION_FLOOR.place, _CONVERSATION_FLOOR.id_floor, _CONVERSATION_FLOOR.unknown_event),
    *(_USER_FLOOR.place, _USER_FLOOR.id_floor, _USER_FLOOR.unknown_event),
)

_MAX_ROWS: Final = 256
_MAX_BYTES: Final = 256 * 1024
"""Of rows that need not be written together. Servers refuse mutations above half a commit-log segment (16 MiB)."""

_Partition = tuple[str, str, int]
_Grouped = dict[_Partition, list[Write]]


class CqlProjection:
    """Implements Projection on a session that may write, which its caller opens and closes."""

    def __init__(self, session: CqlSession) -> None:
        self._session = session

    async def apply(self, batch: ProjectionBatch, *, known: ShardRow | None = None) -> None:
        """Writes a batch, confirmed by a quorum when it returns."""
        if known is not None:
            require_not_set_back(await self.read_shard(known.shard), known)
        await side_by_side(self._session.write, _chunks(_rows(batch).values()))
        await side_by_side(self._session.write, _states(batch).values())
        shard = batch.shard
        await self._session.write([_SHARD.at(shard.epoch, shard.sequence, shard.shard, shard.epoch, shard.sequence)])

    async def read_shard(self, shard: int) -> ShardRow | None:
        """Reads how far a shard is applied; None when it never was."""
        return await read_shard(self._session, shard)


def _rows(batch: ProjectionBatch) -> _Grouped:
    """Returns the writes of everything but states and floors, by partition."""
    grouped: _Grouped = {}
    for event in batch.events:
        bucket = bucket_of(event.position)
        grouped.setdefault(("events", event.topic_id, bucket), []).append(
            _EVENT.at(event.epoch, event.position, event.topic_id, bucket, event.position, event.epoch, event.framed)
        )
    for row in batch.messages:
        bucket, slot = bucket_of(row.message_number), id_slot(row.client_message_id)
        grouped.setdefault(("messages", row.conversation_id, bucket), []).append(
            _MESSAGE.at(
                *(row.epoch, row.position, row.conversation_id, bucket, row.message_number, row.epoch, row.position),
                *(row.counted_number, row.sender_id, row.client_message_id, row.content_hash, row.commit_time_ms),
                row.body,
            )
        )
        grouped.setdefault(("message_ids", row.conversation_id, slot), []).append(
            _MESSAGE_ID.at(
                *(row.epoch, row.position, row.conversation_id, slot, row.sender_id, row.client_message_id),
                *(row.message_number, row.content_hash, row.epoch, row.position, row.commit_time_ms),
            )
        )
    for mention in batch.mentions:
        bucket, number = mention_bucket_of(mention.message_number), mention.message_number
        grouped.setdefault((f"mentions {mention.user_id}", mention.conversation_id, bucket), []).append(
            _MENTION.at(
                *(mention.epoch, mention.position, mention.conversation_id, mention.user_id, bucket, number),
                *(mention.epoch, mention.position, mention.sender_id),
            )
        )
        bucket = time_bucket_of(mention.commit_time_ms)
        grouped.setdefault(("timed_mentions", mention.target, bucket), []).append(
            _TIMED_MENTION.at(
                *(mention.epoch, mention.position, mention.target, bucket, mention.commit_time_ms),
                *(mention.conversation_id, number, mention.epoch, mention.position, mention.sender_id),
            )
        )
        # A key and nothing else: that many events of many topics write it cannot be told.
        grouped[("timed_mention_buckets", mention.target, bucket)] = [_MENTION_BUCKET.merged(mention.target, bucket)]
    for table, insert, rows in (("readers", _READER, batch.readers), ("deliveries", _DELIVERY, batch.deliveries)):
        for reader in rows:
            epoch, position = reader.epoch, reader.position
            grouped.setdefault((table, reader.conversation_id, 0), []).append(
                insert.at(
                    *(epoch, position, reader.conversation_id, reader.user_id, epoch, position, reader.message_number)
                )
            )
    return grouped


def _states(batch: ProjectionBatch) -> dict[TopicId, list[Write]]:
    """Returns what makes up each topic's state, its floor last: one mutation of one partition, so all or nothing."""
    states: dict[TopicId, list[Write]] = {}
    for settings in batch.conversations:
        epoch, position = settings.epoch, settings.position
        states.setdefault(settings.conversation_id, []).append(
            _SETTINGS.at(
                *(epoch, position, settings.conversation_id, epoch, position, settings.kind.value, settings.title),
                *(settings.creator_id, settings.creation_hash),
            )
        )
    for changed in batch.settings:
        states.setdefault(changed.conversation_id, []).append(
            _RECEIPTS_LIMIT.at(changed.epoch, changed.position, changed.conversation_id, changed.receipts_limit.value)
        )
    for member in batch.members:
        role = member.role.value if member.role else ""
        epoch, position = member.epoch, member.position
        states.setdefault(member.conversation_id, []).append(
            _MEMBER.at(epoch, position, member.conversation_id, member.user_id, epoch, position, role)
        )
    for news in batch.memberships:
        epoch, position = news.epoch, news.position
        states.setdefault(news.user_id, []).append(
            _MEMBERSHIP.at(
                *(epoch, position, news.user_id, news.conversation_id, epoch, position),
                *(news.joined, news.source_epoch, news.source_position),
            )
        )
    for mark in batch.marks:
        states.setdefault(mark.conversation_id, []).append(
            _MARK.merged(
                *(mark.conversation_id, mark.user_id),
                *(mark.message_number, mark.counted_number, mark.mention_number),
            )
        )
    for block in batch.blocks:
        epoch, position = block.epoch, block.position
        states.setdefault(block.conversation_id, []).append(
            _BLOCK.at(
                *(epoch, position, block.conversation_id, block.user_id, epoch, position, block.blocked),
                *(block.source_epoch, block.source_position),
            )
        )
    for entry in batch.entries:
        epoch, position = entry.epoch, entry.position
        states.setdefault(entry.user_id, []).append(
            _ENTRY.at(epoch, position, entry.user_id, entry.entry, epoch, position, entry.framed)
        )
    for applied in batch.applied:
        states.setdefault(applied.topic_id, []).extend(_floor_of(applied.topic_id).writes(applied))
    return states


def _floor_of(topic_id: TopicId) -> _Floor:
    if is_user_id(topic_id):
        return _USER_FLOOR
    if is_conversation_id(topic_id):
        return _CONVERSATION_FLOOR
    raise ValueError(f"{topic_id!r} is no topic id")


def _chunks(partitions: Iterable[list[Write]]) -> Iterator[list[Write]]:
    """Cuts what is too large for one mutation."""
    for writes in partitions:
        chunk: list[Write] = []
        size_bytes = 0
        for write in writes:
            write_bytes = sum(len(value) for value in write.values if isinstance(value, bytes))
            if chunk and (len(chunk) == _MAX_ROWS or size_bytes + write_bytes > _MAX_BYTES):
                yield chunk
                chunk, size_bytes = [], 0
            chunk.append(write)
            size_bytes += write_bytes
        yield chunk
