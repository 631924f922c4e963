"""Clients that follow the contract miss nothing and see nothing they may not, whatever happens to nodes and records.

The real hubs, streams and Sync of several nodes run a script of sends, membership changes and faults on virtual time.
Each user has a client that does only what proto/README.md says: it takes frames, asks Sync for what Heads, Heartbeat or
a hole tell it is behind, reconnects after Goodbye. When all is healed and the bound of G4 has passed, each member's
client has every event; no client ever got an event from after its user's removal.

With each Hello a client may offer a resume token: the newest that it may keep, one from earlier, another user's, a
damaged one, or none. What it has in the end is the same.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from typing import Protocol

from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub_server.app.conversation_signals import ConversationSignals
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.frames import (
    Ack,
    Events,
    Goodbye,
    Heads,
    Heartbeat,
    Hello,
    Outgoing,
    Rejected,
    Reset,
    TopicEnded,
    Welcome,
)
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.markers import Markers
from hubbub_server.app.read_states import ReadStates
from hubbub_server.app.resume import ResumeTokens
from hubbub_server.app.streams import Streams
from hubbub_server.app.sync import Sync
from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.app.topic_reader import TopicReader
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.domain.commands import AddMembers, CreateGroup, RecordMembership, RemoveMember
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import HubbubError, Unavailable
from hubbub_server.domain.events import ConversationLeft, Event, MemberRemoved, MembersAdded
from hubbub_server.domain.ids import TopicId, UserId
from tests.support.app_node import ALICE, BOB, CAROL, CODEC, GROUP, SIGNAL_CODEC, AppCluster, message_id, send
from tests.support.fakes.topic_log import FakeTopicLog, LiveFault
from tests.support.loaders import fake_ports
from tests.support.open_streams import caller
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_committer_machine import LATENCIES_S, LoopClock

Step = tuple[str, int, int]
USERS = (ALICE, BOB, CAROL)
BOUND_S = 30 + 20 + 5
WHATS = (
    *("send", "send", "send", "change", "change", "lose", "lose", "cut", "move", "start again", "restart"),
    *("forget", "wait", "project", "offer", "quiet"),
)
OFFERS = ("newest", "newest", "any", "another's", "damaged", "none")
steps = st.tuples(st.sampled_from(WHATS), st.integers(0, 2), st.integers(0, 63))


@dataclass
class Node:
    """One node with streams. `forgets` makes it die between a change and its effects."""

    log: FakeTopicLog
    hub: TopicHub
    streams: Streams
    sync: Sync
    stack: AsyncExitStack
    forgets: bool = False


@dataclass
class Copy:
    """A client's copy of a topic: all events after `start`."""

    start: int
    events: list[Event] = field(default_factory=list)
    is_ended: bool = False
    is_behind: bool = False

    @property
    def position(self) -> int:
        return self.start + len(self.events)


class Wallet:
    """Resume tokens of one client, and which of them it offers next."""

    def __init__(self, user_id: UserId, cluster: "Cluster") -> None:
        self.kept: list[str] = []
        self.offer = "newest"
        self._chance = random.Random(user_id)
        self._cluster = cluster

    def next(self) -> str:
        """Returns the token of the next Hello."""
        own = self.kept[-1] if self.kept else ""
        match self.offer:
            case "newest":
                return own
            case "any":
                return self._chance.choice(self.kept or [""])
            case "another's":
                others = [client.wallet.kept for client in self._cluster.clients if client.wallet is not self]
                return self._chance.choice([token for kept in others for token in kept] or [""])
            case "damaged":
                return own.swapcase()
            case _:
                return ""


