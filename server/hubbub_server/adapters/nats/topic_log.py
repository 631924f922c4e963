"""TopicLog on JetStream: compare-and-set appends, exact reads, live records over core NATS.

Theory of operation. Each append is one publish under `Nats-Expected-Last-Subject-Sequence`; the answer decides, and no
answer decides nothing. Records carry no `Nats-Msg-Id`: with it a retry could be "acknowledged" without being stored.
Live records come by RePublish on a core subject per topic; a *poke* is an empty message with a header there. What may
have been missed (reconnect, another leader, a new stream) is a *disturbance*.

A watch reads every stream again on reconnect and every 30 s. It notices a new epoch, and a log that lost records: one
of the same epoch whose last sequence is below one we have seen, twice in a row. Such a shard refuses appends.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Self

import structlog
from nats.aio.msg import Msg

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import NotSent
from hubbub_server.adapters.nats.log_reader import LogReader
from hubbub_server.adapters.nats.pub_ack import read_pub_ack
from hubbub_server.adapters.nats.records import (
    EXPECTED_SEQUENCE,
    POKE,
    RECORD_ID,
    SEQUENCE,
    decode_facts,
    encode_facts,
    header_block_bytes,
    live_subject,
    log_subject,
    stream_name,
)
from hubbub_server.adapters.nats.streams import read_stream
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_log import (
    AppendUnknown,
    LogRecord,
    NewRecord,
    RecordHead,
    RecordTooLarge,
    TopicListener,
)

if TYPE_CHECKING:
    from hubbub_server.adapters.nats.client import Subscription

APPEND_TIMEOUT_S = 2.0
_WATCH_INTERVAL_S = 30.0
_WATCH_AGAIN_S = 1.0
_LEADER_SETTLED_S = 2.0
_DISTURBANCE_PAUSE_S = 0.05
_MAX_APPENDS_IN_FLIGHT = 4096
_LEADER_ELECTED = "$JS.EVENT.ADVISORY.STREAM.LEADER_ELECTED"

log = structlog.get_logger()


class NatsTopicLog:
    """TopicLog over an open connection whose streams exist; `async with` starts and ends the watch."""

    def __init__(self, connection: NatsConnection, *, shards: int, append_timeout_s: float = APPEND_TIMEOUT_S) -> None:
        """Takes the connection; `shards` as given to `ensure_streams`."""
        self._connection = connection
        self._shards = shards
        self._append_timeout_s = append_timeout_s
        self._reader = LogReader(connection, shards=shards)
        self._epochs = [0] * shards
        self._highest = [0] * shards
        self._suspects: set[int] = set()
        self._refusing: set[int] = set()
        self._followers: dict[TopicId, _Follower] = {}
        self._appending: dict[str, NewRecord] = {}
        """What waits for its answer, by record id: heard live meanwhile, it need not be read once more."""
        self._in_flight = 0
        self._callbacks: list[Callable[[], None]] = []
        self._look_again = asyncio.Event()
        self._is_disturbed = False
        self._timers: dict[float, asyncio.TimerHandle] = {}

    async def __aenter__(self) -> Self:
        """Reads the epochs and starts to watch. Raises LogUnavailable."""
        for shard in range(self._shards):
            await self._connection.retry(partial(self._look_at, shard))
        self._is_disturbed = False
        self._connection.on_reconnect(self._on_reconnect)
        self._advisories = await self._connection.subscribe(f"{_LEADER_ELECTED}.*", self._on_leader_elected)
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._watch_task = self._tasks.create_task(self._watch())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stops hearing. The connection stays open."""
        self._watch_task.cancel()
        await self._tasks.__aexit__(None, None, None)
        await self._connection.unsubscribe(self._advisories)
        for topic_id in tuple(self._followers):
            await self.unfollow(topic_id)
        self._callbacks.clear()
        for timer in self._timers.values():
            timer.cancel()

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._shards

    def epoch(self, shard: int) -> int:
        """Epoch of a shard's stream as last read."""
        return self._epochs[shard]

    def is_live(self) -> bool:
        """Tells whether the server was heard within the last ten seconds."""
        return self._connection.is_live()

    async def append(self, record: NewRecord, *, after_sequence: int) -> int:
        """Appends a record if the newest of its topic has sequence `after_sequence`; see the port."""
        topic_id = record.facts.topic_id
        shard = shard_of(topic_id, self._shards)
        headers = encode_facts(record.facts)
        headers[EXPECTED_SEQUENCE] = str(after_sequence)
        size = header_block_bytes(headers) + len(record.body)
        if size > self._connection.max_payload_bytes:
            raise RecordTooLarge(f"{size} bytes with headers, {self._connection.max_payload_bytes} are possible")
        if shard in self._refusing:
            raise NotSent(f"{stream_name(shard)} lost records")
        if self._in_flight >= _MAX_APPENDS_IN_FLIGHT:
            raise NotSent("too many appends wait for their answer")
        self._in_flight += 1
        self._appending[record.facts.record_id] = record
        try:
            answer = await self._connection.request(
                log_subject(shard, topic_id), record.body, headers=headers, timeout_s=self._append_timeout_s
            )
        except NotSent:
            raise
        except LogUnavailable as error:
            raise AppendUnknown("the log did not say whether it appended the record") from error
        finally:
            self._in_flight -= 1
            self._appending.pop(record.facts.record_id, None)
        sequence = read_pub_ack(answer.data, stream_name(shard))
        self._saw(shard, sequence)
        return sequence

    async def read_head(self, topic_id: TopicId) -> LogRecord | None:
        """Reads the newest record of a topic from the leader."""
        return await self._reader.read_head(topic_id)

    async def read_next(self, topic_id: TopicId, *, after_sequence: int) -> LogRecord | None:
        """Reads the first record of a topic with a larger sequence from the leader."""
        return await self._reader.read_next(topic_id, after_sequence=after_sequence)

    async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
        """Reads the heads of many topics."""
        return await self._reader.read_heads(topic_ids)

    async def read_last_sequence(self, shard: int) -> int:
        """Reads the sequence of a shard's newest record from the leader."""
        stream = await self._connection.retry(partial(read_stream, self._connection, shard))
        if stream.epoch != self._epochs[shard]:
            raise LogUnavailable(f"{stream_name(shard)} is of epoch {stream.epoch} by now")
        return stream.last_sequence

    async def read_range(
        self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        """Reads records of a topic in order, complete; see the port."""
        return await self._reader.read_range(
            topic_id, after_sequence=after_sequence, up_to_sequence=up_to_sequence, max_bytes=max_bytes
        )

    async def follow(self, topic_id: TopicId, listener: TopicListener) -> None:
        """Starts hearing a topic; registered at our server when it returns."""
        await self.unfollow(topic_id)
        shard = shard_of(topic_id, self._shards)
        follower = _Follower(topic_id, listener, partial(self._saw, shard), self._appending)
        self._followers[topic_id] = follower
        try:
            follower.subscription = await self._connection.subscribe(live_subject(shard, topic_id), follower.take)
            await self._connection.echo()
        except BaseException:
            await self._end(topic_id, follower)
            raise

    async def unfollow(self, topic_id: TopicId) -> None:
        """Stops hearing a topic. No call of the listener begins after it returned."""
        if follower := self._followers.get(topic_id):
            await self._end(topic_id, follower)

    async def _end(self, topic_id: TopicId, follower: "_Follower") -> None:
        follower.is_active = False
        if self._followers.get(topic_id) is follower:
            del self._followers[topic_id]
        if follower.subscription is not None:
            await self._connection.unsubscribe(follower.subscription)

    async def poke(self, topic_id: TopicId, position: int) -> None:
        """Tells all followers of a topic that its head is at least at `position`. Best effort."""
        with suppress(LogUnavailable):
            subject = live_subject(shard_of(topic_id, self._shards), topic_id)
            await self._connection.publish(subject, headers={POKE: str(position)})

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        """Registers a callback for "compare all heads"."""
        self._callbacks.append(callback)

    def _saw(self, shard: int, sequence: int) -> None:
        self._highest[shard] = max(self._highest[shard], sequence)

    def _disturb(self) -> None:
        for callback in self._callbacks:
            callback()

    def _disturb_after(self, pause_s: float) -> None:
        # Eight shards change leaders at once: that is one disturbance.
        if pause_s not in self._timers:

            def fire() -> None:
                del self._timers[pause_s]
                self._disturb()

            self._timers[pause_s] = asyncio.get_running_loop().call_later(pause_s, fire)

    def _on_leader_elected(self, message: Msg) -> None:
        if message.subject.rpartition(".")[2].startswith("LOG_"):
            self._disturb_after(_DISTURBANCE_PAUSE_S)
            self._disturb_after(_LEADER_SETTLED_S)

    def _on_reconnect(self) -> None:
        self._is_disturbed = True
        self._look_again.set()

    async def _watch(self) -> None:
        pause_s = _WATCH_INTERVAL_S
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._look_again.wait()
            self._look_again.clear()
            pause_s = _WATCH_INTERVAL_S
            for shard in range(self._shards):
                try:
                    await self._look_at(shard)
                except LogUnavailable:
                    pause_s = _WATCH_AGAIN_S
            if self._suspects:
                pause_s = _WATCH_AGAIN_S
            if self._is_disturbed:
                self._is_disturbed = False
                self._disturb()

    async def _look_at(self, shard: int) -> None:
        seen = self._highest[shard]  # before the question: records are appended while it is answered
        stream = await read_stream(self._connection, shard)
        if stream.epoch != self._epochs[shard]:
            log.info("shard has an epoch", shard=shard, epoch=stream.epoch, before=self._epochs[shard])
            self._epochs[shard] = stream.epoch
            self._highest[shard] = seen = stream.last_sequence
            self._is_disturbed = True
            for topic_id, follower in self._followers.items():
                if shard_of(topic_id, self._shards) == shard:
                    follower.start_again()
        if stream.last_sequence >= seen:
            self._suspects.discard(shard)
            self._refusing.discard(shard)
        elif shard in self._suspects:
            if shard not in self._refusing:
                log.error("shard lost records, it refuses appends", shard=shard, last=stream.last_sequence, seen=seen)
            self._refusing.add(shard)
        else:
            self._suspects.add(shard)
        self._saw(shard, stream.last_sequence)


class _Follower:
    """One followed topic. Calls its listener until it is not active."""

    def __init__(
        self, topic_id: TopicId, listener: TopicListener, saw: Callable[[int], None], ours: Mapping[str, NewRecord]
    ) -> None:
        self._topic_id = topic_id
        self._listener = listener
        self._saw = saw
        self._ours = ours
        self._last_sequence = 0
        self.subscription: Subscription | None = None
        self.is_active = True

    def take(self, message: Msg) -> None:
        """Takes a message of the live subject. Does not wait."""
        if not self.is_active:
            return
        headers = message.headers or {}
        if POKE in headers:
            self._listener.on_poke(int(headers[POKE]))
            return
        sequence = int(headers[SEQUENCE])
        if ours := self._ours.get(headers.get(RECORD_ID, "")):
            record = LogRecord(facts=ours.facts, body=ours.body, sequence=sequence)
        else:
            record = LogRecord(facts=decode_facts(self._topic_id, headers), body=message.data, sequence=sequence)
        self._saw(record.sequence)
        # A leader that was frozen sends what it had still to send after its successor sent newer ones.
        if record.sequence >= self._last_sequence:
            self._last_sequence = record.sequence
            self._listener.on_record(record)

    def start_again(self) -> None:
        """Forgets how far the topic was heard: sequences of a new log begin at 1."""
        self._last_sequence = 0
