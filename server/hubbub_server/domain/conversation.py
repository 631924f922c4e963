"""A conversation: its state, what may be done to it (`decide`) and what happened to it (`evolve`). Pure.

`decide` never changes anything: it refuses, or says which events a commit at the head would append. Those events hold
only if the head did not move meanwhile; the log's compare-and-set sees to that. `evolve` folds committed events, in
order.
"""

from collections.abc import Mapping
from dataclasses import field, replace
from types import MappingProxyType

from hubbub_server.domain.commands import (
    Accepted,
    AddMembers,
    Changed,
    ConversationCommand,
    CreateDirect,
    CreateGroup,
    Decision,
    Done,
    LimitReceipts,
    LookupNeeded,
    RecordBlock,
    Refused,
    RemoveMember,
    SendMessage,
    Sent,
)
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import (
    ConversationNotFound,
    HubbubError,
    IdReused,
    NotPermitted,
    SendOrder,
    Unavailable,
    WrongState,
)
from hubbub_server.domain.events import (
    BlockChanged,
    ConversationCreated,
    ConversationKind,
    ConversationSettingsChanged,
    Event,
    EventKind,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
    SourcePlace,
    UnknownKind,
)
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.id_window import IdEntry, IdKey, IdLookup, IdWindow
from hubbub_server.domain.ids import ConversationId, UserId
from hubbub_server.domain.limits import BROADCAST_FREE_MEMBERS, MEMBERS_PER_CHANGE
from hubbub_server.domain.member_marks import MemberMark, MemberMarks
from hubbub_server.domain.message import (
    Content,
    Message,
    content_hash,
    is_broadcast,
    mentions_of,
    only_mentions_of,
    request_hash,
)
from hubbub_server.domain.receipts import ReceiptsMode, receipts_mode

_DAY_MS = 24 * 60 * 60 * 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Whether one side of a direct conversation refuses what the other sends, since `source` in its own topic."""

    blocked: bool
    source: SourcePlace


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationState:
    """Everything that a decision needs, as of `position`. `kind` is None until the conversation was created."""

    conversation_id: ConversationId
    epoch: int
    position: int = 0
    commit_time_ms: int = 0
    kind: ConversationKind | None = None
    title: str = ""
    creator_id: UserId | None = None
    creation_hash: str = ""
    members: Mapping[UserId, Member] = field(default_factory=lambda: MappingProxyType({}))
    former_members: Mapping[UserId, int] = field(default_factory=lambda: MappingProxyType({}))
    last_message_number: int = 0
    last_counted_number: int = 0
    last_broadcast_number: int = 0
    """The newest message that mentions all members."""
    marks: MemberMarks = field(default_factory=MemberMarks)
    """Of every member."""
    blocks: Mapping[UserId, Block] = field(default_factory=lambda: MappingProxyType({}))
    """By who refuses the other side's messages."""
    receipts_limit: ReceiptsMode = ReceiptsMode.FULL
    window: IdWindow = field(default_factory=IdWindow)
    has_unknown_event: bool = False

    @property
    def head(self) -> TopicHead:
        """The head that this state was folded to."""
        return TopicHead(
            cursor=Cursor(topic_id=self.conversation_id, epoch=self.epoch, position=self.position),
            last_message_number=self.last_message_number,
            last_counted_number=self.last_counted_number,
        )

    @property
    def receipts_mode(self) -> ReceiptsMode:
        """What members learn of each other's reading."""
        return receipts_mode(len(self.members), self.receipts_limit)

    def read_floor(self, readers: Mapping[UserId, int]) -> int:
        """Returns up to which message every member has read, `readers` being what they show of it; 0: nothing."""
        marks = ((user_id, self.marks.get(user_id)) for user_id in self.members)
        numbers = (max(mark.message_number if mark else 0, readers.get(user_id, 0)) for user_id, mark in marks)
        return min(min(numbers, default=0), self.last_message_number)

    @property
    def has_block(self) -> bool:
        """Tells whether one side of a direct conversation refuses what the other sends."""
        return bool(self.blocks) and any(block.blocked for block in self.blocks.values())

    def members_in_order(self) -> list[Member]:
        """Returns the members, owners first, then in the order of joining."""
        return sorted(self.members.values(), key=lambda m: (m.role is not MemberRole.OWNER, m.join_position, m.user_id))


