"""The two kinds of topic behind one pair of functions. Pure."""

from typing import assert_never

from hubbub_server.domain import conversation, user_topic
from hubbub_server.domain.commands import Command, ConversationCommand, Decision, UserTopicCommand
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.events import Event
from hubbub_server.domain.id_window import IdLookup
from hubbub_server.domain.ids import TopicId, is_conversation_id, is_user_id
from hubbub_server.domain.user_topic import UserTopicState

TopicState = ConversationState | UserTopicState


def empty_state(topic_id: TopicId, epoch: int) -> TopicState:
    """Returns the state of a topic without events. Raises ValueError for an id of neither form."""
    if is_user_id(topic_id):
        return UserTopicState(user_id=topic_id, epoch=epoch)
    if is_conversation_id(topic_id):
        return ConversationState(conversation_id=topic_id, epoch=epoch)
    raise ValueError(f"{topic_id!r} is no topic id")


def decide(state: TopicState, command: Command, now_ms: int, lookup: IdLookup | None = None) -> Decision:
    """Decides a command on the state at the head. Raises ValueError for a command of the other kind of topic."""
    match state:
        case ConversationState():
            if not isinstance(command, ConversationCommand):
                raise ValueError(f"{type(command).__name__} belongs to a user's topic")
            return conversation.decide(state, command, now_ms, lookup)
        case UserTopicState():
            if not isinstance(command, UserTopicCommand):
                raise ValueError(f"{type(command).__name__} belongs to a conversation")
            return user_topic.decide(state, command, now_ms)
        case _:
            assert_never(state)


def evolve(state: TopicState, event: Event, hash_of_request: str = "") -> TopicState:
    """Folds one committed event.

    Raises:
        ValueError: the event does not continue this state (another position than the next, or another kind of topic).
    """
    if event.position != state.position + 1:
        raise ValueError(f"position {event.position} does not follow {state.position}")
    match state:
        case ConversationState():
            return conversation.evolve(state, event, hash_of_request)
        case UserTopicState():
            return user_topic.evolve(state, event)
        case _:
            assert_never(state)
