"""The bytes of snapshots: hubbub.bus.v1alpha1.TopicState.

`format` guards decisions while versions are mixed: whoever adds something that a decision must know raises it, and
older servers then take the state for unavailable instead of deciding without it.
"""

from typing import Final, assert_never

from google.protobuf.message import DecodeError
from hubbub.bus.v1alpha1 import topic_state_pb2
from hubbub.conversation.v1 import conversation_pb2

from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.events import ConversationKind, DeliveredMarker, Member, SourcePlace
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id, is_user_id
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.preferences import ConversationPreferences, Preferences
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import Draft, Kept, Membership, UserTopicState
from hubbub_server.ports.topic_states import RecentIds, Snapshot, SnapshotUndecodable
from hubbub_server.wire.preferences import (
    conversation_preferences_from_pb,
    conversation_preferences_to_pb,
    marker_from_pb,
    marker_to_pb,
    preferences_from_pb,
    preferences_to_pb,
)
from hubbub_server.wire.record_codec import (
    KIND_FROM_PB,
    KIND_TO_PB,
    ROLE_FROM_PB,
    member_to_pb,
    receipts_limit_from_pb,
    settings_to_pb,
)
from hubbub_server.wire.times import milliseconds, timestamp

_FORMAT: Final = 2
_OLDEST_FORMAT: Final = 1
"""Without marks of members: they count as having read nothing by themselves until they send again."""


class ProtoSnapshotCodec:
    """Implements SnapshotCodec with protobuf. Stateless."""

    def encode(self, snapshot: Snapshot) -> bytes:
        """Returns the bytes of a snapshot. Raises ValueError for a state with unknown events."""
        state = snapshot.state
        if state.has_unknown_event:
            raise ValueError("a state with events of a newer version is not all known")
        pb = topic_state_pb2.TopicState(
            topic_id=snapshot.topic_id,
            format=_FORMAT,
            epoch=state.epoch,
            position=state.position,
            sequence=snapshot.sequence,
            commit_time=timestamp(state.commit_time_ms),
        )
        match state:
            case ConversationState():
                pb.conversation.CopyFrom(_conversation_to_pb(state))
                if snapshot.recent_ids is not None:
                    pb.conversation.recent_ids.CopyFrom(_recent_ids_to_pb(snapshot.recent_ids))
            case UserTopicState():
                pb.user.CopyFrom(_user_to_pb(state))
            case _:
                assert_never(state)
        return pb.SerializeToString(deterministic=True)

    def decode(self, encoded: bytes) -> Snapshot:
        """Reads a snapshot. Raises SnapshotUndecodable."""
        try:
            pb = topic_state_pb2.TopicState.FromString(encoded)
        except DecodeError as exc:
            raise SnapshotUndecodable("not a state") from exc
        if not _OLDEST_FORMAT <= pb.format <= _FORMAT:
            raise SnapshotUndecodable(f"format {pb.format}, this version knows {_OLDEST_FORMAT} to {_FORMAT}")
        topic_id = TopicId(pb.topic_id)
        which = pb.WhichOneof("state")
        state: ConversationState | UserTopicState
        if which == "conversation" and is_conversation_id(topic_id):
            state = _conversation_from_pb(topic_id, pb)
        elif which == "user" and is_user_id(topic_id):
            state = _user_from_pb(topic_id, pb)
        else:
            raise SnapshotUndecodable(f"{which} is no state of topic {topic_id!r}")
        recent_ids = _recent_ids_from_pb(pb.conversation.recent_ids) if pb.conversation.HasField("recent_ids") else None
        return Snapshot(topic_id=topic_id, state=state, sequence=pb.sequence, recent_ids=recent_ids)


def _conversation_to_pb(state: ConversationState) -> topic_state_pb2.ConversationState:
    return topic_state_pb2.ConversationState(
        kind=KIND_TO_PB[state.kind] if state.kind else conversation_pb2.CONVERSATION_KIND_UNSPECIFIED,
        title=state.title,
        creator_id=state.creator_id or "",
        creation_hash=state.creation_hash,
        members=map(member_to_pb, state.members.values()),
        former_members=[
            topic_state_pb2.FormerMember(user_id=user_id, leave_position=position)
            for user_id, position in state.former_members.items()
        ],
        last_message_number=state.last_message_number,
        last_counted_number=state.last_counted_number,
        id_floor_time=timestamp(state.window.floor_at(state.position)),
        member_marks=[
            topic_state_pb2.MemberMark(
                user_id=user_id,
                message_number=mark.message_number,
                counted_number=mark.counted_number,
                mention_number=mark.mention_number,
            )
            for user_id, mark in state.marks.items()
        ],
        last_broadcast_number=state.last_broadcast_number,
        blocks=[
            topic_state_pb2.Block(
                user_id=user_id,
                blocked=block.blocked,
                source_epoch=block.source.epoch,
                source_position=block.source.position,
            )
            for user_id, block in state.blocks.items()
        ],
        settings=None if state.receipts_limit is ReceiptsMode.FULL else settings_to_pb(state.receipts_limit),
    )