def decide(  # noqa: PLR0911  # one a command
    state: ConversationState, command: ConversationCommand, now_ms: int, lookup: IdLookup | None = None
) -> Decision:
    """Decides a command on the state at the head."""
    if state.has_unknown_event:
        return Refused(error=Unavailable("this conversation has events of a newer version", retry_after_s=30))
    try:
        match command:
            case SendMessage():
                return _decide_send(state, command, now_ms, lookup)
            case CreateDirect():
                return _decide_create_direct(state, command, now_ms)
            case CreateGroup():
                return _decide_create_group(state, command, now_ms)
            case AddMembers():
                return _decide_add_members(state, command, now_ms)
            case RemoveMember():
                return _decide_remove_member(state, command, now_ms)
            case LimitReceipts():
                return _decide_limit_receipts(state, command, now_ms)
            case RecordBlock():
                return _decide_block(state, command, now_ms)
    except HubbubError as error:
        return Refused(error=error)


def evolve(state: ConversationState, event: Event, hash_of_request: str = "") -> ConversationState:
    """Folds one committed event. `hash_of_request` is what the record's facts say of it."""
    if isinstance(event.kind, MessageSent):
        return _evolve_message(state, event, event.kind.message, hash_of_request)
    state = replace(state, position=event.position, epoch=event.epoch, commit_time_ms=event.commit_time_ms)
    match event.kind:
        case ConversationCreated(conversation_kind=kind, title=title):
            return replace(state, kind=kind, title=title, creator_id=event.actor_id, creation_hash=hash_of_request)
        case ConversationSettingsChanged(receipts_limit=limit):
            return replace(state, receipts_limit=limit)
        case MembersAdded(members=added):
            added_ids = {m.user_id for m in added}
            return replace(
                state,
                members={**state.members, **{m.user_id: m for m in added}},
                former_members={u: p for u, p in state.former_members.items() if u not in added_ids},
                marks=state.marks.with_all(dict.fromkeys(added_ids, _mark_at_head(state))),
            )
        case MemberRemoved(user_id=user_id):
            return replace(
                state,
                members={u: m for u, m in state.members.items() if u != user_id},
                former_members={**state.former_members, user_id: event.position},
                marks=state.marks.without(user_id),
            )
        case BlockChanged(blocked=blocked) if event.actor_id is not None:
            block = Block(blocked=blocked, source=SourcePlace.of(hash_of_request))
            return replace(state, blocks={**state.blocks, event.actor_id: block})
        case UnknownKind():
            return replace(state, has_unknown_event=True)
        case _:
            raise ValueError(f"{type(event.kind).__name__} does not belong to a conversation")


def remember_id(state: ConversationState, event: Event, hash_of_request: str) -> ConversationState:
    """Puts the client id of an event, if it has one, into the window, and changes nothing else."""
    if not isinstance(event.kind, MessageSent):
        return state
    return replace(state, window=_window_with(state, event, event.kind.message, hash_of_request))


def _evolve_message(
    state: ConversationState, event: Event, message: Message, hash_of_request: str
) -> ConversationState:
    mentions, number = mentions_of(message), message.message_number
    return ConversationState(  # all fields by hand: `replace` takes twice as long, for each message that is sent
        conversation_id=state.conversation_id,
        epoch=event.epoch,
        position=event.position,
        commit_time_ms=event.commit_time_ms,
        kind=state.kind,
        title=state.title,
        creator_id=state.creator_id,
        creation_hash=state.creation_hash,
        members=state.members,
        former_members=state.former_members,
        last_message_number=number,
        last_counted_number=message.counted_number,
        last_broadcast_number=number if mentions.everybody else state.last_broadcast_number,
        marks=_marks_with(state.marks, message, mentions.user_ids),
        blocks=state.blocks,
        receipts_limit=state.receipts_limit,
        window=_window_with(state, event, message, hash_of_request),
        has_unknown_event=state.has_unknown_event,
    )


