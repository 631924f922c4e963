"""Making conversations, and who may change who belongs to them: every command, role and state."""

from dataclasses import replace

import pytest

from hubbub_server.domain.commands import (
    Accepted,
    AddMembers,
    ConversationCommand,
    CreateDirect,
    CreateGroup,
    Done,
    RemoveMember,
)
from hubbub_server.domain.conversation import ConversationState, decide, evolve
from hubbub_server.domain.errors import (
    ConversationNotFound,
    HubbubError,
    IdReused,
    NotPermitted,
    Unavailable,
    WrongState,
)
from hubbub_server.domain.events import (
    ConversationCreated,
    ConversationJoined,
    ConversationKind,
    Event,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    UnknownKind,
    changes_access,
)
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import GROUP_MAX_MEMBERS, MEMBERS_PER_CHANGE
from tests.unit.domain.builders import (
    ALICE,
    BOB,
    CAROL,
    MALLORY,
    NOW_MS,
    accept,
    add,
    changed,
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

OWNER, ADMIN, MEMBER = MemberRole.OWNER, MemberRole.ADMIN, MemberRole.MEMBER


def crowd(count: int) -> tuple[UserId, ...]:
    return tuple(user(f"{n:04d}") for n in range(count))


def roles(state: ConversationState) -> dict[UserId, MemberRole]:
    return {m.user_id: m.role for m in state.members.values()}


# ---- creation


def test_direct_conversation_has_two_equal_members() -> None:
    events = events_of(empty(), CreateDirect(creator_id=BOB, other_id=ALICE))
    members = tuple(Member(user_id=u, role=MEMBER, join_position=2) for u in (ALICE, BOB))
    assert [e.kind for e in events] == [
        ConversationCreated(conversation_kind=ConversationKind.DIRECT, title=""),
        MembersAdded(members=members),
    ]
    assert [(e.position, e.actor_id, e.message_number) for e in events] == [(1, BOB, 0), (2, BOB, 0)]


@pytest.mark.parametrize(("creator", "other"), [(ALICE, BOB), (BOB, ALICE)])
def test_direct_conversation_is_found_whoever_asks_again(creator: UserId, other: UserId) -> None:
    state = direct(ALICE, BOB)
    decision = decide(state, CreateDirect(creator_id=creator, other_id=other), NOW_MS)
    assert isinstance(decision, Done)
    assert changed(decision).cursor == state.head.cursor


def test_group_is_owned_by_its_creator() -> None:
    state = group(CAROL, BOB)
    assert roles(state) == {ALICE: OWNER, BOB: MEMBER, CAROL: MEMBER}
    assert (state.kind, state.title, state.position, state.creator_id) == (ConversationKind.GROUP, "tea", 3, ALICE)
    assert [m.join_position for m in state.members_in_order()] == [2, 3, 3]


def test_group_of_one_is_a_group() -> None:
    assert roles(group()) == {ALICE: OWNER}
    assert group().position == 2


def test_naming_the_creator_among_the_members_changes_nothing() -> None:
    assert roles(group(BOB, ALICE)) == roles(group(BOB))
    assert group(BOB, ALICE).creation_hash == group(BOB).creation_hash


def test_repeated_creation_finds_the_group_in_any_order_of_users() -> None:
    state = add(group(BOB, CAROL), MALLORY)
    repeat = CreateGroup(creator_id=ALICE, title="tea", user_ids=(CAROL, BOB))
    decision = decide(state, repeat, NOW_MS)
    assert isinstance(decision, Done)
    assert changed(decision).cursor == state.head.cursor


@pytest.mark.parametrize(
    ("title", "user_ids"), [("coffee", (BOB,)), ("tea", (BOB, CAROL)), ("tea", ())], ids=["title", "more", "fewer"]
)
def test_request_id_with_other_content_is_refused(title: str, user_ids: tuple[UserId, ...]) -> None:
    error = refusal(group(BOB), CreateGroup(creator_id=ALICE, title=title, user_ids=user_ids))
    assert isinstance(error, IdReused)
    assert error.first_number == 0


def test_another_creator_learns_nothing_of_the_group() -> None:
    error = refusal(group(BOB), CreateGroup(creator_id=BOB, title="tea", user_ids=(BOB,)))
    assert isinstance(error, ConversationNotFound)


def test_creator_who_was_removed_does_not_find_the_group() -> None:
    state = remove(with_role(group(BOB), BOB, OWNER), ALICE, actor=BOB)
    repeat = CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,))
    assert isinstance(refusal(state, repeat), ConversationNotFound)