def _conversation_from_pb(conversation_id: ConversationId, pb: topic_state_pb2.TopicState) -> ConversationState:
    conversation = pb.conversation
    return ConversationState(
        conversation_id=conversation_id,
        epoch=pb.epoch,
        position=pb.position,
        commit_time_ms=milliseconds(pb.commit_time),
        kind=_kind_from_pb(conversation.kind),
        title=conversation.title,
        creator_id=UserId(TopicId(conversation.creator_id)) if conversation.creator_id else None,
        creation_hash=conversation.creation_hash,
        members={member.user_id: member for member in map(_member_from_pb, conversation.members)},
        former_members={UserId(TopicId(each.user_id)): each.leave_position for each in conversation.former_members},
        last_message_number=conversation.last_message_number,
        last_counted_number=conversation.last_counted_number,
        last_broadcast_number=conversation.last_broadcast_number,
        marks=_marks_from_pb(pb),
        blocks={_user_id(each.user_id): _block_from_pb(each) for each in conversation.blocks},
        receipts_limit=receipts_limit_from_pb(conversation.settings),
        window=IdWindow(milliseconds(conversation.id_floor_time), pb.position),
    )


def _marks_from_pb(pb: topic_state_pb2.TopicState) -> MemberMarks:
    marks = {_user_id(member.user_id): MemberMark() for member in pb.conversation.members if pb.format < _FORMAT}
    for each in pb.conversation.member_marks:
        marks[_user_id(each.user_id)] = MemberMark(
            message_number=each.message_number,
            counted_number=each.counted_number,
            mention_number=each.mention_number,
        )
    return MemberMarks(marks)


def _block_from_pb(pb: topic_state_pb2.Block) -> Block:
    return Block(blocked=pb.blocked, source=SourcePlace(pb.source_epoch, pb.source_position))


def _user_id(text: str) -> UserId:
    return UserId(TopicId(text))


def _recent_ids_to_pb(recent: RecentIds) -> topic_state_pb2.RecentIds:
    return topic_state_pb2.RecentIds(
        position=recent.position, sequence=recent.sequence, id_floor_time=timestamp(recent.floor_ms)
    )


def _recent_ids_from_pb(pb: topic_state_pb2.RecentIds) -> RecentIds:
    return RecentIds(position=pb.position, sequence=pb.sequence, floor_ms=milliseconds(pb.id_floor_time))


def _kind_from_pb(number: conversation_pb2.ConversationKind.ValueType) -> ConversationKind | None:
    if number == conversation_pb2.CONVERSATION_KIND_UNSPECIFIED:
        return None
    kind = KIND_FROM_PB.get(number)
    if kind is None:
        raise SnapshotUndecodable(f"a conversation of kind {number}")
    return kind


def _member_from_pb(pb: conversation_pb2.Member) -> Member:
    role = ROLE_FROM_PB.get(pb.role)
    if role is None:
        raise SnapshotUndecodable(f"a member with role {pb.role}")
    return Member(user_id=UserId(TopicId(pb.user_id)), role=role, join_position=pb.join_position)


def _membership_to_pb(membership: Membership) -> topic_state_pb2.Membership:
    return topic_state_pb2.Membership(
        conversation_id=membership.conversation_id,
        joined=membership.joined,
        epoch=membership.epoch,
        position=membership.position,
        user_position=membership.user_position,
    )


def _user_to_pb(state: UserTopicState) -> topic_state_pb2.UserState:
    return topic_state_pb2.UserState(
        memberships=map(_membership_to_pb, state.memberships.values()),
        conversations=[_kept_to_pb(conversation_id, kept) for conversation_id, kept in state.kept.items()],
        blocked_users=[
            topic_state_pb2.BlockedUser(user_id=user_id, epoch=place.epoch, position=place.position)
            for user_id, place in state.blocked.items()
        ],
        preferences=None if state.preferences == Preferences() else preferences_to_pb(state.preferences),
    )


def _kept_to_pb(conversation_id: ConversationId, kept: Kept) -> topic_state_pb2.KeptConversation:
    is_usual = kept.preferences == ConversationPreferences()
    return topic_state_pb2.KeptConversation(
        conversation_id=conversation_id,
        marker=marker_to_pb(kept.marker),
        unread_mark_position=kept.unread_mark_position,
        preferences=None if is_usual else conversation_preferences_to_pb(kept.preferences),
        draft=kept.draft.text if kept.draft else "",
        draft_time=timestamp(kept.draft.change_time_ms) if kept.draft else None,
        delivered_epoch=kept.delivered.epoch,
        delivered_number=kept.delivered.message_number,
    )


def _kept_from_pb(pb: topic_state_pb2.KeptConversation) -> Kept:
    return Kept(
        marker=marker_from_pb(pb.marker),
        delivered=DeliveredMarker(epoch=pb.delivered_epoch, message_number=pb.delivered_number),
        unread_mark_position=pb.unread_mark_position,
        preferences=conversation_preferences_from_pb(pb.preferences),
        draft=Draft(text=pb.draft, change_time_ms=milliseconds(pb.draft_time)) if pb.draft else None,
    )


def _user_from_pb(user_id: UserId, pb: topic_state_pb2.TopicState) -> UserTopicState:
    memberships = [
        Membership(
            conversation_id=ConversationId(TopicId(each.conversation_id)),
            joined=each.joined,
            epoch=each.epoch,
            position=each.position,
            user_position=each.user_position,
        )
        for each in pb.user.memberships
    ]
    return UserTopicState(
        user_id=user_id,
        epoch=pb.epoch,
        position=pb.position,
        commit_time_ms=milliseconds(pb.commit_time),
        memberships={membership.conversation_id: membership for membership in memberships},
        kept={ConversationId(TopicId(each.conversation_id)): _kept_from_pb(each) for each in pb.user.conversations},
        blocked={_user_id(each.user_id): SourcePlace(each.epoch, each.position) for each in pb.user.blocked_users},
        preferences=preferences_from_pb(pb.user.preferences) if pb.user.HasField("preferences") else Preferences(),
    )
