"""Values to be encoded, for Hypothesis."""

from hypothesis import settings
from hypothesis import strategies as st

from hubbub_server.domain.events import (
    BlockChanged,
    ConversationCreated,
    ConversationJoined,
    ConversationKind,
    ConversationLeft,
    ConversationMarkedUnread,
    ConversationPreferencesChanged,
    ConversationSettingsChanged,
    DeliveredMarker,
    DeliveredMarkerMoved,
    DraftChanged,
    Event,
    EventKind,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
    PreferencesChanged,
    ReadMarker,
    ReadMarkerMoved,
    UserBlocked,
    UserUnblocked,
)
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import (
    BroadcastAudience,
    BroadcastMention,
    Code,
    Link,
    Message,
    TextContent,
    TextEntity,
    UserMention,
)
from hubbub_server.domain.preferences import (
    ConversationPreferences,
    DoNotDisturbSchedule,
    NotificationLevel,
    Preferences,
    PresenceVisibility,
    QuietHours,
    Status,
    StatusState,
)
from hubbub_server.domain.receipts import ReceiptsMode

FEWER = settings(max_examples=30)
"""For values that take long to draw."""

numbers = st.integers(min_value=1, max_value=2**63 - 1)
epochs = st.integers(min_value=1, max_value=2**32 - 1)
times_ms = st.integers(min_value=0, max_value=253_402_300_799_999)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
_tails = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=31)
conversation_ids = _tails.map(lambda tail: ConversationId(TopicId(f"c{tail}")))
user_ids = _tails.map(lambda tail: UserId(TopicId(f"u{tail}")))
client_message_ids = st.uuids().map(lambda uuid: ClientMessageId(str(uuid)))

entities = st.builds(
    TextEntity,
    start=st.integers(0, 100),
    length=st.integers(1, 100),
    kind=st.one_of(
        st.builds(UserMention, user_id=user_ids),
        st.builds(BroadcastMention, audience=st.sampled_from(BroadcastAudience)),
        st.builds(Code, block=st.booleans(), language=texts),
        st.builds(Link, url=texts),
    ),
)
contents = st.builds(TextContent, text=texts, entities=st.lists(entities, max_size=3).map(tuple))
messages = st.builds(
    Message,
    message_number=numbers,
    counted_number=st.integers(min_value=0, max_value=2**63 - 1),
    sender_id=user_ids,
    client_message_id=client_message_ids,
    content=contents,
    client_time_ms=st.none() | times_ms,
)
members = st.builds(Member, user_id=user_ids, role=st.sampled_from(MemberRole), join_position=numbers)
markers = st.builds(
    ReadMarker,
    epoch=st.integers(0, 2**32 - 1),
    message_number=st.integers(0, 2**63 - 1),
    counted_number=st.integers(0, 2**63 - 1),
)
conversation_preferences = st.builds(
    ConversationPreferences,
    mute_end_time_ms=st.none() | times_ms,
    notification_level=st.sampled_from(NotificationLevel),
    pinned=st.booleans(),
    archived=st.booleans(),
)
_minutes = st.integers(0, 2**31 - 1)
preferences = st.builds(
    Preferences,
    notification_level=st.sampled_from([level for level in NotificationLevel if level.value != "inherited"]),
    do_not_disturb=st.builds(
        DoNotDisturbSchedule,
        time_zone=texts,
        hours=st.lists(
            st.builds(
                QuietHours,
                weekdays=st.lists(st.integers(1, 7), max_size=7).map(tuple),
                start_minute=_minutes,
                duration_minutes=_minutes,
            ),
            max_size=2,
        ).map(tuple),
    ),
    sends_read_receipts=st.booleans(),
    sends_typing=st.booleans(),
    presence_visibility=st.sampled_from(PresenceVisibility),
    status=st.builds(
        Status,
        state=st.sampled_from(StatusState),
        text=texts,
        emoji=texts,
        expire_time_ms=st.none() | times_ms,
    ),
)
kinds: st.SearchStrategy[EventKind] = st.one_of(
    st.builds(MessageSent, message=messages),
    st.builds(ConversationCreated, conversation_kind=st.sampled_from(ConversationKind), title=texts),
    st.builds(ConversationSettingsChanged, receipts_limit=st.sampled_from(ReceiptsMode)),
    st.builds(MembersAdded, members=st.lists(members, max_size=5).map(tuple)),
    st.builds(MemberRemoved, user_id=user_ids),
    st.builds(ConversationJoined, conversation_id=conversation_ids, epoch=epochs, join_position=numbers),
    st.builds(ConversationLeft, conversation_id=conversation_ids, epoch=epochs, leave_position=numbers),
    st.builds(BlockChanged, user_id=user_ids, blocked=st.booleans()),
    st.builds(ReadMarkerMoved, conversation_id=conversation_ids, marker=markers, hidden=st.booleans()),
    st.builds(ConversationMarkedUnread, conversation_id=conversation_ids),
    st.builds(ConversationPreferencesChanged, conversation_id=conversation_ids, preferences=conversation_preferences),
    st.builds(DraftChanged, conversation_id=conversation_ids, text=texts),
    st.builds(UserBlocked, user_id=user_ids, conversation_id=conversation_ids),
    st.builds(UserUnblocked, user_id=user_ids, conversation_id=conversation_ids),
    st.builds(PreferencesChanged, preferences=preferences),
    st.builds(
        DeliveredMarkerMoved,
        conversation_id=conversation_ids,
        marker=st.builds(DeliveredMarker, epoch=epochs, message_number=numbers),
    ),
)
events = st.builds(
    Event,
    topic_id=st.one_of(conversation_ids, user_ids),
    epoch=epochs,
    position=numbers,
    commit_time_ms=times_ms,
    actor_id=st.none() | user_ids,
    message_number=st.integers(min_value=0, max_value=2**63 - 1),
    kind=kinds,
)