# ---- adding

ADD_MATRIX: list[tuple[UserId, MemberRole | None, type[HubbubError] | None]] = [
    (ALICE, OWNER, None),
    (BOB, ADMIN, None),
    (BOB, MEMBER, NotPermitted),
    (MALLORY, None, ConversationNotFound),
]


@pytest.mark.parametrize(("actor", "role", "error"), ADD_MATRIX, ids=str)
def test_owners_and_admins_add_members(actor: UserId, role: MemberRole | None, error: type[HubbubError] | None) -> None:
    state = group(BOB)
    state = with_role(state, actor, role) if role is not None else state
    command = AddMembers(actor_id=actor, user_ids=(CAROL,))
    if error is None:
        (event,) = events_of(state, command)
        member = Member(user_id=CAROL, role=MEMBER, join_position=event.position)
        assert event.kind == MembersAdded(members=(member,))
        assert event.actor_id == actor
    else:
        assert type(refusal(state, command)) is error


def test_those_already_there_stay_as_they_are() -> None:
    state = with_role(group(BOB), BOB, ADMIN)
    (event,) = events_of(state, AddMembers(actor_id=ALICE, user_ids=(CAROL, BOB, CAROL)))
    assert isinstance(event.kind, MembersAdded)
    assert [m.user_id for m in event.kind.members] == [CAROL]
    assert roles(add(state, CAROL, BOB))[BOB] is ADMIN


def test_adding_only_members_writes_nothing() -> None:
    state = group(BOB)
    decision = decide(state, AddMembers(actor_id=ALICE, user_ids=(BOB, ALICE)), NOW_MS)
    assert isinstance(decision, Done)
    assert changed(decision).cursor == state.head.cursor


def test_group_of_1000_is_full() -> None:
    state = add(group(*crowd(500)), *crowd(998)[500:])
    assert len(state.members) == GROUP_MAX_MEMBERS - 1
    too_many = AddMembers(actor_id=ALICE, user_ids=(BOB, CAROL))
    assert isinstance(refusal(state, too_many), WrongState)
    state = add(state, BOB)
    assert len(state.members) == GROUP_MAX_MEMBERS
    assert isinstance(refusal(state, AddMembers(actor_id=ALICE, user_ids=(CAROL,))), WrongState)
    assert isinstance(decide(state, AddMembers(actor_id=ALICE, user_ids=(BOB,)), NOW_MS), Done)
    assert isinstance(decide(remove(state, BOB), AddMembers(actor_id=ALICE, user_ids=(CAROL,)), NOW_MS), Accepted)


def test_a_group_may_be_as_large_as_the_command_says() -> None:
    state = add(group(*crowd(500)), *crowd(999)[500:])
    assert len(state.members) == GROUP_MAX_MEMBERS
    more = AddMembers(actor_id=ALICE, user_ids=(BOB, CAROL), max_members=GROUP_MAX_MEMBERS + 2)
    assert isinstance(decide(state, more, NOW_MS), Accepted)
    assert isinstance(refusal(state, replace(more, max_members=GROUP_MAX_MEMBERS + 1)), WrongState)


def test_one_change_adds_500_members() -> None:
    (event,) = events_of(group(), AddMembers(actor_id=ALICE, user_ids=crowd(MEMBERS_PER_CHANGE)))
    assert isinstance(event.kind, MembersAdded)
    assert len(event.kind.members) == MEMBERS_PER_CHANGE
    assert isinstance(refusal(group(), AddMembers(actor_id=ALICE, user_ids=crowd(501))), WrongState)


