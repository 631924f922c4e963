"""Tells the registry which users have sessions on this node.

Theory of operation. Sessions come, go and report their activity, without waiting for anything: whose share of this
node may be another one now is *due*. One task puts what is due into the registry, many users at a time, and signals
whom that changed for others. Whatever is told is told under the node's life, and told again every lease, or at once
when another life began: so what the registry lost, or what was told while it was away, is there again. Who is
invisible, or left, has no share. Somebody who left is remembered until that is told, since the life may go on after the
registry was away.
"""

import asyncio
from collections import OrderedDict
from contextlib import suppress
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from hubbub_server.app.privacy import Privacy
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import GRACE_S, Activity, Share
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.node_registry import LEASE_S, NodeLife
from hubbub_server.ports.presence_registry import BATCH_MAX, PresenceRegistry
from hubbub_server.ports.signal_bus import SignalBus

SIGNAL: Final = "presence"
_JOINED_FOR_S: Final = 0.1
_LOOK_S: Final = 1.0
_LEAVE_WITHIN_S: Final = 2.0

log = structlog.get_logger()


class HasLife(Protocol):
    """The node in the registry of nodes."""

    @property
    def life(self) -> NodeLife | None:
        """The life that others believe in, None while there is none for certain."""


class TrackedSession:
    """One session of a user on this node."""

    __slots__ = ("_tracker", "activity", "user_id")

    def __init__(self, user_id: UserId, tracker: "TrackPresence") -> None:
        """Made by `TrackPresence.open`."""
        self.user_id = user_id
        self.activity = Activity.UNSTATED
        self._tracker = tracker

    def report(self, activity: Activity) -> None:
        """The client says what it is used for."""
        if activity is not self.activity:
            self.activity = activity
            self._tracker.changed(self)

    def close(self) -> None:
        """The session is over. Idempotent."""
        self._tracker.closed(self)


class _LocalUser:
    """A user with sessions here, or whose leaving is not told yet; told of under `told_life`, for certain at `told_s`.

    `lapsing` are sessions that were more active than those that are left: they may be about to come back.
    """

    __slots__ = ("lapsing", "sessions", "told_life", "told_s")

    def __init__(self) -> None:
        self.sessions: set[TrackedSession] = set()
        self.lapsing: set[TrackedSession] = set()
        self.told_life = ""
        self.told_s = 0.0


