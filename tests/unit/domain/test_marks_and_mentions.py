"""What counts as read by itself, who is mentioned, and who refuses whom."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.domain.commands import Accepted, CreateDirect, Done, RecordBlock, SendMessage
from hubbub_server.domain.conversation import ConversationState, decide
from hubbub_server.domain.errors import IdReused, InvalidField, NotPermitted
from hubbub_server.domain.events import BlockChanged, MemberRole, MessageSent, SourcePlace
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import BROADCAST_FREE_MEMBERS, ENTITIES_MAX, LINK_MAX_BYTES
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.message import (
    BroadcastAudience,
    BroadcastMention,
    Code,
    EntityKind,
    Link,
    TextContent,
    TextEntity,
    UnknownEntity,
    UserMention,
    check_content,
    content_hash,
    request_hash,
)
from tests.unit.domain.builders import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    NOW_MS,
    accept,
    add,
    direct,
    empty,
    events_of,
    group,
    refusal,
    remove,
    send,
    user,
    uuid7,
    with_role,
)

ALL = BroadcastMention(audience=BroadcastAudience.ALL)
HERE = BroadcastMention(audience=BroadcastAudience.HERE)


def entity(kind: EntityKind, start: int = 0, length: int = 1) -> TextEntity:
    return TextEntity(start=start, length=length, kind=kind)


def say(sender_id: UserId, serial: int, *kinds: EntityKind) -> SendMessage:
    """Returns a message that has these entities, one after the other."""
    entities = tuple(entity(kind, start=index) for index, kind in enumerate(kinds))
    return SendMessage(
        sender_id=sender_id,
        client_message_id=uuid7(NOW_MS + 1, serial),
        content=TextContent(text="x" * max(len(kinds), 1), entities=entities),
    )


def mention(user_id: UserId) -> UserMention:
    return UserMention(user_id=user_id)


def mark(state: ConversationState, user_id: UserId) -> tuple[int, int, int]:
    found = state.marks.get(user_id)
    assert found is not None
    return found.message_number, found.counted_number, found.mention_number


# ---- marks


def test_sending_is_reading() -> None:
    """C25: own messages are never unread, on no device and after no login."""
    state = accept(accept(group(BOB), say(ALICE, 1)), say(BOB, 2))

    assert mark(state, ALICE) == (1, 1, 0)
    assert mark(state, BOB) == (2, 2, 0)


def test_newcomer_need_not_read_what_was_there() -> None:
    state = add(accept(accept(group(BOB), say(ALICE, 1)), say(ALICE, 2)), CAROL)

    assert mark(state, CAROL) == (2, 2, 0)
    assert mark(state, BOB) == (0, 0, 0)


def test_who_leaves_has_no_mark_and_comes_back_with_a_new_one() -> None:
    state = remove(accept(group(BOB), say(BOB, 1)), BOB)
    assert state.marks.get(BOB) is None

    assert mark(add(accept(state, say(ALICE, 2)), BOB), BOB) == (2, 2, 0)


def test_mentions_are_marked_until_the_user_sends() -> None:
    state = accept(group(BOB, CAROL), say(ALICE, 1, mention(BOB), mention(CAROL), mention(ALICE)))
    assert mark(state, BOB) == (0, 0, 1)
    assert mark(state, ALICE) == (1, 1, 0)

    state = accept(accept(state, say(BOB, 2)), say(ALICE, 3, ALL))
    assert mark(state, BOB) == (2, 2, 0)
    assert mark(state, CAROL) == (0, 0, 1)
    assert state.last_broadcast_number == 3


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 9)), max_size=200))
def test_marks_are_a_map(changes: list[tuple[int, int]]) -> None:
    marks, model = MemberMarks(), dict[UserId, MemberMark]()
    for name, number in changes:
        before = marks
        changed = {user(str(name)): MemberMark(message_number=number)}
        marks = marks.with_all(changed)
        assert dict(before.items()) == model
        model |= changed
    assert dict(marks.items()) == model
    assert marks == MemberMarks(model)
    assert all(marks.get(user_id) == each for user_id, each in model.items())
    assert marks.get(user("nobody")) is None


def test_a_message_costs_the_same_in_a_large_group() -> None:
    """The hot path of 20,000 messages a second: no pass over the members for each."""

    def seconds(members: int) -> float:
        marks = MemberMarks({user(str(number)): MemberMark() for number in range(members)})
        started_s = time.process_time()
        for number in range(20_000):
            marks = marks.with_all({user(str(number % members)): MemberMark(message_number=number)})
        return time.process_time() - started_s

    assert min(seconds(5_000) for _ in range(2)) < 12 * min(seconds(500) for _ in range(2))
    assert min(seconds(5_000) for _ in range(2)) < 4.0


# ---- mentions


def test_mention_of_a_stranger_is_plain_words() -> None:
    """Somebody who left a moment ago must not make a send fail for ever."""
    command = say(ALICE, 1, mention(MALLORY), mention(BOB), Code())
    (event,) = events_of(group(BOB), command)

    assert isinstance(event.kind, MessageSent)
    content = event.kind.message.content
    assert isinstance(content, TextContent)
    assert [each.kind for each in content.entities] == [mention(BOB), Code()]


def test_repeat_of_a_send_whose_mention_was_left_out_is_the_same_send() -> None:
    """G3: the hash is of what the client said."""
    command = say(ALICE, 1, mention(MALLORY))
    state = accept(group(BOB), command)

    assert isinstance(decide(state, command, NOW_MS), Done)
    assert isinstance(refusal(state, say(ALICE, 1, mention(BOB))), IdReused)


@pytest.mark.parametrize("kind", [ALL, HERE], ids=["all", "here"])
def test_broadcast_in_a_large_group_is_for_owners_and_admins(kind: EntityKind) -> None:
    """C65: @all in a large conversation by a non-admin."""
    others = [user(str(number)) for number in range(BROADCAST_FREE_MEMBERS - 1)]
    small = group(*others)
    large = add(small, BOB)

    accept(small, say(others[0], 1, kind))
    assert isinstance(refusal(large, say(others[0], 1, kind)), NotPermitted)
    accept(large, say(ALICE, 1, kind))
    accept(with_role(large, BOB, MemberRole.ADMIN), say(BOB, 1, kind))


def test_repeat_of_a_broadcast_is_answered_also_when_it_would_be_refused_now() -> None:
    others = [user(str(number)) for number in range(BROADCAST_FREE_MEMBERS - 1)]
    command = say(others[0], 1, ALL)
    state = add(accept(group(*others), command), BOB)

    assert isinstance(decide(state, command, NOW_MS), Done)


# ---- what a client may say


@pytest.mark.parametrize(
    "entities",
    [
        [entity(Code(), start=-1)],
        [entity(Code(), length=0)],
        [entity(Code(), start=2, length=4)],
        [entity(Code(), start=2), entity(Code(), start=1)],
        [entity(Code(), length=3), entity(mention(BOB), start=1)],
        [entity(UnknownEntity())],
        [entity(mention(user("")))],
        [entity(mention(UserId(ALICE[1:])))],  # type: ignore[arg-type]  # no user id
        [entity(Code(language="python"))],
        [entity(Code(block=True, language="a b"))],
        [entity(Link(url="javascript:alert(1)"))],
        [entity(Link(url="https://a b"))],
        [entity(Link(url="https://" + "x" * LINK_MAX_BYTES))],
        [entity(Link(url="https://" + "x" * 2_000), start=start) for start in range(5)],
    ],
    ids=[
        *("before", "empty", "behind", "order", "mention in code", "unknown", "no user", "other id", "inline language"),
        *("language", "script", "space", "long link", "long links"),
    ],
)
def test_bad_entities_are_refused(entities: list[TextEntity]) -> None:
    """C65: client-supplied mentions are validated; none is inside code."""
    with pytest.raises(InvalidField, match=r"content\.text\.entities"):
        check_content("content", TextContent(text="hello", entities=tuple(entities)))


def test_offsets_count_code_points_up_to_the_end_of_the_text() -> None:
    text = "👩‍👩‍👧 @bob"
    check_content("content", TextContent(text=text, entities=(entity(mention(BOB), start=len(text) - 4, length=4),)))
    with pytest.raises(InvalidField):
        check_content(
            "content", TextContent(text=text, entities=(entity(mention(BOB), start=len(text) - 3, length=4),))
        )


def test_at_most_100_entities() -> None:
    entities = tuple(entity(Code(), start=start) for start in range(ENTITIES_MAX + 1))
    text = "x" * len(entities)
    check_content("content", TextContent(text=text, entities=entities[:ENTITIES_MAX]))
    with pytest.raises(InvalidField, match="at most 100"):
        check_content("content", TextContent(text=text, entities=entities))


def test_hash_of_plain_text_is_what_it_was_and_entities_count() -> None:
    plain = TextContent(text="hello")
    assert content_hash(plain) == request_hash("text", "hello")
    hashes = {content_hash(TextContent(text="hello", entities=(entity(k),))) for k in (ALL, HERE, Code(), mention(BOB))}
    assert len(hashes | {content_hash(plain)}) == 5


# ---- blocks


def block(blocker: UserId, blocked: UserId, position: int, *, is_blocked: bool = True) -> RecordBlock:
    return RecordBlock(blocker_id=blocker, user_id=blocked, blocked=is_blocked, source=SourcePlace(1, position))


def test_blocked_side_is_refused_and_the_blocker_is_not() -> None:
    state = accept(direct(ALICE, BOB), block(ALICE, BOB, 5))

    assert isinstance(refusal(state, say(BOB, 1)), NotPermitted)
    accept(state, say(ALICE, 2))
    accept(accept(state, block(ALICE, BOB, 6, is_blocked=False)), say(BOB, 1))


def test_event_says_who_refuses_whom_and_not_where_that_was_decided() -> None:
    """The place in the blocker's own topic would tell how busy they are; it travels in the facts."""
    decision = decide(direct(ALICE, BOB), block(ALICE, BOB, 5), NOW_MS)

    assert isinstance(decision, Accepted)
    assert decision.events[0].kind == BlockChanged(user_id=BOB, blocked=True)
    assert decision.events[0].actor_id == ALICE
    assert decision.request_hashes == ("1.5",)


