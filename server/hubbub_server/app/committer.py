"""Group commit of one topic on this node: decides queued commands in order and appends what they become.

Theory of operation. One batch is in flight at a time. While it is, commands queue; when it returns, all queued commands
are decided in order on the new state and go out as one record. The answers of a batch, refusals too, are released when
the record is acknowledged: the acknowledgement proves that they were decided at the head. A batch without events is
confirmed by reading the head from the leader. A conflict means that the head had moved: catch up, decide all again.

An unknown outcome is settled before anything else happens here: our record directly after the expectation means
committed, another one there means never, neither means: append the same bytes at the same expectation again. Senders
whose time ends meanwhile hear OutcomeUnknown, never "failed"; their retry finds the message by its id.
"""

import asyncio
import random
from collections import deque
from dataclasses import dataclass, field
from itertools import islice
from typing import Final, Protocol

import structlog

from hubbub_server.app.active_topic import ActiveTopic, LogRecreated, Made, Spawn
from hubbub_server.domain import topic as domain
from hubbub_server.domain.commands import Accepted, Answer, Command, Decision, Done, LookupNeeded, Refused, Sent
from hubbub_server.domain.errors import HubbubError, LogUnavailable, OutcomeUnknown, RateLimited, StoreUnavailable
from hubbub_server.domain.events import Event, changes_access
from hubbub_server.domain.id_window import IdKey, IdLookup
from hubbub_server.domain.ids import ConversationId
from hubbub_server.domain.limits import RECORD_MAX_BYTES, RECORD_MAX_EVENTS
from hubbub_server.domain.topic import TopicState
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.ports.message_store import MessageStore
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import AppendUnknown, Conflict, LogRecord, NewRecord, RecordFacts, TopicLog

_QUEUE_MAX: Final = 4096
_CONFLICT_WAIT_S: Final = 0.05
_PAUSE_MIN_S: Final = 0.02
_PAUSE_MAX_S: Final = 1.0
_SETTLE_FOR_S: Final = 3600.0
# What the headers of a record take: fixed ones, and one request hash an event.
_HEADERS_BYTES: Final = 1024
_HASH_BYTES: Final = 33

log = structlog.get_logger()


@dataclass(slots=True, kw_only=True, eq=False)
class Pending:
    """A command that waits for its answer. `is_sent`: it was part of a record that may be in the log."""

    command: Command
    session_id: str
    traceparent: str
    future: asyncio.Future[Answer]
    lookup: IdLookup | None = None
    is_sent: bool = False

    def succeed(self, answer: Answer) -> None:
        """Answers, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Refuses, unless nobody waits any more."""
        if not self.future.done():
            self.future.set_exception(error)

    def expire(self) -> None:
        """Ends the wait: OutcomeUnknown when the command may be in the log, else it is certainly not done."""
        if self.is_sent:
            self.fail(OutcomeUnknown("the outcome is not known yet, retry with the same id"))
        else:
            self.fail(LogUnavailable("the log does not answer, retry with the same id"))


