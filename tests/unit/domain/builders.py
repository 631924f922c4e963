"""States and commands for tests of the domain, built by the domain itself."""

from hubbub_server.domain.commands import (
    Accepted,
    AddMembers,
    Changed,
    ConversationCommand,
    CreateDirect,
    CreateGroup,
    Done,
    Refused,
    RemoveMember,
    SendMessage,
    Sent,
)
from hubbub_server.domain.conversation import ConversationState, decide, evolve
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.events import Event, Member, MemberRole, MembersAdded
from hubbub_server.domain.id_window import IdKey, IdLookup
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import TextContent

NOW_MS = 1_800_000_000_000
CONVERSATION = ConversationId(TopicId("cgroup"))


def user(name: str) -> UserId:
    """Returns the id of a user."""
    return UserId(TopicId(f"u{name}"))


ALICE, BOB, CAROL, MALLORY = map(user, ("alice", "bob", "carol", "mallory"))


def uuid7(time_ms: int, serial: int = 0) -> ClientMessageId:
    """Returns a UUIDv7 of that time; `serial` tells ids of one time apart."""
    time = f"{time_ms:012x}"
    return ClientMessageId(f"{time[:8]}-{time[8:]}-7000-8000-{serial:012x}")


def uuid4(serial: int = 0) -> ClientMessageId:
    """Returns a UUIDv4, which carries no time."""
    return ClientMessageId(f"00000000-0000-4000-8000-{serial:012x}")


def send(
    sender_id: UserId,
    client_message_id: ClientMessageId,
    text: str = "hello",
    *,
    client_time_ms: int | None = None,
    previous: ClientMessageId | None = None,
) -> SendMessage:
    """Returns a command that sends a text."""
    return SendMessage(
        sender_id=sender_id,
        client_message_id=client_message_id,
        content=TextContent(text=text),
        client_time_ms=client_time_ms,
        previous_client_message_id=previous,
    )


def empty(conversation_id: ConversationId = CONVERSATION, epoch: int = 1) -> ConversationState:
    """Returns a conversation that was never made."""
    return ConversationState(conversation_id=conversation_id, epoch=epoch)


def fold(state: ConversationState, accepted: Accepted) -> ConversationState:
    """Folds the events of a decision as if they had been committed."""
    for event, hash_of_request in zip(accepted.events, accepted.request_hashes, strict=True):
        state = evolve(state, event, hash_of_request)
    return state


def accept(state: ConversationState, command: ConversationCommand, now_ms: int = NOW_MS) -> ConversationState:
    """Decides a command that must be accepted, and folds it."""
    decision = decide(state, command, now_ms)
    assert isinstance(decision, Accepted), decision
    return fold(state, decision)


def events_of(state: ConversationState, command: ConversationCommand, now_ms: int = NOW_MS) -> tuple[Event, ...]:
    """Returns the events that a command becomes."""
    decision = decide(state, command, now_ms)
    assert isinstance(decision, Accepted), decision
    return decision.events


def refusal(
    state: ConversationState, command: ConversationCommand, now_ms: int = NOW_MS, lookup: IdLookup | None = None
) -> HubbubError:
    """Returns the error with which a command is refused."""
    decision = decide(state, command, now_ms, lookup)
    assert isinstance(decision, Refused), decision
    return decision.error


def sent(decision: object) -> Sent:
    """Returns the answer of a message that is durable, or will be."""
    assert isinstance(decision, Accepted | Done), decision
    assert isinstance(decision.answer, Sent)
    return decision.answer


def changed(decision: object) -> Changed:
    """Returns the answer of a change."""
    assert isinstance(decision, Accepted | Done), decision
    assert isinstance(decision.answer, Changed)
    return decision.answer


def group(*members: UserId, owner: UserId = ALICE, now_ms: int = NOW_MS) -> ConversationState:
    """Returns a group that `owner` made with these members."""
    return accept(empty(), CreateGroup(creator_id=owner, title="tea", user_ids=members), now_ms)


def direct(first: UserId = ALICE, second: UserId = BOB) -> ConversationState:
    """Returns the direct conversation of a pair."""
    return accept(empty(), CreateDirect(creator_id=first, other_id=second))


def with_role(state: ConversationState, user_id: UserId, role: MemberRole) -> ConversationState:
    """Gives a user a role that no command of this version gives: as an event of a later version might."""
    event = Event(
        topic_id=state.conversation_id,
        epoch=state.epoch,
        position=state.position + 1,
        commit_time_ms=state.commit_time_ms,
        actor_id=None,
        message_number=0,
        kind=MembersAdded(members=(Member(user_id=user_id, role=role, join_position=state.position + 1),)),
    )
    return evolve(state, event)


def add(state: ConversationState, *user_ids: UserId, actor: UserId = ALICE) -> ConversationState:
    """Adds members."""
    return accept(state, AddMembers(actor_id=actor, user_ids=user_ids))


def remove(state: ConversationState, user_id: UserId, actor: UserId = ALICE) -> ConversationState:
    """Removes a member."""
    return accept(state, RemoveMember(actor_id=actor, user_id=user_id))


def denial(*keys: IdKey, applied_position: int) -> IdLookup:
    """Returns a look-up that found none of the keys."""
    return IdLookup(applied_position=applied_position, keys=frozenset(keys), found={})
