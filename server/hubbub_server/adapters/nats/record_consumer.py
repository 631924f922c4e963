"""RecordConsumers on JetStream: a reader in memory a role and shard, and how far each role came in a KV bucket.

Theory of operation. An open consumer reads the log through an ephemeral consumer of the server that asks for no
acknowledgements and lives in memory: it costs the disks nothing, and one that is lost is made again after the last
record that was returned. There is one inbox and at most one open pull request; what arrives waits in a buffer, so
nothing that the server sent is lost between two calls of `fetch`. Only the record after the last one returned is taken
from the buffer. A newer one is a hole: something was sent over a link that broke. Then the reader is made again; what
is missing even so is looked up at the leader, and only what is not there either is lost.

How far the role came, its *floor*, is written once a second at most and when the consumer is closed: records that were
acknowledged after that come again when this process dies, to roles for which that is no harm. A durable consumer of the
server would write on three disks for every record that is delivered and for every acknowledgement, in front of the
commits that people wait for (docs/adr/0014). A floor says of which log it is, by the time of its making and its epoch:
for another one it counts for nothing. It is written under the revision that was read, so a worker that was taken over,
or whose floor was taken back meanwhile, notices and begins again at what is written.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from nats.aio.msg import Msg
from nats.js.api import Header

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.kv import ensure_bucket, open_bucket
from hubbub_server.adapters.nats.records import RecordUnreadable, decode_facts, stream_name, topic_of_subject
from hubbub_server.adapters.nats.streams import epoch_of, get_message, read_stream_info
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import AnyRecord, RecordLost, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

_BUCKET: Final = "FLOORS"
_REMEMBER_EVERY_S: Final = 1.0
_PULL_FOR_S: Final = 5.0
_PULL_RECORDS: Final = 512
_PULL_BYTES: Final = 8 << 20
_UNUSED_FOR_S: Final = 300
"""After this time without a pull the server forgets a reader."""
_PULL_IS_OVER: Final = ("404", "408")
_PULL_HAS_BROUGHT_ALL: Final = ("Batch Completed", "MaxBytes")
"""Of the texts of status 409; the others say that the reader is gone."""
_RESTART_PAUSE_S: Final = 0.02
_NANOSECONDS: Final = 1_000_000_000
_TOKENS: Final = 9
_SEQUENCE_TOKEN: Final = 5
_SEQUENCE_TOKEN_WITH_DOMAIN: Final = 7
"""Of `$JS.ACK.<stream>.<consumer>.<deliveries>.<sequence>. ..`; newer servers may put domain and account behind ACK."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Stream:
    """What a stream says: which log it is, and the sequences of its first and last record."""

    identity: str
    first: int
    last: int


class NatsRecordConsumers:
    """RecordConsumers over an open connection."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection; the floors are in a bucket that `ensure_floors` makes."""
        self._connection = connection
        self._floors = _Floors(connection)
        self._open: set[NatsRecordConsumer] = set()
        connection.on_reconnect(self._interrupt_all)

    def _interrupt_all(self) -> None:
        for consumer in self._open:
            consumer.interrupt()

    @asynccontextmanager
    async def open(self, *, role: str, shard: int) -> AsyncIterator["NatsRecordConsumer"]:
        """Opens the consumer of a role on a shard after the last record that is known to be acknowledged."""
        consumer = NatsRecordConsumer(self._connection, self._floors, role=role, shard=shard)
        self._open.add(consumer)
        try:
            await consumer.restart()
            yield consumer
        finally:
            self._open.remove(consumer)
            await consumer.close()

    async def acknowledged(self, *, role: str, shard: int) -> int:
        """Returns the floor of a role, up to a second old while its consumer is open."""
        stream = await _read_stream(self._connection, shard)
        return (await self._floors.read(role, shard, stream)).sequence

    async def forget(self, *, role: str, shard: int) -> None:
        """Takes back the floor of a role."""
        await self._floors.forget(role, shard)


