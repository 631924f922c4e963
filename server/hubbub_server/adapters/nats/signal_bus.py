"""SignalBus on core NATS: a subject for each kind and key, `eph.<kind>.<key>`.

Theory of operation. Everything that talks to the server is done by one task, in order: first the subscriptions that are
not yet as they should be, then what waits to be published. The methods note what is to be done and wake it. So a call
never waits, and interest that changes to and fro costs nothing. What waits to be published is bounded, the oldest goes.

Each subscription is a command to the server, after each reconnect again, and an entry in the tables of all servers. So
a kind with many keys here is heard by one wildcard, and what is for nobody here is thrown away; when it has half as
many, it is heard key by key again. nats-py subscribes again after a reconnect; what failed meanwhile is done then.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

import structlog
from nats.aio.msg import Msg

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.obs import metrics
from hubbub_server.ports.signal_bus import SIGNAL_MAX_BYTES, SignalListener

if TYPE_CHECKING:
    from hubbub_server.adapters.nats.client import Subscription

NARROW_MAX_KEYS: Final = 1_000
_WAITING_MAX: Final = 1_024
_ALL: Final = "*"

log = structlog.get_logger()


class NatsSignalBus:
    """SignalBus over an open connection. Use as `async with`; the block owns the task."""

    def __init__(self, connection: NatsConnection, *, narrow_max_keys: int = NARROW_MAX_KEYS) -> None:
        """A kind with more than `narrow_max_keys` keys on this node is heard as a whole."""
        self._connection = connection
        self._narrow_max_keys = narrow_max_keys
        self._kinds: dict[str, _Kind] = {}
        self._waiting: deque[tuple[str, bytes]] = deque(maxlen=_WAITING_MAX)
        self._work = asyncio.Event()
        self._group = asyncio.TaskGroup()
        self._task: asyncio.Task[None] | None = None
        self._arranging = asyncio.Lock()
        self._on_disturbance: list[Callable[[], None]] = []

    async def __aenter__(self) -> Self:
        """Starts the task."""
        await self._group.__aenter__()
        self._task = self._group.create_task(self._work_for_ever(), name="signals")
        self._connection.on_reconnect(self._disturb)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops hearing; what was not sent is dropped. The connection stays open."""
        if self._task is not None:
            self._task.cancel()
        await self._group.__aexit__(None, None, None)
        self._on_disturbance.clear()
        for each in self._kinds.values():
            await self._end(each, list(each.subscriptions))

    def publish(self, kind: str, key: TopicId, body: bytes) -> None:
        """See SignalBus."""
        if len(body) > SIGNAL_MAX_BYTES:
            raise ValueError(f"a signal of {len(body)} bytes")
        if not self._connection.is_live():
            metrics.dropped_signals.labels(reason="lost").inc()
            return
        if len(self._waiting) == _WAITING_MAX:
            metrics.dropped_signals.labels(reason="full").inc()
        self._waiting.append((_subject(kind, key), body))
        self._work.set()

    def subscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """See SignalBus."""
        each = self._kinds.get(kind)
        if each is None:
            each = self._kinds[kind] = _Kind(kind)
        each.add(key, listener)
        self._work.set()

    def unsubscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """See SignalBus."""
        if (each := self._kinds.get(kind)) is not None:
            each.remove(key, listener)
            self._work.set()

    async def registered(self) -> None:
        """See SignalBus."""
        await self._arrange_all()
        await self._connection.echo()

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        """See SignalBus."""
        self._on_disturbance.append(callback)

    def _disturb(self) -> None:
        self._work.set()
        for callback in self._on_disturbance:
            callback()

    async def _work_for_ever(self) -> None:
        while True:
            await self._work.wait()
            self._work.clear()
            try:
                await self._arrange_all()
                while self._waiting:
                    await self._connection.publish(*self._waiting.popleft())
            except LogUnavailable:  # a reconnect wakes us again
                metrics.dropped_signals.labels(reason="lost").inc(len(self._waiting))
                self._waiting.clear()
            except Exception:  # signals must not end the node; what is not arranged is, when something else changes
                log.exception("signals failed")

    async def _arrange_all(self) -> None:
        async with self._arranging:
            for each in tuple(self._kinds.values()):
                await self._arrange(each)

    async def _arrange(self, each: "_Kind") -> None:
        """Makes the subscriptions of a kind what they should be."""
        is_wide = len(each.listeners) > self._narrow_max_keys // (2 if each.is_wide else 1)
        if is_wide != each.is_wide:  # rather lost than heard twice: the old ones end first
            each.is_wide = is_wide
            await self._end(each, list(each.subscriptions))
            each.changed = {_ALL} if is_wide else {*each.listeners}
            self._disturb()
        while each.changed:
            key = each.changed.pop()
            if not (key == _ALL if is_wide else key in each.listeners):
                await self._end(each, [key])
            elif key not in each.subscriptions:
                await self._begin(each, key)

    async def _begin(self, each: "_Kind", key: str) -> None:
        try:
            each.subscriptions[key] = await self._connection.subscribe(_subject(each.name, key), each.take)
        except LogUnavailable:
            each.changed.add(key)
            raise

    async def _end(self, each: "_Kind", keys: list[str]) -> None:
        for key in keys:
            if (subscription := each.subscriptions.pop(key, None)) is not None:
                await self._connection.unsubscribe(subscription)


class _Kind:
    """Who listens to the keys of one kind, and what the server was told."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.listeners: dict[TopicId, tuple[SignalListener, ...]] = {}
        self.is_wide = False
        self.subscriptions: dict[str, Subscription] = {}
        """By key; `_ALL` is the wildcard."""
        self.changed: set[str] = set()
        """Keys of which the server may not know the truth."""

    def add(self, key: TopicId, listener: SignalListener) -> None:
        """Adds a listener."""
        known = self.listeners.get(key, ())
        if listener not in known:
            self.listeners[key] = (*known, listener)
            self.changed.add(key)

    def remove(self, key: TopicId, listener: SignalListener) -> None:
        """Removes a listener."""
        left = tuple(each for each in self.listeners.get(key, ()) if each != listener)
        if left:
            self.listeners[key] = left
        elif self.listeners.pop(key, None):
            self.changed.add(key)

    def take(self, message: Msg) -> None:
        """Takes a message of a subscription. Does not wait."""
        key = TopicId(message.subject.rpartition(".")[2])
        for listener in self.listeners.get(key, ()):
            listener(key, message.data)


def _subject(kind: str, key: str) -> str:
    return f"eph.{kind}.{key}"