class TrackPresence:
    """The sessions of this node. Use as `async with`; the block owns the task that tells of them."""

    def __init__(self, *, registry: PresenceRegistry, bus: SignalBus, privacy: Privacy, clock: Clock) -> None:
        """Takes the ports. Nothing is told before `node` is set."""
        self.node: HasLife | None = None
        self._registry = registry
        self._bus = bus
        self._privacy = privacy
        self._clock = clock
        self._users: OrderedDict[UserId, _LocalUser] = OrderedDict()
        """Who was told of longest ago comes first."""
        self._due: dict[UserId, None] = {}
        self._has_work = asyncio.Event()
        self._life_id = ""
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the task."""
        await self._group.__aenter__()
        self._task = self._group.create_task(self._tell_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Tells nothing more: what is left here ends with the node's life."""
        if self._task is not None:
            self._task.cancel()
        await self._group.__aexit__(None, None, None)
        for user_id in self._users:
            self._privacy.unfollow(user_id, self._mark)
        self._users.clear()

    # ---- sessions

    def open(self, user_id: UserId) -> TrackedSession:
        """A session begins. Close it in any case."""
        user = self._users.get(user_id)
        if user is None:
            user = self._users[user_id] = _LocalUser()
            self._privacy.follow(user_id, self._mark)
            metrics.presence_users.set(len(self._users))
        session = TrackedSession(user_id, self)
        user.sessions.add(session)
        self._mark(user_id)
        return session

    def changed(self, session: TrackedSession) -> None:
        """A session reported another activity."""
        if (user := self._users.get(session.user_id)) is not None and session in user.sessions:
            self._mark(session.user_id)

    def closed(self, session: TrackedSession) -> None:
        """A session is over."""
        if (user := self._users.get(session.user_id)) is not None and session in user.sessions:
            user.sessions.remove(session)
            if not user.sessions and not user.told_life:
                self._forget(session.user_id)
                return
            if session.activity > max((each.activity for each in user.sessions), default=session.activity):
                user.lapsing.add(session)
                asyncio.get_running_loop().call_later(GRACE_S, self._lapse, user, session)
            self._mark(session.user_id)

    def _lapse(self, user: _LocalUser, session: TrackedSession) -> None:
        user.lapsing.discard(session)
        self._mark(session.user_id)

    def _mark(self, user_id: UserId) -> None:
        self._due[user_id] = None
        self._has_work.set()

    # ---- telling

    async def settle(self, life: NodeLife) -> None:
        """Removes what a life that is over told. Nobody waits for that: what it told does not count.

        Raises:
            RegistryUnavailable: it is not done; do it again.
        """
        while await self._registry.forget(life.life_id):
            pass

    async def leave(self) -> None:
        """Tells, if that can be told soon, that everybody left: so who goes on to another node was never gone."""
        for user_id, user in self._users.items():
            user.sessions.clear()
            self._mark(user_id)
        with suppress(TimeoutError, RegistryUnavailable):
            async with asyncio.timeout(_LEAVE_WITHIN_S):
                while await self._tell_some():
                    pass

    async def _tell_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._has_work.wait()
            self._has_work.clear()
            await asyncio.sleep(_JOINED_FOR_S)
            try:
                while await self._tell_some():
                    pass
            except RegistryUnavailable:
                await asyncio.sleep(_LOOK_S)  # logged by the registered node
            except Exception:
                log.exception("presence not told")
                await asyncio.sleep(_LOOK_S)

    async def _tell_some(self) -> bool:
        """Tells what is due of some users; tells whether there may be more.

        Raises:
            RegistryUnavailable: they are due still.
        """
        life = self.node.life if self.node is not None else None
        if life is None:
            return False
        if life.life_id != self._life_id:
            self._life_id = life.life_id
            self._due.update(dict.fromkeys(self._users))
        self._mark_overdue()
        shares = self._take_due()
        if not shares:
            return False
        try:
            news = await self._registry.put(life.life_id, shares)
        except BaseException:
            self._due.update(dict.fromkeys(shares))
            raise
        if news is None:  # the life is over, and the node does not know yet
            self._due.update(dict.fromkeys(shares))
            return False
        for user_id in shares:
            self._note(user_id)
        for user_id in news:
            self._bus.publish(SIGNAL, user_id, b"")
        return bool(self._due)

    def _mark_overdue(self) -> None:
        overdue_s = asyncio.get_running_loop().time() - LEASE_S
        for user_id, user in self._users.items():
            if not user.told_life:
                continue
            if user.told_s > overdue_s or len(self._due) >= BATCH_MAX:
                return
            self._due[user_id] = None

    def _take_due(self) -> dict[UserId, Share | None]:
        """Takes the shares of some users. Those whose topic is not loaded yet are marked when it is."""
        shares: dict[UserId, Share | None] = {}
        now_ms = self._clock.now_ms()
        while self._due and len(shares) < BATCH_MAX:
            user_id = next(iter(self._due))
            del self._due[user_id]
            user = self._users.get(user_id)
            if user is None:
                continue
            if not user.sessions and user.told_life != self._life_id:
                self._forget(user_id)
            elif not user.sessions:
                shares[user_id] = None
            elif (facts := self._privacy.facts(user_id)) is not None:
                user.told_life = self._life_id  # from now on it may be, whatever comes of the telling
                activity = max(each.activity for each in user.sessions | user.lapsing)
                shares[user_id] = facts.share(activity, now_ms)
        return shares

    def _note(self, user_id: UserId) -> None:
        user = self._users.get(user_id)
        if user is None:
            return
        if not user.sessions and user_id not in self._due:
            self._forget(user_id)
            return
        user.told_s = asyncio.get_running_loop().time()
        self._users.move_to_end(user_id)

    def _forget(self, user_id: UserId) -> None:
        del self._users[user_id]
        self._privacy.unfollow(user_id, self._mark)
        metrics.presence_users.set(len(self._users))
