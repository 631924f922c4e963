"""Answers once who is there: of some users, or how many of a conversation."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from hubbub_server.app.as_member import member_at_head
from hubbub_server.app.privacy import Privacy
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.watch_presence import PresenceReport
from hubbub_server.domain.errors import InvalidField, RegistryUnavailable
from hubbub_server.domain.ids import ConversationId, UserId, is_user_id
from hubbub_server.domain.limits import USERS_PER_GET
from hubbub_server.domain.preferences import PresenceVisibility
from hubbub_server.domain.presence import NO_SESSIONS, UNKNOWN, PresenceState, Shown, UserSessions, may_see, shown
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.node_registry import LEASE_S
from hubbub_server.ports.presence_registry import BATCH_MAX, PresenceRegistry, RegistryLook

_FACTS_AT_ONCE: Final = 16
_COUNTED_FOR_S: Final = 10.0
_COUNTS_MAX: Final = 1_000
_JUDGED_MEMBERS_MAX: Final = 100
"""Of so many members each is judged, whether the caller may know of them; of more all hear the same number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PresenceSummary:
    """How many members a conversation has, and how many of them are there; None: that is not known."""

    member_count: int
    present_count: int | None


class ReadPresence:
    """Use cases of PresenceService that answer once."""

    def __init__(self, *, hub: TopicHub, registry: PresenceRegistry, privacy: Privacy, clock: Clock) -> None:
        """Takes the ports."""
        self._hub = hub
        self._registry = registry
        self._privacy = privacy
        self._clock = clock
        self._counts: OrderedDict[ConversationId, tuple[float, int | None]] = OrderedDict()
        self._counting = asyncio.Lock()

    async def list(self, caller_id: UserId, user_ids: Sequence[str]) -> list[PresenceReport]:
        """Tells what users show to the caller, in the order asked; one named twice is there once.

        Everybody is read, also who is hidden then: how long the answer takes tells nothing.

        Raises:
            InvalidField: not 1 to 200 ids, or an empty one.
            LogUnavailable, StoreUnavailable: who may know of whom cannot be had now.
        """
        if not 1 <= len(user_ids) <= USERS_PER_GET or not all(user_ids):
            raise InvalidField("user_ids", f"1 to {USERS_PER_GET} ids, none empty")
        asked = list(dict.fromkeys(user_ids))
        users = [user_id for user_id in asked if is_user_id(user_id)]
        visible = await self._visible(caller_id, users)
        look, sessions = await self._read(users)
        version = look.now_ms if look is not None else 0
        known: dict[str, Shown] = {user_id: _shown(look, sessions.get(user_id)) for user_id in visible}
        hidden = _shown(look, NO_SESSIONS)
        return [PresenceReport(user_id=user_id, shown=known.get(user_id, hidden), version=version) for user_id in asked]

    async def summarize(self, caller_id: UserId, conversation_id: str) -> PresenceSummary:
        """Counts the members who are there, as of 10 s ago at most; of a few those whom the caller may see.

        Raises:
            ConversationNotFound: absent, or the caller is no member.
            LogUnavailable, StoreUnavailable: who belongs to it cannot be had now.
        """
        _, state = await member_at_head(self._hub, caller_id, conversation_id)
        members = tuple(state.members)
        present: int | None = None
        if (await self._privacy.read(caller_id)).visibility is PresenceVisibility.NOBODY:
            pass  # who hides hears of none
        elif len(members) > _JUDGED_MEMBERS_MAX:
            present = await self._count(state.conversation_id, members)
        elif (there := _present(*await self._read(members))) is not None:
            present = len(await self._visible(caller_id, there))
        return PresenceSummary(member_count=len(members), present_count=present)

    async def _visible(self, caller_id: UserId, users: Sequence[UserId]) -> set[UserId]:
        caller = await self._privacy.read(caller_id)
        at_once = asyncio.Semaphore(_FACTS_AT_ONCE)

        async def look(user_id: UserId) -> bool:
            async with at_once:
                return may_see(caller_id, caller, user_id, await self._privacy.read(user_id))

        try:
            async with asyncio.TaskGroup() as group:
                tasks = {user_id: group.create_task(look(user_id)) for user_id in users}
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors  # the caller knows HubbubErrors, not groups of them
        return {user_id for user_id, task in tasks.items() if task.result()}

    async def _read(self, users: Sequence[UserId]) -> tuple[RegistryLook | None, dict[UserId, UserSessions]]:
        """Reads users from the registry; None: it is away."""
        found: dict[UserId, UserSessions] = {}
        try:
            for start in range(0, len(users), BATCH_MAX):
                found.update(await self._registry.read(users[start : start + BATCH_MAX]))
            return await self._registry.look(), found
        except RegistryUnavailable:
            return None, {}

    async def _count(self, conversation_id: ConversationId, members: Sequence[UserId]) -> int | None:
        """Counts who is there; one count at a time, so many who ask at once have it done once."""
        async with self._counting:
            now_s = self._clock.monotonic_s()
            counted_s, present = self._counts.get(conversation_id, (float("-inf"), None))
            if now_s - counted_s > _COUNTED_FOR_S:
                look, sessions = await self._read(members)
                there = _present(look, sessions)
                present = None if there is None else len(there)
                if present is not None:
                    self._counts[conversation_id] = (now_s, present)
                    self._counts.move_to_end(conversation_id)
                if len(self._counts) > _COUNTS_MAX:
                    self._counts.popitem(last=False)
            return present


def _shown(look: RegistryLook | None, sessions: UserSessions | None) -> Shown:
    """Returns what a user shows; one who is hidden is as one without sessions."""
    if look is None or sessions is None:
        return UNKNOWN
    after = shown(sessions, look.now_ms)
    is_missing = after.state is PresenceState.OFFLINE
    return UNKNOWN if is_missing and _is_young(look) else after


def _is_young(look: RegistryLook) -> bool:
    return look.now_ms - look.born_ms < LEASE_S * 1000


def _present(look: RegistryLook | None, sessions: dict[UserId, UserSessions]) -> list[UserId] | None:
    """Returns who is there and does not hide it; None: that is not known."""
    if look is None or _is_young(look):
        return None
    return [
        user_id
        for user_id, each in sessions.items()
        if shown(each, look.now_ms).state is not PresenceState.OFFLINE
        and not any(noted.share.is_hidden for noted in each.shares.values())
    ]
