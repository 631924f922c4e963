"""A model of a cluster around one conversation: a log with compare-and-set, a store that lags behind, and nodes.

Everything here is synchronous, and every fault is an argument. A node does what DESIGN 3.1 says of a commit, in its
shortest form: decide on its own state, append at the place where that state ends, settle what it does not know, answer
only what the log confirmed. The log keeps the truth that the tests compare with.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum

from hubbub_server.domain.commands import Accepted, Answer, ConversationCommand, Done, LookupNeeded, Refused
from hubbub_server.domain.conversation import ConversationState, decide, evolve
from hubbub_server.domain.errors import HubbubError, StoreUnavailable
from hubbub_server.domain.events import Event, MessageSent, changes_access
from hubbub_server.domain.id_window import IdKey, IdLookup, IdWindow, entry_time_ms
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import RECORD_MAX_EVENTS
from tests.unit.domain.builders import empty


class Fate(Enum):
    """What becomes of one append, and whether its node hears of it."""

    ACK = "appended, and the node is told"
    LOST_ACK = "appended, and the node is not told"
    LOST = "never appended, and the node is not told"
    LATE = "perhaps appended later, and the node is not told"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What one append carries; `after` is the number of records that it expects in the log."""

    record_id: int
    after: int
    events: tuple[Event, ...]
    hashes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """A command and its answer. It was decided on the state at `position`."""

    command: ConversationCommand
    answer: Answer | HubbubError
    position: int