def _mark_at_head(state: ConversationState) -> MemberMark:
    return MemberMark(message_number=state.last_message_number, counted_number=state.last_counted_number)


def _marks_with(marks: MemberMarks, message: Message, mentioned: frozenset[UserId]) -> MemberMarks:
    """Sending is reading: the sender's mark moves up to the message. Who is mentioned in it is marked so."""
    changes: dict[UserId, MemberMark] = {}
    if marks.get(message.sender_id) is not None:
        changes[message.sender_id] = MemberMark(
            message_number=message.message_number, counted_number=message.counted_number
        )
    for user_id in mentioned:
        mark = marks.get(user_id)
        if mark is not None:
            changes[user_id] = replace(mark, mention_number=message.message_number)
    return marks.with_all(changes)


def _window_with(state: ConversationState, event: Event, message: Message, hash_of_request: str) -> IdWindow:
    entry = IdEntry(
        message_number=message.message_number,
        content_hash=hash_of_request,
        epoch=event.epoch,
        position=event.position,
        commit_time_ms=event.commit_time_ms,
    )
    return state.window.add((message.sender_id, message.client_message_id), entry)


def _member(state: ConversationState, user_id: UserId) -> Member:
    member = state.members.get(user_id)
    if member is None:
        raise ConversationNotFound
    return member


def _decide_send(state: ConversationState, command: SendMessage, now_ms: int, lookup: IdLookup | None) -> Decision:
    _member(state, command.sender_id)
    key: IdKey = (command.sender_id, command.client_message_id)
    previous_id = command.previous_client_message_id
    previous: IdKey | None = None if previous_id is None else (command.sender_id, previous_id)
    keys = {key} if previous is None else {key, previous}
    entries: dict[IdKey, IdEntry | None] = {}
    unknown: set[IdKey] = set()
    for each in keys:
        entries[each], is_known = _find_id(state, each, now_ms, lookup)
        if not is_known:
            unknown.add(each)
    if unknown:
        return LookupNeeded(keys=frozenset(keys))
    hash_of_content = content_hash(command.content)
    first = entries[key]
    if first is not None:
        if first.content_hash != hash_of_content:
            raise IdReused(first.message_number)
        cursor = Cursor(topic_id=state.conversation_id, epoch=first.epoch, position=first.position)
        return Done(
            answer=Sent(message_number=first.message_number, cursor=cursor, commit_time_ms=first.commit_time_ms)
        )
    if previous is not None and entries[previous] is None:
        raise SendOrder
    content = _permitted_content(state, command)
    commit_time_ms = max(now_ms, state.commit_time_ms)
    message = Message(
        message_number=state.last_message_number + 1,
        counted_number=state.last_counted_number + 1,
        sender_id=command.sender_id,
        client_message_id=command.client_message_id,
        content=content,
        client_time_ms=_clamp_client_time(command.client_time_ms, commit_time_ms),
    )
    event = Event(
        topic_id=state.conversation_id,
        epoch=state.epoch,
        position=state.position + 1,
        commit_time_ms=commit_time_ms,
        actor_id=None,
        message_number=message.message_number,
        kind=MessageSent(message=message),
    )
    cursor = Cursor(topic_id=state.conversation_id, epoch=state.epoch, position=event.position)
    return Accepted(
        events=(event,),
        request_hashes=(hash_of_content,),
        answer=Sent(message_number=message.message_number, cursor=cursor, commit_time_ms=commit_time_ms),
    )


