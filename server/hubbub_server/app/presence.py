"""The presence of one node, put together: its own sessions, those whom somebody here watches, and single answers."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Self

from hubbub_server.app.presence_board import PresenceBoard
from hubbub_server.app.presence_status import PresenceStatus
from hubbub_server.app.privacy import Privacy
from hubbub_server.app.read_presence import ReadPresence
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.track_presence import TrackPresence
from hubbub_server.app.watch_presence import PresenceStreams, WatchFrame
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import Share, UserSessions
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.presence_registry import PresenceRegistry, RegistryLook
from hubbub_server.ports.signal_bus import SignalBus


class Presence:
    """Use as `async with`; the block owns everything of it."""

    def __init__(
        self,
        *,
        hub: TopicHub,
        registry: PresenceRegistry,
        bus: SignalBus,
        clock: Clock,
        encode: Callable[[WatchFrame], bytes],
    ) -> None:
        """Takes the ports, and what makes bytes of frames."""
        self.privacy = Privacy(hub)
        self.tracker = TrackPresence(registry=registry, bus=bus, privacy=self.privacy, clock=clock)
        self.board = PresenceBoard(registry=registry, bus=bus)
        self.streams = PresenceStreams(
            board=self.board, privacy=self.privacy, tracker=self.tracker, clock=clock, encode=encode
        )
        self.status = PresenceStatus(hub=hub, clock=clock)
        self.reader = ReadPresence(hub=hub, registry=registry, privacy=self.privacy, clock=clock)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        """Starts all tasks."""
        for each in (self.privacy, self.tracker, self.board, self.streams):
            await self._stack.enter_async_context(each)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends all tasks, streams first."""
        await self._stack.aclose()


class NoPresenceRegistry:
    """PresenceRegistry where there is none: of nobody is known whether they are there."""

    async def put(self, life_id: str, shares: Mapping[UserId, Share | None]) -> Sequence[UserId] | None:
        """Notes nothing."""
        raise RegistryUnavailable("there is no registry")

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, UserSessions]:
        """Knows nothing."""
        raise RegistryUnavailable("there is no registry")

    async def look(self) -> RegistryLook:
        """Sees nothing."""
        raise RegistryUnavailable("there is no registry")

    async def forget(self, life_id: str) -> Sequence[UserId]:
        """Has nothing to forget."""
        raise RegistryUnavailable("there is no registry")
