"""Any interleaving of nodes, clients and faults around one conversation keeps the promises G2, G3 and G5.

Hypothesis plays a cluster (model_cluster.py): two to four nodes with own clocks, own windows of 1 to 64 ids and own
ideas of how far the store is, lost and late answers of the log, crashes, a store that lags or is down, retries at any
time from any node. After each step the whole log is judged.
"""

from collections.abc import Iterator
from itertools import count

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from hubbub_server.domain.commands import (
    AddMembers,
    Changed,
    ConversationCommand,
    CreateGroup,
    RemoveMember,
    SendMessage,
    Sent,
)
from hubbub_server.domain.errors import (
    ConversationNotFound,
    IdReused,
    NotPermitted,
    SendOrder,
    StoreUnavailable,
    WrongState,
)
from hubbub_server.domain.events import (
    ConversationCreated,
    Event,
    MemberRemoved,
    MembersAdded,
    MessageSent,
    changes_access,
)
from hubbub_server.domain.id_window import IdKey
from hubbub_server.domain.ids import ClientMessageId
from hubbub_server.domain.message import TextContent
from tests.unit.domain.builders import NOW_MS, user, uuid4, uuid7
from tests.unit.domain.model_cluster import Answered, Fate, Log, Node, Store

USERS = [user(f"{n}") for n in range(4)]
OWNER = USERS[0]
DAY_MS = 24 * 60 * 60 * 1000
FOREVER_MS = 2**48 - 1


def rarely(extreme: st.SearchStrategy[int], usual: st.SearchStrategy[int]) -> st.SearchStrategy[int]:
    """Draws from `extreme` one time in eight: a jump of days hides what happens within seconds."""
    return st.integers(0, 7).flatmap(lambda draw: extreme if draw == 7 else usual)


# A UUIDv7 of a time around now, around the newest commit, or of a clock that is anywhere; None is a UUIDv4.
id_times = st.one_of(
    st.none(),
    st.tuples(st.just("now"), st.integers(-600_000, 600_000)),
    st.tuples(st.just("commit"), st.integers(-2, 2) | st.integers(0, 300_000)),
    st.tuples(st.just("zero"), st.one_of(st.integers(0, FOREVER_MS), st.sampled_from([0, 1, FOREVER_MS]))),
)
new_sends = st.tuples(st.just("send"), st.integers(0, 3), id_times, st.booleans())
past = st.integers(0, 3) | st.integers(0, 1_000)  # how many sends ago
retries = st.tuples(st.just("retry"), past, st.booleans())
changes = st.tuples(st.sampled_from(["add", "remove"]), st.integers(0, 3), st.integers(0, 3))
queues = st.lists(st.one_of(new_sends, new_sends, retries, changes), min_size=1, max_size=6)
fates = st.lists(st.sampled_from(Fate), max_size=3)
CommandSpec = tuple[str, int, object] | tuple[str, int, object, bool]


