"""The signals of nodes in memory: one `FakeSignalServer`, and a `FakeSignalBus` for each node.

A signal is heard one turn of the event loop after it was published. `is_lost` is a node without NATS.
"""

import asyncio
from collections.abc import Callable

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.signal_bus import SIGNAL_MAX_BYTES, SignalListener


class FakeSignalServer:
    """What all nodes share. `published` keeps everything that was not dropped."""

    def __init__(self) -> None:
        self.nodes: list[FakeSignalBus] = []
        self.published: list[tuple[str, TopicId, bytes]] = []

    def connect(self) -> "FakeSignalBus":
        """Returns the bus of one more node."""
        bus = FakeSignalBus(self)
        self.nodes.append(bus)
        return bus

    def deliver(self, kind: str, key: TopicId, body: bytes) -> None:
        """Tells all nodes."""
        for node in self.nodes:
            node.hear(kind, key, body)


class FakeSignalBus:
    """SignalBus of one node."""

    def __init__(self, server: FakeSignalServer) -> None:
        """Made by the server."""
        self._server = server
        self._listeners: dict[tuple[str, TopicId], list[SignalListener]] = {}
        self._on_disturbance: list[Callable[[], None]] = []
        self.is_lost = False

    @property
    def keys(self) -> set[tuple[str, TopicId]]:
        """Kinds and keys that this node hears."""
        return set(self._listeners)

    def come_back(self) -> None:
        """NATS is there again."""
        self.is_lost = False
        for callback in self._on_disturbance:
            callback()

    def publish(self, kind: str, key: TopicId, body: bytes) -> None:
        """See SignalBus."""
        if len(body) > SIGNAL_MAX_BYTES:
            raise ValueError(f"a signal of {len(body)} bytes")
        if not self.is_lost:
            self._server.published.append((kind, key, body))
            asyncio.get_running_loop().call_soon(self._server.deliver, kind, key, body)

    def hear(self, kind: str, key: TopicId, body: bytes) -> None:
        """Calls the listeners."""
        if not self.is_lost:
            for listener in tuple(self._listeners.get((kind, key), ())):
                listener(key, body)

    def subscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """See SignalBus."""
        listeners = self._listeners.setdefault((kind, key), [])
        if listener not in listeners:
            listeners.append(listener)

    def unsubscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """See SignalBus."""
        listeners = self._listeners.get((kind, key), [])
        if listener in listeners:
            listeners.remove(listener)
            if not listeners:
                del self._listeners[kind, key]

    async def registered(self) -> None:
        """See SignalBus."""
        await asyncio.sleep(0)
        if self.is_lost:
            raise LogUnavailable("NATS is lost")

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        """See SignalBus."""
        self._on_disturbance.append(callback)