class Client:
    """A client of one user. Follows the contract and nothing else."""

    def __init__(self, user_id: UserId, cluster: "Cluster", node: int) -> None:
        self.user_id = user_id
        self.cluster = cluster
        self.node = node
        self.copies: dict[TopicId, Copy] = {}
        self.wallet = Wallet(user_id, cluster)
        self.stream: LiveStream | None = None

    async def run(self) -> None:
        while True:
            node = self.cluster.nodes[self.node]
            with suppress(HubbubError):
                self.stream = node.streams.open(caller(self.user_id), takes_commands=True)
                hello = Hello(instance_id=message_id(USERS.index(self.user_id)), resume_token=self.wallet.next())
                self.stream.receive(hello)
                await self.listen(node, self.stream)
            await asyncio.sleep(0.5)

    async def listen(self, node: Node, stream: LiveStream) -> None:
        try:
            while frames := await stream.next_frames():
                self.take(stream, frames)
                while behind := [(t, c) for t, c in self.copies.items() if c.is_behind]:
                    await self.catch_up(node, behind)
        finally:
            await stream.aclose()

    def take(self, stream: LiveStream, frames: Sequence[Outgoing]) -> None:
        for frame in frames:
            match frame:
                case Events(body=body):
                    for decoded in CODEC.decode(body):
                        self.cluster.check_may_see(self.user_id, decoded.event)
                        assert decoded.event.topic_id in self.copies, "an event before the head of its topic"
                        self.apply(decoded.event)
                case Heads(heads=heads):
                    for head in heads:
                        self.copies.setdefault(head.cursor.topic_id, Copy(head.cursor.position)).is_ended = False
                        self.compare(head)
                case Heartbeat(heads=heads):
                    stream.receive(Ack(processed_events=0))
                    for head in heads:
                        self.compare(head)
                    self.keep(frame.resume_token)
                case Goodbye():
                    self.keep(frame.resume_token)
                case Welcome(resumed=resumed):
                    self.cluster.resumed += resumed
                case TopicEnded(topic_id=topic_id):
                    if (copy := self.copies.get(topic_id)) is not None:  # else it joined and left while it was away
                        copy.is_ended = True
                case Reset():
                    raise AssertionError("no log was recreated here")
                case _:
                    pass

    def keep(self, token: str) -> None:
        """Keeps a token when everything before it is here."""
        if token and not any(copy.is_behind for copy in self.copies.values()):
            self.wallet.kept.append(token)

    def compare(self, head: TopicHead) -> None:
        copy = self.copies[head.cursor.topic_id]
        copy.is_behind |= head.cursor.position > copy.position

    def apply(self, event: Event) -> None:
        copy = self.copies[event.topic_id]
        if event.position == copy.position + 1:
            copy.events.append(event)
            if isinstance(event.kind, ConversationLeft) and (left := self.copies.get(event.kind.conversation_id)):
                left.is_behind |= not left.is_ended  # Sync tells the rest and that it is over
        elif event.position > copy.position:
            copy.is_behind = True

    async def catch_up(self, node: Node, behind: list[tuple[TopicId, Copy]]) -> None:
        cursors = [Cursor(topic_id=t, epoch=1, position=copy.position) for t, copy in behind]
        for _, copy in behind:
            copy.is_behind = False
        async for frame in node.sync.serve(self.user_id, cursors):
            if isinstance(frame, Events):
                for decoded in CODEC.decode(frame.body):
                    self.apply(decoded.event)
            elif isinstance(frame, TopicEnded):
                self.copies[frame.topic_id].is_ended = True
            elif isinstance(frame, Rejected):
                assert isinstance(frame.error, Unavailable)
                self.copies[TopicId(frame.topic_id)].is_behind = True
                await asyncio.sleep(0.2)

    def is_open(self) -> bool:
        return self.user_id in self.copies

    def start_again(self) -> None:
        """Keeps nothing between two runs but its copies, so there is nothing to do."""

    def judge(self) -> None:
        """G4: complete for a member; for others nothing after the removal."""
        log = self.cluster.parts.events()
        own = self.copies[self.user_id]
        assert own.events == self.cluster.parts.events(self.user_id)[own.start :]
        copy = self.copies.get(GROUP)
        if self.user_id in self.cluster.members_at(len(log)):
            assert copy is not None, "a member's topic was never named"
            assert not copy.is_ended
            assert copy.events == log[copy.start :], "a member misses the end"
        elif copy is not None:
            assert copy.is_ended
            assert copy.events == log[copy.start : copy.position]
            assert copy.position <= max(*self.cluster.removals_of(self.user_id), copy.start)