class ConversationMachine(RuleBasedStateMachine):
    """A cluster around one group. Rules are what may happen; invariants are what was promised."""

    def __init__(self) -> None:
        super().__init__()
        self.log = Log()
        self.store = Store(self.log)
        self.nodes: list[Node] = []
        self.sends: list[SendMessage] = []
        self.texts: dict[IdKey, str] = {}
        self.acknowledged = 0
        self.now_ms = NOW_MS
        self.serials = count(1)
        self.judged = 0

    # ---- what may happen

    @initialize(
        nodes=st.lists(
            st.tuples(st.integers(1, 64) | st.integers(1, 3), st.integers(-600_000, 600_000)), min_size=2, max_size=4
        ),
        members=st.integers(0, 3),
    )
    def start(self, nodes: list[tuple[int, int]], members: int) -> None:
        record_ids = count(1)
        for capacity, offset_ms in nodes:
            node = Node(self.log, self.store, capacity, self.now_ms + offset_ms, record_ids=record_ids)
            self.nodes.append(node)
        command = CreateGroup(creator_id=OWNER, title="tea", user_ids=tuple(USERS[1 : 1 + members]))
        self.check_answers(self.nodes[0].commit([command, command], iter(())))

    @rule(node=st.integers(0, 3), queue=queues, fate=fates)
    def serve(self, node: int, queue: list[CommandSpec], fate: list[Fate]) -> None:
        chosen = self.nodes[node % len(self.nodes)]
        commands = [self.command(spec) for spec in queue]
        self.serve_commands(chosen, commands, iter(fate))

    @precondition(lambda self: self.sends)
    @rule(node=st.integers(0, 3), which=past, other_text=st.booleans(), fate=fates)
    def retry(self, node: int, which: int, other_text: bool, fate: list[Fate]) -> None:
        chosen = self.nodes[node % len(self.nodes)]
        self.serve_commands(chosen, [self.command(("retry", which, other_text))], iter(fate))

    @precondition(lambda self: any(node.pending for node in self.nodes))
    @rule(node=st.integers(0, 3), fate=fates)
    def settle(self, node: int, fate: list[Fate]) -> None:
        unsure = [n for n in self.nodes if n.pending is not None]
        self.check_answers(unsure[node % len(unsure)].settle(iter(fate)))

    @precondition(lambda self: self.log.in_flight)
    @rule(which=st.integers(0, 1_000))
    def late_append_lands(self, which: int) -> None:
        record = self.log.in_flight.pop(which % len(self.log.in_flight))
        self.log.append(record)

    @rule(node=st.integers(0, 3), records=st.integers(0, 5))
    def live_records_are_heard(self, node: int, records: int) -> None:
        chosen = self.nodes[node % len(self.nodes)]
        if chosen.state is not None and chosen.pending is None:
            chosen.hear(min(chosen.sequence + records, len(self.log.records)))

    @rule(records=st.integers(0, 20))
    def projector_applies(self, records: int) -> None:
        if self.store.is_up:
            self.store.applied = min(self.store.applied + records, len(self.log.records))

    @rule(node=st.integers(0, 3))
    def node_learns_how_far_the_store_is(self, node: int) -> None:
        chosen = self.nodes[node % len(self.nodes)]
        if chosen.state is not None and self.store.is_up:
            chosen.applied_seen = min(self.store.position, chosen.state.position)
            chosen.trim()

    @precondition(lambda self: self.sends and self.store.is_up)
    @rule(node=st.integers(0, 3), which=past, rows_ahead=st.integers(0, 3), records=st.integers(0, 20))
    def retry_waits_for_a_slow_lookup(self, node: int, which: int, rows_ahead: int, records: int) -> None:
        chosen = self.nodes[node % len(self.nodes)]
        command = self.command(("retry", which, False))
        assert isinstance(command, SendMessage)
        chosen.old_lookups = [self.store.find_ids(frozenset({key_of(command)}), rows_ahead=rows_ahead)]
        self.projector_applies(records)
        self.node_learns_how_far_the_store_is(node)
        self.serve_commands(chosen, [command], iter(()))
        chosen.old_lookups = []

    @rule(is_up=st.booleans())
    def store_goes_down_or_up(self, is_up: bool) -> None:
        self.store.is_up = is_up

    @rule(node=st.integers(0, 3))
    def node_crashes(self, node: int) -> None:
        self.nodes[node % len(self.nodes)].crash()

    @rule(node=st.integers(0, 3), offset_ms=rarely(st.integers(-DAY_MS, DAY_MS), st.integers(-5_000, 5_000)))
    def clock_jumps(self, node: int, offset_ms: int) -> None:
        self.nodes[node % len(self.nodes)].clock_ms = self.now_ms + offset_ms

    @rule(passed_ms=rarely(st.integers(0, 8 * DAY_MS), st.integers(0, 2_000)))
    def time_passes(self, passed_ms: int) -> None:
        self.now_ms += passed_ms
        for node in self.nodes:
            node.clock_ms += passed_ms

    # ---- how commands are made and answers judged

    def command(self, spec: CommandSpec) -> ConversationCommand:
        match spec:
            case ("send", int(sender), id_time, bool(is_pipelined)):
                return self.new_send(sender, id_time, is_pipelined=is_pipelined)
            case ("retry", int(which), other_text) if self.sends:
                first = self.sends[-1 - which % len(self.sends)]
                content = TextContent(text="other") if other_text else first.content
                return SendMessage(
                    sender_id=first.sender_id,
                    client_message_id=first.client_message_id,
                    content=content,
                    previous_client_message_id=first.previous_client_message_id,
                )
            case ("retry", _, _):
                return self.new_send(0, None, is_pipelined=False)
            case ("add", int(actor), int(target)):
                return AddMembers(actor_id=USERS[actor], user_ids=(USERS[target],))
            case ("remove", int(actor), int(target)):
                return RemoveMember(actor_id=USERS[actor], user_id=USERS[target])
            case other:
                raise AssertionError(other)

    def new_send(self, sender: int, id_time: object, *, is_pipelined: bool) -> SendMessage:
        sender_id = USERS[sender]
        own = [s.client_message_id for s in self.sends if s.sender_id == sender_id]
        command = SendMessage(
            sender_id=sender_id,
            client_message_id=self.new_id(id_time),
            content=TextContent(text="hello"),
            previous_client_message_id=own[-1] if own and is_pipelined else None,
        )
        self.sends.append(command)
        return command

    def new_id(self, id_time: object) -> ClientMessageId:
        serial = next(self.serials)
        match id_time:
            case (base, int(offset_ms)):
                bases = {"now": self.now_ms, "commit": self.log.states[-1].commit_time_ms, "zero": 0}
                return uuid7(min(max(bases[str(base)] + offset_ms, 0), FOREVER_MS), serial)
            case _:
                return uuid4(serial)

    def serve_commands(self, node: Node, commands: list[ConversationCommand], fate: Iterator[Fate]) -> None:
        if node.is_unsure:
            return  # this topic takes no other commit of this node
        acknowledged = self.acknowledged
        try:
            answers = node.commit(commands, fate)
        except StoreUnavailable:
            assert node.state is None  # only an activation needs the store as a whole
            return
        assert all(answered.position >= acknowledged for answered in answers), "an answer from before the call"
        self.check_answers(answers)

    def check_answers(self, answers: list[Answered]) -> None:
        for answered in answers:
            command, answer = answered.command, answered.answer
            if isinstance(answer, Sent | Changed):
                self.acknowledged = max(self.acknowledged, answer.cursor.position)
            if isinstance(answer, StoreUnavailable):
                assert not self.store.is_up
            elif isinstance(command, SendMessage):
                self.check_send(command, answer, answered.position)
            else:
                self.check_change(command, answer, answered.position)

    def check_send(self, command: SendMessage, answer: object, position: int) -> None:
        is_member = command.sender_id in self.log.members_at[position]
        assert is_member != isinstance(answer, ConversationNotFound)
        events = self.log.messages.get(key_of(command), [])
        first = events[0] if events else None
        match answer:
            case ConversationNotFound():
                pass
            case Sent():
                assert first is not None
                assert isinstance(first.kind, MessageSent)
                assert first.kind.message.content == command.content
                assert (answer.message_number, answer.commit_time_ms) == (first.message_number, first.commit_time_ms)
                assert (answer.cursor.position, answer.cursor.epoch) == (first.position, first.epoch)
            case IdReused(first_number=number):
                assert first is not None
                assert isinstance(first.kind, MessageSent)
                assert first.message_number == number
                assert first.kind.message.content != command.content
            case SendOrder():
                assert command.previous_client_message_id is not None
                before = self.log.messages.get((command.sender_id, command.previous_client_message_id), [])
                assert all(event.position > position for event in before)
                assert first is None or first.position > position
            case other:
                raise AssertionError(other)

    def check_change(self, command: ConversationCommand, answer: object, position: int) -> None:
        members = self.log.members_at[position]
        match command:
            case AddMembers(actor_id=actor_id) | RemoveMember(actor_id=actor_id):
                assert (actor_id in members) != isinstance(answer, ConversationNotFound)
            case _:
                pass
        if isinstance(answer, Changed):
            after = self.log.members_at[answer.cursor.position]
            match command:
                case AddMembers(user_ids=user_ids):
                    assert after.issuperset(user_ids)
                case RemoveMember(user_id=user_id):
                    assert user_id not in after
                case _:
                    assert after
        else:
            assert isinstance(answer, ConversationNotFound | NotPermitted | WrongState)

    # ---- what was promised

    @invariant()
    def the_log_keeps_its_promises(self) -> None:
        """G2, G3, G5, judged from the events alone."""
        events = list(self.log.events())
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        sent = [event for event in events if isinstance(event.kind, MessageSent)]
        assert [event.message_number for event in sent] == list(range(1, len(sent) + 1))
        assert [event.kind.message.counted_number for event in sent if isinstance(event.kind, MessageSent)] == list(
            range(1, len(sent) + 1)
        )
        assert all(len(uses) == 1 for uses in self.log.messages.values()), "a retried send became two messages"
        times = [event.commit_time_ms for event in events]
        assert times == sorted(times)
        self.judge_membership(events)

    def judge_membership(self, events: list[Event]) -> None:
        for record in self.log.records[self.judged :]:
            changes_in_it = sum(map(changes_access, record.events))
            is_creation = isinstance(record.events[0].kind, ConversationCreated)
            assert changes_in_it == 0 or len(record.events) == 1 or is_creation
        self.judged = len(self.log.records)
        members = set[str]()
        for event in events:
            match event.kind:
                case MembersAdded(members=added):
                    members |= {member.user_id for member in added}
                case MemberRemoved(user_id=user_id):
                    members -= {user_id}
                case MessageSent(message=message):
                    assert message.sender_id in members, "a message of somebody who was no member"

    @invariant()
    def pipelines_keep_their_order(self) -> None:
        """C06."""
        for command in self.sends:
            events = self.log.messages.get(key_of(command), [])
            if events and command.previous_client_message_id is not None:
                before = self.log.messages[(command.sender_id, command.previous_client_message_id)]
                assert before[0].position < events[0].position

    @invariant()
    def every_node_is_at_some_place_of_the_one_order(self) -> None:
        """G2: the state of a node is that of a prefix of the log, and its window misses only what the store has."""
        for node in self.nodes:
            if node.state is None:
                continue
            truth = self.log.states[node.sequence]
            kept = node.state.window
            assert (node.state.position, node.state.head) == (truth.position, truth.head)
            assert node.state.members == truth.members
            assert node.state.former_members == truth.former_members
            assert node.state.commit_time_ms == truth.commit_time_ms
            for key, (event, *_) in self.log.messages.items():
                if event.position <= node.state.position:
                    entry = kept.get(key)
                    assert entry == truth.window.get(key) or (entry is None and event.position <= self.store.position)


def key_of(command: SendMessage) -> IdKey:
    return (command.sender_id, command.client_message_id)


TestConversationMachine = ConversationMachine.TestCase
TestConversationMachine.settings = settings(max_examples=60, stateful_step_count=40)
