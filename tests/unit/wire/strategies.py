"""Values to be encoded, for Hypothesis."""

from hypothesis import settings
from hypothesis import strategies as st

from hubbub_server.domain.events import (
    ConversationCreated,
    ConversationJoined,
    ConversationKind,
    ConversationLeft,
    Event,
    EventKind,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
)
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import Message, TextContent

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

messages = st.builds(
    Message,
    message_number=numbers,
    counted_number=st.integers(min_value=0, max_value=2**63 - 1),
    sender_id=user_ids,
    client_message_id=client_message_ids,
    content=st.builds(TextContent, text=texts),
    client_time_ms=st.none() | times_ms,
)
members = st.builds(Member, user_id=user_ids, role=st.sampled_from(MemberRole), join_position=numbers)
kinds: st.SearchStrategy[EventKind] = st.one_of(
    st.builds(MessageSent, message=messages),
    st.builds(ConversationCreated, conversation_kind=st.sampled_from(ConversationKind), title=texts),
    st.builds(MembersAdded, members=st.lists(members, max_size=5).map(tuple)),
    st.builds(MemberRemoved, user_id=user_ids),
    st.builds(ConversationJoined, conversation_id=conversation_ids, epoch=epochs, join_position=numbers),
    st.builds(ConversationLeft, conversation_id=conversation_ids, epoch=epochs, leave_position=numbers),
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