class Runs(Protocol):
    """A client as the script sees it."""

    node: int
    stream: LiveStream | None
    wallet: Wallet

    async def run(self) -> None: ...

    def is_open(self) -> bool: ...

    def start_again(self) -> None: ...

    def judge(self) -> None: ...


class Cluster:
    """Nodes, clients and the script."""

    def __init__(self, seed: int) -> None:
        chance = random.Random(seed)
        self.parts = AppCluster()
        self.parts.server.latency_s = lambda: chance.choice(LATENCIES_S)
        self.nodes: list[Node] = []
        self.clients: list[Runs] = []
        self.serial = 0
        self.resumed = 0
        """Streams that took up a token."""

    async def start_node(self) -> Node:
        log, store, clock = self.parts.server.connect(), self.parts.store, LoopClock(0)
        signals = ConversationSignals(bus=self.parts.signal_server.connect(), codec=SIGNAL_CODEC, clock=clock)
        hub = TopicHub(
            fake_ports(self.parts.server, log, store, clock=clock, ids=self.parts.ids),
            interest=signals,
        )
        reader = TopicReader(log=log, messages=store, events=store, markers=store, codec=CODEC)
        stack = AsyncExitStack()
        await stack.enter_async_context(hub)
        markers = Markers(
            news=signals,
            hub=hub,
            reader=reader,
            read_states=ReadStates(hub=hub, reader=reader),
            effects=MembershipEffects(hub),
            clock=clock,
        )
        authenticate = None  # no token is checked here
        streams = Streams(
            hub=hub,
            authenticate=authenticate,  # type: ignore[arg-type]
            clock=clock,
            ids=self.parts.ids,
            resume_tokens=ResumeTokens(b"k" * 16, clock),
            markers=await stack.enter_async_context(markers),
            typing=TypingSignals(hub=hub, signals=signals, clock=clock),
        )
        await stack.enter_async_context(streams)
        return Node(log, hub, streams, Sync(hub=hub, reader=reader), stack)

    async def do(self, step: Step) -> None:
        what, number, a = step
        node = self.nodes[number]
        match what:
            case "send":
                self.serial += 1
                with suppress(HubbubError):
                    await node.hub.submit(GROUP, send(USERS[a % 3], self.serial), timeout_s=1.0)
            case "change":
                await self.change(node, a)
            case "lose":
                node.log.live_faults.extend([None] * (a % 3) + [LiveFault.LOST] * (1 + a % 2))
            case "cut":
                node.log.cut()
                asyncio.get_running_loop().call_later((0.01, 0.2, 4.0, 70.0)[a % 4], node.log.heal)
            case "move":
                client = self.clients[a % 3]
                client.node = number
                if client.stream is not None:
                    client.stream.drain(0.0)
            case "start again":
                self.clients[a % 3].start_again()
            case "restart":
                await node.stack.aclose()
                self.parts.server.nodes.remove(node.log)
                self.nodes[number] = await self.start_node()
            case "forget":
                node.forgets = True
            case "offer":
                self.clients[a % 3].wallet.offer = OFFERS[a // 3 % len(OFFERS)]
            case "quiet":
                await asyncio.sleep(32.0)  # a head check and a heartbeat: there is a token of all before
            case "project":
                await self.parts.project()
            case _:
                await asyncio.sleep((0.001, 0.05, 1.0, 25.0)[a % 4])
        await asyncio.sleep((0.0, 0.0005, 0.003, 0.02)[a % 4])

    async def change(self, node: Node, a: int) -> None:
        target = USERS[1 + a % 2]
        command = (
            AddMembers(actor_id=ALICE, user_ids=(target,))
            if a % 4 < 2
            else RemoveMember(actor_id=ALICE, user_id=target)
        )
        with suppress(HubbubError):
            await node.hub.submit(GROUP, command, timeout_s=1.0)
            if node.forgets:
                node.forgets = False
                return
            state = (await node.hub.at_head(GROUP)).state
            assert isinstance(state, ConversationState)
            await MembershipEffects(node.hub).spread(state, [target])

    async def relay(self) -> None:
        """Does what the relay worker does, all at once."""
        for event in self.parts.events():
            match event.kind:
                case MembersAdded(members=members):
                    users, joined = [member.user_id for member in members], True
                case MemberRemoved(user_id=user_id):
                    users, joined = [user_id], False
                case _:
                    continue
            for user_id in users:
                news = RecordMembership(conversation_id=GROUP, epoch=1, position=event.position, joined=joined)
                await self.nodes[0].hub.submit(user_id, news, timeout_s=8.0)

    # ---- the judge

    def members_at(self, position: int) -> set[UserId]:
        members: set[UserId] = set()
        for event in self.parts.events()[:position]:
            match event.kind:
                case MembersAdded(members=added):
                    members |= {member.user_id for member in added}
                case MemberRemoved(user_id=user_id):
                    members -= {user_id}
                case _:
                    pass
        return members

    def check_may_see(self, user_id: UserId, event: Event) -> None:
        """G5: live, a user gets what happens while a member, the own removal included."""
        if event.topic_id == GROUP:
            is_removal = isinstance(event.kind, MemberRemoved) and event.kind.user_id == user_id
            assert is_removal or user_id in self.members_at(event.position), "an event of somebody else's"
        else:
            assert event.topic_id == user_id

    def removals_of(self, user_id: UserId) -> list[int]:
        return [
            e.position for e in self.parts.events() if isinstance(e.kind, MemberRemoved) and e.kind.user_id == user_id
        ]


async def until(condition: Callable[[], bool]) -> None:
    """Lets virtual time pass until a condition holds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # any condition, not one that somebody sets
            await asyncio.sleep(0.1)


async def play(script: list[Step], seed: int, make_client: Callable[[UserId, Cluster, int], Runs]) -> Cluster:
    cluster = Cluster(seed)
    cluster.nodes = [await cluster.start_node() for _ in range(3)]
    made = CreateGroup(creator_id=ALICE, title="group", user_ids=(BOB,))
    await cluster.nodes[0].hub.submit(GROUP, made, timeout_s=8.0)
    await cluster.relay()
    cluster.clients = [make_client(user_id, cluster, number) for number, user_id in enumerate(USERS)]
    async with asyncio.TaskGroup() as group:
        running = [group.create_task(client.run()) for client in cluster.clients]
        await until(lambda: all(client.is_open() for client in cluster.clients))
        for step in script:
            await cluster.do(step)
        for node in cluster.nodes:
            node.log.live_faults.clear()
            node.log.heal()
        await asyncio.sleep(1.0)
        await cluster.relay()
        await asyncio.sleep(BOUND_S)
        for client in cluster.clients:
            client.judge()
        for task in running:
            task.cancel()
    for node in cluster.nodes:
        await node.stack.aclose()
    return cluster


@given(script=st.lists(steps, min_size=10, max_size=50), seed=st.integers(0, 2**16))
@settings(max_examples=60)
def test_clients_miss_nothing_and_see_nothing_they_may_not(script: list[Step], seed: int) -> None:
    """G4, G5."""
    run_in_virtual_time(play(script, seed, Client))


def test_client_that_was_added_and_removed_while_it_was_away_hears_of_an_end_at_most() -> None:
    """Found by the test above."""
    moves = [("send", 0, 0), ("move", 0, 0), ("send", 0, 0), ("forget", 0, 0), ("forget", 1, 0)]
    run_in_virtual_time(play([*moves, ("change", 0, 1), ("change", 1, 3), ("move", 0, 8)], 0, Client))


def test_clients_of_this_machine_do_resume() -> None:
    """Otherwise it says nothing about tokens."""
    moves = [("quiet", 0, 0), ("move", 1, 0), ("send", 0, 0), ("move", 2, 1), ("move", 0, 2)]
    assert run_in_virtual_time(play(moves, 0, Client)).resumed >= 3
