"""Turns records of the log into the rows of the store. Pure: what it returns depends on the records alone.

So a record can be projected again at any time and gives the same rows. What cannot be read is PoisonRecord, decided by
what the record is, never by how often it failed.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from hubbub_server.domain.events import (
    ConversationCreated,
    ConversationJoined,
    ConversationLeft,
    Event,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
    UnknownKind,
)
from hubbub_server.domain.id_window import entry_time_ms
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.ports.projection import (
    AppliedRow,
    ConversationRow,
    EventRow,
    MemberRow,
    MembershipRow,
    MessageRow,
    ProjectionBatch,
    ShardRow,
)
from hubbub_server.ports.record_codec import DecodedEvent, RecordCodec, RecordUndecodable
from hubbub_server.ports.record_consumer import PoisonRecord
from hubbub_server.ports.topic_log import LogRecord


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
                rows.add(each, request_hash)
            except _Misplaced as exc:
                raise PoisonRecord(shard=shard, sequence=record.sequence, reason=str(exc)) from exc
        rows.add_applied(record, decoded)
    return ProjectionBatch(
        events=rows.events,
        messages=rows.messages,
        conversations=rows.conversations,
        members=rows.members,
        memberships=rows.memberships,
        applied=list(rows.applied.values()),
        shard=ShardRow(shard=shard, epoch=records[-1].facts.epoch, sequence=records[-1].sequence),
    )


class _Misplaced(ValueError):
    """An event of a kind that its topic cannot have."""


@dataclass(slots=True)
class _Rows:
    events: list[EventRow] = field(default_factory=list)
    messages: list[MessageRow] = field(default_factory=list)
    conversations: list[ConversationRow] = field(default_factory=list)
    members: list[MemberRow] = field(default_factory=list)
    memberships: list[MembershipRow] = field(default_factory=list)
    applied: dict[TopicId, AppliedRow] = field(default_factory=dict)

    def add(self, decoded: DecodedEvent, request_hash: str) -> None:
        event = decoded.event
        self.events.append(
            EventRow(topic_id=event.topic_id, epoch=event.epoch, position=event.position, framed=decoded.framed)
        )
        if isinstance(event.kind, UnknownKind):
            return
        topic_id = event.topic_id
        if is_conversation_id(topic_id):
            self._add_to_conversation(topic_id, event, decoded.message_body, request_hash)
        elif is_user_id(topic_id):
            self._add_to_user(topic_id, event)
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
            case MembersAdded(members=members):
                for member in members:
                    self._add_member(conversation_id, member.user_id, event, member.role)
            case MemberRemoved(user_id=user_id):
                self._add_member(conversation_id, user_id, event, None)
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

    def _add_to_user(self, user_id: UserId, event: Event) -> None:
        match event.kind:
            case ConversationJoined(conversation_id=conversation_id, epoch=source_epoch, join_position=source_position):
                joined = True
            case ConversationLeft(conversation_id=conversation_id, epoch=source_epoch, leave_position=source_position):
                joined = False
            case _:
                raise _Misplaced(f"{type(event.kind).__name__} does not belong to a user's topic")
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
