"""The real hubs and committers of several nodes on one log keep G1 to G5, whatever goes wrong in between.

Hypothesis writes a script of commands and faults. The nodes run it on virtual time: appends that conflict, get lost,
come late or lose their answer; live records that are lost or doubled; cut links; a store that is down or lags; callers
that give up or are cancelled; nodes that restart. Every answer is judged when it comes; then all is healed, every id is
sent once more from every node, and the whole log is judged.
"""

import asyncio
import random
from collections.abc import Callable, Collection
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub_server.app.topic_hub import TopicHub
from hubbub_server.domain.commands import AddMembers, Changed, CreateGroup, RemoveMember, SendMessage, Sent
from hubbub_server.domain.errors import (
    ConversationNotFound,
    HubbubError,
    IdReused,
    NotPermitted,
    OutcomeUnknown,
    SendOrder,
    Unavailable,
    WrongState,
)
from hubbub_server.domain.events import MemberRemoved, MembersAdded, MessageSent, changes_access
from hubbub_server.domain.id_window import IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.message import TextContent
from hubbub_server.ports.topic_directory import StoredTopic
from tests.support.app_node import ALICE, BOB, CAROL, CODEC, GROUP, AppCluster, Listener
from tests.support.fakes.store import FakeStore
from tests.support.fakes.topic_log import AppendFault, FakeTopicLog, LiveFault
from tests.support.loaders import fake_ports
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.domain.builders import uuid4, uuid7

LATENCIES_S = [0.0005, 0.001, 0.001, 0.002, 0.004, 0.03, 0.2]
USERS = (ALICE, BOB, CAROL)
Step = tuple[str, int, int, int]

# (what, node, a, b): see Cluster.do. Commands are drawn more often than faults.
NODES = st.integers(0, 2)
numbers = st.integers(0, 63)
commands = ("send", "send", "burst", "burst", "pipeline", "retry", "retry", "change", "change", "read")
faults = ("append", "append", "append", "live", "live", "cut", "store", "project", "project", "late", "cancel", "wait")
steps = st.tuples(st.sampled_from(commands) | st.sampled_from((*faults, "listen", "restart")), NODES, numbers, numbers)
scripts = st.lists(steps, min_size=40, max_size=100)


@dataclass
class LoopClock:
    """A node's clock: the loop's time, and an offset."""

    offset_ms: int

    def now_ms(self) -> int:
        return 1_800_000_000_000 + self.offset_ms + round(asyncio.get_running_loop().time() * 1000)

    def monotonic_s(self) -> float:
        return asyncio.get_running_loop().time()


class SlowStore(FakeStore):
    """A store whose answers are of some time ago when they arrive."""

    def __init__(self, latency_s: Callable[[], float]) -> None:
        super().__init__()
        self._latency_s = latency_s

    async def find_ids(self, conversation_id: ConversationId, keys: Collection[IdKey]) -> IdLookup:
        found = await super().find_ids(conversation_id, keys)
        await asyncio.sleep(self._latency_s())
        return found

    async def load(self, topic_id: TopicId) -> StoredTopic | None:
        stored = await super().load(topic_id)
        await asyncio.sleep(self._latency_s())
        return stored


@dataclass
class Node:
    """One node and what listens on it."""

    log: FakeTopicLog
    hub: TopicHub
    stack: AsyncExitStack
    listeners: list[tuple[int, Listener]] = field(default_factory=list)


@dataclass
class Call:
    """One call of a client: what it asked, and what the log had acknowledged before it."""

    command: SendMessage | AddMembers | RemoveMember
    known: int
    task: asyncio.Task[object] | None = None


