"""Signals of conversations on this node: sends them to all nodes, hands what is heard to the streams of members.

Theory of operation. A node listens to the signals of the topics that it hears live, so to those of conversations with
streams here. A signal passes only if its user is a member, and goes only to streams of other members, by the state of
this node, which is as fresh as what it delivers (G5): a node that has applied a removal passes nothing more of that
user or to them. Nobody hears whom they block, and the two of a direct conversation in which one blocks the other hear
nothing of each other. Each conversation has so many a second and no more. The bytes are forwarded as they came.
"""

from typing import Final

import structlog

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.app.frames import Signals
from hubbub_server.app.throttle import Throttle
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import RateLimited
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, is_conversation_id
from hubbub_server.domain.signals import DeliveredMarker, ReadFloor, ReadMarker, Signal
from hubbub_server.domain.user_topic import UserTopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock
from hubbub_server.ports.signal_bus import SignalBus
from hubbub_server.ports.signal_codec import SignalCodec

BUS_KIND: Final = "conversation"
HEARD_BURST: Final = 40
HEARD_PER_S: Final = 20.0

log = structlog.get_logger()


class ConversationSignals:
    """The signals of all conversations. Implements Interest."""

    def __init__(self, *, bus: SignalBus, codec: SignalCodec, clock: Clock) -> None:
        """Takes the ports. The bus is closed by whoever opened it."""
        self._bus = bus
        self._codec = codec
        self._topics: dict[TopicId, ActiveTopic] = {}
        """What is heard live: conversations, and the own topics of users with streams here."""
        self._floors: dict[TopicId, int] = {}
        """The largest read floor that was heard, of conversations that are heard live."""
        self._heard = Throttle(clock, text="too many signals", burst=HEARD_BURST, per_s=HEARD_PER_S)

    def publish(self, signal: Signal) -> None:
        """Sends a signal to all nodes, this one included, or drops it. Its user is a member, as far as one knows."""
        self._bus.publish(BUS_KIND, signal.conversation_id, self._codec.encode(signal))

    def tell_read(self, conversation_id: ConversationId, user_id: UserId, message_number: int) -> None:
        """Tells the other members that a user has read up to a message, or does not."""
        marker = ReadMarker(message_number=message_number)
        self.publish(Signal(conversation_id=conversation_id, user_id=user_id, kind=marker))

    def tell_delivered(self, conversation_id: ConversationId, user_id: UserId, message_number: int) -> None:
        """Tells the other members that a user's devices have received up to a message, or does not."""
        marker = DeliveredMarker(message_number=message_number)
        self.publish(Signal(conversation_id=conversation_id, user_id=user_id, kind=marker))

    def tell_floor(self, conversation_id: ConversationId, message_number: int) -> None:
        """Tells the members that all of them have read up to a message, unless this node has heard so, or does not."""
        if message_number > self._floors.get(conversation_id, 0):
            floor = ReadFloor(message_number=message_number)
            self.publish(Signal(conversation_id=conversation_id, user_id=None, kind=floor))

    def topic_heard(self, topic: ActiveTopic) -> None:
        """See Interest."""
        self._topics[topic.topic_id] = topic
        if is_conversation_id(topic.topic_id):
            self._bus.subscribe(BUS_KIND, topic.topic_id, self._hear)

    def topic_unheard(self, topic: ActiveTopic) -> None:
        """See Interest."""
        if self._topics.get(topic.topic_id) is topic:
            del self._topics[topic.topic_id]
            self._floors.pop(topic.topic_id, None)
            if is_conversation_id(topic.topic_id):
                self._bus.unsubscribe(BUS_KIND, topic.topic_id, self._hear)

    def _hear(self, key: TopicId, body: bytes) -> None:
        topic = self._topics.get(key)
        if topic is None or not topic.subscribers:
            return
        try:
            signal = self._codec.decode(body)
        except ValueError as error:
            log.error("signal not read", topic_id=key, error=str(error))
            return
        state = topic.state
        assert isinstance(state, ConversationState)  # noqa: S101  # by the form of the id
        if signal.conversation_id != key or state.has_block:
            return
        if isinstance(signal.kind, ReadFloor):
            if signal.kind.message_number <= self._floors.get(key, 0):
                return  # another node has told it
            self._floors[key] = signal.kind.message_number
        elif signal.user_id not in state.members:
            return
        try:
            self._heard.take(key)
        except RateLimited:
            metrics.dropped_signals.labels(reason="busy").inc()
        else:
            self._pass_on(topic, state, signal.user_id, Signals(body=body))

    def _pass_on(self, topic: ActiveTopic, state: ConversationState, sender_id: UserId | None, frame: Signals) -> None:
        def is_for(user_id: UserId) -> bool:
            if user_id not in state.members:
                return False
            return sender_id is None or (user_id != sender_id and not self._blocks(user_id, sender_id))

        subscribers = tuple(topic.subscribers)
        metrics.signals.inc(len(subscribers))
        for subscriber in subscribers:
            subscriber.on_signal(frame, is_for)

    def _blocks(self, receiver_id: UserId, sender_id: UserId) -> bool:
        """Tells whether a user with a stream here, whose own topic is heard then, blocks another one."""
        own = self._topics.get(receiver_id)
        return own is not None and isinstance(own.state, UserTopicState) and sender_id in own.state.blocked
