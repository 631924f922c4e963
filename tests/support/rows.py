"""Rows and batches of the store, with everything that a test does not care about filled in."""

from collections.abc import Iterable, Sequence

from hubbub_server.domain.events import ConversationKind, MemberRole
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.ports.projection import (
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

SENDER = UserId(TopicId("usender"))


def conversation_id(text: str) -> ConversationId:
    """Returns a conversation id."""
    return ConversationId(TopicId(text))


def user_id(text: str) -> UserId:
    """Returns a user id."""
    return UserId(TopicId(text))


def client_id(number: int) -> ClientMessageId:
    """Returns a client's id, another one for each number."""
    return ClientMessageId(f"00000000-0000-4000-8000-{number:012d}")


def event_row(topic_id: TopicId, position: int, *, epoch: int = 1) -> EventRow:
    """Returns an event whose bytes name its place."""
    return EventRow(topic_id=topic_id, epoch=epoch, position=position, framed=f"{topic_id}/{epoch}/{position}".encode())


def message_row(
    topic_id: ConversationId, number: int, *, position: int | None = None, epoch: int = 1, body: bytes = b"body"
) -> MessageRow:
    """Returns a message; its position is its number unless told."""
    return MessageRow(
        conversation_id=topic_id,
        epoch=epoch,
        position=number if position is None else position,
        message_number=number,
        counted_number=number,
        sender_id=SENDER,
        client_message_id=client_id(number),
        content_hash=f"hash {number}",
        commit_time_ms=1_000 + number,
        body=body,
    )


def conversation_row(
    topic_id: ConversationId, position: int = 1, *, epoch: int = 1, title: str = "title"
) -> ConversationRow:
    """Returns a group's settings."""
    return ConversationRow(
        conversation_id=topic_id,
        epoch=epoch,
        position=position,
        kind=ConversationKind.GROUP,
        title=title,
        creator_id=SENDER,
        creation_hash="creation hash",
    )


def member_row(
    topic_id: ConversationId, member_id: UserId, position: int, role: MemberRole | None, *, epoch: int = 1
) -> MemberRow:
    """Returns a member, or one who left."""
    return MemberRow(conversation_id=topic_id, user_id=member_id, epoch=epoch, position=position, role=role)


def membership_row(
    of: UserId, topic_id: ConversationId, position: int, *, joined: bool, epoch: int = 1
) -> MembershipRow:
    """Returns news of a user's membership; its source position is ten times its own."""
    return MembershipRow(
        user_id=of,
        conversation_id=topic_id,
        epoch=epoch,
        position=position,
        joined=joined,
        source_epoch=1,
        source_position=10 * position,
    )


def mark_row(
    topic_id: ConversationId, member_id: UserId, number: int = 0, *, counted: int | None = None, mention: int = 0
) -> MemberMarkRow:
    """Returns what a member need not read; its counted number is its number unless told."""
    return MemberMarkRow(
        conversation_id=topic_id,
        user_id=member_id,
        message_number=number,
        counted_number=number if counted is None else counted,
        mention_number=mention,
    )


def block_row(
    topic_id: ConversationId, blocker_id: UserId, position: int, *, blocked: bool = True, epoch: int = 1
) -> BlockRow:
    """Returns news of a block; its source position is ten times its own."""
    return BlockRow(
        conversation_id=topic_id,
        user_id=blocker_id,
        epoch=epoch,
        position=position,
        blocked=blocked,
        source_epoch=1,
        source_position=10 * position,
    )


def mention_row(
    topic_id: ConversationId,
    member_id: UserId,
    number: int,
    *,
    position: int | None = None,
    epoch: int = 1,
    time_ms: int | None = None,
) -> MentionRow:
    """Returns a mention; its position and its time are its number unless told."""
    return MentionRow(
        conversation_id=topic_id,
        user_id=member_id,
        epoch=epoch,
        position=number if position is None else position,
        message_number=number,
        sender_id=SENDER,
        commit_time_ms=number if time_ms is None else time_ms,
    )


def entry_row(of: UserId, entry: str, position: int, *, epoch: int = 1) -> EntryRow:
    """Returns an entry whose bytes name its place."""
    framed = f"{of}/{epoch}/{position}".encode()
    return EntryRow(user_id=of, entry=entry, epoch=epoch, position=position, framed=framed)


def settings_row(topic_id: ConversationId, position: int, limit: ReceiptsMode, *, epoch: int = 1) -> SettingsRow:
    """Returns what owners decided."""
    return SettingsRow(conversation_id=topic_id, epoch=epoch, position=position, receipts_limit=limit)


def reader_row(topic_id: ConversationId, member_id: UserId, position: int, number: int, *, epoch: int = 1) -> ReaderRow:
    """Returns how far somebody has read."""
    return ReaderRow(conversation_id=topic_id, user_id=member_id, epoch=epoch, position=position, message_number=number)


def applied_row(
    topic_id: TopicId,
    position: int,
    *,
    epoch: int = 1,
    last_message_number: int | None = None,
    id_floor_ms: int = 0,
    has_unknown_event: bool = False,
) -> AppliedRow:
    """Returns how far a topic is applied; as many messages as positions unless told."""
    number = position if last_message_number is None else last_message_number
    return AppliedRow(
        topic_id=topic_id,
        epoch=epoch,
        position=position,
        sequence=100 + position,
        commit_time_ms=1_000 + position,
        last_message_number=number,
        last_counted_number=number,
        id_floor_ms=id_floor_ms,
        has_unknown_event=has_unknown_event,
    )


def shard_row(sequence: int = 1, *, shard: int = 0, epoch: int = 1) -> ShardRow:
    """Returns how far a shard is applied."""
    return ShardRow(shard=shard, epoch=epoch, sequence=sequence)


def messages_batch(topic_id: ConversationId, numbers: Iterable[int], *, epoch: int = 1) -> ProjectionBatch:
    """Returns a batch of messages that are the events at the positions of their numbers."""
    places: Sequence[int] = list(numbers)
    return ProjectionBatch(
        events=[event_row(topic_id, place, epoch=epoch) for place in places],
        messages=[message_row(topic_id, place, epoch=epoch) for place in places],
        applied=[applied_row(topic_id, places[-1], epoch=epoch)],
        shard=shard_row(places[-1], epoch=epoch),
    )
