"""Reads one shard of the log in order, without a hole, from any sequence on: through a reader in the server's memory.

Theory of operation. A reader is an ephemeral consumer of the server that asks for no acknowledgements: it costs the
disks nothing, and one that is lost is made again after the last record that was returned. There is one inbox and at
most one open pull request; what arrives waits in a buffer, so nothing that the server sent is lost between two calls of
`read`. Only the record after the last one returned is taken from the buffer. A newer one is a hole: something was sent
over a link that broke. Then the reader is made again; what is missing even so is looked up at the leader, and only what
is not there either is lost.

The roles of a shard want the same records at about the same time, so one process reads them once: `SharedReader` keeps
the newest ones for all of them, and whoever has them all reads on. Who is not near goes its own way until it is.
"""

import asyncio
import json
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final
from uuid import uuid4

from nats.aio.msg import Msg
from nats.js.api import Header

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.records import RecordUnreadable, decode_facts, stream_name, topic_of_subject
from hubbub_server.adapters.nats.streams import epoch_of, get_message, read_stream_info
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import AnyRecord, RecordLost, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord

if TYPE_CHECKING:
    from hubbub_server.adapters.nats.client import Subscription

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
_SHARED_RECORDS: Final = 2048
_SHARED_BYTES: Final = 2 << 20
_UNREAD_FOR_S: Final = 5.0


