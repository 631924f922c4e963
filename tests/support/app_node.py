"""A node without transports: the application on a fake log and a fake store, for tests of what the app promises."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from hubbub_server.app.active_topic import ActiveTopic, Delivery
from hubbub_server.app.committer import CommitGuard
from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import Signals
from hubbub_server.app.markers import Markers
from hubbub_server.app.project import project
from hubbub_server.app.read_history import ReadHistory
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.domain.commands import AddMembers, Command, CreateGroup, RemoveMember, SendMessage, Sent
from hubbub_server.domain.cursor import TopicHead
from hubbub_server.domain.events import Event, MessageSent
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import TextContent
from hubbub_server.domain.signals import Signal
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from tests.support.fakes.clock import FakeClock, FakeIds
from tests.support.fakes.signal_bus import FakeSignalBus, FakeSignalServer
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import FakeLogServer, FakeTopicLog
from tests.support.loaders import fake_ports

GROUP = ConversationId(TopicId("cgroup"))
ALICE, BOB, CAROL = (UserId(TopicId(f"u{name}")) for name in ("alice", "bob", "carol"))
CODEC = ProtoRecordCodec()
SIGNAL_CODEC = ProtoSignalCodec()
ANSWER_S = 5.0


def message_id(serial: int, *, time_ms: int = 1_800_000_000_000) -> ClientMessageId:
    """Returns a UUIDv7; `serial` tells ids of one time apart."""
    time = f"{time_ms:012x}"
    return ClientMessageId(f"{time[:8]}-{time[8:]}-7000-8000-{serial:012x}")


def send(sender_id: UserId, serial: int, text: str = "") -> SendMessage:
    """Returns a command that sends a text."""
    return SendMessage(
        sender_id=sender_id, client_message_id=message_id(serial), content=TextContent(text=text or f"text {serial}")
    )


def remove(user_id: UserId) -> RemoveMember:
    """Returns the command by which Alice removes a user from the group."""
    return RemoveMember(actor_id=ALICE, user_id=user_id)


async def settle() -> None:
    """Lets what is on its way arrive."""
    for _ in range(5):
        await asyncio.sleep(0)


def add(*user_ids: UserId) -> AddMembers:
    """Returns the command by which Alice adds users to the group."""
    return AddMembers(actor_id=ALICE, user_ids=user_ids)


@dataclass(eq=False)
class Listener:
    """Subscriber that keeps what it hears; signals as its user, if it has one."""

    user_id: UserId | None = None
    signals: list[Signal] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    heads: list[TopicHead] = field(default_factory=list)
    reset_count: int = 0

    def on_delivery(self, topic: ActiveTopic, delivery: Delivery) -> None:
        """Keeps the events of a record."""
        self.events += [decoded.event for decoded in CODEC.decode(delivery.frame.body)]
        self.heads.append(delivery.head)

    def on_reset(self, topic: ActiveTopic) -> None:
        """Counts."""
        self.reset_count += 1

    def on_signal(self, frame: Signals, is_for: Callable[[UserId], bool]) -> None:
        """Keeps a signal."""
        if self.user_id is not None and is_for(self.user_id):
            self.signals.append(SIGNAL_CODEC.decode(frame.body))

    @property
    def positions(self) -> list[int]:
        """Positions in the order in which they came."""
        return [event.position for event in self.events]


@dataclass
class AppNode:
    """One node."""

    log: FakeTopicLog
    hub: TopicHub
    history: ReadHistory
    sync: Sync
    reader: TopicReader
    read_states: ReadStates
    markers: Markers
    bus: FakeSignalBus
    signals: ConversationSignals
    typing: TypingSignals

    async def submit(self, command: Command, *, topic_id: TopicId = GROUP, timeout_s: float = ANSWER_S) -> object:
        """Submits a command and returns its answer."""
        return await self.hub.submit(topic_id, command, timeout_s=timeout_s)

    async def send(self, command: SendMessage, *, timeout_s: float = ANSWER_S) -> Sent:
        """Sends a message to the group."""
        answer = await self.submit(command, timeout_s=timeout_s)
        assert isinstance(answer, Sent)
        return answer

    async def listen(self, topic_id: TopicId = GROUP, *, user_id: UserId | None = None) -> Listener:
        """Subscribes a listener."""
        listener = Listener(user_id=user_id)
        await self.hub.subscribe(topic_id, listener)
        return listener


@dataclass
class AppCluster:
    """What nodes share."""

    server: FakeLogServer = field(default_factory=FakeLogServer)
    store: FakeStore = field(default_factory=FakeStore)
    signal_server: FakeSignalServer = field(default_factory=FakeSignalServer)
    clock: FakeClock = field(default_factory=FakeClock)
    ids: FakeIds = field(default_factory=FakeIds)

    @asynccontextmanager
    async def node(
        self,
        *,
        guard: CommitGuard | None = None,
        head_check_interval_s: float = 30.0,
        window_capacity: int = 4096,
        window_s: float = 0.0,
    ) -> AsyncIterator[AppNode]:
        """Runs one more node; without a guard nobody doubts its log."""
        log, bus = self.server.connect(), self.signal_server.connect()
        signals = ConversationSignals(bus=bus, codec=SIGNAL_CODEC, clock=self.clock)
        hub = TopicHub(
            fake_ports(self.server, log, self.store, clock=self.clock, ids=self.ids, guard=guard),
            head_check_interval_s=head_check_interval_s,
            recheck_delay_s=0.0,
            window_capacity=window_capacity,
            interest=signals,
        )
        reader = TopicReader(log=log, messages=self.store, events=self.store, markers=self.store, codec=CODEC)
        read_states = ReadStates(hub=hub, reader=reader)
        markers = Markers(
            hub=hub,
            reader=reader,
            read_states=read_states,
            effects=MembershipEffects(hub),
            clock=self.clock,
            news=signals,
            window_s=window_s,
        )
        async with hub, markers:
            yield AppNode(
                log=log,
                hub=hub,
                history=ReadHistory(hub=hub, reader=reader, directory=self.store),
                sync=Sync(hub=hub, reader=reader),
                reader=reader,
                read_states=read_states,
                markers=markers,
                bus=bus,
                signals=signals,
                typing=TypingSignals(hub=hub, signals=signals, clock=self.clock),
            )

    def events(self, topic_id: TopicId = GROUP) -> list[Event]:
        """Everything in the log of a topic."""
        return [d.event for record in self.server.by_topic.get(topic_id, ()) for d in CODEC.decode(record.body)]

    def history(self, topic_id: TopicId = GROUP) -> list[Event]:
        """Everything that was ever committed to a topic, trimmed or not."""
        return [d.event for record in self.server.history.get(topic_id, ()) for d in CODEC.decode(record.body)]

    def messages(self) -> Sequence[tuple[int, UserId, ClientMessageId]]:
        """Number, sender and id of each message in the group's log."""
        kinds = [event.kind for event in self.events()]
        return [
            (k.message.message_number, k.message.sender_id, k.message.client_message_id)
            for k in kinds
            if isinstance(k, MessageSent)
        ]

    async def project(self) -> None:
        """Brings the store to the head of the log."""
        for shard, records in enumerate(self.server.records):
            if records:
                await self.store.apply(project(CODEC, shard, records))


async def create_group(node: AppNode, *user_ids: UserId) -> None:
    """Makes Alice's group."""
    await node.submit(CreateGroup(creator_id=ALICE, title="group", user_ids=user_ids))


async def until(condition: Callable[[], bool]) -> None:
    """Waits, turn by turn of the event loop, until a condition holds."""
    async with asyncio.timeout(ANSWER_S):
        while not condition():  # noqa: ASYNC110  # any condition, not one that somebody sets
            await asyncio.sleep(0)
