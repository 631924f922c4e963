"""Signals between nodes: bytes that are worth something only now. Never stored, lost without a word.

A signal is published to a *key*, the id of a conversation or of a user, and heard by every node that listens to that
key at that moment, the publisher's own included. `kind` is one of a few words of ours that keep the keys of one use
apart from those of another.

At most once: a signal may be lost, by this node or on the way, and nobody is told. Signals of one publisher and key
come in order. Nothing here waits for the network, so nothing here can hold up delivery; what cannot be sent or heard
soon is dropped. While this node has lost NATS all of it is.
"""

from collections.abc import Callable
from typing import Final, Protocol

from hubbub_server.domain.ids import TopicId

SIGNAL_MAX_BYTES: Final = 16 * 1024

SignalListener = Callable[[TopicId, bytes], None]
"""Hears the key and the bytes of a signal. Called synchronously, must not block and must not raise."""


class SignalBus(Protocol):
    """The signals of all nodes, as one node has them."""

    def publish(self, kind: str, key: TopicId, body: bytes) -> None:
        """Sends a signal, or drops it. Listeners are never called from within. At most SIGNAL_MAX_BYTES, inclusive.

        Raises:
            ValueError: the body is larger.
        """

    def subscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """Adds a listener to a key, soon; `registered` tells when. The same one twice counts once."""

    def unsubscribe(self, kind: str, key: TopicId, listener: SignalListener) -> None:
        """Removes a listener, at once; the node hears a key as long as it has one. Idempotent."""

    async def registered(self) -> None:
        """Waits until whatever was subscribed before is heard.

        With several servers, what other nodes publish at another one may take some milliseconds more.

        Raises:
            LogUnavailable: NATS is lost. It is heard once NATS is back.
        """

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        """Registers a callback for "signals may have been missed, more than now and then". It must not block."""
