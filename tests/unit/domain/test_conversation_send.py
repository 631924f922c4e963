"""Sending: who may, which number, and what a repeated id answers."""

from dataclasses import fields, replace

import pytest

from hubbub_server.domain.commands import Accepted, Done, LookupNeeded
from hubbub_server.domain.conversation import ConversationState, decide, evolve
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import ConversationNotFound, IdReused, SendOrder
from hubbub_server.domain.events import MessageSent
from hubbub_server.domain.id_window import IdEntry, IdLookup
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import FUTURE_ID_TOLERANCE_MS
from hubbub_server.domain.message import Message, TextContent, content_hash
from tests.unit.domain.builders import (
    ALICE,
    BOB,
    CAROL,
    CONVERSATION,
    MALLORY,
    NOW_MS,
    accept,
    denial,
    direct,
    empty,
    events_of,
    group,
    refusal,
    remove,
    send,
    sent,
    uuid4,
    uuid7,
)

DAY_MS = 24 * 60 * 60 * 1000
FIRST, SECOND = uuid7(NOW_MS, 1), uuid7(NOW_MS, 2)


def forget_all(state: ConversationState) -> ConversationState:
    """Returns the state as a small node has it when the store has everything: with an empty id window."""
    return replace(state, window=state.window.trim(state.position, capacity=0))


@pytest.mark.parametrize("state", [group(BOB), direct()], ids=["group", "direct"])
@pytest.mark.parametrize("sender", [ALICE, BOB])
def test_member_sends_the_first_message(state: ConversationState, sender: UserId) -> None:
    command = send(sender, FIRST)
    (event,) = events_of(state, command)
    assert event.position == state.position + 1
    assert (event.message_number, event.actor_id, event.epoch) == (1, None, 1)
    assert event.kind == MessageSent(
        message=Message(
            message_number=1,
            counted_number=1,
            sender_id=sender,
            client_message_id=FIRST,
            content=TextContent(text="hello"),
        )
    )
    cursor = Cursor(topic_id=CONVERSATION, epoch=1, position=event.position)
    answer = sent(decide(state, command, NOW_MS))
    assert (answer.message_number, answer.cursor, answer.commit_time_ms) == (1, cursor, NOW_MS)


def test_numbers_are_dense_whatever_other_events_come_between() -> None:
    """G2: numbers count messages, positions count events."""
    state = accept(group(BOB), send(ALICE, FIRST))
    state = accept(remove(state, BOB), send(ALICE, SECOND))
    assert (state.last_message_number, state.last_counted_number, state.position) == (2, 2, 6)
    assert state.head.last_message_number == 2


def test_a_message_changes_place_counts_and_window_and_nothing_else() -> None:
    before = replace(remove(group(BOB, CAROL), BOB), has_unknown_event=True)
    (event,) = events_of(group(BOB, CAROL), send(ALICE, FIRST))
    after = evolve(before, replace(event, commit_time_ms=NOW_MS + 1))
    changed = {each.name for each in fields(before) if getattr(before, each.name) != getattr(after, each.name)}
    # marks: sending is reading
    expected = {"position", "commit_time_ms", "last_message_number", "last_counted_number", "window", "marks"}
    assert changed <= expected
    assert {"commit_time_ms", "last_message_number", "window", "marks"} <= changed


@pytest.mark.parametrize(
    "state", [empty(), group(), remove(group(MALLORY), MALLORY)], ids=["never made", "stranger", "removed"]
)
def test_who_is_no_member_is_told_that_there_is_no_conversation(state: ConversationState) -> None:
    """G5, C46: absent and forbidden are alike."""
    error = refusal(state, send(MALLORY, FIRST))
    assert isinstance(error, ConversationNotFound)
    assert (str(error), error.args) == (str(ConversationNotFound()), ConversationNotFound().args)


def test_removed_member_is_refused_even_the_repeat_of_an_old_message() -> None:
    """G5: nothing after the removal, not even an answer."""
    state = remove(accept(group(BOB), send(BOB, FIRST)), BOB)
    assert isinstance(refusal(state, send(BOB, FIRST)), ConversationNotFound)


def test_repeated_id_gets_the_first_answer() -> None:
    """C07, G3."""
    before = group(BOB)
    first = sent(decide(before, send(ALICE, FIRST), NOW_MS))
    state = accept(accept(before, send(ALICE, FIRST)), send(BOB, SECOND))
    decision = decide(state, send(ALICE, FIRST), NOW_MS + 25 * 60 * 60 * 1000)
    assert isinstance(decision, Done)
    assert decision.answer == first


def test_repeat_may_differ_in_all_but_content() -> None:
    state = accept(group(BOB), send(ALICE, FIRST))
    repeat = send(ALICE, FIRST, client_time_ms=5, previous=uuid7(NOW_MS, 9))
    assert sent(decide(state, repeat, NOW_MS)).message_number == 1


def test_id_with_other_content_is_refused_with_the_first_number() -> None:
    state = accept(accept(group(), send(ALICE, FIRST)), send(ALICE, SECOND))
    error = refusal(state, send(ALICE, SECOND, "other"))
    assert isinstance(error, IdReused)
    assert error.first_number == 2


def test_id_of_another_sender_is_another_id() -> None:
    state = accept(group(BOB), send(ALICE, FIRST))
    assert sent(decide(state, send(BOB, FIRST, "other"), NOW_MS)).message_number == 2


