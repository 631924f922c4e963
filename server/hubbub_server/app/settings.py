"""What users want, drafts, and whom they block: use cases of SettingsService. All is on the user's own topic."""

import zoneinfo
from collections.abc import Collection, Sequence
from functools import cache
from typing import Final

from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.effects import BlockEffects, MembershipEffects
from hubbub_server.app.page_tokens import PageTokens, size_of_page
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.commands import (
    ChangeConversationPreferences,
    Changed,
    ChangePreferences,
    RecordBlock,
    SetBlock,
    SetDraft,
)
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import InvalidField, UserNotFound
from hubbub_server.domain.events import SourcePlace
from hubbub_server.domain.ids import ConversationId, UserId, direct_conversation_id, is_user_id
from hubbub_server.domain.limits import check_draft
from hubbub_server.domain.preferences import ConversationPreferences, Preferences, check_preferences
from hubbub_server.domain.user_topic import Draft, UserTopicState
from hubbub_server.ports.accounts import AccountStore

_PREFERENCES: Final = "preferences"


class UserSettings:
    """Use cases of SettingsService. Reads are as of the log's head."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        read_states: ReadStates,
        membership_effects: MembershipEffects,
        block_effects: BlockEffects,
        accounts: AccountStore,
        id_key: bytes,
        command_timeout_s: float = 8.0,
    ) -> None:
        """`id_key` as in Conversations."""
        self._hub = hub
        self._read_states = read_states
        self._membership_effects = membership_effects
        self._block_effects = block_effects
        self._accounts = accounts
        self._id_key = id_key
        self._page_tokens = PageTokens(id_key)
        self._timeout_s = command_timeout_s

    # ---- preferences

    async def preferences(self, caller_id: UserId) -> Preferences:
        """Returns what the caller wants everywhere. Raises Unavailable."""
        return (await self._read_states.own(caller_id)).preferences

    async def update_preferences(
        self, caller_id: UserId, preferences: Preferences, names: Collection[str]
    ) -> tuple[Preferences, Cursor]:
        """Takes the named fields over, and returns what the caller wants now. Raises InvalidField, Unavailable."""
        check_preferences(_PREFERENCES, preferences)
        zone = preferences.do_not_disturb.time_zone
        if zone and _zones() and zone not in _zones():
            raise InvalidField(f"{_PREFERENCES}.do_not_disturb.time_zone", "an IANA time zone")
        command = ChangePreferences(preferences=preferences, names=names)
        answer = await self._hub.submit(caller_id, command, timeout_s=self._timeout_s)
        return (await self._own_after(caller_id, answer)).preferences, answer.cursor

    async def update_conversation_preferences(
        self, caller_id: UserId, conversation_id: str, preferences: ConversationPreferences, names: Collection[str]
    ) -> tuple[ConversationPreferences, Cursor]:
        """Takes the named fields over, and returns how the caller wants to hear of a conversation now.

        Raises:
            ConversationNotFound, LimitReached, Unavailable: as they say.
        """
        topic_id = await self._as_member(caller_id, conversation_id)
        command = ChangeConversationPreferences(conversation_id=topic_id, preferences=preferences, names=names)
        answer = await self._submit(caller_id, command)
        return (await self._own_after(caller_id, answer)).kept_of(topic_id).preferences, answer.cursor

    # ---- drafts

    async def set_draft(self, caller_id: UserId, conversation_id: str, text: str) -> Cursor:
        """Keeps a draft; an empty one is forgotten.

        Raises:
            InvalidField, ConversationNotFound, LimitReached, Unavailable: as they say.
        """
        check_draft("text", text)
        topic_id = await self._as_member(caller_id, conversation_id)
        return (await self._submit(caller_id, SetDraft(conversation_id=topic_id, text=text))).cursor

    async def list_drafts(self, caller_id: UserId) -> Sequence[tuple[ConversationId, Draft]]:
        """Lists all drafts, newest first. Raises Unavailable."""
        own = await self._read_states.own(caller_id)
        drafts = [(conversation_id, kept.draft) for conversation_id, kept in own.kept.items() if kept.draft]
        return sorted(drafts, key=lambda each: each[1].change_time_ms, reverse=True)

    # ---- blocks

    async def block(self, caller_id: UserId, user_id: str) -> Cursor:
        """Blocks a user: from now on what they send to the caller is refused.

        Raises:
            InvalidField, UserNotFound, LimitReached, Unavailable: as they say.
        """
        if user_id == caller_id:
            raise InvalidField("user_id", "another user than yourself")
        if not is_user_id(user_id) or not await self._accounts.read_profiles([user_id]):
            raise UserNotFound
        answer = await self._set_block(caller_id, user_id, blocked=True)
        place = (await self._own_after(caller_id, answer)).blocked.get(user_id)
        if place is not None:  # else it was taken back meanwhile
            await self._spread(caller_id, user_id, blocked=True, source=place)
        return answer.cursor

    async def unblock(self, caller_id: UserId, user_id: str) -> Cursor:
        """Blocks a user no longer; who is not blocked stays so. Raises Unavailable."""
        own = await self._read_states.own(caller_id)
        if not is_user_id(user_id) or user_id not in own.blocked:
            return own.head.cursor
        answer = await self._set_block(caller_id, user_id, blocked=False)
        source = SourcePlace(answer.cursor.epoch, answer.cursor.position)
        await self._spread(caller_id, user_id, blocked=False, source=source)
        return answer.cursor

    async def list_blocked(self, caller_id: UserId, *, page_size: int, page_token: str) -> tuple[Sequence[UserId], str]:
        """Lists blocked users, newest first, and the token of the next page. Raises InvalidField, Unavailable."""
        size = size_of_page(page_size, default=100, maximum=500)
        scope = f"blocked {caller_id}"
        before = self._page_tokens.read(scope, page_token)
        own = await self._read_states.own(caller_id)
        newest = sorted(own.blocked.items(), key=lambda each: each[1].position, reverse=True)
        rest = [(user_id, place) for user_id, place in newest if before is None or place.position < before]
        next_token = self._page_tokens.make(scope, rest[size - 1][1].position) if len(rest) > size else ""
        return [user_id for user_id, _ in rest[:size]], next_token

    async def _set_block(self, caller_id: UserId, user_id: UserId, *, blocked: bool) -> Changed:
        command = SetBlock(user_id=user_id, conversation_id=self._direct(caller_id, user_id), blocked=blocked)
        answer = await self._hub.submit(caller_id, command, timeout_s=self._timeout_s)
        assert isinstance(answer, Changed)  # noqa: S101  # by the kind of the command
        return answer

    async def _spread(self, caller_id: UserId, user_id: UserId, *, blocked: bool, source: SourcePlace) -> None:
        command = RecordBlock(blocker_id=caller_id, user_id=user_id, blocked=blocked, source=source)
        await self._block_effects.spread(self._direct(caller_id, user_id), command)

    def _direct(self, caller_id: UserId, user_id: UserId) -> ConversationId:
        return direct_conversation_id(self._id_key, caller_id, user_id)

    # ---- the own topic

    async def _as_member(self, caller_id: UserId, conversation_id: str) -> ConversationId:
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        if not (await self._read_states.own(caller_id)).is_joined(state.conversation_id):
            await self._membership_effects.spread(state, [caller_id])  # just added, and the own topic is behind
        return state.conversation_id

    async def _submit(self, caller_id: UserId, command: ChangeConversationPreferences | SetDraft) -> Changed:
        answer = await self._hub.submit(caller_id, command, timeout_s=self._timeout_s)
        assert isinstance(answer, Changed)  # noqa: S101  # by the kind of the command
        return answer

    async def _own_after(self, caller_id: UserId, answer: object) -> UserTopicState:
        """Returns the own topic as this node has it, which is at least as of an answer that it gave."""
        assert isinstance(answer, Changed)  # noqa: S101  # by the kind of the command
        topic = self._hub.topic(caller_id)
        await topic.reach(answer.cursor.position)
        assert isinstance(topic.state, UserTopicState)  # noqa: S101  # by the form of the id
        return topic.state


@cache
def _zones() -> frozenset[str]:
    """Returns the time zones that this machine knows; none where it has no list of them.

    Debian lists its own zone among them, under a name that elsewhere means another one or none.
    """
    return frozenset(zoneinfo.available_timezones() - {"localtime"})
