"""Turns records of the log into the rows of the store. Pure: what it returns depends on the records alone.

So a record can be projected again at any time and gives the same rows. What cannot be read is PoisonRecord, decided by
what the record is, never by how often it failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hubbub_server.domain.events import (
    BlockChanged,
    ConversationCreated,
    ConversationJoined,
    ConversationLeft,
    ConversationSettingsChanged,
    DeliveredMarkerMoved,
    Event,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
    ReadMarkerMoved,
    SourcePlace,
    UnknownKind,
)
from hubbub_server.domain.id_window import entry_time_ms
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.domain.message import Message, mentions_of
from hubbub_server.domain.user_topic import entry_of
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
)
from hubbub_server.ports.record_codec import DecodedEvent, RecordCodec, RecordUndecodable
from hubbub_server.ports.record_consumer import PoisonRecord
from hubbub_server.ports.topic_log import LogRecord, RecordFacts


def decode_record(codec: RecordCodec, shard: int, record: LogRecord) -> Sequence[DecodedEvent]:
    """Decodes a record and checks it against its facts.

    Raises:
        PoisonRecord: the body is no record, or not the one that the facts speak of.
    """
    try:
        decoded = codec.decode(record.body)
    except RecordUndecodable as exc:
        raise PoisonRecord(shard=shard, sequence=record.sequence, reason=str(exc)) from exc
    facts = record.facts
    places = [(each.event.topic_id, each.event.epoch, each.event.position) for each in decoded]
    positions = range(facts.first_position, facts.last_position + 1)
    if places != [(facts.topic_id, facts.epoch, position) for position in positions]:
        raise PoisonRecord(shard=shard, sequence=record.sequence, reason="the events are not those of the facts")
    if len(facts.request_hashes) not in (0, len(decoded)):
        raise PoisonRecord(shard=shard, sequence=record.sequence, reason="request hashes do not match the events")
    return decoded


def project(codec: RecordCodec, shard: int, records: Sequence[LogRecord]) -> ProjectionBatch:
    """Returns the rows of consecutive records of a shard, at least one.

    Raises:
        PoisonRecord: at the first record that is not what it should be.
    """
    rows = _Rows()
    for record in records:
        decoded = decode_record(codec, shard, record)
        hashes = record.facts.request_hashes or ("",) * len(decoded)
        for each, request_hash in zip(decoded, hashes, strict=True):
            try:
                rows.add(each, request_hash, record.facts)
            except _Misplaced as exc:
                raise PoisonRecord(shard=shard, sequence=record.sequence, reason=str(exc)) from exc
        rows.add_applied(record, decoded)
    return ProjectionBatch(
        events=rows.events,
        messages=rows.messages,
        conversations=rows.conversations,
        settings=rows.settings,
        members=rows.members,
        memberships=rows.memberships,
        marks=[MemberMarkRow(conversation_id=c, user_id=u, **numbers) for (c, u), numbers in rows.marks.items()],
        blocks=rows.blocks,
        mentions=rows.mentions,
        entries=list(rows.entries.values()),
        readers=list(rows.readers.values()),
        deliveries=list(rows.deliveries.values()),
        applied=list(rows.applied.values()),
        shard=ShardRow(shard=shard, epoch=records[-1].facts.epoch, sequence=records[-1].sequence),
    )


def _source_of(request_hash: str) -> SourcePlace:
    try:
        return SourcePlace.of(request_hash)
    except ValueError as exc:
        raise _Misplaced("a block without the place of its cause") from exc


class _Misplaced(ValueError):
    """An event of a kind that its topic cannot have."""


@dataclass(slots=True)
class _Rows:
    events: list[EventRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    conversations: list[ConversationRow] = field(default_factory=list)
    settings: list[SettingsRow] = field(default_factory=list)
    members: list[MemberRow] = field(default_factory=list)
    memberships: list[MembershipRow] = field(default_factory=list)
    marks: dict[tuple[ConversationId, UserId], dict[str, int]] = field(default_factory=dict)
    blocks: list[BlockRow] = field(default_factory=list)
    mentions: list[MentionRow] = field(default_factory=list)
    entries: dict[tuple[UserId, str], EntryRow] = field(default_factory=dict)
    readers: dict[tuple[ConversationId, UserId], ReaderRow] = field(default_factory=dict)
    deliveries: dict[tuple[ConversationId, UserId], ReaderRow] = field(default_factory=dict)
    applied: dict[TopicId, AppliedRow] = field(default_factory=dict)

    def add(self, decoded: DecodedEvent, request_hash: str, facts: RecordFacts) -> None:
        event = decoded.event
        self.events.append(
            EventRow(topic_id=event.topic_id, epoch=event.epoch, position=event.position, framed=decoded.framed)
        )
        if isinstance(event.kind, UnknownKind):
            return
        topic_id = event.topic_id
        if is_conversation_id(topic_id):
            self._add_to_conversation(topic_id, event, decoded.message_body, request_hash)
            self._add_marks(topic_id, event, facts)
        elif is_user_id(topic_id):
            self._add_to_user(topic_id, event, decoded.framed)
        else:
            raise _Misplaced(f"{topic_id!r} is no topic id")

    def _add_to_conversation(
        self, conversation_id: ConversationId, event: Event, message_body: bytes, request_hash: str
    ) -> None:
        epoch, position = event.epoch, event.position
        match event.kind:
            case MessageSent(message=message):
                self.messages.append(
                    MessageRow(
                        conversation_id=conversation_id,
                        epoch=epoch,
                        position=position,
                        message_number=message.message_number,
                        counted_number=message.counted_number,
                        sender_id=message.sender_id,
                        client_message_id=message.client_message_id,
                        content_hash=request_hash,
                        commit_time_ms=event.commit_time_ms,
                        body=message_body,
                    )
                )
            case ConversationCreated(conversation_kind=kind, title=title) if event.actor_id is not None:
                self.conversations.append(
                    ConversationRow(
                        conversation_id=conversation_id,
                        epoch=epoch,
                        position=position,
                        kind=kind,
                        title=title,
                        creator_id=event.actor_id,
                        creation_hash=request_hash,
                    )
                )
            case ConversationSettingsChanged(receipts_limit=limit):
                self.settings.append(
                    SettingsRow(conversation_id=conversation_id, epoch=epoch, position=position, receipts_limit=limit)
                )
            case MembersAdded(members=members):
                for member in members:
                    self._add_member(conversation_id, member.user_id, event, member.role)
            case MemberRemoved(user_id=user_id):
                self._add_member(conversation_id, user_id, event, None)
            case BlockChanged(blocked=blocked) if event.actor_id is not None:
                source = _source_of(request_hash)
                self.blocks.append(
                    BlockRow(
                        conversation_id=conversation_id,
                        user_id=event.actor_id,
                        epoch=epoch,
                        position=position,
                        blocked=blocked,
                        source_epoch=source.epoch,
                        source_position=source.position,
                    )
                )
            case _:
                raise _Misplaced(f"{type(event.kind).__name__} does not belong to a conversation, or not like this")

    def _add_member(
        self, conversation_id: ConversationId, user_id: UserId, event: Event, role: MemberRole | None
    ) -> None:
        self.members.append(
            MemberRow(
                conversation_id=conversation_id, user_id=user_id, epoch=event.epoch, position=event.position, role=role
            )
        )

    def _add_marks(self, conversation_id: ConversationId, event: Event, facts: RecordFacts) -> None:
        """Adds what counts as read by itself, and mentions."""
        match event.kind:
            case MessageSent(message=message):
                number = message.message_number
                self._mark(conversation_id, message.sender_id, message_number=number)
                self._mark(conversation_id, message.sender_id, counted_number=message.counted_number)
                self._add_mentions(conversation_id, event, message)
            case MembersAdded(members=members):  # alone in its record, or before every message
                for member in members:
                    self._mark(conversation_id, member.user_id, message_number=facts.last_message_number)
                    self._mark(conversation_id, member.user_id, counted_number=facts.last_counted_number)
            case _:
                pass

    def _add_mentions(self, conversation_id: ConversationId, event: Event, message: Message) -> None:
        mentions = mentions_of(message)
        for user_id in [EVERYBODY] if mentions.everybody else sorted(mentions.user_ids):
            self._mark(conversation_id, user_id, mention_number=message.message_number)
            self.mentions.append(
                MentionRow(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    epoch=event.epoch,
                    position=event.position,
                    message_number=message.message_number,
                    sender_id=message.sender_id,
                    commit_time_ms=event.commit_time_ms,
                )
            )

    def _mark(self, conversation_id: ConversationId, user_id: UserId, **numbers: int) -> None:
        row = self.marks.setdefault((conversation_id, user_id), {})
        row.update({name: number for name, number in numbers.items() if number > row.get(name, 0)})

    def _add_to_user(self, user_id: UserId, event: Event, framed: bytes) -> None:
        match event.kind:
            case ConversationJoined(conversation_id=conversation_id, epoch=source_epoch, join_position=source_position):
                joined = True
            case ConversationLeft(conversation_id=conversation_id, epoch=source_epoch, leave_position=source_position):
                joined = False
            case _:
                self._add_entry(user_id, event, framed)
                return
        self.memberships.append(
            MembershipRow(
                user_id=user_id,
                conversation_id=conversation_id,
                epoch=event.epoch,
                position=event.position,
                joined=joined,
                source_epoch=source_epoch,
                source_position=source_position,
            )
        )

    def _add_entry(self, user_id: UserId, event: Event, framed: bytes) -> None:
        entry = entry_of(event.kind)
        if entry is None:
            raise _Misplaced(f"{type(event.kind).__name__} does not belong to a user's topic")
        epoch, position = event.epoch, event.position
        self.entries[user_id, entry] = EntryRow(
            user_id=user_id, entry=entry, epoch=epoch, position=position, framed=framed
        )
        match event.kind:
            case ReadMarkerMoved(conversation_id=conversation_id, marker=marker, hidden=False):
                self.readers[conversation_id, user_id] = ReaderRow(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    epoch=epoch,
                    position=position,
                    message_number=marker.message_number,
                )
            case DeliveredMarkerMoved(conversation_id=conversation_id, marker=delivered):
                self.deliveries[conversation_id, user_id] = ReaderRow(
                    conversation_id=conversation_id,
                    user_id=user_id,
                    epoch=epoch,
                    position=position,
                    message_number=delivered.message_number,
                )
            case _:
                pass

    def add_applied(self, record: LogRecord, decoded: Sequence[DecodedEvent]) -> None:
        """Replaces the topic's row by one that stands after `record`."""
        facts = record.facts
        before = self.applied.get(facts.topic_id)
        times_ms = [
            entry_time_ms(each.event.kind.message.client_message_id, each.event.commit_time_ms)
            for each in decoded
            if isinstance(each.event.kind, MessageSent)
        ]
        self.applied[facts.topic_id] = AppliedRow(
            topic_id=facts.topic_id,
            epoch=facts.epoch,
            position=facts.last_position,
            sequence=record.sequence,
            commit_time_ms=facts.commit_time_ms,
            last_message_number=facts.last_message_number,
            last_counted_number=facts.last_counted_number,
            id_floor_ms=max([before.id_floor_ms if before else 0, *times_ms]),
            has_unknown_event=(before is not None and before.has_unknown_event)
            or any(isinstance(each.event.kind, UnknownKind) for each in decoded),
        )
