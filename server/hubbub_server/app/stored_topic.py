"""Puts a topic's stored rows together to the state that they were projected from. Pure; the same for every store."""

from collections.abc import Iterable

from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.events import Member, SourcePlace
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import ConversationId, UserId, is_conversation_id
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.topic import TopicState
from hubbub_server.domain.user_topic import Membership, UserTopicState, with_entry
from hubbub_server.ports.projection import (
    EVERYBODY,
    AppliedRow,
    BlockRow,
    ConversationRow,
    EntryRow,
    MemberMarkRow,
    MemberRow,
    MembershipRow,
)
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_directory import StoredTopic


def stored_conversation(
    conversation_id: ConversationId,
    applied: AppliedRow,
    conversation: ConversationRow | None,
    members: Iterable[MemberRow],
    marks: Iterable[MemberMarkRow] = (),
    blocks: Iterable[BlockRow] = (),
    receipts_limit: ReceiptsMode = ReceiptsMode.FULL,
) -> StoredTopic:
    """Returns a conversation as of `applied`. Without its own row it is one whose creation this version cannot read."""
    joined: dict[UserId, Member] = {}
    left: dict[UserId, int] = {}
    for row in members:
        if row.role is None:
            left[row.user_id] = row.position
        else:
            joined[row.user_id] = Member(user_id=row.user_id, role=row.role, join_position=row.position)
    marked = {row.user_id: row for row in marks}
    everybody = marked.get(EVERYBODY)
    state = ConversationState(
        conversation_id=conversation_id,
        epoch=applied.epoch,
        position=applied.position,
        commit_time_ms=applied.commit_time_ms,
        kind=conversation.kind if conversation else None,
        title=conversation.title if conversation else "",
        creator_id=conversation.creator_id if conversation else None,
        creation_hash=conversation.creation_hash if conversation else "",
        members=joined,
        former_members=left,
        last_message_number=applied.last_message_number,
        last_counted_number=applied.last_counted_number,
        last_broadcast_number=everybody.mention_number if everybody else 0,
        marks=MemberMarks({user_id: _mark(marked.get(user_id)) for user_id in joined}),
        blocks={
            row.user_id: Block(blocked=row.blocked, source=SourcePlace(row.source_epoch, row.source_position))
            for row in blocks
        },
        receipts_limit=receipts_limit,
        window=IdWindow(floor_ms=applied.id_floor_ms, evicted_position=applied.position),
        has_unknown_event=applied.has_unknown_event,
    )
    return StoredTopic(state=state, applied=applied)


def _mark(row: MemberMarkRow | None) -> MemberMark:
    """Returns a member's mark: a mention that is not after it is read, and was perhaps before they joined again."""
    if row is None:
        return MemberMark()
    return MemberMark(
        message_number=row.message_number,
        counted_number=row.counted_number,
        mention_number=row.mention_number if row.mention_number > row.message_number else 0,
    )


def stored_user_topic(
    user_id: UserId, applied: AppliedRow, memberships: Iterable[MembershipRow], entries: Iterable[EntryRow] = ()
) -> StoredTopic:
    """Returns a user's topic as of `applied`."""
    state = UserTopicState(
        user_id=user_id,
        epoch=applied.epoch,
        position=applied.position,
        commit_time_ms=applied.commit_time_ms,
        memberships={
            row.conversation_id: Membership(
                conversation_id=row.conversation_id,
                joined=row.joined,
                epoch=row.source_epoch,
                position=row.source_position,
                user_position=row.position,
            )
            for row in memberships
        },
        has_unknown_event=applied.has_unknown_event,
    )
    in_order = sorted(entries, key=lambda row: (row.epoch, row.position))
    return StoredTopic(state=state, applied=applied, entries=tuple(in_order))


def whole_state(stored: StoredTopic, codec: RecordCodec) -> TopicState:
    """Returns the state of a stored topic with its entries.

    What was kept about a conversation before the newest joining or leaving is over. Raises RecordUndecodable.
    """
    state = stored.state
    if not isinstance(state, UserTopicState):
        return state
    for row in stored.entries:
        conversation_id = row.entry.partition(" ")[2]
        if is_conversation_id(conversation_id):
            membership = state.memberships.get(conversation_id)
            if membership is None or row.position < membership.user_position:
                continue
        for decoded in codec.decode(row.framed):
            state = with_entry(state, decoded.event)
    return state
