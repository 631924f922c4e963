"""What a user's devices have received: the largest of them all, and nothing that nobody may know."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.commands import Accepted, ChangePreferences, Delivered, Done, MarkDelivered
from hubbub_server.domain.errors import ConversationNotFound
from hubbub_server.domain.events import DeliveredMarker
from hubbub_server.domain.preferences import Preferences, PresenceVisibility, Status, StatusState
from hubbub_server.domain.user_topic import UserTopicState, decide
from tests.unit.domain.builders import CONVERSATION, NOW_MS
from tests.unit.domain.test_kept import UNREAD, after, join, read, refusal


def received(number: int, *, epoch: int = 1) -> MarkDelivered:
    return MarkDelivered(conversation_id=CONVERSATION, marker=DeliveredMarker(epoch=epoch, message_number=number))


def answer(state: UserTopicState, command: MarkDelivered, now_ms: int = NOW_MS) -> Delivered:
    decision = decide(state, command, now_ms)
    assert isinstance(decision, Accepted | Done), decision
    assert isinstance(decision.answer, Delivered)
    assert decision.answer.is_news is isinstance(decision, Accepted)
    return decision.answer


@given(st.lists(st.integers(1, 60), min_size=1, max_size=8))
def test_delivered_marker_is_the_maximum_of_all_devices(numbers: list[int]) -> None:
    state = after(join(CONVERSATION), *map(received, numbers))
    assert state.kept_of(CONVERSATION).delivered == DeliveredMarker(epoch=1, message_number=max(numbers))
    assert answer(state, received(max(numbers))).message_number == max(numbers)
    assert not answer(state, received(1)).is_news


def test_what_is_read_is_received_without_an_event() -> None:
    state = after(join(CONVERSATION), read(5))
    known = answer(state, received(5))
    assert (known.message_number, known.is_news, known.cursor) == (5, False, state.head.cursor)
    assert answer(state, received(6)).is_news


def test_later_epoch_is_later_whatever_the_number() -> None:
    state = after(join(CONVERSATION), received(9), received(2, epoch=2))
    assert state.kept_of(CONVERSATION).delivered == DeliveredMarker(epoch=2, message_number=2)
    assert not answer(state, received(99)).is_news


@pytest.mark.parametrize(
    "preferences",
    [
        Preferences(sends_read_receipts=False),
        Preferences(presence_visibility=PresenceVisibility.NOBODY),
        Preferences(status=Status(state=StatusState.INVISIBLE)),
    ],
    ids=["no receipts", "seen by nobody", "invisible"],
)
def test_nothing_is_kept_of_who_does_not_show_that_they_are_there(preferences: Preferences) -> None:
    names = ["sends_read_receipts", "presence_visibility", "status"]
    state = after(join(CONVERSATION), received(2), ChangePreferences(preferences=preferences, names=names))
    hidden = answer(state, received(3))
    assert (hidden.message_number, hidden.is_news) == (2, False)
    shown = after(ChangePreferences(preferences=Preferences(), names=names), state=state)
    assert answer(shown, received(4)).message_number == 4


def test_invisible_ends_with_its_status() -> None:
    status = Status(state=StatusState.INVISIBLE, expire_time_ms=NOW_MS + 1)
    state = after(join(CONVERSATION), ChangePreferences(preferences=Preferences(status=status), names=["status"]))
    assert not answer(state, received(1)).is_news
    assert answer(state, received(1), NOW_MS + 1).is_news


def test_receiving_is_no_reading() -> None:
    state = after(join(CONVERSATION), read(1), UNREAD, received(7))
    kept = state.kept_of(CONVERSATION)
    assert (kept.marker.message_number, kept.unread_mark_position > 0) == (1, True)


def test_nothing_is_received_in_a_foreign_conversation() -> None:
    assert isinstance(refusal(after(), received(1)), ConversationNotFound)
    left = after(join(CONVERSATION), received(3), join(CONVERSATION, 5, joined=False), join(CONVERSATION, 9))
    assert left.kept_of(CONVERSATION).delivered == DeliveredMarker()
