"""Creates conversations, changes and tells who belongs to them, and sends messages: the commands of unary calls.

Every answer is authorised on the state at the log's head; who is no member hears the same as for what does not exist.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.as_member import member_at_head, members_at_head
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.invitations import Invitations
from hubbub_server.app.page_tokens import PageTokens, count_that_fit, size_of_page
from hubbub_server.app.read_states import ReadState, ReadStates
from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.domain.commands import (
    AddMembers,
    Changed,
    CreateDirect,
    CreateGroup,
    LimitReceipts,
    RemoveMember,
    SendMessage,
    Sent,
)
from hubbub_server.domain.conversation import ConversationState, may_add_members
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import ConversationNotFound, InvalidField, UserNotFound
from hubbub_server.domain.events import ConversationKind, Member
from hubbub_server.domain.ids import (
    ConversationId,
    TopicId,
    UserId,
    canonical_uuid,
    direct_conversation_id,
    group_conversation_id,
    is_conversation_id,
    is_user_id,
)
from hubbub_server.domain.limits import GROUP_MAX_MEMBERS, LIST_MAX_BYTES, MEMBERS_PER_CHANGE, clean_name
from hubbub_server.domain.preferences import ConversationPreferences
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.accounts import AccountStore
from hubbub_server.ports.message_store import StoredMessage

_VIEWS_AT_ONCE: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationView:
    """A conversation as one member sees it, as of `head`."""

    conversation_id: ConversationId
    kind: ConversationKind
    title: str
    member_count: int
    membership: Member
    head: TopicHead
    last_message: StoredMessage | None
    read_state: ReadState
    preferences: ConversationPreferences
    receipts_limit: ReceiptsMode


class Conversations:
    """Use cases of ConversationService, and sending."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        reader: TopicReader,
        read_states: ReadStates,
        effects: MembershipEffects,
        accounts: AccountStore,
        id_key: bytes,
        group_max_members: int = GROUP_MAX_MEMBERS,
        command_timeout_s: float = 8.0,
    ) -> None:
        """`id_key` derives conversation ids and signs page tokens: the same on all nodes, for ever."""
        self._group_max_members = group_max_members
        self._hub = hub
        self._reader = reader
        self._read_states = read_states
        self._effects = effects
        self._invitations = Invitations(hub)
        self._accounts = accounts
        self._id_key = id_key
        self._page_tokens = PageTokens(id_key)
        self._timeout_s = command_timeout_s

    async def create_direct(self, caller_id: UserId, other_id: str) -> ConversationView:
        """Creates the direct conversation of a pair, or returns it. Raises InvalidField, UserNotFound, Unavailable."""
        (other,) = await self._existing_users("direct.user_id", [other_id])
        if other == caller_id:
            raise InvalidField("direct.user_id", "another user than yourself")
        conversation_id = direct_conversation_id(self._id_key, caller_id, other)
        return await self._create(conversation_id, caller_id, CreateDirect(creator_id=caller_id, other_id=other))

    async def create_group(
        self, caller_id: UserId, *, request_id: str, title: str, user_ids: Sequence[str]
    ) -> ConversationView:
        """Creates a group owned by the caller, or returns the one that `request_id` made.

        Raises:
            InvalidField, UserNotFound, Unavailable: as they say.
            IdReused: `request_id` made another group.
            InvitationRefused: one of the users blocks the caller; a group that was made before is returned.
        """
        canonical = canonical_uuid(request_id)
        if canonical is None:
            raise InvalidField("request_id", "a UUID")
        title = clean_name("group.title", title)
        if len(user_ids) > MEMBERS_PER_CHANGE:
            raise InvalidField("group.user_ids", f"at most {MEMBERS_PER_CHANGE} users")
        others = await self._existing_users("group.user_ids", user_ids)
        conversation_id = group_conversation_id(self._id_key, caller_id, canonical)
        if not await self._is_made(conversation_id):
            await self._invitations.check(caller_id, others)
        command = CreateGroup(creator_id=caller_id, title=title, user_ids=tuple(others))
        return await self._create(conversation_id, caller_id, command)

    async def _is_made(self, conversation_id: ConversationId) -> bool:
        state = (await self._hub.at_head(conversation_id)).state
        return isinstance(state, ConversationState) and state.kind is not None

    async def _create(
        self, conversation_id: ConversationId, caller_id: UserId, command: CreateDirect | CreateGroup
    ) -> ConversationView:
        await self._hub.submit(conversation_id, command, timeout_s=self._timeout_s)
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        await self._effects.spread(state, state.members)
        return await self._view(topic, state, await self._read_states.own(caller_id))

    async def get(self, caller_id: UserId, conversation_id: str) -> ConversationView:
        """Returns a conversation. Raises ConversationNotFound, Unavailable."""
        topic, state = await member_at_head(self._hub, caller_id, conversation_id)
        return await self._view(topic, state, await self._read_states.own(caller_id))

    async def list(
        self, caller_id: UserId, *, page_size: int, page_token: str
    ) -> tuple[Sequence[ConversationView], str]:
        """Lists the caller's conversations, newest joined first, and the token of the next page ("" on the last).

        A page also ends where its last messages exceed 1 MiB: clients refuse answers of more than 4.
        """
        size = size_of_page(page_size, default=50, maximum=200)
        scope = f"conversations {caller_id}"
        before = self._page_tokens.read(scope, page_token)
        own = await self._read_states.own(caller_id)
        joined = [m for m in own.joined() if before is None or m.user_position < before]

        async def view(room: tuple[ActiveTopic, ConversationState] | None) -> ConversationView | None:
            return None if room is None else await self._view(*room, own)

        rooms = await members_at_head(self._hub, caller_id, [m.conversation_id for m in joined[:size]])
        found = await side_by_side(view, rooms, at_once=_VIEWS_AT_ONCE)
        sizes_bytes = (len(view.last_message.body) if view and view.last_message else 0 for view in found)
        size = min(size, count_that_fit(sizes_bytes, LIST_MAX_BYTES))
        next_token = self._page_tokens.make(scope, joined[size - 1].user_position) if len(joined) > size else ""
        return [view for view in found[:size] if view is not None], next_token

    async def list_members(
        self, caller_id: UserId, conversation_id: str, *, page_size: int, page_token: str
    ) -> tuple[Sequence[Member], str]:
        """Lists members, owners first, then by joining, and the token of the next page ("" on the last).

        A page starts after a place in the order; who joins or leaves between two pages may shift it.
        """
        size = size_of_page(page_size, default=100, maximum=500)
        scope = f"members {caller_id} {conversation_id}"
        start = self._page_tokens.read(scope, page_token) or 0
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        members = state.members_in_order()
        end = start + size
        return members[start:end], self._page_tokens.make(scope, end) if len(members) > end else ""

    async def add_members(self, caller_id: UserId, conversation_id: str, user_ids: Sequence[str]) -> Cursor:
        """Adds users to a group: all or none.

        Raises:
            InvalidField, ConversationNotFound, NotPermitted, UserNotFound, WrongState, Unavailable: as they say.
            InvitationRefused: one who would become a member blocks the caller.
        """
        if not 1 <= len(user_ids) <= MEMBERS_PER_CHANGE:
            raise InvalidField("user_ids", f"1 to {MEMBERS_PER_CHANGE} users")
        _, state = await member_at_head(
            self._hub, caller_id, conversation_id
        )  # permission before existence of the users
        users = await self._existing_users("user_ids", user_ids)
        new = [user_id for user_id in users if user_id not in state.members]  # who leaves meanwhile is not added again
        if may_add_members(state, caller_id):  # else it is refused anyway, and tells nothing of blocks
            await self._invitations.check(caller_id, new)
        command = AddMembers(actor_id=caller_id, user_ids=tuple(new), max_members=self._group_max_members)
        return await self._change_members(conversation_id, command, users)

    async def limit_receipts(self, caller_id: UserId, conversation_id: str, limit: ReceiptsMode) -> Cursor:
        """Sets the most that members of a group learn of each other's reading.

        Raises:
            ConversationNotFound, NotPermitted, WrongState, Unavailable: as they say.
        """
        if not is_conversation_id(conversation_id):
            raise ConversationNotFound
        command = LimitReceipts(actor_id=caller_id, limit=limit)
        answer = await self._hub.submit(conversation_id, command, timeout_s=self._timeout_s)
        assert isinstance(answer, Changed)  # noqa: S101  # by the kind of the command
        return answer.cursor

    async def remove_member(self, caller_id: UserId, conversation_id: str, user_id: str) -> Cursor:
        """Removes a user from a group; "me" is the caller. Who is no member stays none.

        Raises:
            InvalidField, ConversationNotFound, NotPermitted, WrongState, Unavailable: as they say.
        """
        if not user_id:
            raise InvalidField("user_id", 'a user id, or "me"')
        target = caller_id if user_id == "me" else UserId(TopicId(user_id))  # any text: who is no member stays none
        command = RemoveMember(actor_id=caller_id, user_id=target)
        return await self._change_members(conversation_id, command, [target])

    async def _change_members(
        self, conversation_id: str, command: AddMembers | RemoveMember, users: Sequence[UserId]
    ) -> Cursor:
        if not is_conversation_id(conversation_id):
            raise ConversationNotFound
        answer = await self._hub.submit(conversation_id, command, timeout_s=self._timeout_s)
        assert isinstance(answer, Changed)  # noqa: S101  # by the kind of the command
        topic = await self._hub.at_head(conversation_id)
        assert isinstance(topic.state, ConversationState)  # noqa: S101  # by the form of the id
        await self._effects.spread(topic.state, users)
        return answer.cursor

    async def send(
        self, conversation_id: ConversationId, command: SendMessage, *, session_id: str = "", traceparent: str = ""
    ) -> Sent:
        """Sends a message: durable when this returns. Raises HubbubError as the decision says."""
        answer = await self._hub.submit(
            conversation_id, command, timeout_s=self._timeout_s, session_id=session_id, traceparent=traceparent
        )
        assert isinstance(answer, Sent)  # noqa: S101  # by the kind of the command
        return answer

    async def _view(self, topic: ActiveTopic, state: ConversationState, own: UserTopicState) -> ConversationView:
        last = state.last_message_number
        messages = await self._reader.messages(topic, last, last) if last else []
        assert state.kind is not None  # noqa: S101  # it has members, so it was created
        return ConversationView(
            conversation_id=state.conversation_id,
            kind=state.kind,
            title=state.title,
            member_count=len(state.members),
            membership=state.members[own.user_id],
            head=state.head,
            last_message=messages[0] if messages else None,
            read_state=await self._read_states.of(topic, state, own),
            preferences=own.kept_of(state.conversation_id).preferences,
            receipts_limit=state.receipts_limit,
        )

    async def _existing_users(self, field: str, user_ids: Sequence[str]) -> Sequence[UserId]:
        """Returns the ids as they are, or raises InvalidField (empty, twice) or UserNotFound."""
        if not all(user_ids):
            raise InvalidField(field, "user ids, none empty")
        if len(set(user_ids)) < len(user_ids):
            raise InvalidField(field, "each user once")
        users = [user_id for user_id in user_ids if is_user_id(user_id)]
        if len(users) < len(user_ids):
            raise UserNotFound
        if len(await self._accounts.read_profiles(users)) < len(users):
            raise UserNotFound
        return users