def test_id_that_left_the_window_is_looked_up_and_found() -> None:
    """G3: the store knows what the window forgot."""
    state = accept(group(), send(ALICE, FIRST))
    entry = IdEntry(
        message_number=1,
        content_hash=content_hash(TextContent(text="hello")),
        epoch=1,
        position=state.position,
        commit_time_ms=NOW_MS,
    )
    state = forget_all(state)
    key = (ALICE, FIRST)
    assert decide(state, send(ALICE, FIRST), NOW_MS) == LookupNeeded(keys=frozenset({key}))
    lookup = IdLookup(applied_position=state.position, keys=frozenset({key}), found={key: entry})
    assert sent(decide(state, send(ALICE, FIRST), NOW_MS, lookup)).message_number == 1
    error = refusal(state, send(ALICE, FIRST, "other"), lookup=lookup)
    assert isinstance(error, IdReused)
    assert error.first_number == 1


def test_denial_older_than_what_left_the_window_proves_nothing() -> None:
    """G3: the store was read before it had the message, then the message left the window."""
    state = forget_all(accept(group(), send(ALICE, FIRST)))
    old, new = (denial((ALICE, uuid4()), applied_position=p) for p in (state.position - 1, state.position))
    assert isinstance(decide(state, send(ALICE, uuid4()), NOW_MS, old), LookupNeeded)
    assert isinstance(decide(state, send(ALICE, uuid4()), NOW_MS, new), Accepted)


def test_denial_of_other_ids_proves_nothing() -> None:
    state = forget_all(accept(group(), send(ALICE, FIRST)))
    lookup = denial((ALICE, uuid4(2)), (BOB, uuid4(1)), applied_position=state.position)
    assert isinstance(decide(state, send(ALICE, uuid4(1)), NOW_MS, lookup), LookupNeeded)


@pytest.mark.parametrize(
    ("ahead_ms", "is_looked_up"),
    [(0, True), (1, False), (FUTURE_ID_TOLERANCE_MS, False), (FUTURE_ID_TOLERANCE_MS + 1, True)],
)
def test_only_an_id_above_the_floor_and_not_too_far_ahead_skips_the_store(ahead_ms: int, is_looked_up: bool) -> None:
    state = forget_all(accept(group(), send(ALICE, FIRST)))
    decision = decide(state, send(ALICE, uuid7(NOW_MS + ahead_ms, 9)), NOW_MS)
    assert isinstance(decision, LookupNeeded) == is_looked_up


def test_pipeline_waits_for_the_message_before() -> None:
    """C06: the order in which a client wrote is the order of numbers."""
    state = group()
    assert isinstance(refusal(state, send(ALICE, SECOND, previous=FIRST)), SendOrder)
    state = accept(state, send(ALICE, FIRST))
    assert sent(decide(state, send(ALICE, SECOND, previous=FIRST), NOW_MS)).message_number == 2


def test_message_is_never_its_own_predecessor() -> None:
    assert isinstance(refusal(group(), send(ALICE, FIRST, previous=FIRST)), SendOrder)


def test_message_of_another_sender_is_no_predecessor() -> None:
    state = accept(group(BOB), send(BOB, FIRST))
    assert isinstance(refusal(state, send(ALICE, SECOND, previous=FIRST)), SendOrder)


def test_predecessor_that_left_the_window_is_looked_up() -> None:
    state = forget_all(accept(group(), send(ALICE, FIRST)))
    new = uuid7(NOW_MS + 10)
    keys = frozenset({(ALICE, FIRST), (ALICE, new)})
    assert decide(state, send(ALICE, new, previous=FIRST), NOW_MS) == LookupNeeded(keys=keys)
    unknown = IdLookup(applied_position=state.position, keys=keys, found={})
    assert isinstance(refusal(state, send(ALICE, new, previous=FIRST), lookup=unknown), SendOrder)


@pytest.mark.parametrize(
    ("client_time_ms", "kept_ms"),
    [
        (None, None),
        (NOW_MS, NOW_MS),
        (NOW_MS + 1, NOW_MS),
        (NOW_MS - DAY_MS, NOW_MS - DAY_MS),
        (NOW_MS - DAY_MS - 1, NOW_MS - DAY_MS),
        (-(2**62), NOW_MS - DAY_MS),
        (2**62, NOW_MS),
    ],
)
def test_client_time_is_clamped_to_the_day_before_the_commit(client_time_ms: int | None, kept_ms: int | None) -> None:
    """C01, C02: clocks of clients are for display, within bounds."""
    (event,) = events_of(group(), send(ALICE, FIRST, client_time_ms=client_time_ms))
    assert isinstance(event.kind, MessageSent)
    assert event.kind.message.client_time_ms == kept_ms


def test_commit_time_never_decreases_when_clocks_go_back() -> None:
    """C02: the node that commits next has a slower clock; client time is clamped to the commit, not to that clock."""
    state = group(now_ms=NOW_MS)
    (event,) = events_of(state, send(ALICE, FIRST, client_time_ms=NOW_MS + 5), now_ms=NOW_MS - 60_000)
    assert event.commit_time_ms == NOW_MS
    assert isinstance(event.kind, MessageSent)
    assert event.kind.message.client_time_ms == NOW_MS


def test_order_is_that_of_commits_whatever_the_ids_say() -> None:
    """C03: a UUIDv7 made earlier gets no earlier number."""
    state = accept(accept(group(BOB), send(BOB, uuid7(NOW_MS + 100))), send(ALICE, uuid7(NOW_MS - 100)))
    assert sent(decide(state, send(ALICE, uuid7(NOW_MS - 100)), NOW_MS)).message_number == 2