async def ensure_floors(connection: NatsConnection, *, replicas: int) -> None:
    """Makes the bucket of the floors if it is missing. Raises LogUnavailable."""
    await ensure_bucket(connection, _BUCKET, replicas=replicas, can_expire=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Floor:
    """How far a role came on a shard, and the revision of the document that says so."""

    sequence: int
    revision: int


class _Floors:
    """How far each role came on each shard of which log."""

    def __init__(self, connection: NatsConnection) -> None:
        self._bucket = open_bucket(connection, _BUCKET)

    async def read(self, role: str, shard: int, stream: _Stream) -> _Floor:
        """Returns the floor of a role: 0 if it has none in this log, or one of a newer copy of it."""
        document = await self._bucket.read(_key(role, shard))
        if document is None:
            return _Floor(sequence=0, revision=0)
        written = json.loads(document.value)
        is_valid = written["log"] == stream.identity and written["sequence"] <= stream.last
        return _Floor(sequence=written["sequence"] if is_valid else 0, revision=document.revision)

    async def write(self, role: str, shard: int, identity: str, floor: _Floor) -> _Floor | None:
        """Writes a floor if its revision is still the newest, and returns it with the next one; None if it is not."""
        value = json.dumps({"log": identity, "sequence": floor.sequence}).encode()
        revision = await self._bucket.replace(_key(role, shard), value, revision=floor.revision)
        return None if revision is None else replace(floor, revision=revision)

    async def forget(self, role: str, shard: int) -> None:
        """Takes back a floor; whoever has the consumer open notices."""
        document = await self._bucket.read(_key(role, shard))
        if document and await self.write(role, shard, "", _Floor(sequence=0, revision=document.revision)) is None:
            raise LogUnavailable("the floor was written meanwhile")


def _key(role: str, shard: int) -> str:
    return f"{shard}.{role}"


class NatsRecordConsumer:
    """RecordConsumer. Used by one task."""

    def __init__(self, connection: NatsConnection, floors: _Floors, *, role: str, shard: int) -> None:
        """Names the consumer; `restart` opens it."""
        self._connection = connection
        self._floors = floors
        self._role = role
        self._shard = shard
        self._log = ""
        """Which log the numbers below are of."""
        self._next = 1
        """Sequence of the record to return next."""
        self._done = 0
        """Sequence of the last record that was acknowledged, or that was trimmed when this was opened."""
        self._floor = _Floor(sequence=0, revision=0)
        """What is written."""
        self._remember_at_s = 0.0
        self._given: dict[int, str] = {}
        """Record ids, by sequence, of what was returned and not acknowledged."""
        self._buffer: deque[tuple[int, Msg]] = deque()
        """Messages, each after the sequence of its record."""
        self._reader = ""
        self._inbox: Subscription | None = None
        self._inbox_subject = ""
        self._pull_end_s = 0.0
        self._pull_left = 0
        self._is_pull_vain = False
        """Whether the last pull has brought nothing so far."""
        self._is_broken = False
        self._arrived = asyncio.Event()

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[AnyRecord]:
        """Returns the next records; see the port."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        while True:
            self._arrived.clear()
            if self._is_to_remember() and loop.time() >= self._remember_at_s:
                await self._remember()
            if records := self._take(max_records):
                return records
            if self._is_broken:
                await asyncio.sleep(_RESTART_PAUSE_S)
                await self.restart()
            if self._pull_left <= 0 or loop.time() >= self._pull_end_s:
                if self._is_pull_vain:
                    await self._look_for_lost()
                await self._pull()
            wake_s = self._remember_at_s if self._is_to_remember() else end_s
            try:
                async with asyncio.timeout_at(min(end_s, wake_s, self._pull_end_s)):
                    await self._arrived.wait()
            except TimeoutError:
                if loop.time() >= end_s:
                    return []

    def _take(self, max_records: int) -> list[AnyRecord]:
        records: list[AnyRecord] = []
        while self._buffer and len(records) < max_records:
            sequence, message = self._buffer[0]
            if sequence > self._next:
                self._is_broken = True
                break
            if sequence == self._next:
                record = _read(message, sequence)
                records.append(record)
                self._given[sequence] = _record_id(record)
                self._next += 1
            self._buffer.popleft()
        return records

    async def _pull(self) -> None:
        query = {"batch": _PULL_RECORDS, "expires": int(_PULL_FOR_S * _NANOSECONDS), "max_bytes": _PULL_BYTES}
        self._pull_left = _PULL_RECORDS
        self._is_pull_vain = True
        self._pull_end_s = asyncio.get_running_loop().time() + _PULL_FOR_S
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._reader}", json.dumps(query).encode(), reply=self._inbox_subject
        )

    async def _look_for_lost(self) -> None:
        """Asks, after a pull that brought nothing, whether there is something that never arrived."""
        stream = await _read_stream(self._connection, self._shard)
        if stream.identity != self._log or stream.last != self._next + len(self._buffer) - 1:
            self.interrupt()

    def interrupt(self) -> None:
        """Says that something may have been lost on the way: the next `fetch` makes the reader again first."""
        self._is_broken = True
        self._arrived.set()

    async def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            self._pull_left -= 1
            self._is_pull_vain = False
            self._buffer.append((_sequence(message), message))
        else:
            # With replicas a status may overtake records that were sent before it: they still arrive here.
            self._pull_left = 0
            text = headers.get(Header.DESCRIPTION, "")
            if status not in _PULL_IS_OVER and not any(end in text for end in _PULL_HAS_BROUGHT_ALL):
                self._is_broken = True
        self._arrived.set()

    async def restart(self) -> None:
        """Makes a reader that begins after the last record that was returned, in a new stream at the first one."""
        met_hole = bool(self._buffer) and self._buffer[0][0] > self._next
        await self._renew_inbox()
        stream = await _read_stream(self._connection, self._shard)
        if stream.identity != self._log or stream.last < self._next - 1:
            # New to us: opened, or everything that we knew is of another log, or of a newer copy of this one.
            self._floor = await self._floors.read(self._role, self._shard, stream)
            self._done = max(self._floor.sequence, stream.first - 1)
            self._next = self._done + 1
            self._log = stream.identity
            self._given.clear()
        elif met_hole:
            await self._require_next_exists()
        self._reader = await self._connection.retry(self._make_reader)
        self._is_broken = False

    async def _make_reader(self) -> str:
        name = f"{self._role}-{uuid4().hex}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self._next,
            "ack_policy": "none",
            "replay_policy": "instant",
            "inactive_threshold": _UNUSED_FOR_S * _NANOSECONDS,
            "mem_storage": True,
            "num_replicas": 1,
        }
        path = f"{stream_name(self._shard)}.{name}"
        await self._connection.call(
            f"CONSUMER.CREATE.{path}", {"stream_name": stream_name(self._shard), "config": config}
        )
        return path

    async def _require_next_exists(self) -> None:
        """Asks the leader for the record that was skipped; one that was lost, not trimmed, is never passed over."""
        name, query = stream_name(self._shard), {"seq": self._next}
        if await self._connection.retry(partial(get_message, self._connection, name, query)) is None:
            raise RecordLost(shard=self._shard, sequence=self._next)

    async def _renew_inbox(self) -> None:
        await self._drop_reader()
        self._inbox_subject = self._connection.new_inbox()
        self._inbox = await self._connection.subscribe(self._inbox_subject, self._on_message)
        self._buffer.clear()
        self._pull_left = 0
        self._is_broken = True  # until all of `restart` succeeded

    async def _drop_reader(self) -> None:
        if self._inbox is not None:
            await self._connection.unsubscribe(self._inbox)
            self._inbox = None
        if self._reader:
            with suppress(LogUnavailable):  # the server forgets it by itself, too
                await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._reader}", b"")
            self._reader = ""

    async def close(self) -> None:
        """Writes the floor and stops reading; what was not acknowledged comes again from the next one that opens."""
        await self._drop_reader()
        if self._is_to_remember():
            with suppress(LogUnavailable):  # then more comes again
                await self._remember()

    async def ack(self, record: AnyRecord) -> None:
        """Takes everything up to this record for done; written within a second, by the next `fetch` or `close`."""
        if self._given.get(record.sequence) != _record_id(record):
            raise LogUnavailable(f"record {record.sequence} does not wait for an acknowledgement, or is of a lost log")
        if self._done <= self._floor.sequence:
            self._remember_at_s = asyncio.get_running_loop().time() + _REMEMBER_EVERY_S
        self._done = max(self._done, record.sequence)
        for sequence in tuple(self._given):
            if sequence <= record.sequence:
                del self._given[sequence]

    def _is_to_remember(self) -> bool:
        return self._done > self._floor.sequence and bool(self._log)

    async def _remember(self) -> None:
        floor = replace(self._floor, sequence=self._done)
        written = await self._floors.write(self._role, self._shard, self._log, floor)
        if written is None:
            self._log = ""  # begin again at what is written
            self._buffer.clear()
            self._given.clear()
            self.interrupt()
            raise LogUnavailable("the floor was taken back, or another worker has the unit")
        self._floor = written

    async def acknowledged(self) -> int:
        """Returns the sequence of the last acknowledged record."""
        return self._done

    async def lag(self) -> int:
        """Returns how many records of the shard are not acknowledged."""
        stream = await _read_stream(self._connection, self._shard)
        return max(0, stream.last - (self._done if stream.identity == self._log else stream.first - 1))


async def _read_stream(connection: NatsConnection, shard: int) -> _Stream:
    content = await connection.retry(partial(read_stream_info, connection, stream_name(shard)))
    state = content["state"]
    return _Stream(
        identity=f"{content['created']} epoch {epoch_of(content)}",
        first=max(state["first_seq"], 1),
        last=state["last_seq"],
    )


def _sequence(message: Msg) -> int:
    """Reads the sequence out of the subject for acknowledgements, without all else that is in it."""
    tokens = message.reply.split(".")
    return int(tokens[_SEQUENCE_TOKEN if len(tokens) == _TOKENS else _SEQUENCE_TOKEN_WITH_DOMAIN])


def _read(message: Msg, sequence: int) -> AnyRecord:
    topic_id, headers = topic_of_subject(message.subject), message.headers or {}
    try:
        return LogRecord(facts=decode_facts(topic_id, headers), body=message.data, sequence=sequence)
    except RecordUnreadable as error:
        return UnreadableRecord(
            topic_id=topic_id, sequence=sequence, headers=headers, body=message.data, reason=str(error)
        )


def _record_id(record: AnyRecord) -> str:
    return record.facts.record_id if isinstance(record, LogRecord) else ""
