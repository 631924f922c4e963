"""RecordConsumers on JetStream: readers in memory (shard_reader.py), and how far each role came in a KV bucket.

Theory of operation. How far a role came, its *floor*, is written once a second at most and when the consumer is closed:
records that were acknowledged after that come again when this process dies, to roles for which that is no harm. A
durable consumer of the server would write on three disks for every record that is delivered and for every
acknowledgement, in front of the commits that people wait for (docs/adr/0014). A floor says of which log it is, by the
time of its making and its epoch: for another one it counts for nothing. It is written under the revision that was read,
so a worker that was taken over, or whose floor was taken back meanwhile, notices and begins again at what is written.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Final

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.kv import ensure_bucket, open_bucket
from hubbub_server.adapters.nats.shard_reader import AnotherLog, ShardReader, SharedReader, StreamFacts, read_stream
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import AnyRecord
from hubbub_server.ports.topic_log import LogRecord

_BUCKET: Final = "FLOORS"
_REMEMBER_EVERY_S: Final = 1.0


class NatsRecordConsumers:
    """RecordConsumers over an open connection."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection; the floors are in a bucket that `ensure_floors` makes."""
        self._connection = connection
        self._floors = _Floors(connection)
        self._shared: dict[int, SharedReader] = {}
        self._open: set[NatsRecordConsumer] = set()
        connection.on_reconnect(self._interrupt_all)

    def _interrupt_all(self) -> None:
        for shared in self._shared.values():
            shared.interrupt()
        for consumer in self._open:
            consumer.interrupt()

    @asynccontextmanager
    async def open(self, *, role: str, shard: int) -> AsyncIterator["NatsRecordConsumer"]:
        """Opens the consumer of a role on a shard after the last record that is known to be acknowledged."""
        shared = self._shared.setdefault(shard, SharedReader(self._connection, shard))
        consumer = NatsRecordConsumer(self._connection, self._floors, shared, role=role, shard=shard)
        self._open.add(consumer)
        try:
            await consumer.begin()
            yield consumer
        finally:
            self._open.remove(consumer)
            if all(other.shard != shard for other in self._open):
                del self._shared[shard]
                await shared.close()
            await consumer.close()

    async def acknowledged(self, *, role: str, shard: int) -> int:
        """Returns the floor of a role, up to a second old while its consumer is open."""
        stream = await read_stream(self._connection, shard)
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

    async def read(self, role: str, shard: int, stream: StreamFacts) -> _Floor:
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

    def __init__(
        self, connection: NatsConnection, floors: _Floors, shared: SharedReader, *, role: str, shard: int
    ) -> None:
        """Names the consumer; `begin` opens it."""
        self.shard = shard
        self._connection = connection
        self._floors = floors
        self._shared = shared
        self._own: ShardReader | None = None
        """While this role is far from the others."""
        self._role = role
        self._log = ""
        """Which log the numbers below are of; empty: they count for nothing."""
        self._next = 1
        """Sequence of the record to return next."""
        self._done = 0
        """Sequence of the last record that was acknowledged, or that was trimmed when this was opened."""
        self._floor = _Floor(sequence=0, revision=0)
        """What is written."""
        self._remember_at_s = 0.0
        self._given: dict[int, str] = {}
        """Record ids, by sequence, of what was returned and not acknowledged."""

    async def begin(self) -> None:
        """Goes to what is written in the log as it is now."""
        await self._drop_own()
        stream = await read_stream(self._connection, self.shard)
        self._floor = await self._floors.read(self._role, self.shard, stream)
        self._done = max(self._floor.sequence, stream.first - 1)
        self._next = self._done + 1
        self._given.clear()
        self._log = stream.identity

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[AnyRecord]:
        """Returns the next records; see the port."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        while True:
            if self._is_to_remember() and loop.time() >= self._remember_at_s:
                await self._remember()
            if not self._log:
                await self.begin()
            wake_s = self._remember_at_s if self._is_to_remember() else end_s
            try:
                records = await self._read(max_records, min(end_s, wake_s))
            except AnotherLog:
                self._log = ""
                continue
            if records or loop.time() >= end_s:
                self._given.update((record.sequence, _record_id(record)) for record in records)
                self._next += len(records)
                return records

    async def _read(self, max_records: int, end_s: float) -> Sequence[AnyRecord]:
        records = await self._shared.read(self._log, self._next, max_records=max_records, end_s=end_s)
        if records is not None:
            await self._drop_own()
            return records
        if self._own is None:
            self._own = ShardReader(self._connection, self.shard, log=self._log, next_sequence=self._next)
        return await self._own.read(max_records=max_records, end_s=end_s)

    def interrupt(self) -> None:
        """Says that something may have been lost on the way."""
        if self._own is not None:
            self._own.interrupt()

    async def _drop_own(self) -> None:
        own, self._own = self._own, None
        if own is not None:
            await own.close()

    async def close(self) -> None:
        """Writes the floor and stops reading; what was not acknowledged comes again from the next one that opens."""
        await self._drop_own()
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
        written = await self._floors.write(self._role, self.shard, self._log, floor)
        if written is None:
            self._log = ""  # begin again at what is written
            self._given.clear()
            raise LogUnavailable("the floor was taken back, or another worker has the unit")
        self._floor = written

    async def acknowledged(self) -> int:
        """Returns the sequence of the last acknowledged record."""
        return self._done

    async def lag(self) -> int:
        """Returns how many records of the shard are not acknowledged."""
        stream = await read_stream(self._connection, self.shard)
        return max(0, stream.last - (self._done if stream.identity == self._log else stream.first - 1))


def _record_id(record: AnyRecord) -> str:
    return record.facts.record_id if isinstance(record, LogRecord) else ""