@given(st.permutations([block(ALICE, BOB, n, is_blocked=n % 2 == 1) for n in range(1, 6)]))
def test_news_of_blocks_in_any_order_end_with_the_newest(news: list[RecordBlock]) -> None:
    """The committing node and the relay both tell, in any order."""
    state = direct(ALICE, BOB)
    for command in [*news, *news]:
        decision = decide(state, command, NOW_MS)
        if isinstance(decision, Accepted):
            state = accept(state, command)
    assert state.blocks[ALICE].blocked
    assert state.blocks[ALICE].source == SourcePlace(1, 5)


def test_both_sides_may_refuse_each_other() -> None:
    state = accept(accept(direct(ALICE, BOB), block(ALICE, BOB, 5)), block(BOB, ALICE, 7))

    assert isinstance(refusal(state, say(ALICE, 1)), NotPermitted)
    assert isinstance(refusal(accept(state, block(ALICE, BOB, 6, is_blocked=False)), say(ALICE, 1)), NotPermitted)


def test_repeat_of_a_send_from_before_the_block_is_answered() -> None:
    """G3: it is in the conversation already."""
    command = send(BOB, uuid7(NOW_MS + 1))
    state = accept(accept(direct(ALICE, BOB), command), block(ALICE, BOB, 5))

    assert isinstance(decide(state, command, NOW_MS), Done)


def test_block_before_the_conversation_refuses_its_making_by_the_blocked_side() -> None:
    state = accept(empty(), block(ALICE, BOB, 5))
    assert state.kind is None

    assert isinstance(refusal(state, CreateDirect(creator_id=BOB, other_id=ALICE)), NotPermitted)
    made = accept(state, CreateDirect(creator_id=ALICE, other_id=BOB))
    assert isinstance(refusal(made, say(BOB, 1)), NotPermitted)
    assert set(made.members) == {ALICE, BOB}