def test_nobody_is_added_to_a_direct_conversation() -> None:
    assert isinstance(refusal(direct(), AddMembers(actor_id=ALICE, user_ids=(CAROL,))), WrongState)
    stranger = AddMembers(actor_id=MALLORY, user_ids=(CAROL,))
    assert isinstance(refusal(direct(), stranger), ConversationNotFound)


def test_member_who_returns_is_no_former_member() -> None:
    state = remove(group(BOB), BOB)
    assert state.former_members == {BOB: state.position}
    state = add(state, BOB)
    assert state.former_members == {}
    assert state.members[BOB].join_position == state.position


# ---- removing

REMOVE_MATRIX: list[tuple[MemberRole | None, MemberRole | None, type[HubbubError] | None]] = [
    (OWNER, OWNER, None),
    (OWNER, ADMIN, None),
    (OWNER, MEMBER, None),
    (ADMIN, OWNER, NotPermitted),
    (ADMIN, ADMIN, None),
    (ADMIN, MEMBER, None),
    (MEMBER, OWNER, NotPermitted),
    (MEMBER, ADMIN, NotPermitted),
    (MEMBER, MEMBER, NotPermitted),
    (MEMBER, None, NotPermitted),
    (None, OWNER, ConversationNotFound),
    (None, MEMBER, ConversationNotFound),
    (None, None, ConversationNotFound),
]


@pytest.mark.parametrize(("actor_role", "target_role", "error"), REMOVE_MATRIX, ids=str)
def test_owners_and_admins_remove_members(
    actor_role: MemberRole | None, target_role: MemberRole | None, error: type[HubbubError] | None
) -> None:
    state = group()
    for name, role in ((BOB, actor_role), (CAROL, target_role)):
        state = with_role(state, name, role) if role is not None else state
    command = RemoveMember(actor_id=BOB, user_id=CAROL)
    if error is None:
        (event,) = events_of(state, command)
        assert event.kind == MemberRemoved(user_id=CAROL)
        assert changed(decide(state, command, NOW_MS)).cursor.position == event.position
        state = remove(state, CAROL, actor=BOB)
        assert CAROL not in state.members
        assert state.former_members[CAROL] == event.position
    else:
        assert type(refusal(state, command)) is error


@pytest.mark.parametrize("role", [MEMBER, ADMIN])
def test_every_member_may_leave(role: MemberRole) -> None:
    state = with_role(group(BOB), BOB, role)
    (event,) = events_of(state, RemoveMember(actor_id=BOB, user_id=BOB))
    assert (event.kind, event.actor_id) == (MemberRemoved(user_id=BOB), BOB)


def test_last_owner_cannot_leave_but_one_of_two_can() -> None:
    leave = RemoveMember(actor_id=ALICE, user_id=ALICE)
    assert isinstance(refusal(group(BOB), leave), WrongState)
    assert isinstance(refusal(group(), leave), WrongState)
    state = remove(with_role(group(BOB), BOB, OWNER), ALICE, actor=ALICE)
    assert isinstance(refusal(state, RemoveMember(actor_id=BOB, user_id=BOB)), WrongState)


def test_who_is_no_member_stays_none() -> None:
    state = remove(group(BOB), BOB)
    decision = decide(state, RemoveMember(actor_id=ALICE, user_id=BOB), NOW_MS)
    assert isinstance(decision, Done)
    assert changed(decision).cursor == state.head.cursor


def test_repeated_leave_is_that_of_a_stranger() -> None:
    """The contract: ex-members are no members, a repeated leave answers CONVERSATION_NOT_FOUND."""
    state = remove(group(BOB), BOB, actor=BOB)
    assert isinstance(refusal(state, RemoveMember(actor_id=BOB, user_id=BOB)), ConversationNotFound)


@pytest.mark.parametrize("target", [ALICE, BOB, CAROL])
def test_nobody_leaves_a_direct_conversation(target: UserId) -> None:
    assert isinstance(refusal(direct(), RemoveMember(actor_id=ALICE, user_id=target)), WrongState)