class AnotherLog(LogUnavailable):
    """The log was made anew, or is an older copy of itself: places in it have to be looked up again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamFacts:
    """What a stream says: which log it is, and the sequences of its first and last record."""

    identity: str
    first: int
    last: int


async def read_stream(connection: NatsConnection, shard: int) -> StreamFacts:
    """Asks the leader of a shard. Raises LogUnavailable."""
    content = await connection.retry(partial(read_stream_info, connection, stream_name(shard)))
    state = content["state"]
    return StreamFacts(
        identity=f"{content['created']} epoch {epoch_of(content)}",
        first=max(state["first_seq"], 1),
        last=state["last_seq"],
    )


class ShardReader:
    """Reads on from one place. Used by one task at a time."""

    def __init__(self, connection: NatsConnection, shard: int, *, log: str, next_sequence: int) -> None:
        """Begins at `next_sequence` of the log that calls itself `log`; asks for nothing yet."""
        self.log = log
        self.next = next_sequence
        """Sequence of the record to return next."""
        self._connection = connection
        self._shard = shard
        self._buffer: deque[tuple[int, Msg]] = deque()
        """Messages, each after the sequence of its record."""
        self._reader = ""
        self._inbox: Subscription | None = None
        self._inbox_subject = ""
        self._pull_end_s = 0.0
        self._pull_left = 0
        self._is_pull_vain = False
        """Whether the last pull has brought nothing so far."""
        self._is_broken = True
        self._arrived = asyncio.Event()

    async def read(self, *, max_records: int, end_s: float) -> Sequence[AnyRecord]:
        """Returns the next records; none when none came until `end_s` of the loop's clock.

        Raises:
            AnotherLog, RecordLost, LogUnavailable: see there.
        """
        loop = asyncio.get_running_loop()
        while True:
            self._arrived.clear()
            if records := self._take(max_records):
                return records
            if self._is_broken:
                await self._restart()
            if self._pull_left <= 0 or loop.time() >= self._pull_end_s:
                if self._is_pull_vain:
                    await self._look_for_lost()
                await self._pull()
            try:
                async with asyncio.timeout_at(min(end_s, self._pull_end_s)):
                    await self._arrived.wait()
            except TimeoutError:
                if loop.time() >= end_s:
                    return []

    def _take(self, max_records: int) -> list[AnyRecord]:
        records: list[AnyRecord] = []
        while self._buffer and len(records) < max_records:
            sequence, message = self._buffer[0]
            if sequence > self.next:
                self._is_broken = True
                break
            if sequence == self.next:
                records.append(_read(message, sequence))
                self.next += 1
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
        stream = await read_stream(self._connection, self._shard)
        if stream.identity != self.log or stream.last != self.next + len(self._buffer) - 1:
            self.interrupt()

    def interrupt(self) -> None:
        """Says that something may have been lost on the way: the next `read` makes the reader again first."""
        self._is_broken = True
        self._arrived.set()

    def _on_message(self, message: Msg) -> None:
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

    async def _restart(self) -> None:
        """Makes a reader of the server that begins after the last record that was returned."""
        met_hole = bool(self._buffer) and self._buffer[0][0] > self.next
        if self._inbox is not None:
            await asyncio.sleep(_RESTART_PAUSE_S)
        await self._renew_inbox()
        stream = await read_stream(self._connection, self._shard)
        if stream.identity != self.log or stream.last < self.next - 1:
            raise AnotherLog("the log was made anew, or is an older copy")
        if met_hole:
            await self._require_next_exists()
        self._reader = await self._connection.retry(self._make_reader)
        self._is_broken = False

    async def _make_reader(self) -> str:
        name = f"reader-{uuid4().hex}"
        config = {
            "name": name,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": self.next,
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
        name, query = stream_name(self._shard), {"seq": self.next}
        if await self._connection.retry(partial(get_message, self._connection, name, query)) is None:
            raise RecordLost(shard=self._shard, sequence=self.next)

    async def _renew_inbox(self) -> None:
        await self._drop_reader()
        self._inbox_subject = self._connection.new_inbox()
        self._inbox = await self._connection.subscribe(self._inbox_subject, self._on_message)
        self._buffer.clear()
        self._pull_left = 0
        self._is_broken = True  # until all of `_restart` succeeded

    async def _drop_reader(self) -> None:
        if self._inbox is not None:
            await self._connection.unsubscribe(self._inbox)
            self._inbox = None
        if self._reader:
            with suppress(LogUnavailable):  # the server forgets it by itself, too
                await self._connection.publish(f"$JS.API.CONSUMER.DELETE.{self._reader}", b"")
            self._reader = ""

    async def close(self) -> None:
        """Lets the reader of the server go."""
        await self._drop_reader()


class SharedReader:
    """The newest records of a shard, read once for all who are near its end. Used by any number of tasks."""

    def __init__(self, connection: NatsConnection, shard: int) -> None:
        """Reads nothing yet: whoever comes first says where to begin."""
        self._connection = connection
        self._shard = shard
        self._reader: ShardReader | None = None
        self._records: list[AnyRecord] = []
        """Dense, up to where the reader is. A list: roles take slices out of its middle."""
        self._bytes = 0
        self._reading = asyncio.Lock()
        self._read_at_s = 0.0

    async def read(self, log: str, sequence: int, *, max_records: int, end_s: float) -> Sequence[AnyRecord] | None:
        """Returns the records from `sequence` on, as ShardReader does; None when these are not near what is read here.

        Raises as ShardReader.
        """
        if records := self._kept(log, sequence, max_records):
            return records
        if not self._may_read_on(log, sequence):
            return None
        try:
            async with asyncio.timeout_at(end_s):
                await self._reading.acquire()
        except TimeoutError:
            return []
        try:
            if records := self._kept(log, sequence, max_records):
                return records  # somebody else has read on meanwhile
            if not self._may_read_on(log, sequence):
                return None
            await self._read_on(log, sequence, end_s)
            return self._kept(log, sequence, max_records)
        finally:
            self._reading.release()

    def _kept(self, log: str, sequence: int, max_records: int) -> Sequence[AnyRecord]:
        if self._reader is None or self._reader.log != log:
            return []
        index = sequence - self._reader.next + len(self._records)
        return [] if index < 0 else self._records[index : index + max_records]

    def _may_read_on(self, log: str, sequence: int) -> bool:
        """Tells whether the caller is the one to read on: at the end, or anywhere when nobody has read for long."""
        reader = self._reader
        if reader is not None and asyncio.get_running_loop().time() < self._read_at_s + _UNREAD_FOR_S:
            return log == reader.log and sequence == reader.next
        return True

    async def _read_on(self, log: str, sequence: int, end_s: float) -> None:
        if self._reader is None or (self._reader.log, self._reader.next) != (log, sequence):
            await self.close()
            self._reader = ShardReader(self._connection, self._shard, log=log, next_sequence=sequence)
        loop = asyncio.get_running_loop()
        self._read_at_s = max(end_s, loop.time())
        try:
            records = await self._reader.read(max_records=_PULL_RECORDS, end_s=end_s)
            self._records += records
            self._bytes += sum(len(record.body) for record in records)
        except AnotherLog:
            await self.close()
            raise
        finally:
            self._read_at_s = loop.time()
        dropped = 0
        while len(self._records) - dropped > _SHARED_RECORDS or self._bytes > _SHARED_BYTES:
            self._bytes -= len(self._records[dropped].body)
            dropped += 1
        del self._records[:dropped]

    def interrupt(self) -> None:
        """Says that something may have been lost on the way."""
        if self._reader is not None:
            self._reader.interrupt()

    async def close(self) -> None:
        """Lets everything go; the next `read` begins anew."""
        reader, self._reader = self._reader, None
        self._records.clear()
        self._bytes = 0
        if reader is not None:
            await reader.close()


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
