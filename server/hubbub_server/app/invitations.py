"""Who may make whom a member of a group: nobody those who block them.

What users chose is read at the head of their own topics before the group's commit, so a block that was acknowledged
before the call refuses it on every node. One that comes meanwhile may come too late, as if it had been made after the
invitation: it hides nothing of a group that one is in. Only users who would become members are asked, and only for a
caller who may add members at all, so nobody else learns anything this way.
"""

from collections.abc import Iterable, Sequence

from hubbub_server.app.side_by_side import side_by_side
from hubbub_server.app.topic_fold import TopicDamaged
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.errors import InvitationRefused
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.user_topic import UserTopicState

_AT_ONCE = 64


class Invitations:
    """Asks whether users take invitations of somebody."""

    def __init__(self, hub: TopicHub) -> None:
        """Takes the topics."""
        self._hub = hub

    async def check(self, inviter_id: UserId, user_ids: Iterable[UserId]) -> None:
        """Returns if none of these users blocks the inviter. The inviter may be among them.

        Raises:
            InvitationRefused: some do; it names them in the order given.
            LogUnavailable, StoreUnavailable: that cannot be known now.
        """
        others = [user_id for user_id in user_ids if user_id != inviter_id]
        states = await self._own_topics(others)
        refusing = [user_id for user_id, own in zip(others, states, strict=True) if own and inviter_id in own.blocked]
        if refusing:
            raise InvitationRefused(refusing)

    async def _own_topics(self, user_ids: Sequence[UserId]) -> Sequence[UserTopicState | None]:
        """Returns the users' own topics at the head; None for one that cannot be read, perhaps for ever."""

        async def alone(user_id: UserId) -> UserTopicState | None:
            try:
                state = (await self._hub.at_head(user_id)).state
            except TopicDamaged:
                return None  # else nobody could add this user, nor make a group with them, until it is repaired
            return state if isinstance(state, UserTopicState) else None

        try:
            states = [topic.state for topic in await self._hub.all_at_head(user_ids)]
        except TopicDamaged:
            return await side_by_side(alone, user_ids, at_once=_AT_ONCE)
        return [state if isinstance(state, UserTopicState) else None for state in states]
