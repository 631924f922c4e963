"""Reads messages and events of a topic up to its head: from memory, from the store, and from the log where both end.

The caller brings the topic to the head first (`TopicHub.at_head`), so an answer has everything that was acknowledged
before. Numbers and positions are dense, so completeness is checked by counting.
"""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from typing import Final

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.frames import Events
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.events import MessageSent
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.limits import SYNC_MAX_EVENTS
from hubbub_server.domain.message import Message, mentions_of
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.marker_store import MarkerStore, Mention, TimedMention
from hubbub_server.ports.message_store import MessageStore, StoredMessage
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord, RecordFacts, TopicLog

_LOG_READ_BYTES: Final = 512 * 1024
_JOIN_MAX_BYTES: Final = 128 * 1024


class OlderEpoch(Exception):
    """Events that were asked for are of an epoch before the topic's: they are no part of what a cursor of now means."""


class TopicReader:
    """Reads ranges of a topic that is at its head."""

    def __init__(
        self,
        *,
        log: TopicLog,
        messages: MessageStore,
        events: EventStore,
        markers: MarkerStore,
        codec: RecordCodec,
    ) -> None:
        """Takes the ports."""
        self._markers = markers
        self._log = log
        self._messages = messages
        self._events = events
        self._codec = codec

    async def messages(self, topic: ActiveTopic, first_number: int, last_number: int) -> list[StoredMessage]:
        """Reads messages by number, both ends inclusive, ascending and complete; at most 200, all of them committed.

        Raises:
            LogUnavailable, StoreUnavailable: they cannot be had now.
        """
        sequence = topic.sequence
        found = self._messages_in(topic.tail(), first_number, last_number)
        store_error: StoreUnavailable | None = None
        if first_number not in found and first_number <= last_number:
            try:
                found = await self._stored_messages(topic.topic_id, first_number, last_number) | found
            except StoreUnavailable as error:
                store_error = error
        missing = [number for number in range(first_number, last_number + 1) if number not in found]
        if missing:
            async for record in self._log_from(topic, sequence, lambda f: f.last_message_number >= missing[0]):
                found |= self._messages_in([record], first_number, last_number)
                if record.facts.last_message_number >= missing[-1]:
                    break
            if any(number not in found for number in missing):
                raise store_error or LogUnavailable("messages are neither in the store nor in the log")
        return [found[number] for number in range(first_number, last_number + 1)]

    async def messages_without_log(
        self, conversation_id: ConversationId, tail: Iterable[LogRecord], first_number: int, last_number: int
    ) -> list[StoredMessage]:
        """Reads messages as `messages` does, from the store and records in memory alone. Raises as it does."""
        found = self._messages_in(tail, first_number, last_number)
        if first_number not in found and first_number <= last_number:
            found = await self._stored_messages(conversation_id, first_number, last_number) | found
        if any(number not in found for number in range(first_number, last_number + 1)):
            raise LogUnavailable("the log cannot be read, and the store does not have these messages yet")
        return [found[number] for number in range(first_number, last_number + 1)]

    async def _stored_messages(self, topic_id: TopicId, first: int, last: int) -> dict[int, StoredMessage]:
        rows = await self._messages.read_range(ConversationId(topic_id), first_number=first, last_number=last)
        return {row.message_number: row for row in rows}

    def _messages_in(self, records: Iterable[LogRecord], first: int, last: int) -> dict[int, StoredMessage]:
        found: dict[int, StoredMessage] = {}
        for record in records:
            facts = record.facts
            before = facts.last_message_number - (facts.last_position - facts.first_position + 1)
            if facts.last_message_number < first or before >= last or MessageSent.__name__ not in facts.kinds:
                continue
            for decoded in self._codec.decode(record.body):
                event = decoded.event
                if isinstance(event.kind, MessageSent) and first <= event.message_number <= last:
                    found[event.message_number] = StoredMessage(
                        message_number=event.message_number,
                        counted_number=event.kind.message.counted_number,
                        sender_id=event.kind.message.sender_id,
                        change_position=event.position,
                        commit_time_ms=event.commit_time_ms,
                        body=decoded.message_body,
                    )
        return found

    async def mentions(
        self, topic: ActiveTopic, user_id: UserId, *, after_number: int, before_number: int, limit: int
    ) -> list[Mention]:
        """Reads the newest mentions of a user, or of everybody, between two numbers, both exclusive; newest first.

        `limit` is 1 to 1,000. All up to the head are known: what the store does not have yet comes from the log.

        Raises:
            LogUnavailable, StoreUnavailable: they cannot be had now.
        """
        sequence, tail = topic.sequence, list(topic.tail())
        page = await self._markers.read_mentions(
            ConversationId(topic.topic_id),
            user_id,
            after_number=after_number,
            before_number=before_number,
            limit=limit,
        )
        found = {mention.message_number: mention for mention in page.mentions}
        after_number = max(after_number, page.applied_number)
        if after_number + 1 < before_number:
            async for message in self._sent_after(topic, sequence, tail, after_number):
                mentions = mentions_of(message)
                if message.message_number < before_number and (mentions.everybody or user_id in mentions.user_ids):
                    found[message.message_number] = Mention(
                        message_number=message.message_number, sender_id=message.sender_id
                    )
        return [found[number] for number in sorted(found, reverse=True)][:limit]

    async def mentions_not_stored(self, topic: ActiveTopic, user_id: UserId) -> list[StoredMessage]:
        """Reads the messages up to the head that mention a user, or everybody, and are not in the store yet.

        What is stored later than this call begins may be among them.

        Raises:
            LogUnavailable, StoreUnavailable: they cannot be had now.
        """
        sequence, tail, end = topic.sequence, list(topic.tail()), topic.head.last_message_number + 1
        page = await self._markers.read_mentions(
            ConversationId(topic.topic_id), user_id, after_number=end, before_number=end, limit=1
        )
        numbers: list[int] = []
        if page.applied_number + 1 < end:
            async for message in self._sent_after(topic, sequence, tail, page.applied_number):
                mentions = mentions_of(message)
                if message.message_number < end and (mentions.everybody or user_id in mentions.user_ids):
                    numbers.append(message.message_number)
        return [message for number in numbers for message in await self.messages(topic, number, number)]

    async def stored_mentions(
        self, target: UserId | ConversationId, *, before: TimedMention | None, limit: int
    ) -> Sequence[TimedMention]:
        """Reads mentions as MarkerStore.read_mentions_by_time does. Raises StoreUnavailable."""
        return await self._markers.read_mentions_by_time(target, before=before, limit=limit)

    async def _sent_after(
        self, topic: ActiveTopic, sequence: int, tail: list[LogRecord], number: int
    ) -> AsyncIterator[Message]:
        """Iterates over all messages after a number, up to the head."""
        if tail and tail[0].facts.last_message_number <= number:
            records = _iterate(tail)
        else:
            records = self._log_from(topic, sequence, lambda facts: facts.last_message_number > number)
        async for record in records:
            if record.facts.last_message_number > number and MessageSent.__name__ in record.facts.kinds:
                for decoded in self._codec.decode(record.body):
                    kind = decoded.event.kind
                    if isinstance(kind, MessageSent) and kind.message.message_number > number:
                        yield kind.message

    async def readers(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users have read, as of what the store knows. Raises StoreUnavailable."""
        return await self._markers.read_readers(conversation_id)

    async def deliveries(self, conversation_id: ConversationId) -> Mapping[UserId, int]:
        """Reads how far users' devices have received, as of what the store knows. Raises StoreUnavailable."""
        return await self._markers.read_deliveries(conversation_id)

    async def events(self, topic: ActiveTopic, after_position: int, last_position: int) -> AsyncIterator[Events]:
        """Reads events in order: `after_position` < position <= `last_position`, complete; at most 1,000.

        Raises:
            LogUnavailable, StoreUnavailable: they cannot be had now; what was yielded before is right.
            OlderEpoch: the first of them are of a log that was lost; nothing was yielded.
        """
        sequence, tail, epoch = topic.sequence, list(topic.tail()), topic.state.epoch
        position = after_position
        store_error: StoreUnavailable | None = None
        if not _covers(tail, position) and position < last_position:
            try:
                async for events in self._stored_events(topic, epoch, position, last_position):
                    position += events.count
                    yield events
            except StoreUnavailable as error:
                store_error = error
        if not _covers(tail, position) and position < last_position:
            start = position
            records = self._log_from(topic, sequence, lambda f: f.last_position > start)
        else:
            records = _iterate(tail)
        async for record in records:
            events = self._slice(record, position, last_position)
            position += events.count
            if events.count:
                yield events
            if position >= last_position:
                break
        if position < last_position:
            raise store_error or LogUnavailable("events are neither in the store nor in the log")

    async def _stored_events(
        self, topic: ActiveTopic, epoch: int, position: int, last_position: int
    ) -> AsyncIterator[Events]:
        rows = await self._events.read_after(
            topic.topic_id, after_position=position, limit=min(SYNC_MAX_EVENTS, last_position - position)
        )
        if rows and rows[0].epoch < epoch:
            raise OlderEpoch
        framed: list[bytes] = []
        size_bytes = 0
        for row in rows:
            if row.position != position + 1 or row.position > last_position:
                break
            position += 1
            framed.append(row.framed)
            size_bytes += len(row.framed)
            if size_bytes >= _JOIN_MAX_BYTES:
                yield Events(body=b"".join(framed), count=len(framed))
                framed, size_bytes = [], 0
        if framed:
            yield Events(body=b"".join(framed), count=len(framed))

    def _slice(self, record: LogRecord, after_position: int, last_position: int) -> Events:
        """Returns the part of a record that follows `after_position`; the whole record costs no decoding."""
        facts = record.facts
        if facts.last_position <= after_position or facts.first_position > last_position:
            return Events(body=b"", count=0)
        if facts.first_position == after_position + 1 and facts.last_position <= last_position:
            return Events(body=record.body, count=facts.last_position - facts.first_position + 1)
        framed = [
            decoded.framed
            for decoded in self._codec.decode(record.body)
            if after_position < decoded.event.position <= last_position
        ]
        return Events(body=b"".join(framed), count=len(framed))

    async def _log_from(
        self, topic: ActiveTopic, head_sequence: int, is_reached: Callable[[RecordFacts], bool]
    ) -> AsyncIterator[LogRecord]:
        """Iterates over the topic's log from the first record for which `is_reached` (monotone) up to the head."""
        sequence = await self._locate(topic, head_sequence, is_reached)
        while sequence < head_sequence:
            for record in await self._log.read_range(
                topic.topic_id, after_sequence=sequence, up_to_sequence=head_sequence, max_bytes=_LOG_READ_BYTES
            ):
                yield record
                sequence = record.sequence

    async def _locate(self, topic: ActiveTopic, head_sequence: int, is_reached: Callable[[RecordFacts], bool]) -> int:
        """Finds by bisection the sequence after which the first reached record comes: about 20 reads of the leader."""
        low, high = 0, head_sequence  # the record after `low` may be unreached, the one at `high` is reached
        while high - low > 1:
            middle = (low + high) // 2
            record = await self._log.read_next(topic.topic_id, after_sequence=middle - 1)
            if record is None or is_reached(record.facts):
                high = middle
            else:
                low = record.sequence
        return high - 1


def _covers(tail: list[LogRecord], after_position: int) -> bool:
    return bool(tail) and tail[0].facts.first_position <= after_position + 1


async def _iterate(records: list[LogRecord]) -> AsyncIterator[LogRecord]:
    for record in records:
        yield record