# ---- all commands

COMMANDS: list[ConversationCommand] = [
    send(MALLORY, uuid7(NOW_MS)),
    AddMembers(actor_id=MALLORY, user_ids=(CAROL,)),
    AddMembers(actor_id=MALLORY, user_ids=(ALICE,)),
    RemoveMember(actor_id=MALLORY, user_id=ALICE),
    RemoveMember(actor_id=MALLORY, user_id=MALLORY),
    RemoveMember(actor_id=MALLORY, user_id=CAROL),
]
FOREIGN = [empty(), group(BOB), direct(), remove(group(MALLORY), MALLORY)]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: type(command).__name__)
@pytest.mark.parametrize("state", FOREIGN, ids=["never made", "group", "direct", "removed from"])
def test_absent_and_foreign_conversations_answer_alike(state: ConversationState, command: ConversationCommand) -> None:
    """C46: one answer for every command of a non-member."""
    error = refusal(state, command)
    assert type(error) is ConversationNotFound
    assert str(error) == str(ConversationNotFound())


@pytest.mark.parametrize(
    "command",
    [
        send(ALICE, uuid7(NOW_MS)),
        AddMembers(actor_id=ALICE, user_ids=(CAROL,)),
        RemoveMember(actor_id=ALICE, user_id=BOB),
        CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)),
        CreateDirect(creator_id=ALICE, other_id=BOB),
    ],
    ids=lambda command: type(command).__name__,
)
def test_topic_with_an_event_of_a_newer_version_takes_no_commands(command: ConversationCommand) -> None:
    state = with_unknown_event(group(BOB))
    error = refusal(state, command)
    assert isinstance(error, Unavailable)
    assert error.retry_after_s > 0


def with_unknown_event(state: ConversationState) -> ConversationState:
    event = Event(
        topic_id=state.conversation_id,
        epoch=1,
        position=state.position + 1,
        commit_time_ms=NOW_MS,
        actor_id=None,
        message_number=0,
        kind=UnknownKind(),
    )
    return evolve(state, event)


def test_unknown_event_takes_its_position() -> None:
    state = with_unknown_event(group(BOB))
    assert state.position == group(BOB).position + 1
    assert roles(state) == roles(group(BOB))


def test_event_of_a_user_topic_is_refused_by_a_conversation() -> None:
    """Poison is told by the exception's type."""
    event = Event(
        topic_id=ALICE,
        epoch=1,
        position=1,
        commit_time_ms=NOW_MS,
        actor_id=None,
        message_number=0,
        kind=ConversationJoined(conversation_id=empty().conversation_id, epoch=1, join_position=2),
    )
    with pytest.raises(ValueError, match="ConversationJoined"):
        evolve(empty(), event)


def test_only_changes_of_members_change_who_may_read() -> None:
    """G5: these are alone in their record."""
    created = events_of(empty(), CreateGroup(creator_id=ALICE, title="tea", user_ids=(BOB,)))
    (sent_event,) = events_of(group(BOB), send(ALICE, uuid7(NOW_MS)))
    (removed,) = events_of(group(BOB), RemoveMember(actor_id=ALICE, user_id=BOB))
    assert [changes_access(e) for e in (*created, sent_event, removed)] == [False, True, True, False, True]


def test_members_are_listed_owners_first_then_in_the_order_of_joining() -> None:
    """As ListMembers promises: an admin stands where they joined."""
    state = with_role(add(add(group(CAROL), BOB), MALLORY), user("zoe"), ADMIN)
    state = add(with_role(state, user("eve"), OWNER), user("dan"))
    names = [m.user_id for m in state.members_in_order()]
    assert names == [ALICE, user("eve"), CAROL, BOB, MALLORY, user("zoe"), user("dan")]


def test_commands_see_the_state_that_they_are_given_and_leave_it() -> None:
    state = group(BOB)
    before = replace(state)
    decide(state, send(ALICE, uuid7(NOW_MS)), NOW_MS)
    accept(state, send(ALICE, uuid7(NOW_MS)))
    assert state == before
