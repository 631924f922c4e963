"""Conversations as their members have them, at the log's head: the one gate of every read."""

from collections.abc import Iterable, Sequence

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import ConversationNotFound
from hubbub_server.domain.ids import ConversationId, UserId, is_conversation_id


async def member_at_head(
    hub: TopicHub, caller_id: UserId, conversation_id: str
) -> tuple[ActiveTopic, ConversationState]:
    """Returns a conversation at the log's head for one of its members.

    Raises:
        ConversationNotFound: absent, or the caller is no member at the head.
        LogUnavailable, StoreUnavailable: the head cannot be had now.
    """
    if not is_conversation_id(conversation_id):
        raise ConversationNotFound
    topic = await hub.at_head(conversation_id)
    state = topic.state
    if not isinstance(state, ConversationState) or caller_id not in state.members:
        raise ConversationNotFound
    return topic, state


async def members_at_head(
    hub: TopicHub, caller_id: UserId, conversation_ids: Iterable[ConversationId]
) -> Sequence[tuple[ActiveTopic, ConversationState] | None]:
    """Returns many conversations in the order asked; None where the caller is no member any more.

    A user's own topic says of a removal a little later than the conversation.

    Raises:
        LogUnavailable, StoreUnavailable: a head cannot be had now.
    """
    topics = await hub.all_at_head(list(conversation_ids))
    return [
        (topic, topic.state)
        if isinstance(topic.state, ConversationState) and caller_id in topic.state.members
        else None
        for topic in topics
    ]
