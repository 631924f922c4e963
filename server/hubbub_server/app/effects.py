"""Effects of events on other topics: of memberships on users' topics, of blocks on direct conversations.

The committing node writes them at once, so that a user sees a new conversation before the answer is out; the relay
worker makes sure of those that this node could not write. Both are idempotent (domain/user_topic.py).
"""

import asyncio
from collections.abc import Iterable
from typing import Final

from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.commands import RecordBlock, RecordMembership
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.ids import ConversationId, UserId

_AT_ONCE: Final = 64


class MembershipEffects:
    """Tells users' topics where they stand in a conversation."""

    def __init__(self, hub: TopicHub, *, timeout_s: float = 2.0) -> None:
        """`timeout_s` bounds `spread` as a whole."""
        self._hub = hub
        self._timeout_s = timeout_s

    async def spread(self, state: ConversationState, user_ids: Iterable[UserId]) -> None:
        """Writes, as far as it can in the time, where these users stand in `state`. Never raises a HubbubError."""
        at_once = asyncio.Semaphore(_AT_ONCE)

        async def tell(user_id: UserId, command: RecordMembership) -> None:
            async with at_once:
                try:
                    await self._hub.submit(user_id, command, timeout_s=self._timeout_s)
                except (HubbubError, ValueError):  # ValueError: a poisoned topic; the committer has logged it
                    return  # the relay worker will do it

        try:
            async with asyncio.timeout(self._timeout_s), asyncio.TaskGroup() as group:
                for user_id in user_ids:
                    command = _standing(state, user_id)
                    if command is not None:
                        group.create_task(tell(user_id, command))
        except TimeoutError:
            return  # the relay worker will do the rest


def _standing(state: ConversationState, user_id: UserId) -> RecordMembership | None:
    member = state.members.get(user_id)
    position = member.join_position if member else state.former_members.get(user_id)
    if position is None:
        return None
    return RecordMembership(
        conversation_id=state.conversation_id, epoch=state.epoch, position=position, joined=member is not None
    )


class BlockEffects:
    """Tells direct conversations who refuses whom."""

    def __init__(self, hub: TopicHub, *, timeout_s: float = 2.0) -> None:
        """`timeout_s` bounds `spread`."""
        self._hub = hub
        self._timeout_s = timeout_s

    async def spread(self, conversation_id: ConversationId, command: RecordBlock) -> None:
        """Writes a block, if it can in the time. Never raises a HubbubError."""
        try:
            await self._hub.submit(conversation_id, command, timeout_s=self._timeout_s)
        except (HubbubError, ValueError):  # ValueError: as above
            return  # the relay worker will do it