class Log:
    """One subject of the log, with all the truth that can be derived from it."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.in_flight: list[Record] = []
        self.states = [empty()]
        self.members_at: list[frozenset[UserId]] = [frozenset()]
        self.messages: dict[IdKey, list[Event]] = {}

    def append(self, record: Record) -> bool:
        """Compare-and-set; tells whether the record was appended."""
        if record.after != len(self.records):
            return False
        self.records.append(record)
        state = self.states[-1]
        for event, hash_of_request in zip(record.events, record.hashes, strict=True):
            state = evolve(state, event, hash_of_request)
            self.members_at.append(frozenset(state.members))
            if isinstance(event.kind, MessageSent):
                message = event.kind.message
                self.messages.setdefault((message.sender_id, message.client_message_id), []).append(event)
        self.states.append(state)
        return True

    def events(self) -> Iterator[Event]:
        """All events in order."""
        return (event for record in self.records for event in record.events)


@dataclass
class Store:
    """What the projector made of the log: everything of the first `applied` records."""

    log: Log
    applied: int = 0
    is_up: bool = True

    @property
    def position(self) -> int:
        """The applied position."""
        return self.log.states[self.applied].position

    def find_ids(self, keys: frozenset[IdKey], *, rows_ahead: int = 0) -> IdLookup:
        """Looks ids up; rows of `rows_ahead` records above the applied ones are there already."""
        if not self.is_up:
            raise StoreUnavailable("down")
        window = self.log.states[min(self.applied + rows_ahead, len(self.log.records))].window
        found = {key: entry for key in keys if (entry := window.get(key)) is not None}
        return IdLookup(applied_position=self.position, keys=keys, found=found)

    def load(self) -> tuple[ConversationState, int]:
        """Returns the state at the applied position, as ports/topic_directory.py says, and the record it ends with."""
        if not self.is_up:
            raise StoreUnavailable("down")
        state = self.log.states[self.applied]
        floor_ms = 0
        for (_, client_message_id), (event, *_) in self.log.messages.items():
            if event.position <= state.position:
                floor_ms = max(floor_ms, entry_time_ms(client_message_id, event.commit_time_ms))
        return replace(state, window=IdWindow(floor_ms, state.position)), self.applied


@dataclass
class Pending:
    """An append of which the node does not know what became."""

    record: Record
    decided: list[tuple[ConversationCommand, Answered]]


@dataclass
class Node:
    """A node: its copy of the conversation may be old, its clock is its own."""

    log: Log
    store: Store
    capacity: int
    clock_ms: int
    state: ConversationState | None = None
    sequence: int = 0
    applied_seen: int = 0
    pending: Pending | None = None
    old_lookups: list[IdLookup] = field(default_factory=list)
    record_ids: Iterator[int] = field(default_factory=lambda: iter(range(1_000_000)))

    @property
    def is_unsure(self) -> bool:
        """Whether an append of this node is not settled: until then the topic takes no other commit of it."""
        return self.pending is not None

    def crash(self) -> None:
        """Forgets everything; what is in flight stays in flight."""
        self.state, self.pending, self.old_lookups = None, None, []

    def activate(self) -> ConversationState:
        """Reads the stored state and the tail. Raises StoreUnavailable."""
        if self.state is None:
            self.state, self.sequence = self.store.load()
            self.applied_seen = self.state.position
        return self.hear(len(self.log.records))

    def hear(self, sequence: int) -> ConversationState:
        """Folds records up to `sequence` of the log, as live delivery or a read of the tail brings them."""
        assert self.state is not None
        for record in self.log.records[self.sequence : sequence]:
            for event, hash_of_request in zip(record.events, record.hashes, strict=True):
                self.state = evolve(self.state, event, hash_of_request)
            self.sequence += 1
            self.trim()
        return self.state

    def trim(self) -> None:
        """Lets ids leave the window that the store has, as far as this node knows."""
        assert self.state is not None
        window = self.state.window.trim(self.applied_seen, self.capacity)
        self.state = replace(self.state, window=window)

    def commit(self, commands: Sequence[ConversationCommand], fates: Iterator[Fate]) -> list[Answered]:
        """Serves a queue of commands: as many records as it takes. Returns the answers that were given."""
        queue, answers = list(commands), list[Answered]()
        if self.state is None:
            self.activate()
        while queue and not self.is_unsure:
            decided, record = self._decide(queue)
            if record is None:
                if self.sequence < len(self.log.records):
                    self.hear(len(self.log.records))
                    continue
                answers += [answered for _, answered in decided]
            elif not self._append(Pending(record=record, decided=decided), fates):
                continue
            elif not self.is_unsure:
                answers += [answered for _, answered in decided]
            queue = queue[len(decided) :]
        return answers

    def settle(self, fates: Iterator[Fate]) -> list[Answered]:
        """Does the next thing about an unknown outcome; returns the answers of an append that is known now."""
        pending = self.pending
        assert pending is not None
        after = pending.record.after
        self.pending = None
        if any(record.record_id == pending.record.record_id for record in self.log.records[after:]):
            self.hear(len(self.log.records))
            return [answered for _, answered in pending.decided]
        if len(self.log.records) > after:  # another record is there: ours will never be
            self.hear(len(self.log.records))
            return self.commit([command for command, _ in pending.decided], fates)
        self._append(pending, fates)
        return [] if self.is_unsure else [answered for _, answered in pending.decided]

    def _append(self, pending: Pending, fates: Iterator[Fate]) -> bool:
        """Appends once; False on a conflict. Afterwards the record is folded, or it is pending."""
        record = pending.record
        match next(fates, Fate.ACK):
            case Fate.ACK:
                if not self.log.append(record):
                    self.hear(len(self.log.records))
                    return False
                self.hear(len(self.log.records))
                return True
            case Fate.LOST_ACK:
                self.log.append(record)
            case Fate.LATE:
                self.log.in_flight.append(record)
            case Fate.LOST:
                pass
        self.pending = pending
        return True

    def _decide(
        self, queue: Sequence[ConversationCommand]
    ) -> tuple[list[tuple[ConversationCommand, Answered]], Record | None]:
        """Decides as many commands as fit into one record, each on the state that the ones before it would leave."""
        assert self.state is not None
        state, decided = self.state, list[tuple[ConversationCommand, Answered]]()
        events, hashes = list[Event](), list[str]()
        for command in queue:
            decision = self._decide_one(state, command)
            if isinstance(decision, Accepted):
                is_change = any(map(changes_access, decision.events))
                if events and (is_change or len(events) >= RECORD_MAX_EVENTS):
                    break
                answer: Answer | HubbubError = decision.answer
                decided.append((command, Answered(command=command, answer=answer, position=state.position)))
                for event, hash_of_request in zip(decision.events, decision.request_hashes, strict=True):
                    state = evolve(state, event, hash_of_request)
                events += decision.events
                hashes += decision.request_hashes
                if is_change:
                    break
            else:
                answer = decision.answer if isinstance(decision, Done) else decision.error
                decided.append((command, Answered(command=command, answer=answer, position=state.position)))
        if not events:
            return decided, None
        record = Record(
            record_id=next(self.record_ids), after=self.sequence, events=tuple(events), hashes=tuple(hashes)
        )
        return decided, record

    def _decide_one(self, state: ConversationState, command: ConversationCommand) -> Accepted | Done | Refused:
        decision = decide(state, command, self.clock_ms)
        for lookup in self.old_lookups:
            if isinstance(decision, LookupNeeded):
                decision = decide(state, command, self.clock_ms, lookup)
        if isinstance(decision, LookupNeeded):
            try:
                lookup = self.store.find_ids(decision.keys)
            except StoreUnavailable as error:
                return Refused(error=error)
            decision = decide(state, command, self.clock_ms, lookup)
        assert not isinstance(decision, LookupNeeded), "a fresh look-up must always do"
        return decision