class Cluster:
    """Nodes that share a log and a store, a client that calls them, and the judge."""

    def __init__(self, seed: int, window_capacity: int, offsets_ms: list[int]) -> None:
        chance = random.Random(seed)
        self.parts = AppCluster(store=SlowStore(lambda: chance.choice(LATENCIES_S)))
        self.parts.server.latency_s = lambda: chance.choice(LATENCIES_S)
        self.window_capacity = window_capacity
        self.offsets_ms = offsets_ms
        self.nodes: list[Node] = []
        self.sends: list[SendMessage] = []
        self.calls: list[Call] = []
        self.results: list[tuple[Call, object]] = []
        self.acknowledged = 0
        self.serials = count(1)

    async def start_node(self, number: int) -> Node:
        log = self.parts.server.connect()
        hub = TopicHub(
            fake_ports(
                self.parts.server, log, self.parts.store, clock=LoopClock(self.offsets_ms[number]), ids=self.parts.ids
            ),
            head_check_interval_s=30.0,
            recheck_delay_s=1.0,
            window_capacity=self.window_capacity,
        )
        stack = AsyncExitStack()
        await stack.enter_async_context(hub)
        return Node(log, hub, stack)

    # ---- the script

    async def do(self, step: Step) -> None:
        what, number, a, b = step
        node = self.nodes[number]
        match what:
            case "send" | "pipeline":
                self.call(node, self.new_send(a, b, is_pipelined=what == "pipeline"), b)
            case "burst":
                for number in range(1 + a % 6):
                    self.call(node, self.new_send(a, b + number, is_pipelined=number % 2 == 1), b)
            case "retry" if self.sends:
                first = self.sends[-1 - a % len(self.sends)]
                text = "other" if b % 4 == 0 else "words"
                self.call(node, again(first, text), b)
            case "change":
                command = AddMembers if b % 2 else RemoveMember
                target = USERS[a % 3]
                if command is AddMembers:
                    self.call(node, AddMembers(actor_id=ALICE, user_ids=(target,)), b)
                else:
                    self.call(node, RemoveMember(actor_id=target if b % 4 else ALICE, user_id=target), b)
            case "read":
                await self.read(node)
            case "append":
                node.log.append_faults.append([None, *AppendFault][a % (len(AppendFault) + 1)])
            case "live":
                node.log.live_faults.append([None, *LiveFault][a % (len(LiveFault) + 1)])
            case "cut":
                node.log.cut()
                asyncio.get_running_loop().call_later((0.01, 0.2, 4.0, 15.0)[a % 4], node.log.heal)
            case "store":
                self.parts.store.is_unavailable = True
                asyncio.get_running_loop().call_later((0.01, 0.2, 4.0, 15.0)[a % 4], self.store_comes_back)
            case "project" if not self.parts.store.is_unavailable:
                await self.parts.project()
            case "late":
                self.parts.server.release_late()
            case "cancel" if self.calls:
                task = self.calls[-1 - a % len(self.calls)].task
                assert task is not None
                task.cancel()
            case "wait":
                await asyncio.sleep((0.001, 0.02, 0.1, 3.0, 40.0)[a % 5])
            case "listen":
                await self.listen(node)
            case "restart":
                await self.restart(number)
            case _:
                pass
        await asyncio.sleep((0.0, 0.0, 0.0, 0.0005, 0.003, 0.02)[b % 6])

    def store_comes_back(self) -> None:
        self.parts.store.is_unavailable = False

    def new_send(self, a: int, b: int, *, is_pipelined: bool) -> SendMessage:
        sender_id = USERS[a % 3]
        own = [s.client_message_id for s in self.sends if s.sender_id == sender_id]
        now_ms = LoopClock(0).now_ms()
        serial = next(self.serials)
        offset_ms = (0, -1, 1, 240_000, -600_000, 290_000, 310_000)[b % 7]
        command = SendMessage(
            sender_id=sender_id,
            client_message_id=uuid4(serial) if b % 9 == 8 else uuid7(now_ms + offset_ms, serial),
            content=TextContent(text="words"),
            previous_client_message_id=own[-1] if own and is_pipelined else None,
        )
        self.sends.append(command)
        return command

    def call(self, node: Node, command: SendMessage | AddMembers | RemoveMember, b: int) -> None:
        call = Call(command, self.acknowledged)
        call.task = asyncio.get_running_loop().create_task(self.run_call(node, call, (0.01, 8.0, 8.0)[b % 3]))
        self.calls.append(call)

    async def run_call(self, node: Node, call: Call, timeout_s: float) -> object:
        try:
            result: object = await node.hub.submit(GROUP, call.command, timeout_s=timeout_s)
        except HubbubError as error:
            result = error
        self.judge(call, result)
        self.results.append((call, result))
        return result

    async def read(self, node: Node) -> None:
        known = self.acknowledged
        with suppress(Unavailable):
            topic = await node.hub.at_head(GROUP)
            assert topic.head.cursor.position >= known, "a read lacks what was acknowledged before it"

    async def listen(self, node: Node) -> None:
        listener = Listener()
        with suppress(Unavailable):
            head = await node.hub.subscribe(GROUP, listener)
            node.listeners.append((head.cursor.position, listener))

    async def restart(self, number: int) -> None:
        old = self.nodes[number]
        await old.stack.aclose()
        self.parts.server.nodes.remove(old.log)
        self.nodes[number] = await self.start_node(number)

    # ---- the judge

    def first_uses(self) -> dict[IdKey, tuple[int, int, str]]:
        """Number, position and text of each client id, from the log; fails when one was used twice."""
        uses: dict[IdKey, tuple[int, int, str]] = {}
        for event in self.parts.history():
            if isinstance(event.kind, MessageSent):
                message = event.kind.message
                key = (message.sender_id, message.client_message_id)
                assert key not in uses, "a retried send became two messages"
                assert isinstance(message.content, TextContent)
                uses[key] = (message.message_number, event.position, message.content.text)
        return uses

    def members_after(self, start: int) -> list[set[UserId]]:
        """The members at each position from `start` to the head of the log."""
        members: set[UserId] = set()
        history = [set(members)]
        for event in self.parts.history():
            match event.kind:
                case MembersAdded(members=added):
                    members |= {m.user_id for m in added}
                case MemberRemoved(user_id=user_id):
                    members -= {user_id}
                case _:
                    pass
            history.append(set(members))
        return history[start:]

    def judge(self, call: Call, result: object) -> None:
        """Judges an answer at the moment at which it comes."""
        since = self.members_after(call.known)
        match call.command:
            case SendMessage() as command:
                self.judge_send(command, result, since)
            case AddMembers(user_ids=users):
                if isinstance(result, Changed):
                    assert any(members.issuperset(users) for members in since)
                else:
                    assert isinstance(result, Unavailable | WrongState)
            case RemoveMember(actor_id=actor_id, user_id=user_id):
                if isinstance(result, Changed):
                    assert any(user_id not in members for members in since)
                elif isinstance(result, ConversationNotFound):
                    assert any(actor_id not in members for members in since)
                else:
                    assert isinstance(result, Unavailable | WrongState | NotPermitted)
        if isinstance(result, Sent | Changed):
            self.acknowledged = max(self.acknowledged, result.cursor.position)

    def judge_send(self, command: SendMessage, result: object, since: list[set[UserId]]) -> None:
        use = self.first_uses().get((command.sender_id, command.client_message_id))
        match result:
            case Sent():
                assert use is not None, "acknowledged, and not in the log"
                assert (result.message_number, result.cursor.position, text_of(command)) == use
            case IdReused(first_number=number):
                assert use is not None
                assert number == use[0]
                assert text_of(command) != use[2]
            case ConversationNotFound():
                assert any(command.sender_id not in members for members in since), "a member was refused"
            case SendOrder():
                assert command.previous_client_message_id is not None
            case other:
                assert isinstance(other, Unavailable), other

    # ---- the end

    async def heal_and_judge(self) -> None:
        """Takes all faults away, waits for every call, sends every id again from every node, judges the log."""
        self.parts.store.is_unavailable = False
        for node in self.nodes:
            node.log.append_faults.clear()
            node.log.live_faults.clear()
            node.log.heal()
        await asyncio.gather(*(call.task for call in self.calls if call.task), return_exceptions=True)
        for call in self.calls:
            assert call.task is not None
            if not call.task.cancelled() and (error := call.task.exception()) is not None:
                raise error
        self.judge_what_never_happened()
        await asyncio.sleep(35.0)  # one head check
        self.judge_listeners()
        await self.send_all_again()
        self.judge_log()
        for node in self.nodes:
            await node.stack.aclose()

    def judge_what_never_happened(self) -> None:
        """Whoever heard "certainly not done" must be right, late appends included."""
        self.parts.server.release_late()
        used = self.first_uses()
        hopes: dict[IdKey, list[object]] = {}
        for call, result in self.results:
            if isinstance(call.command, SendMessage):
                hopes.setdefault(key_of(call.command), []).append(result)
        answered = {id(call) for call, _ in self.results}
        silent = {key_of(c.command) for c in self.calls if isinstance(c.command, SendMessage) and id(c) not in answered}
        for key, results in hopes.items():
            if key in used and key not in silent:
                assert any(isinstance(r, Sent | IdReused | OutcomeUnknown) for r in results), (
                    "it was said to be not done"
                )

    async def send_all_again(self) -> None:
        used = self.first_uses()
        await asyncio.sleep(1.0)
        for node in self.nodes:
            for command in self.sends:
                use = used.get(key_of(command))
                if use is None:
                    continue
                call = Call(again(command, use[2]), self.acknowledged)
                result = await self.run_call(node, call, 8.0)
                if not isinstance(result, ConversationNotFound):
                    assert isinstance(result, Sent), result
                    assert result.message_number == use[0]

    def judge_log(self) -> None:
        """G2, G3, G5."""
        events = self.parts.history()
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        sent = [event for event in events if isinstance(event.kind, MessageSent)]
        assert [event.message_number for event in sent] == list(range(1, len(sent) + 1))
        times = [event.commit_time_ms for event in events]
        assert times == sorted(times)
        history = self.members_after(0)
        uses = self.first_uses()
        for event in sent:
            assert isinstance(event.kind, MessageSent)
            assert event.kind.message.sender_id in history[event.position - 1], "a message of no member"
        for command in self.sends:
            use = uses.get(key_of(command))
            if use is not None and command.previous_client_message_id is not None:
                before = uses[(command.sender_id, command.previous_client_message_id)]
                assert before[1] < use[1], "a pipeline lost its order"
        for record in self.parts.server.history[GROUP][1:]:
            decoded = [d.event for d in CODEC.decode(record.body)]
            assert len(decoded) == 1 or not any(map(changes_access, decoded))

    def judge_listeners(self) -> None:
        """G4: each listener heard every event after its head once and in order, the last one included."""
        events = self.parts.history()
        for node in self.nodes:
            for start, listener in node.listeners:
                assert listener.events == events[start:]


