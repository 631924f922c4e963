"""Who may know of whom: what users' own topics say, followed as they change.

Theory of operation. Whom somebody on this node is about to be told of, and who is told, is *followed*: the node listens
to that user's own topic like to any other, so that facts are as of its newest record here, and whoever asked hears when
they may have changed. Nothing is known (None) until the topic was loaded; a load that fails is tried again.
"""

import asyncio
import random
from collections.abc import Callable
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.frames import Signals
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain import presence
from hubbub_server.domain.errors import Unavailable
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import UserFacts
from hubbub_server.domain.topic import TopicState
from hubbub_server.domain.user_topic import UserTopicState

_LOADS_AT_ONCE: Final = 32
_RETRY_S: Final = (0.5, 2.0)

FactsListener = Callable[[UserId], None]
"""Hears that the facts of a user may have changed. Called synchronously, must not block and must not raise."""

log = structlog.get_logger()


class Privacy:
    """The facts of users. Use as `async with`; the block owns the tasks that load topics."""

    def __init__(self, hub: TopicHub) -> None:
        """Takes the topics."""
        self._hub = hub
        self._followed: dict[UserId, _Followed] = {}
        self._loading = asyncio.Semaphore(_LOADS_AT_ONCE)
        self._group = asyncio.TaskGroup()

    async def __aenter__(self) -> Self:
        """Follows nobody yet."""
        await self._group.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Follows nobody any more."""
        for each in self._followed.values():
            each.end()
        self._followed.clear()
        await self._group.__aexit__(None, None, None)

    def follow(self, user_id: UserId, listener: FactsListener) -> None:
        """Follows a user until as many times `unfollow`; the listener hears when the facts are there, too."""
        followed = self._followed.get(user_id)
        if followed is None:
            followed = self._followed[user_id] = _Followed(user_id)
            followed.loading = self._group.create_task(self._load(followed))
        followed.listeners.append(listener)

    def unfollow(self, user_id: UserId, listener: FactsListener) -> None:
        """Takes back one `follow`."""
        followed = self._followed[user_id]
        followed.listeners.remove(listener)
        if not followed.listeners:
            followed.end()
            del self._followed[user_id]

    def facts(self, user_id: UserId) -> UserFacts | None:
        """Returns what is known of somebody who is followed."""
        return self._followed[user_id].facts

    def may_see(self, watcher_id: UserId, target_id: UserId) -> bool | None:
        """Tells whether one may know of another's presence, both followed; None: that is not known yet."""
        watcher, target = self.facts(watcher_id), self.facts(target_id)
        if watcher is None or target is None:
            return None
        return presence.may_see(watcher_id, watcher, target_id, target)

    async def read(self, user_id: UserId) -> UserFacts:
        """Returns the facts as of the head of the log.

        Raises:
            LogUnavailable, StoreUnavailable: that cannot be had now.
        """
        return facts_of((await self._hub.at_head(user_id)).state)

    async def _load(self, followed: "_Followed") -> None:
        while True:
            try:
                async with self._loading:
                    await self._hub.subscribe(followed.user_id, followed)
            except Unavailable:
                await asyncio.sleep(random.uniform(*_RETRY_S))
            except Exception:
                log.exception("topic of a user not followed", user_id=followed.user_id)
                await asyncio.sleep(10 * random.uniform(*_RETRY_S))
            else:
                followed.begin(self._hub.topic(followed.user_id))
                return


class _Followed:
    """One user's topic. Implements Subscriber."""

    __slots__ = ("_state", "_topic", "facts", "listeners", "loading", "user_id")

    def __init__(self, user_id: UserId) -> None:
        self.user_id = user_id
        self.listeners: list[FactsListener] = []
        self.loading: asyncio.Task[None] | None = None
        self.facts: UserFacts | None = None
        self._topic: ActiveTopic | None = None
        self._state: UserTopicState | None = None

    def begin(self, topic: ActiveTopic) -> None:
        """The node listens to the topic."""
        self._topic = topic
        self._look(topic)

    def end(self) -> None:
        """Stops listening."""
        if self.loading is not None:
            self.loading.cancel()
        if self._topic is not None:
            self._topic.unsubscribe(self)

    def on_delivery(self, topic: ActiveTopic, delivery: Delivery) -> None:
        """See Subscriber."""
        self._look(topic)

    def on_reset(self, topic: ActiveTopic) -> None:
        """See Subscriber."""
        self._look(topic)

    def on_signal(self, frame: Signals, is_for: Callable[[UserId], bool]) -> None:
        """See Subscriber. Users' own topics have no signals."""

    def _look(self, topic: ActiveTopic) -> None:
        """Tells if something that counts is another than before: most of a user's own events are of other things."""
        before, state = self._state, topic.state
        assert isinstance(state, UserTopicState)  # noqa: S101  # by the form of the id
        self._state = state
        if (
            before is not None
            and before.epoch == state.epoch
            and before.memberships is state.memberships
            and before.blocked is state.blocked
            and before.preferences is state.preferences
        ):
            return
        self.facts = facts_of(state)
        for listener in tuple(self.listeners):
            listener(self.user_id)


def facts_of(state: TopicState) -> UserFacts:
    """Returns what presence needs of a user's own topic."""
    assert isinstance(state, UserTopicState)  # noqa: S101  # by the form of the id
    return UserFacts(
        position=(state.epoch, state.position),
        status=state.preferences.status,
        visibility=state.preferences.presence_visibility,
        blocked=frozenset(state.blocked),
        conversations=frozenset(each.conversation_id for each in state.memberships.values() if each.joined),
    )
