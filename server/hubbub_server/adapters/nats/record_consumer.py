"""RecordConsumers on JetStream: durable pull consumers, one a role and shard, read in order and without holes.

Theory of operation. A consumer holds one inbox and at most one open pull request; what arrives waits in a buffer, so
nothing that the server sent is lost between two calls of `fetch`. Only the record after the last one returned is taken
from the buffer. An older one was returned before and is skipped. A newer one is a hole: something was sent to an inbox
that is gone (ours before a reconnect, or of a worker that died). Then the consumer is *reset*: the server goes back to
its acknowledged floor, we take a new inbox, and what we returned already is skipped. A reset comes first of all when a
consumer is opened, so that nobody waits for `ack_wait`.

`ack_policy: all` makes one acknowledgement cover everything before it; the order above makes that safe. The server may
forget acknowledgements when it is killed: records come again then, to a worker for which that is no harm.
"""

import asyncio
import json
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.aio.msg import Msg
from nats.js.api import Header

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.errors import ApiRefusal
from hubbub_server.adapters.nats.records import RecordUnreadable, decode_facts, stream_name, topic_of_subject
from hubbub_server.adapters.nats.streams import get_message, read_stream
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import AnyRecord, RecordLost, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord

if TYPE_CHECKING:
    from nats.aio.subscription import Subscription

_ACK_WAIT_S = 30
_PULL_FOR_S = 5.0
_PULL_RECORDS = 512
_PULL_BYTES = 8 << 20
_MAX_ACK_PENDING = 4096
_PULL_IS_OVER = ("404", "408")
_PULL_HAS_BROUGHT_ALL = ("Batch Completed", "MaxBytes")
"""Of the texts of status 409; the others say that the consumer or its leader is gone."""
_RESTART_PAUSE_S = 0.02
_NANOSECONDS = 1_000_000_000


class NatsRecordConsumers:
    """RecordConsumers over an open connection."""

    def __init__(self, connection: NatsConnection) -> None:
        """Takes the connection."""
        self._connection = connection
        self._open: set[NatsRecordConsumer] = set()
        connection.on_reconnect(self._interrupt_all)

    def _interrupt_all(self) -> None:
        for consumer in self._open:
            consumer.interrupt()

    @asynccontextmanager
    async def open(self, *, role: str, shard: int) -> AsyncIterator["NatsRecordConsumer"]:
        """Opens the durable consumer `role` of a shard, creating it at the first record if it is new."""
        consumer = NatsRecordConsumer(self._connection, role=role, shard=shard)
        await consumer.restart()
        self._open.add(consumer)
        try:
            yield consumer
        finally:
            self._open.remove(consumer)
            await consumer.close()

    async def acknowledged(self, *, role: str, shard: int) -> int:
        """Returns the acknowledged floor of a role, without touching what an open consumer does."""

        async def read() -> int:
            try:
                info = await self._connection.call(f"CONSUMER.INFO.{stream_name(shard)}.{role}")
            except ApiRefusal as refusal:
                if refusal.is_no_consumer:
                    return 0
                raise
            return int(info["ack_floor"]["stream_seq"])

        return await self._connection.retry(read)

    async def forget(self, *, role: str, shard: int) -> None:
        """Deletes the durable consumer, if there is one."""

        async def delete() -> None:
            try:
                await self._connection.call(f"CONSUMER.DELETE.{stream_name(shard)}.{role}")
            except ApiRefusal as refusal:
                if not refusal.is_no_consumer:
                    raise

        await self._connection.retry(delete)


