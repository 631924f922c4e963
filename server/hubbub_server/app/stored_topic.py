"""Puts a topic's stored rows together to the state that they were projected from. Pure; the same for every store."""

from collections.abc import Iterable

from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.events import Member
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.user_topic import Membership, UserTopicState
from hubbub_server.ports.projection import AppliedRow, ConversationRow, MemberRow, MembershipRow
from hubbub_server.ports.topic_directory import StoredTopic


def stored_conversation(
    conversation_id: ConversationId,
    applied: AppliedRow,
    conversation: ConversationRow | None,
    members: Iterable[MemberRow],
) -> StoredTopic:
    """Returns a conversation as of `applied`. Without its own row it is one whose creation this version cannot read."""
    joined: dict[UserId, Member] = {}
    left: dict[UserId, int] = {}
    for row in members:
        if row.role is None:
            left[row.user_id] = row.position
        else:
            joined[row.user_id] = Member(user_id=row.user_id, role=row.role, join_position=row.position)
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
        window=IdWindow(floor_ms=applied.id_floor_ms, evicted_position=applied.position),
        has_unknown_event=applied.has_unknown_event,
    )
    return StoredTopic(state=state, applied=applied)


def stored_user_topic(user_id: UserId, applied: AppliedRow, memberships: Iterable[MembershipRow]) -> StoredTopic:
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
    return StoredTopic(state=state, applied=applied)