def _permitted_content(state: ConversationState, command: SendMessage) -> Content:
    """Returns what may be said: mentions of users who are no members are plain words.

    They may have left a moment ago, and a send must not be refused for ever because of that.

    Raises:
        NotPermitted: the other side refuses the sender's messages, or all members are meant and may not be.
    """
    if _is_refused(state, command.sender_id):
        raise NotPermitted("this user does not take your messages")
    content = command.content
    role = state.members[command.sender_id].role
    if is_broadcast(content) and len(state.members) > BROADCAST_FREE_MEMBERS and role is MemberRole.MEMBER:
        raise NotPermitted(f"in groups of more than {BROADCAST_FREE_MEMBERS} only owners and admins mention everybody")
    return only_mentions_of(content, state.members)


def _is_refused(state: ConversationState, sender_id: UserId) -> bool:
    return any(block.blocked for blocker_id, block in state.blocks.items() if blocker_id != sender_id)


def _decide_block(state: ConversationState, command: RecordBlock, now_ms: int) -> Decision:
    """Takes news of a block, also before the conversation was made: then it refuses the making."""
    known = state.blocks.get(command.blocker_id)
    if known is not None and known.source >= command.source:
        return Done(answer=Changed(cursor=state.head.cursor))
    kind = BlockChanged(user_id=command.user_id, blocked=command.blocked)
    return _change(state, command.blocker_id, [kind], now_ms, (command.source.text,))


def _find_id(state: ConversationState, key: IdKey, now_ms: int, lookup: IdLookup | None) -> tuple[IdEntry | None, bool]:
    """Returns (first use or None, whether that is certain)."""
    entry = state.window.get(key)
    if entry is not None or state.window.is_never_used(key, now_ms):
        return entry, True
    if lookup is None or key not in lookup.keys:
        return None, False
    found = lookup.found.get(key)
    return found, found is not None or lookup.applied_position >= state.window.evicted_position


def _clamp_client_time(client_time_ms: int | None, commit_time_ms: int) -> int | None:
    if client_time_ms is None:
        return None
    return min(max(client_time_ms, commit_time_ms - _DAY_MS), commit_time_ms)


def _decide_create_direct(state: ConversationState, command: CreateDirect, now_ms: int) -> Decision:
    if state.kind is not None:
        _member(state, command.creator_id)
        return Done(answer=Changed(cursor=state.head.cursor))
    if _is_refused(state, command.creator_id):
        raise NotPermitted("this user does not take your messages")
    members = tuple(sorted((command.creator_id, command.other_id)))
    return _create(
        state,
        command.creator_id,
        ConversationCreated(conversation_kind=ConversationKind.DIRECT, title=""),
        [tuple((user_id, MemberRole.MEMBER) for user_id in members)],
        request_hash("direct", *members),
        now_ms,
    )


def _decide_create_group(state: ConversationState, command: CreateGroup, now_ms: int) -> Decision:
    others = sorted(set(command.user_ids) - {command.creator_id})
    hash_of_request = request_hash("group", command.title, *others)
    if state.kind is not None:
        if state.creator_id != command.creator_id:
            raise ConversationNotFound
        if state.creation_hash != hash_of_request:
            raise IdReused(0)
        _member(state, command.creator_id)
        return Done(answer=Changed(cursor=state.head.cursor))
    additions: list[tuple[tuple[UserId, MemberRole], ...]] = [((command.creator_id, MemberRole.OWNER),)]
    if others:
        additions.append(tuple((user_id, MemberRole.MEMBER) for user_id in others))
    created = ConversationCreated(conversation_kind=ConversationKind.GROUP, title=command.title)
    return _create(state, command.creator_id, created, additions, hash_of_request, now_ms)


def _create(
    state: ConversationState,
    creator_id: UserId,
    created: ConversationCreated,
    additions: list[tuple[tuple[UserId, MemberRole], ...]],
    hash_of_request: str,
    now_ms: int,
) -> Decision:
    kinds: list[EventKind] = [created]
    for position, addition in enumerate(additions, start=state.position + 2):
        kinds.append(
            MembersAdded(
                members=tuple(Member(user_id=user_id, role=role, join_position=position) for user_id, role in addition)
            )
        )
    return _change(state, creator_id, kinds, now_ms, (hash_of_request, *[""] * len(additions)))


