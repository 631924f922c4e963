"""The two kinds of topic behind one pair of functions."""

import pytest

from hubbub_server.domain.commands import Accepted, Command, CreateGroup, RecordMembership
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.topic import decide, empty_state, evolve
from hubbub_server.domain.user_topic import UserTopicState
from tests.unit.domain.builders import ALICE, BOB, CONVERSATION, NOW_MS, events_of, group, send, uuid7

JOINED = RecordMembership(conversation_id=CONVERSATION, epoch=1, position=2, joined=True)
MADE = CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,))


def test_id_says_which_kind_of_topic_it_is() -> None:
    assert isinstance(empty_state(CONVERSATION, 3), ConversationState)
    assert isinstance(empty_state(ALICE, 3), UserTopicState)
    assert empty_state(CONVERSATION, 3).epoch == 3
    with pytest.raises(ValueError, match="no topic id"):
        empty_state(TopicId("xyz"), 1)


@pytest.mark.parametrize(("topic_id", "command"), [(CONVERSATION, MADE), (ALICE, JOINED)])
def test_a_decision_folds_into_the_next_state(topic_id: TopicId, command: Command) -> None:
    state = empty_state(topic_id, 1)
    decision = decide(state, command, NOW_MS)
    assert isinstance(decision, Accepted)
    for event, hash_of_request in zip(decision.events, decision.request_hashes, strict=True):
        state = evolve(state, event, hash_of_request)
    assert state.position == len(decision.events)
    assert state.head.cursor == decision.answer.cursor


@pytest.mark.parametrize(("topic_id", "command"), [(CONVERSATION, JOINED), (ALICE, MADE)])
def test_command_of_the_other_kind_is_a_fault_of_the_caller(topic_id: TopicId, command: Command) -> None:
    with pytest.raises(ValueError, match="belongs to"):
        decide(empty_state(topic_id, 1), command, NOW_MS)


@pytest.mark.parametrize("missing", [-1, 1])
def test_event_that_does_not_follow_is_refused(missing: int) -> None:
    """G2: a state is never folded over a hole or twice."""
    state = group(BOB)
    (event,) = events_of(state, send(ALICE, uuid7(NOW_MS)))
    after = evolve(state, event)
    with pytest.raises(ValueError, match="does not follow"):
        evolve(after if missing < 0 else empty_state(CONVERSATION, 1), event)
