"""Snapshots for tests of the states of topics."""

from dataclasses import replace

from hubbub_server.domain.conversation import Block, ConversationState
from hubbub_server.domain.events import ConversationKind, DeliveredMarker, Member, MemberRole, ReadMarker, SourcePlace
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.preferences import ConversationPreferences, NotificationLevel, Preferences
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import Draft, Kept, Membership, UserTopicState
from hubbub_server.ports.topic_states import RecentIds, Snapshot

OWNER, MEMBER, FORMER = (UserId(TopicId(f"u{name}")) for name in ("owner", "member", "former"))


def conversation_snapshot(
    topic_id: TopicId, position: int = 7, *, epoch: int = 1, sequence: int = 70, title: str = "tea"
) -> Snapshot:
    """Returns the state of a group with two members and one who left, as this version knows it."""
    plain = plain_conversation_snapshot(topic_id, position, epoch=epoch, sequence=sequence, title=title)
    assert isinstance(plain.state, ConversationState)
    state = replace(
        plain.state,
        marks=MemberMarks(
            {OWNER: MemberMark(message_number=3, counted_number=2), MEMBER: MemberMark(mention_number=2)}
        ),
        last_broadcast_number=1,
        blocks={MEMBER: Block(blocked=True, source=SourcePlace(1, 12))},
        receipts_limit=ReceiptsMode.COUNT_ONLY,
    )
    return replace(plain, state=state)


def plain_conversation_snapshot(
    topic_id: TopicId, position: int = 7, *, epoch: int = 1, sequence: int = 70, title: str = "tea"
) -> Snapshot:
    """Returns the state of a group with two members and one who left, as the first version knew it."""
    conversation_id = ConversationId(topic_id)
    state = ConversationState(
        conversation_id=conversation_id,
        epoch=epoch,
        position=position,
        commit_time_ms=1_800_000_000_123,
        kind=ConversationKind.GROUP,
        title=title,
        creator_id=OWNER,
        creation_hash="0123456789abcdef",
        members={
            OWNER: Member(user_id=OWNER, role=MemberRole.OWNER, join_position=2),
            MEMBER: Member(user_id=MEMBER, role=MemberRole.MEMBER, join_position=3),
        },
        former_members={FORMER: 4},
        last_message_number=3,
        last_counted_number=2,
        marks=MemberMarks({OWNER: MemberMark(), MEMBER: MemberMark()}),
        window=IdWindow(1_800_000_000_456, position),
    )
    recent_ids = RecentIds(position=5, sequence=50, floor_ms=1_800_000_000_400)
    return Snapshot(topic_id=topic_id, state=state, sequence=sequence, recent_ids=recent_ids)


def user_snapshot(topic_id: TopicId, position: int = 2, *, epoch: int = 1, sequence: int = 20) -> Snapshot:
    """Returns the state of a user who is in one conversation and left another, as this version knows it."""
    plain = plain_user_snapshot(topic_id, position, epoch=epoch, sequence=sequence)
    kept = Kept(
        marker=ReadMarker(epoch=1, message_number=3, counted_number=2),
        delivered=DeliveredMarker(epoch=1, message_number=4),
        unread_mark_position=2,
        preferences=ConversationPreferences(mute_end_time_ms=1_800_000_000_789, pinned=True),
        draft=Draft(text="I th", change_time_ms=1_800_000_000_000),
    )
    assert isinstance(plain.state, UserTopicState)
    state = replace(
        plain.state,
        kept={ConversationId(TopicId("cin")): kept},
        blocked={OWNER: SourcePlace(1, 2)},
        preferences=Preferences(notification_level=NotificationLevel.MENTIONS, sends_typing=False),
    )
    return replace(plain, state=state)


def plain_user_snapshot(topic_id: TopicId, position: int = 2, *, epoch: int = 1, sequence: int = 20) -> Snapshot:
    """Returns the state of a user who is in one conversation and left another, as the first version knew it."""
    news = [
        Membership(conversation_id=ConversationId(TopicId(name)), joined=joined, epoch=1, position=9, user_position=at)
        for name, joined, at in (("cin", True, 1), ("cout", False, 2))
    ]
    state = UserTopicState(
        user_id=UserId(topic_id),
        epoch=epoch,
        position=position,
        commit_time_ms=1_800_000_000_000,
        memberships={each.conversation_id: each for each in news},
    )
    return Snapshot(topic_id=topic_id, state=state, sequence=sequence)
