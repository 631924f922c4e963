"""What this node knows of the users that somebody here watches.

Theory of operation. One task talks to the registry. Each second it looks which lives are good, and what was told under
the others counts no more, without anybody's saying so. It reads a user when they begin to be watched, when a signal
says that they changed, and every lease, since signals may be lost; what is due is read together. From what was read the
board works out what each user *shows*, again when that changes by itself (a grace or a status that ends), and tells
those who watch the user, not more often than the user's budget of changes allows.

While the registry does not answer nobody knows anything; for a lease after it was born it does not know who is missing.
Then users are unknown, and watchers hear that all of it is in doubt, and hear so again when it is not any more.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from types import TracebackType
from typing import Final, Protocol, Self

import structlog

from hubbub_server.app.track_presence import SIGNAL
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.domain.ids import TopicId, UserId, is_user_id
from hubbub_server.domain.presence import (
    HIDDEN,
    UNKNOWN,
    ChangeBudget,
    PresenceState,
    Shown,
    UserSessions,
    changes_at_ms,
    is_news,
    shown,
)
from hubbub_server.obs import metrics
from hubbub_server.ports.node_registry import LEASE_S
from hubbub_server.ports.presence_registry import BATCH_MAX, PresenceRegistry, RegistryLook
from hubbub_server.ports.signal_bus import SignalBus

_LOOK_S: Final = 1.0
_JOINED_FOR_S: Final = 0.05
_BELIEVED_FOR_S: Final = LEASE_S / 2
_USERS_A_TURN: Final = 500
_A_MOMENT_S: Final = 0.01

log = structlog.get_logger()


class Knowledge(Enum):
    """What the registry is good for."""

    NONE = "none"
    YOUNG = "young"
    """It does not know who is missing."""
    WHOLE = "whole"


class Watcher(Protocol):
    """Somebody who watches users. Called synchronously, must not block and must not raise."""

    def on_change(self, user_id: UserId) -> None:
        """A user shows something else, or what they show is known now."""

    def on_doubt(self) -> None:
        """All that was told may be wrong, or is right again."""


class _Watched:
    """A user whom somebody watches."""

    __slots__ = ("budget", "sessions", "shown", "timer", "watchers")

    def __init__(self) -> None:
        self.watchers: dict[Watcher, None] = {}
        self.sessions: UserSessions | None = None
        self.shown: Shown | None = None
        self.budget = ChangeBudget()
        self.timer: asyncio.TimerHandle | None = None


class PresenceBoard:
    """Use as `async with`; the block owns the task that asks the registry."""

    def __init__(self, *, registry: PresenceRegistry, bus: SignalBus) -> None:
        """Takes the ports."""
        self._registry = registry
        self._bus = bus
        self._watched: dict[UserId, _Watched] = {}
        self._watchers: dict[Watcher, int] = {}
        self._to_read: dict[UserId, None] = {}
        self._has_work = asyncio.Event()
        self._knowledge = Knowledge.NONE
        self._is_in_doubt = False
        self._look = RegistryLook(now_ms=0, born_ms=0, alive=frozenset())
        self._looked_s = float("-inf")
        self._lives_read: set[str] = set()
        self._read_all_s = 0.0
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Starts the task."""
        await self._group.__aenter__()
        self._bus.on_disturbance(self._read_all)
        self._task = self._group.create_task(self._work_for_ever())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the task and all timers."""
        if self._task is not None:
            self._task.cancel()
        await self._group.__aexit__(None, None, None)
        for watched in self._watched.values():
            _stop(watched)

    # ---- for watchers

    def watch(self, user_id: UserId, watcher: Watcher) -> None:
        """Watches a user, once; the watcher hears when it is known what they show, at once if it is."""
        watched = self._watched.get(user_id)
        if watched is None:
            watched = self._watched[user_id] = _Watched()
            self._bus.subscribe(SIGNAL, user_id, self._on_signal)
            self._ask(user_id)
            metrics.presence_watched.set(len(self._watched))
        watched.watchers[watcher] = None
        self._watchers[watcher] = self._watchers.get(watcher, 0) + 1

    def unwatch(self, user_id: UserId, watcher: Watcher) -> None:
        """Takes back `watch`."""
        watched = self._watched[user_id]
        del watched.watchers[watcher]
        self._watchers[watcher] -= 1
        if not self._watchers[watcher]:
            del self._watchers[watcher]
        if not watched.watchers:
            _stop(watched)
            del self._watched[user_id]
            self._to_read.pop(user_id, None)
            self._bus.unsubscribe(SIGNAL, user_id, self._on_signal)
            metrics.presence_watched.set(len(self._watched))

    def shown(self, user_id: UserId) -> Shown | None:
        """Returns what a watched user shows; None: nobody asked the registry yet."""
        return self._watched[user_id].shown

    @property
    def hidden(self) -> Shown:
        """What those see who may not see: the same as of anybody who has been away for long."""
        return HIDDEN if self._knowledge is Knowledge.WHOLE else UNKNOWN

    @property
    def now_ms(self) -> int:
        """The registry's time, about."""
        passed_s = asyncio.get_running_loop().time() - self._looked_s
        return self._look.now_ms + (round(passed_s * 1000) if self._look.now_ms else 0)

    # ---- asking the registry

    def _on_signal(self, key: TopicId, _body: bytes) -> None:
        if is_user_id(key) and key in self._watched:
            self._ask(key)

    def _ask(self, user_id: UserId) -> None:
        self._to_read[user_id] = None
        self._has_work.set()

    def _read_all(self) -> None:
        self._read_all_s = asyncio.get_running_loop().time()
        self._to_read.update(dict.fromkeys(self._watched))
        self._has_work.set()

    async def _work_for_ever(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_S):
                    await self._has_work.wait()
            self._has_work.clear()
            if not self._watched:
                continue
            await asyncio.sleep(_JOINED_FOR_S)  # what changes together is read together
            try:
                await self._work()
            except RegistryUnavailable:
                await self._do_without()
                await asyncio.sleep(_LOOK_S)  # logged by the registered node
            except Exception:
                log.exception("presence not read")
                await asyncio.sleep(_LOOK_S)

    async def _work(self) -> None:
        """Raises RegistryUnavailable: what was not read is asked for again."""
        now_s = asyncio.get_running_loop().time()
        if now_s - self._looked_s >= _LOOK_S:
            await self._look_around()
        if now_s - self._read_all_s >= LEASE_S:
            self._read_all()
        while self._to_read:
            await self._read_some()
        await self._tell_doubt()

    async def _do_without(self) -> None:
        self._judge()
        await self._tell_doubt()
        if self._knowledge is Knowledge.NONE:
            for user_id in tuple(self._to_read):  # who began to be watched since
                self._work_out(user_id, self._watched[user_id])

    async def _look_around(self) -> None:
        before, self._look = self._look, await self._registry.look()
        self._looked_s = asyncio.get_running_loop().time()
        was_blind = self._knowledge is Knowledge.NONE
        self._judge()  # first: of a registry that was born just now nobody is gone
        if was_blind or self._look.born_ms != before.born_ms:
            self._read_all()
        over = (before.alive | self._lives_read) - self._look.alive
        self._lives_read.clear()
        if over:
            await self._each(lambda user_id, watched: self._take_lives(user_id, watched, frozenset(over)))

    def _judge(self) -> None:
        """Sees what the registry is good for."""
        if asyncio.get_running_loop().time() - self._looked_s > _BELIEVED_FOR_S:
            knowledge = Knowledge.NONE
        elif self._look.now_ms - self._look.born_ms < LEASE_S * 1000:
            knowledge = Knowledge.YOUNG
        else:
            knowledge = Knowledge.WHOLE
        if knowledge is not self._knowledge:
            self._knowledge = knowledge
            self._is_in_doubt |= any(watched.shown is not None for watched in self._watched.values())
            metrics.presence_known.set(knowledge is Knowledge.WHOLE)

    async def _tell_doubt(self) -> None:
        """Works everything out anew when the registry became good for something else."""
        if self._is_in_doubt:
            self._is_in_doubt = False
            await self._each(self._work_out)
            for watcher in tuple(self._watchers):
                watcher.on_doubt()

    def _take_lives(self, user_id: UserId, watched: _Watched, over: frozenset[str]) -> None:
        if watched.sessions is not None:
            left = watched.sessions.without(over)
            if left is not watched.sessions:
                watched.sessions = left
                self._work_out(user_id, watched)

    async def _read_some(self) -> None:
        user_ids = list(self._to_read)[:BATCH_MAX]
        for user_id in user_ids:
            del self._to_read[user_id]
        try:
            found = await self._registry.read(user_ids)
        except BaseException:
            self._to_read.update(dict.fromkeys(each for each in user_ids if each in self._watched))
            raise
        for user_id, sessions in found.items():
            if (watched := self._watched.get(user_id)) is not None:
                self._lives_read.update(sessions.shares)
                watched.sessions = sessions
                self._work_out(user_id, watched)

    async def _each(self, do: Callable[[UserId, _Watched], None]) -> None:
        for count, (user_id, watched) in enumerate(tuple(self._watched.items())):
            if watched.watchers:
                do(user_id, watched)
            if count % _USERS_A_TURN == _USERS_A_TURN - 1:
                await asyncio.sleep(0)

    # ---- working out

    def _truth(self, watched: _Watched, now_ms: int) -> Shown | None:
        if self._knowledge is Knowledge.NONE:
            return UNKNOWN
        if watched.sessions is None:
            return None
        after = shown(watched.sessions, now_ms)
        is_missing = after.state is PresenceState.OFFLINE
        return UNKNOWN if is_missing and self._knowledge is Knowledge.YOUNG else after

    def _work_out(self, user_id: UserId, watched: _Watched) -> None:
        """Finds out what a user shows, tells who watches them, and sees to it that this is done again in time."""
        now_s, now_ms = asyncio.get_running_loop().time(), self.now_ms
        after = self._truth(watched, now_ms)
        if after is None:
            return
        _stop(watched)
        wait_s = 0.0
        if is_news(watched.shown, after):
            if watched.shown is not None and UNKNOWN not in (watched.shown, after):
                wait_s = watched.budget.take(watched.shown, after, now_s)
            if not wait_s:
                watched.shown = after
                for watcher in tuple(watched.watchers):
                    watcher.on_change(user_id)
        if watched.sessions is not None and (change_ms := changes_at_ms(watched.sessions, now_ms)):
            change_s = (change_ms - now_ms) / 1000
            wait_s = min(wait_s or change_s, change_s)
        if wait_s:
            loop = asyncio.get_running_loop()
            watched.timer = loop.call_later(wait_s + _A_MOMENT_S, self._work_out, user_id, watched)


def _stop(watched: _Watched) -> None:
    if watched.timer is not None:
        watched.timer.cancel()
        watched.timer = None
