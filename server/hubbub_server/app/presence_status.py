"""What users show by hand: one of their preferences, so it is on their own topic, and no registry can lose it."""

from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.commands import ChangePreferences
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.preferences import Preferences, Status, check_status
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.ports.clock import Clock


class PresenceStatus:
    """Sets and tells the status of a user. Nodes with a session of theirs hear of it on the topic, and tell others."""

    def __init__(self, *, hub: TopicHub, clock: Clock, command_timeout_s: float = 8.0) -> None:
        """Takes the topics."""
        self._hub = hub
        self._clock = clock
        self._timeout_s = command_timeout_s

    async def set(self, user_id: UserId, status: Status) -> None:
        """Sets it: durable when this returns.

        Raises:
            InvalidField: a part of it breaks its rule.
            LogUnavailable: not now; or the outcome is unknown, and a retry settles it.
        """
        check_status("presence", status)
        command = ChangePreferences(preferences=Preferences(status=status), names={"status"})
        await self._hub.submit(user_id, command, timeout_s=self._timeout_s)

    async def get(self, user_id: UserId) -> Status:
        """Returns what has not expired of it, as of the head of the log. Raises LogUnavailable, StoreUnavailable."""
        state = (await self._hub.at_head(user_id)).state
        assert isinstance(state, UserTopicState)  # noqa: S101  # by the form of the id
        return state.preferences.status.at(self._clock.now_ms())
