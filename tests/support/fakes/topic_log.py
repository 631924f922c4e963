"""A topic log in memory: one `FakeLogServer`, and a `FakeTopicLog` for each node that uses it.

Theory of operation. A call becomes a request: after `turns()` turns of the event loop the server acts on it, at once
and whole, and after `turns()` more the answer arrives. The request does not die with its caller, as on a real network.
With the default of one turn everything is deterministic; a seeded random `turns` gives other interleavings, `latency_s`
takes time instead (on a virtual clock: support/virtual_time.py). Live records of one node keep their order. Faults are
taken from the left of each node's deques, one an append or live record; `None` in a deque stands for "no fault this
time".
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from enum import Enum, auto
from functools import partial
from typing import TypeVar

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import (
    AppendUnknown,
    Conflict,
    LogFull,
    LogRecord,
    NewRecord,
    RecordHead,
    RecordTooLarge,
    TopicListener,
)

T = TypeVar("T")


class AppendFault(Enum):
    """What goes wrong with one append."""

    ACK_LOST = auto()
    """Appended, then AppendUnknown."""
    NEVER = auto()
    """AppendUnknown, and never appended."""
    LATE = auto()
    """AppendUnknown; `FakeLogServer.release_late` appends it, if its expectation still holds."""
    IN_FLIGHT = auto()
    """Conflict although nobody is newer: another append is said to be in flight (10164)."""
    FULL = auto()
    """LogFull."""
    NOT_SENT = auto()
    """LogUnavailable."""


class LiveFault(Enum):
    """What goes wrong with one live record on its way to one node."""

    LOST = auto()
    TWICE = auto()


class FakeLogServer:
    """The state that all nodes share. `commits` counts records that were appended."""

    def __init__(
        self, *, shards: int = 2, max_record_bytes: int = 1 << 20, turns: Callable[[], int] = lambda: 1
    ) -> None:
        self.shards = shards
        self.max_record_bytes = max_record_bytes
        self.turns = turns
        self.latency_s: Callable[[], float] | None = None
        self.epochs = [1] * shards
        self.clock_s: Callable[[], float] = time.monotonic
        self.append_times_s: dict[tuple[int, int], float] = {}
        self.states: dict[TopicId, bytes] = {}
        self.newest_states: dict[int, TopicId] = {}
        self.complete_epochs = [1] * shards
        self.whole_from = [1] * shards
        self.records: list[list[LogRecord]] = [[] for _ in range(shards)]
        self.last_sequences = [0] * shards
        self.by_topic: dict[TopicId, list[LogRecord]] = {}
        self.history: dict[TopicId, list[LogRecord]] = {}
        """All that was ever appended: what a judge knows and no node does."""
        self.ack_floors: dict[tuple[str, int], int] = {}
        self.nodes: list[FakeTopicLog] = []
        self.commits = 0
        self.on_append: list[Callable[[], None]] = []
        self._late: list[tuple[NewRecord, int]] = []

    def after_a_while(self, callback: Callable[[], object]) -> None:
        """Calls back when a message has travelled one way."""
        if self.latency_s is None:
            _after(self.turns(), callback)
        else:
            asyncio.get_running_loop().call_later(self.latency_s(), callback)

    def connect(self) -> "FakeTopicLog":
        """Returns the log as one more node sees it."""
        node = FakeTopicLog(self)
        self.nodes.append(node)
        return node

    def append(self, record: NewRecord, after_sequence: int) -> int:
        """Appends under the expectation and hands the record to all nodes; raises Conflict."""
        topic_id = record.facts.topic_id
        shard = shard_of(topic_id, self.shards)
        log = self.by_topic.setdefault(topic_id, [])
        head = log[-1].sequence if log else 0
        if head != after_sequence:
            raise Conflict(f"the head is {head}, not {after_sequence}")
        self.last_sequences[shard] += 1
        stored = LogRecord(facts=record.facts, body=record.body, sequence=self.last_sequences[shard])
        self.append_times_s[shard, stored.sequence] = self.clock_s()
        log.append(stored)
        self.history.setdefault(topic_id, []).append(stored)
        self.records[shard].append(stored)
        self.commits += 1
        for node in self.nodes:
            node.receive_live(stored)
        for callback in self.on_append:
            callback()
        return stored.sequence

    def append_late(self, record: NewRecord, after_sequence: int) -> None:
        """Keeps an append for `release_late`."""
        self._late.append((record, after_sequence))

    def release_late(self) -> int:
        """Lets the late appends arrive, oldest first; returns how many of them were appended."""
        late, self._late = self._late, []
        appended = 0
        for record, after_sequence in late:
            try:
                self.append(record, after_sequence)
            except Conflict:
                continue
            appended += 1
        return appended

    def recreate(self, shard: int) -> None:
        """Loses a shard and makes a new one with the next epoch; all nodes notice at once. Its states are kept."""
        self.epochs[shard] += 1
        self.whole_from[shard] = 1
        self.records[shard] = []
        self.last_sequences[shard] = 0
        self.by_topic = {t: log for t, log in self.by_topic.items() if shard_of(t, self.shards) != shard}
        self.ack_floors = {key: floor for key, floor in self.ack_floors.items() if key[1] != shard}
        self._late = [late for late in self._late if shard_of(late[0].facts.topic_id, self.shards) != shard]
        for node in self.nodes:
            node.disturb()

    def set_epoch(self, shard: int, epoch: int) -> None:
        """Begins another epoch in the same log; all nodes notice at once."""
        self.epochs[shard] = max(epoch, self.epochs[shard])
        for node in self.nodes:
            node.disturb()

    def forget_after(self, shard: int, sequence: int) -> None:
        """Loses the newest records of a shard, as a log does that was restored from an older copy."""
        self.last_sequences[shard] = min(self.last_sequences[shard], sequence)
        self.records[shard] = [r for r in self.records[shard] if r.sequence <= sequence]
        for topic_id, log in self.by_topic.items():
            if shard_of(topic_id, self.shards) == shard:
                log[:] = [r for r in log if r.sequence <= sequence]
        for node in self.nodes:
            node.disturb()

    def lose(self, shard: int, *sequences: int) -> None:
        """Loses records as a damaged disk does: nothing else changes."""
        self.records[shard] = [r for r in self.records[shard] if r.sequence not in sequences]
        for topic_id, log in self.by_topic.items():
            if shard_of(topic_id, self.shards) == shard:
                log[:] = [r for r in log if r.sequence not in sequences]

    def trim(self, shard: int, *, below_sequence: int) -> None:
        """Removes the records of a shard below a sequence."""
        self.whole_from[shard] = max(self.whole_from[shard], below_sequence)
        self.records[shard] = [r for r in self.records[shard] if r.sequence >= below_sequence]
        for topic_id, log in self.by_topic.items():
            if shard_of(topic_id, self.shards) == shard:
                log[:] = [r for r in log if r.sequence >= below_sequence]


class FakeTopicLog:
    """TopicLog of one node. `append_faults` and `live_faults` say what goes wrong next; `cut` and `heal` the link."""

    def __init__(self, server: FakeLogServer) -> None:
        self.append_faults: deque[AppendFault | None] = deque()
        self.live_faults: deque[LiveFault | None] = deque()
        self.appends = 0
        self._server = server
        self._is_cut = False
        self._listeners: dict[TopicId, TopicListener] = {}
        self._live: deque[LogRecord | tuple[TopicId, int]] = deque()
        self._on_disturbance: list[Callable[[], None]] = []

    @property
    def shards(self) -> int:
        return self._server.shards

    def epoch(self, shard: int) -> int:
        return self._server.epochs[shard]

    def is_live(self) -> bool:
        return not self._is_cut

    async def append(self, record: NewRecord, *, after_sequence: int) -> int:
        if len(record.body) > self._server.max_record_bytes:
            raise RecordTooLarge(f"{len(record.body)} bytes are more than {self._server.max_record_bytes}")
        self.appends += 1
        fault = self.append_faults.popleft() if self.append_faults else None
        return await self.request(lambda: self._append(record, after_sequence, fault))

    def _append(self, record: NewRecord, after_sequence: int, fault: AppendFault | None) -> int:
        match fault:
            case None:
                return self._server.append(record, after_sequence)
            case AppendFault.ACK_LOST:
                with suppress(Conflict):
                    self._server.append(record, after_sequence)
                raise AppendUnknown("the answer was lost")
            case AppendFault.NEVER:
                raise AppendUnknown("no answer came")
            case AppendFault.LATE:
                self._server.append_late(record, after_sequence)
                raise AppendUnknown("no answer came yet")
            case AppendFault.IN_FLIGHT:
                raise Conflict("another append is in flight")
            case AppendFault.FULL:
                raise LogFull("the log is full")
            case AppendFault.NOT_SENT:
                raise LogUnavailable("not connected")

    async def read_head(self, topic_id: TopicId) -> LogRecord | None:
        return await self.request(lambda: self._head(topic_id))

    def _head(self, topic_id: TopicId) -> LogRecord | None:
        log = self._server.by_topic.get(topic_id)
        return log[-1] if log else None

    async def read_next(self, topic_id: TopicId, *, after_sequence: int) -> LogRecord | None:
        return await self.request(
            lambda: next((r for r in self._server.by_topic.get(topic_id, ()) if r.sequence > after_sequence), None)
        )

    async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
        def read() -> dict[TopicId, RecordHead]:
            heads = {topic_id: self._head(topic_id) for topic_id in topic_ids}
            return {t: RecordHead(facts=head.facts, sequence=head.sequence) for t, head in heads.items() if head}

        return await self.request(read)

    async def read_last_sequence(self, shard: int) -> int:
        return await self.request(lambda: self._server.last_sequences[shard])

    async def read_range(
        self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        return await self.request(lambda: self._range(topic_id, after_sequence, up_to_sequence, max_bytes))

    def _range(self, topic_id: TopicId, after_sequence: int, up_to_sequence: int, max_bytes: int) -> list[LogRecord]:
        found = [r for r in self._server.by_topic.get(topic_id, ()) if after_sequence < r.sequence <= up_to_sequence]
        if after_sequence < up_to_sequence and (not found or found[-1].sequence != up_to_sequence):
            raise LogUnavailable(f"record {up_to_sequence} of the topic is not in the log")
        size = 0
        for count, record in enumerate(found):
            size += len(record.body)
            if size > max_bytes and count > 0:
                return found[:count]
        return found

    async def follow(self, topic_id: TopicId, listener: TopicListener) -> None:
        # From the server's turn on, not from the answer on: a record between the two is heard, as on a real server.
        is_wanted = True

        def register() -> None:
            if is_wanted:
                self._listeners[topic_id] = listener

        try:
            await self.request(register)
        except BaseException:  # a follow that failed or was cancelled leaves nothing behind
            is_wanted = False
            await self.unfollow(topic_id)
            raise

    async def unfollow(self, topic_id: TopicId) -> None:
        self._listeners.pop(topic_id, None)

    async def poke(self, topic_id: TopicId, position: int) -> None:
        if self._is_cut:
            return
        for node in self._server.nodes:
            node.receive_live((topic_id, position))

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        self._on_disturbance.append(callback)

    def disturb(self) -> None:
        """Reports that live records may have been lost."""
        for callback in self._on_disturbance:
            callback()

    def cut(self) -> None:
        """Takes the link away: calls fail, live records are lost, the log is not live."""
        self._is_cut = True

    def heal(self) -> None:
        """Brings the link back and reports a disturbance."""
        self._is_cut = False
        self.disturb()

    def receive_live(self, item: LogRecord | tuple[TopicId, int]) -> None:
        """Takes a live record or a poke from the server."""
        copies = 1
        if isinstance(item, LogRecord):
            if self._is_cut:
                return
            fault = self.live_faults.popleft() if self.live_faults else None
            copies = {None: 1, LiveFault.LOST: 0, LiveFault.TWICE: 2}[fault]
        for _ in range(copies):
            self._live.append(item)
            self._server.after_a_while(self._deliver_next)

    def _deliver_next(self) -> None:
        item = self._live.popleft()
        if self._is_cut:
            return
        if isinstance(item, LogRecord):
            if listener := self._listeners.get(item.facts.topic_id):
                listener.on_record(item)
        elif listener := self._listeners.get(item[0]):
            listener.on_poke(item[1])

    async def request(self, act: Callable[[], T]) -> T:
        """Lets the server act and returns its answer. Raises LogUnavailable when the link is cut."""
        answer: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        if self._is_cut:
            raise LogUnavailable("not connected")

        def serve() -> None:
            try:
                result = act()
            except (Conflict, LogUnavailable) as error:
                self._server.after_a_while(partial(_fail, answer, error))
            else:
                self._server.after_a_while(partial(_answer, answer, result))

        self._server.after_a_while(serve)
        return await answer


def _answer(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _fail(answer: asyncio.Future[T], error: Exception) -> None:
    if not answer.done():
        answer.set_exception(error)


def _after(turns: int, callback: Callable[[], object]) -> None:
    loop = asyncio.get_running_loop()
    if turns <= 1:
        loop.call_soon(callback)
    else:
        loop.call_soon(_after, turns - 1, callback)
