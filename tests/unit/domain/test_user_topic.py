"""A user's own topic: effects of events elsewhere, in any order, any number of times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.commands import Accepted, Done, RecordMembership, Refused
from hubbub_server.domain.errors import Unavailable
from hubbub_server.domain.events import ConversationJoined, ConversationLeft, Event, MemberRemoved, UnknownKind
from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.domain.user_topic import UserTopicState, decide, evolve
from tests.unit.domain.builders import ALICE, BOB, CONVERSATION, NOW_MS

OTHER = ConversationId(TopicId("cother"))


def news(
    position: int, *, joined: bool = True, epoch: int = 1, conversation_id: ConversationId = CONVERSATION
) -> RecordMembership:
    return RecordMembership(conversation_id=conversation_id, epoch=epoch, position=position, joined=joined)


def tell(state: UserTopicState, *commands: RecordMembership) -> UserTopicState:
    for command in commands:
        match decide(state, command, NOW_MS):
            case Accepted(events=(event,)):
                state = evolve(state, event)
            case Done():
                pass
            case other:
                pytest.fail(f"unexpected {other}")
    return state


def start() -> UserTopicState:
    return UserTopicState(user_id=ALICE, epoch=1)


def test_joining_and_leaving_become_events_that_name_their_cause() -> None:
    state = start()
    decision = decide(state, news(7), NOW_MS)
    assert isinstance(decision, Accepted)
    assert decision.events[0].kind == ConversationJoined(conversation_id=CONVERSATION, epoch=1, join_position=7)
    state = tell(state, news(7))
    assert [m.conversation_id for m in state.joined()] == [CONVERSATION]
    decision = decide(state, news(9, joined=False), NOW_MS)
    assert isinstance(decision, Accepted)
    assert decision.events[0].kind == ConversationLeft(conversation_id=CONVERSATION, epoch=1, leave_position=9)
    assert tell(state, news(9, joined=False)).joined() == []


@pytest.mark.parametrize("command", [news(9), news(8, joined=False), news(1)], ids=["same", "older", "oldest"])
def test_old_news_writes_nothing(command: RecordMembership) -> None:
    state = tell(start(), news(9))
    assert isinstance(decide(state, command, NOW_MS), Done)


def test_newer_epoch_is_newer_whatever_the_position() -> None:
    state = tell(start(), news(900))
    assert tell(state, news(3, epoch=2, joined=False)).joined() == []
    assert len(tell(state, news(3, epoch=2, joined=False), news(901)).joined()) == 0


def test_conversations_are_listed_newest_joined_first() -> None:
    state = tell(start(), news(500), news(2, conversation_id=OTHER))
    assert [m.conversation_id for m in state.joined()] == [OTHER, CONVERSATION]
    state = tell(state, news(501, joined=False), news(502))
    assert [m.conversation_id for m in state.joined()] == [CONVERSATION, OTHER]


def test_commit_time_never_decreases() -> None:
    state = tell(start(), news(1))
    decision = decide(state, news(2, joined=False), NOW_MS - 1_000)
    assert isinstance(decision, Accepted)
    assert decision.events[0].commit_time_ms == NOW_MS


@given(st.permutations([news(n, joined=n % 2 == 1) for n in range(1, 8)]), st.data())
def test_any_order_and_repetition_ends_with_the_newest(order: list[RecordMembership], data: st.DataObject) -> None:
    """The committing node and the relay both tell, in any order."""
    repeated = order + data.draw(st.lists(st.sampled_from(order), max_size=7))
    membership = tell(start(), *repeated).memberships[CONVERSATION]
    assert (membership.position, membership.joined) == (7, True)


def _event(kind: UnknownKind | MemberRemoved) -> Event:
    return Event(topic_id=ALICE, epoch=1, position=1, commit_time_ms=NOW_MS, actor_id=None, message_number=0, kind=kind)


def test_topic_with_an_event_of_a_newer_version_takes_no_commands() -> None:
    state = evolve(start(), _event(UnknownKind()))
    decision = decide(state, news(1), NOW_MS)
    assert isinstance(decision, Refused)
    assert isinstance(decision.error, Unavailable)


def test_event_of_a_conversation_is_refused() -> None:
    with pytest.raises(ValueError, match="MemberRemoved"):
        evolve(start(), _event(MemberRemoved(user_id=BOB)))