def again(command: SendMessage, text: str) -> SendMessage:
    return SendMessage(
        sender_id=command.sender_id,
        client_message_id=command.client_message_id,
        content=TextContent(text=text),
        previous_client_message_id=command.previous_client_message_id,
    )


def text_of(command: SendMessage) -> str:
    assert isinstance(command.content, TextContent)
    return command.content.text


def key_of(command: SendMessage) -> IdKey:
    return (command.sender_id, command.client_message_id)


async def play(script: list[Step], cluster: Cluster) -> None:
    for number in range(3):
        cluster.nodes.append(await cluster.start_node(number))
    created = CreateGroup(creator_id=ALICE, title="group", user_ids=(BOB,))
    answer = await cluster.nodes[0].hub.submit(GROUP, created, timeout_s=8.0)
    cluster.acknowledged = answer.cursor.position
    for step in script:
        await cluster.do(step)
    await cluster.heal_and_judge()


@given(
    script=scripts,
    seed=st.integers(0, 2**16),
    window_capacity=st.sampled_from([1, 2, 3, 8, 64]),
    offsets_ms=st.lists(st.sampled_from([0, 0, 5, -2_000, 30_000, -30_000]), min_size=3, max_size=3),
)
@settings(max_examples=40)
def test_nodes_keep_every_promise_whatever_goes_wrong(
    script: list[Step], seed: int, window_capacity: int, offsets_ms: list[int]
) -> None:
    """G1, G2, G3, G4, G5."""
    run_in_virtual_time(play(script, Cluster(seed, window_capacity, offsets_ms)))