@dataclass(slots=True, kw_only=True)
class _Batch:
    """Decisions on one state, and the record that they become."""

    state: TopicState  # after all of `events`
    decided: list[tuple[Pending, Decision]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    hashes: list[str] = field(default_factory=list)
    framed: list[bytes] = field(default_factory=list)
    size_bytes: int = _HEADERS_BYTES

    def has_room(self, framed: list[bytes]) -> bool:
        added = sum(map(len, framed)) + _HASH_BYTES * len(framed)
        return len(self.events) + len(framed) <= RECORD_MAX_EVENTS and self.size_bytes + added <= RECORD_MAX_BYTES

    def add(self, accepted: Accepted, framed: list[bytes]) -> None:
        self.events += accepted.events
        self.hashes += accepted.request_hashes
        self.framed += framed
        self.size_bytes += sum(map(len, framed)) + _HASH_BYTES * len(framed)

    def answer(self) -> None:
        for pending, decision in self.decided:
            match decision:
                case Accepted(answer=answer) | Done(answer=answer):
                    pending.succeed(answer)
                case Refused(error=error):
                    pending.fail(error)

    def needs_confirmation(self) -> bool:
        """Only the number that a message once got is true for ever; all else holds at the head alone."""
        return any(not (isinstance(d, Done) and isinstance(d.answer, Sent)) for _, d in self.decided)


class CommitGuard(Protocol):
    """Knows which shards may be committed to; see app/epoch_guard.py."""

    async def ensure(self, shard: int, *, is_fresh: bool = False) -> None:
        """Returns when a shard may be committed to; `is_fresh`: as of now. Raises LogUnavailable when it may not."""


class Committer:
    """The queue of one topic and the loop that empties it."""

    def __init__(
        self,
        topic: ActiveTopic,
        *,
        log: TopicLog,
        guard: CommitGuard,
        messages: MessageStore,
        codec: RecordCodec,
        clock: Clock,
        ids: IdSource,
        spawn: Spawn,
    ) -> None:
        """Makes an idle committer; `spawn` owns the loop while there is something to do."""
        self._topic = topic
        self._log = log
        self._guard = guard
        self._messages = messages
        self._codec = codec
        self._clock = clock
        self._ids = ids
        self._spawn = spawn
        self._queue: deque[Pending] = deque()
        self._is_running = False

    @property
    def is_idle(self) -> bool:
        """Tells whether nothing is queued or in flight."""
        return not self._is_running

    def enqueue(self, command: Command, *, session_id: str, traceparent: str = "") -> Pending:
        """Queues a command behind all earlier ones of this node. Its future gets the answer or a HubbubError.

        Raises:
            RateLimited: 4,096 commands wait already.
        """
        if len(self._queue) >= _QUEUE_MAX:
            raise RateLimited("too many commands wait for this conversation", retry_after_s=0.5)
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        pending = Pending(command=command, session_id=session_id, traceparent=traceparent, future=future)
        self._queue.append(pending)
        if not self._is_running:
            self._is_running = True
            self._spawn(self._run)
        return pending

    async def _run(self) -> None:
        try:
            while self._queue:
                try:
                    await self._commit_once()
                except LogRecreated:
                    self._fail_sent()
                except HubbubError as error:  # the log or the store cannot answer: nothing of this was sent
                    self._fail_all(error)
                except Exception as error:
                    # A fault of ours must not take the node's other topics along; callers hear INTERNAL.
                    log.exception("commit failed", topic_id=self._topic.topic_id)
                    self._fail_all(error)
        finally:
            self._is_running = False
            self._fail_all(LogUnavailable("this node stops"))

    def _fail_all(self, error: Exception) -> None:
        while self._queue:
            pending = self._queue.popleft()
            pending.fail(OutcomeUnknown("the outcome is not known yet") if pending.is_sent else error)

    def _fail_sent(self) -> None:
        """The log of an unknown outcome is gone: those senders must find out by a retry, the others go on."""
        for pending in [p for p in self._queue if p.is_sent]:
            self._queue.remove(pending)
            pending.fail(OutcomeUnknown("the log was recreated meanwhile"))

    async def _commit_once(self) -> None:
        await self._topic.ensure_confirmed()
        self._drop_abandoned()
        batch = self._decide()
        if not batch.decided:
            await self._look_up()
        elif batch.events:
            await self._commit(batch)
        else:
            await self._confirm(batch)

    def _drop_abandoned(self) -> None:
        """Forgets commands that nobody waits for and that were never sent: they were not done and will not be."""
        if any(p.future.done() for p in self._queue):
            self._queue = deque(p for p in self._queue if not p.future.done())

    def _decide(self, limit: int = _QUEUE_MAX) -> _Batch:
        """Decides from the front of the queue until the record is full, access changes, or an id must be looked up."""
        batch = _Batch(state=self._topic.state)
        now_ms = self._clock.now_ms()
        for pending in islice(self._queue, limit):
            decision = domain.decide(batch.state, pending.command, now_ms, pending.lookup)
            if isinstance(decision, LookupNeeded):
                break
            if isinstance(decision, Accepted):
                is_alone = any(map(changes_access, decision.events))
                framed = [self._codec.encode(event) for event in decision.events]
                if batch.events and (is_alone or not batch.has_room(framed)):
                    break
                for event, hash_of_request in zip(decision.events, decision.request_hashes, strict=True):
                    batch.state = domain.evolve(batch.state, event, hash_of_request)
                batch.add(decision, framed)
                batch.decided.append((pending, decision))
                if is_alone:
                    break
            else:
                batch.decided.append((pending, decision))
        return batch

    def _finish(self, batch: _Batch) -> None:
        for _ in batch.decided:  # they are the front of the queue, in order
            self._queue.popleft()
        batch.answer()

    async def _confirm(self, batch: _Batch) -> None:
        """Answers a batch without events as of a head that was read from the leader after all of it was queued.

        The head may move on meanwhile: that is later than these commands.
        """
        if batch.needs_confirmation():
            await self._topic.refresh()
            batch = self._decide(limit=len(batch.decided))
        if not batch.events:
            self._finish(batch)

    async def _look_up(self) -> None:
        """Looks up, at once, every id in the queue that the window cannot answer for.

        A store that is down refuses just the commands that need it. One that is behind what the window forgot (the
        state came from a snapshot) can deny nothing: what it lacks is taken from the log.
        """
        state, now_ms = self._topic.state, self._clock.now_ms()
        waiting: list[Pending] = []
        keys: set[IdKey] = set()
        for pending in list(self._queue)[:RECORD_MAX_EVENTS]:
            decision = domain.decide(state, pending.command, now_ms, pending.lookup)
            if isinstance(decision, LookupNeeded):
                waiting.append(pending)
                keys |= decision.keys
        metrics.id_lookups.inc(len(keys))
        try:
            lookup = await self._messages.find_ids(ConversationId(self._topic.topic_id), keys)
            for pending in waiting:
                pending.lookup = lookup
            if any(isinstance(domain.decide(state, p.command, now_ms, lookup), LookupNeeded) for p in waiting):
                await self._topic.recall_ids()
        except StoreUnavailable as error:
            for pending in waiting:
                self._queue.remove(pending)
                pending.fail(error)

    async def _commit(self, batch: _Batch) -> None:
        state = self._topic.state
        await self._guard.ensure(self._topic.shard, is_fresh=not self._topic.is_trusted)
        if self._topic.state is not state:  # it moved while the guard looked
            return
        self._topic.is_trusted = True
        record = self._new_record(batch)
        expectation = self._topic.sequence
        made = Made(record_id=record.facts.record_id, before=state, events=tuple(batch.events), state=batch.state)
        self._topic.expect(made)
        for pending, _ in batch.decided:
            pending.is_sent = True
        started_s = self._clock.monotonic_s()
        try:
            sequence = await self._append(record, expectation)
        except LogRecreated:
            raise
        except LogUnavailable:
            for pending, _ in batch.decided:
                pending.is_sent = False  # nothing was sent
            raise
        if sequence is None:
            for pending, _ in batch.decided:
                pending.is_sent = False  # never in the log: free to be decided again
            await self._after_conflict(expectation)
            return
        metrics.commit_seconds.observe(self._clock.monotonic_s() - started_s)
        metrics.commits.inc()
        metrics.committed_events.inc(len(batch.events))
        stored = LogRecord(facts=record.facts, body=record.body, sequence=sequence)
        if not self._topic.apply(stored):  # nearly always live was faster; anything else is caught up with first
            await self._topic.refresh()
        self._finish(batch)

    def _new_record(self, batch: _Batch) -> NewRecord:
        last = batch.events[-1]
        answer = next((p for p, d in batch.decided if isinstance(d, Accepted)), None)
        head = self._topic.head
        sent = [e for e in batch.events if e.message_number]
        facts = RecordFacts(
            record_id=self._ids.new_id("r"),
            topic_id=self._topic.topic_id,
            epoch=last.epoch,
            first_position=batch.events[0].position,
            last_position=last.position,
            commit_time_ms=last.commit_time_ms,
            last_message_number=head.last_message_number + len(sent),
            last_counted_number=head.last_counted_number + len(sent),
            kinds=frozenset(type(e.kind).__name__ for e in batch.events),
            request_hashes=tuple(batch.hashes) if any(batch.hashes) else (),
            session_id=answer.session_id if answer else "",
            traceparent=answer.traceparent if answer else "",
        )
        return NewRecord(facts=facts, body=b"".join(batch.framed))

    async def _append(self, record: NewRecord, expectation: int) -> int | None:
        """Appends: returns the record's sequence, or None when it is certainly not in the log.

        Raises:
            LogUnavailable: nothing was sent.
            LogRecreated: the log changed while the outcome was unknown.
        """
        try:
            return await self._log.append(record, after_sequence=expectation)
        except Conflict:
            metrics.conflicts.inc()
            return None
        except AppendUnknown:
            return await self._settle(record, expectation)

    async def _settle(self, record: NewRecord, expectation: int) -> int | None:
        """Finds out what became of an append without an answer; as `_append`. Takes as long as the log is away.

        It gives up long before a record of now can be trimmed: then "it is not there" would prove nothing.
        """
        pause_s = _PAUSE_MIN_S
        give_up_s = self._clock.monotonic_s() + _SETTLE_FOR_S
        while True:
            if self._clock.monotonic_s() > give_up_s:
                raise LogRecreated("the outcome has been unknown for too long")
            try:
                following = await self._log.read_next(self._topic.topic_id, after_sequence=expectation)
                if following is not None and following.facts.record_id == record.facts.record_id:
                    return await self._settled("found", record, following.sequence)
                if following is not None:
                    if following.facts.first_position > record.facts.first_position:
                        raise LogRecreated("the log was trimmed up to behind the record")
                    return await self._settled("never", record, None)
                self._check_epoch(record)
                await self._guard.ensure(self._topic.shard)
                sequence = await self._log.append(record, after_sequence=expectation)
                return await self._settled("appended", record, sequence)
            except Conflict:
                await self._check_same_log(record, expectation)
            except LogRecreated:
                raise
            except LogUnavailable:
                pass  # the outcome stays unknown until the log answers
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.5))
            pause_s = min(pause_s * 2, _PAUSE_MAX_S)

    async def _check_same_log(self, record: NewRecord, expectation: int) -> None:
        """A refusal with nothing after the expectation: in flight still, or the log is another one, or trimmed.

        Raises:
            LogRecreated: it is another one, or trimmed.
        """
        try:
            head = await self._log.read_head(self._topic.topic_id)
        except LogUnavailable:
            return
        if (head.sequence if head else 0) < expectation:
            raise LogRecreated("the log was recreated or trimmed")
        self._check_epoch(record)

    def _check_epoch(self, record: NewRecord) -> None:
        if self._log.epoch(self._topic.shard) != record.facts.epoch:
            raise LogRecreated("the log was recreated")

    async def _settled(self, how: str, record: NewRecord, sequence: int | None) -> int | None:
        metrics.unknown_outcomes.labels(settled=how).inc()
        log.info("unknown outcome settled", topic_id=self._topic.topic_id, settled=how)
        if sequence is not None:  # its live record may have been lost with the connection: tell the other nodes
            await self._log.poke(self._topic.topic_id, record.facts.last_position)
        return sequence

    async def _after_conflict(self, expectation: int) -> None:
        """Waits for the record that was faster, or fetches it."""
        if self._topic.sequence != expectation or await self._topic.wait_moved(_CONFLICT_WAIT_S):
            return
        before = self._topic.sequence
        await self._topic.refresh()
        if self._topic.sequence == before:  # another append is in flight and may fail itself
            await asyncio.sleep(random.uniform(0.005, 0.03))