def _decide_limit_receipts(state: ConversationState, command: LimitReceipts, now_ms: int) -> Decision:
    actor = _member(state, command.actor_id)
    if state.kind is ConversationKind.DIRECT:
        raise WrongState("a direct conversation has no settings")
    if actor.role is MemberRole.MEMBER:
        raise NotPermitted("only owners and admins change settings")
    if command.limit is state.receipts_limit:
        return Done(answer=Changed(cursor=state.head.cursor))
    return _change(state, command.actor_id, [ConversationSettingsChanged(receipts_limit=command.limit)], now_ms)


def may_add_members(state: ConversationState, user_id: UserId) -> bool:
    """Tells whether a user may add others: owners and admins of groups."""
    member = state.members.get(user_id)
    return state.kind is ConversationKind.GROUP and member is not None and member.role is not MemberRole.MEMBER


def _decide_add_members(state: ConversationState, command: AddMembers, now_ms: int) -> Decision:
    actor = _member(state, command.actor_id)
    if state.kind is ConversationKind.DIRECT:
        raise WrongState("nobody can be added to a direct conversation")
    if not may_add_members(state, actor.user_id):
        raise NotPermitted("only owners and admins add members")
    new = [user_id for user_id in dict.fromkeys(command.user_ids) if user_id not in state.members]
    if not new:
        return Done(answer=Changed(cursor=state.head.cursor))
    if len(new) > MEMBERS_PER_CHANGE:
        raise WrongState(f"one change adds at most {MEMBERS_PER_CHANGE} members")
    if len(state.members) + len(new) > command.max_members:
        raise WrongState(f"a group has at most {command.max_members} members")
    position = state.position + 1
    added = MembersAdded(members=tuple(Member(user_id=u, role=MemberRole.MEMBER, join_position=position) for u in new))
    return _change(state, command.actor_id, [added], now_ms)


def _decide_remove_member(state: ConversationState, command: RemoveMember, now_ms: int) -> Decision:
    is_leaving = command.user_id == command.actor_id
    actor = _member(state, command.actor_id)
    if state.kind is ConversationKind.DIRECT:
        raise WrongState("nobody leaves a direct conversation")
    target = state.members.get(command.user_id)
    if not is_leaving and (
        actor.role is MemberRole.MEMBER
        or (target is not None and target.role is MemberRole.OWNER and actor.role is not MemberRole.OWNER)
    ):
        raise NotPermitted("only owners and admins remove others, and only owners remove owners")
    if target is None:
        return Done(answer=Changed(cursor=state.head.cursor))
    owners = sum(m.role is MemberRole.OWNER for m in state.members.values())
    if target.role is MemberRole.OWNER and owners == 1:
        raise WrongState("the last owner cannot leave")
    return _change(state, command.actor_id, [MemberRemoved(user_id=command.user_id)], now_ms)


def _change(
    state: ConversationState,
    actor_id: UserId,
    kinds: list[EventKind],
    now_ms: int,
    hashes: tuple[str, ...] | None = None,
) -> Accepted:
    commit_time_ms = max(now_ms, state.commit_time_ms)
    events = tuple(
        Event(
            topic_id=state.conversation_id,
            epoch=state.epoch,
            position=position,
            commit_time_ms=commit_time_ms,
            actor_id=actor_id,
            message_number=0,
            kind=kind,
        )
        for position, kind in enumerate(kinds, start=state.position + 1)
    )
    cursor = Cursor(topic_id=state.conversation_id, epoch=state.epoch, position=events[-1].position)
    return Accepted(events=events, request_hashes=hashes or ("",) * len(events), answer=Changed(cursor=cursor))