class NatsRecordConsumer:
    """RecordConsumer. Used by one task."""

    def __init__(self, connection: NatsConnection, *, role: str, shard: int) -> None:
        """Names the consumer; `restart` opens it."""
        self._connection = connection
        self._role = role
        self._shard = shard
        self._path = f"{stream_name(shard)}.{role}"
        self._created = ""
        self._before_first = 0
        """What was acknowledged, or trimmed, when this was opened. A new consumer says the latter on R1 only."""
        self._next = 1
        """Sequence of the record to return next."""
        self._unacked: dict[int, tuple[str, str]] = {}
        """Record id and where to acknowledge, by sequence, of what was returned."""
        self._done = 0
        """Sequence of the last record that was to be acknowledged, confirmed or not."""
        self._forgotten = ""
        """Where to acknowledge what came again although it is done."""
        self._buffer: deque[Msg] = deque()
        self._inbox: Subscription | None = None
        self._inbox_subject = ""
        self._pull_end_s = 0.0
        self._pull_left = 0
        self._is_broken = False
        self._arrived = asyncio.Event()

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[AnyRecord]:
        """Returns the next records; see the port."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        while True:
            self._arrived.clear()
            records = self._take(max_records)
            if self._forgotten:
                await self._acknowledge_again()
            if records:
                return records
            if self._is_broken:
                await asyncio.sleep(_RESTART_PAUSE_S)
                await self.restart()
            if self._pull_left <= 0 or loop.time() >= self._pull_end_s:
                await self._pull()
            try:
                async with asyncio.timeout_at(min(end_s, self._pull_end_s)):
                    await self._arrived.wait()
            except TimeoutError:
                if loop.time() >= end_s:
                    return []
                await self._look_for_lost()

    def _take(self, max_records: int) -> list[AnyRecord]:
        records: list[AnyRecord] = []
        while self._buffer and len(records) < max_records:
            message = self._buffer[0]
            sequence = message.metadata.sequence.stream
            if sequence > self._next:
                self._is_broken = True
                break
            if sequence == self._next:
                record = _read(message, sequence)
                records.append(record)
                self._unacked[sequence] = (_record_id(record), message.reply)
                self._next += 1
            elif sequence <= self._done:
                self._forgotten = message.reply
                self._unacked.pop(sequence, None)
            self._buffer.popleft()
        return records

    async def _acknowledge_again(self) -> None:
        """Repeats an acknowledgement that was not confirmed, or that servers forgot when they were killed.

        Without it a shard in which nothing follows would look behind for ever, and would not be trimmed.
        """
        reply, self._forgotten = self._forgotten, ""
        with suppress(LogUnavailable):  # then it comes again
            await self._connection.publish(reply, b"+ACK")

    async def _pull(self) -> None:
        query = {"batch": _PULL_RECORDS, "expires": int(_PULL_FOR_S * _NANOSECONDS), "max_bytes": _PULL_BYTES}
        self._pull_left = _PULL_RECORDS
        self._pull_end_s = asyncio.get_running_loop().time() + _PULL_FOR_S
        await self._connection.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._path}", json.dumps(query).encode(), reply=self._inbox_subject
        )

    async def _look_for_lost(self) -> None:
        """Asks, after a pull that brought nothing, whether the server thinks that it sent what never arrived."""
        info = await self._read_info()
        if info["num_ack_pending"] > len(self._unacked) + len(self._buffer):
            self.interrupt()

    def interrupt(self) -> None:
        """Says that something may have been lost on the way: the next `fetch` goes back to the floor first."""
        self._is_broken = True
        self._arrived.set()

    async def _on_message(self, message: Msg) -> None:
        headers = message.headers or {}
        status = headers.get("Status")
        if status is None:
            self._pull_left -= 1
            self._buffer.append(message)
        else:
            # With replicas a status may overtake records that were sent before it: they still arrive here.
            self._pull_left = 0
            text = headers.get(Header.DESCRIPTION, "")
            if status not in _PULL_IS_OVER and not any(end in text for end in _PULL_HAS_BROUGHT_ALL):
                self._is_broken = True
        self._arrived.set()

    async def restart(self) -> None:
        """Makes the consumer if it is missing and goes back to the record after the last one that was returned."""
        met_hole = bool(self._buffer) and self._buffer[0].metadata.sequence.stream > self._next
        await self._renew_inbox()  # first, or what the reset sends again would go to an open pull of the old one
        info = await self._connection.retry(self._reset)
        if info["created"] != self._created:
            # New to us: opened, or the stream was made anew and everything that we knew is of another log.
            stream = await self._connection.retry(partial(read_stream, self._connection, self._shard))
            floor: int = info["ack_floor"]["stream_seq"]
            self._created = info["created"]
            self._before_first = max(floor, stream.first_sequence - 1)
            self._next = self._before_first + 1
            self._done = self._before_first
            self._unacked.clear()
        elif met_hole:
            await self._require_next_exists()
        self._is_broken = False

    async def _reset(self) -> dict[str, Any]:
        try:
            await self._connection.call(f"CONSUMER.INFO.{self._path}")  # a reset of none is not answered
            return await self._connection.call(f"CONSUMER.RESET.{self._path}")
        except ApiRefusal as refusal:
            if not refusal.is_no_consumer:
                raise
        config = {
            "name": self._role,
            "durable_name": self._role,
            "deliver_policy": "all",
            "ack_policy": "all",
            "ack_wait": _ACK_WAIT_S * _NANOSECONDS,
            "max_deliver": -1,
            "max_ack_pending": _MAX_ACK_PENDING,
            "replay_policy": "instant",
        }
        query = {"stream_name": stream_name(self._shard), "config": config}
        return await self._connection.call(f"CONSUMER.CREATE.{self._path}", query)

    async def _require_next_exists(self) -> None:
        """Asks the leader for the record that was skipped; one that was lost, not trimmed, is never passed over."""
        name, query = stream_name(self._shard), {"seq": self._next}
        if await self._connection.retry(partial(get_message, self._connection, name, query)) is None:
            raise RecordLost(shard=self._shard, sequence=self._next)

    async def _renew_inbox(self) -> None:
        await self.close()
        self._inbox_subject = self._connection.new_inbox()
        self._inbox = await self._connection.subscribe(self._inbox_subject, self._on_message)
        self._buffer.clear()
        self._pull_left = 0
        self._is_broken = True  # until all of `restart` succeeded

    async def close(self) -> None:
        """Stops listening; what was returned and not acknowledged comes again from the next one that is opened."""
        if self._inbox is not None:
            await self._connection.unsubscribe(self._inbox)

    async def ack(self, record: AnyRecord) -> None:
        """Remembers that everything up to this record is done; confirmed when it returns."""
        record_id, reply = self._unacked.get(record.sequence, ("", ""))
        if not reply or record_id != _record_id(record):
            raise LogUnavailable(f"record {record.sequence} does not wait for an acknowledgement, or is of a lost log")
        self._done = max(self._done, record.sequence)
        await self._connection.retry(partial(self._connection.request, reply, b"+ACK"))
        for sequence in tuple(self._unacked):
            if sequence <= record.sequence:
                del self._unacked[sequence]

    async def keep_alive(self) -> None:
        """Says that what was returned is still worked on."""
        for _, reply in tuple(self._unacked.values()):
            await self._connection.publish(reply, b"+WPI")

    async def acknowledged(self) -> int:
        """Returns the sequence of the last acknowledged record."""
        return max(self._before_first, int((await self._read_info())["ack_floor"]["stream_seq"]))

    async def lag(self) -> int:
        """Returns how many records of the shard are not acknowledged."""
        info = await self._read_info()
        return int(info["num_pending"]) + int(info["num_ack_pending"])

    async def _read_info(self) -> dict[str, Any]:
        return await self._connection.retry(partial(self._connection.call, f"CONSUMER.INFO.{self._path}"))


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
