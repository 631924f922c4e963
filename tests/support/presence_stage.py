"""Nodes that tell presence, on fakes of log, registry and signals, for tests in virtual time."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from hubbub.presence.v1 import presence_service_pb2 as pb

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Events
from hubbub_server.app.presence import Presence
from hubbub_server.app.registered_node import RegisteredNode
from hubbub_server.app.track_presence import TrackedSession
from hubbub_server.app.watch_presence import WatchCommand, WatchStream
from hubbub_server.domain.commands import ChangePreferences, RecordMembership, SetBlock
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.domain.ids import DeviceSessionId, TopicId, UserId
from hubbub_server.domain.preferences import Preferences, PresenceVisibility
from hubbub_server.domain.presence import Activity
from hubbub_server.wire.presence import encode_update
from tests.support.app_node import GROUP, AppCluster, AppNode
from tests.support.fakes.clock import FakeIds
from tests.support.fakes.node_registry import FakeNodeRegistry, FakeRegistryServer
from tests.support.fakes.presence_registry import FakePresenceRegistry, FakePresenceServer
from tests.support.fakes.signal_bus import FakeSignalBus, FakeSignalServer
from tests.support.virtual_time import run_in_virtual_time

SOON_S = 1.5
"""Longer than a change takes to a watcher on another node."""
AWAY = RegistryUnavailable("not connected")
STATES = {number: name.removeprefix("PRESENCE_STATE_").lower() for name, number in pb.PresenceState.items()}


class LoopClock:
    """The clock of the loop, from a time on that is not 0."""

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return round(self.monotonic_s() * 1000)

    def monotonic_s(self) -> float:
        """Seconds."""
        return 1_000_000.0 + asyncio.get_running_loop().time()


def user(number: int) -> UserId:
    """Returns one of many users."""
    return UserId(TopicId(f"u{number}"))


@dataclass
class Told:
    """One report: when it came, in seconds of the loop."""

    at_s: float
    user_id: str
    state: str
    presence: pb.Presence


@dataclass
class WatcherLog:
    """A watcher that reads everything at once."""

    stream: WatchStream
    told: list[Told] = field(default_factory=list)
    updates: list[pb.PresenceUpdate] = field(default_factory=list)
    times_s: list[float] = field(default_factory=list)

    async def read(self) -> None:
        """Reads to the end."""
        while frames := await self.stream.next_frames():
            for frame in frames:
                assert isinstance(frame, Events)
                self._take(pb.PresenceUpdate.FromString(frame.body))

    def _take(self, update: pb.PresenceUpdate) -> None:
        at_s = asyncio.get_running_loop().time()
        self.updates.append(update)
        self.times_s.append(at_s)
        self.told += [Told(at_s, each.user_id, STATES[each.state], each) for each in update.presences]

    def forget(self) -> None:
        """Starts anew."""
        self.told.clear()
        self.updates.clear()
        self.times_s.clear()

    @property
    def news(self) -> list[pb.PresenceUpdate]:
        """Frames that are more than a sign of life."""
        return [update for update in self.updates if update.presences or update.snapshot]

    def states(self, user_id: UserId) -> list[str]:
        """Returns what was told of a user, in order."""
        return [each.state for each in self.told if each.user_id == user_id]

    async def until(self, user_id: UserId, state: str, *, within_s: float) -> Told:
        """Waits until a user was told to be so last."""
        async with asyncio.timeout(within_s):
            while self.states(user_id)[-1:] != [state]:  # noqa: ASYNC110  # time is virtual
                await asyncio.sleep(0.01)
        return [each for each in self.told if each.user_id == user_id][-1]


@dataclass
class PresenceNode:
    """One node."""

    app: AppNode
    presence: Presence
    node_registry: FakeNodeRegistry
    registry: FakePresenceRegistry
    bus: FakeSignalBus

    def session(self, user_id: UserId, activity: Activity = Activity.UNSTATED) -> TrackedSession:
        """Opens a session."""
        session = self.presence.tracker.open(user_id)
        session.report(activity)
        return session

    def cut(self) -> None:
        """It is dead for everybody else."""
        self.node_registry.error = self.registry.error = AWAY
        self.bus.is_lost = True

    @asynccontextmanager
    async def watcher(
        self, user_id: UserId, *watched: UserId, activity: Activity | None = Activity.ACTIVE
    ) -> AsyncIterator[WatcherLog]:
        """Opens a stream that watches users."""
        caller = Caller(user_id=user_id, device_session_id=DeviceSessionId("d1"), token_expire_time_ms=2**60)
        log = WatcherLog(self.presence.streams.open(caller))
        log.stream.receive(WatchCommand(added=watched, activity=activity))
        reading = asyncio.create_task(log.read())
        try:
            yield log
        finally:
            await log.stream.aclose()
            await reading


class PresenceStage:
    """What nodes share."""

    def __init__(self) -> None:
        self.clock = LoopClock()
        self.cluster = AppCluster()
        self.lives = FakeRegistryServer(self.clock.monotonic_s)
        self.server = FakePresenceServer(self.lives, born_ms=1)
        self.signals = FakeSignalServer()
        self._ids = FakeIds()

    @asynccontextmanager
    async def node(self, name: str) -> AsyncIterator[PresenceNode]:
        """Runs one more node."""
        async with self.cluster.node() as app:
            registry, bus = FakePresenceRegistry(self.server), self.signals.connect()
            presence = Presence(hub=app.hub, registry=registry, bus=bus, clock=self.clock, encode=encode_update)
            node_registry = FakeNodeRegistry(self.lives)
            registered = RegisteredNode(
                node_registry,
                node_id=name,
                address=f"{name}:50051",
                clock=self.clock,
                ids=self._ids,
                on_gone=presence.tracker.settle,
            )
            async with presence, registered:
                presence.tracker.node = registered
                await asyncio.sleep(0.01)
                yield PresenceNode(app, presence, node_registry, registry, bus)

    def break_registry(self, nodes: Iterable[PresenceNode], error: Exception | None = AWAY) -> None:
        """Takes the registry away from nodes, or gives it back."""
        for node in nodes:
            node.node_registry.error = node.registry.error = error


def on_stage(play: Callable[[PresenceStage, PresenceNode, PresenceNode], Coroutine[Any, Any, None]]) -> None:
    """Plays with two nodes, in virtual time; raises what the play raised."""
    failures: list[BaseException] = []

    async def run() -> None:
        stage = PresenceStage()
        async with stage.node("one") as one, stage.node("two") as two:
            try:
                await play(stage, one, two)
            except Exception as failure:  # as it is, not as what the nodes' groups make of it
                failures.append(failure)

    run_in_virtual_time(run())
    for failure in failures:
        raise failure


async def wish(node: PresenceNode, user_id: UserId, visibility: PresenceVisibility) -> None:
    """Sets who may see a user."""
    preferences = Preferences(presence_visibility=visibility)
    await node.app.submit(ChangePreferences(preferences=preferences, names={"presence_visibility"}), topic_id=user_id)


async def block(node: PresenceNode, user_id: UserId, other: UserId, *, blocked: bool) -> None:
    """Sets whether a user blocks another one."""
    await node.app.submit(SetBlock(user_id=other, conversation_id=GROUP, blocked=blocked), topic_id=user_id)


async def belong(node: PresenceNode, user_id: UserId, position: int, *, joined: bool = True) -> None:
    """Has a user's own topic say that they joined or left the group."""
    command = RecordMembership(conversation_id=GROUP, epoch=1, position=position, joined=joined)
    await node.app.submit(command, topic_id=user_id)
