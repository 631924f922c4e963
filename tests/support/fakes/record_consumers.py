"""Consumers of a FakeLogServer. Acknowledged floors live in the server, so they outlast consumers.

Switches: `is_unavailable` (every call raises LogUnavailable), `fail_acks` (so many next acknowledgements are lost and
raise it), `unreadable` (places without facts), `lost` (places where nothing is any more).
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.record_consumer import AnyRecord, RecordLost, UnreadableRecord
from hubbub_server.ports.topic_log import LogRecord
from tests.support.fakes.topic_log import FakeLogServer


class FakeRecordConsumers:
    """RecordConsumers of one worker."""

    def __init__(self, server: FakeLogServer) -> None:
        self.is_unavailable = False
        self.fail_acks = 0
        self.unreadable: set[tuple[int, int]] = set()
        self.lost: set[tuple[int, int]] = set()
        self.server = server
        self.changed = asyncio.Event()
        server.on_append.append(self.changed.set)

    @asynccontextmanager
    async def open(self, *, role: str, shard: int) -> AsyncIterator["FakeRecordConsumer"]:
        self.check_available()
        self.create(role, shard)
        yield FakeRecordConsumer(self, role, shard)

    async def acknowledged(self, *, role: str, shard: int) -> int:
        await asyncio.sleep(0)
        self.check_available()
        return self.floor(role, shard)

    async def forget(self, *, role: str, shard: int) -> None:
        await asyncio.sleep(0)
        self.check_available()
        self.server.ack_floors.pop((role, shard), None)

    def create(self, role: str, shard: int) -> None:
        """Makes a durable consumer if there is none: as on a server, its floor is right before the first record."""
        records, last = self.server.records[shard], self.server.last_sequences[shard]
        self.server.ack_floors.setdefault((role, shard), records[0].sequence - 1 if records else last)

    def floor(self, role: str, shard: int) -> int:
        """Returns the last acknowledged sequence."""
        return self.server.ack_floors.get((role, shard), 0)

    def check_available(self) -> None:
        """Raises LogUnavailable while it is switched off."""
        if self.is_unavailable:
            raise LogUnavailable("not connected")


class FakeRecordConsumer:
    """RecordConsumer. What it gave out and was not acknowledged comes again from the next one that is opened."""

    def __init__(self, consumers: FakeRecordConsumers, role: str, shard: int) -> None:
        self._consumers = consumers
        self._key = (role, shard)
        self._delivered = consumers.floor(role, shard)

    async def fetch(self, *, max_records: int, wait_s: float) -> Sequence[AnyRecord]:
        loop = asyncio.get_running_loop()
        end_s = loop.time() + wait_s
        while True:
            self._consumers.check_available()
            if self._key not in self._consumers.server.ack_floors:  # new, or the shard was recreated
                self._consumers.create(*self._key)
                self._delivered = self._consumers.floor(*self._key)
            self._consumers.changed.clear()
            if found := self._next(max_records):
                self._delivered = found[-1].sequence
                await asyncio.sleep(0)
                return found
            try:
                async with asyncio.timeout_at(end_s):
                    await self._consumers.changed.wait()
            except TimeoutError:
                return []

    def _next(self, max_records: int) -> list[AnyRecord]:
        shard = self._key[1]
        found: list[AnyRecord] = []
        for record in self._consumers.server.records[shard]:
            if record.sequence <= self._delivered or len(found) == max_records:
                continue
            if (shard, record.sequence) in self._consumers.lost:
                if not found:
                    raise RecordLost(shard=shard, sequence=record.sequence)
                break
            found.append(_without_facts(record) if (shard, record.sequence) in self._consumers.unreadable else record)
        return found

    async def ack(self, record: AnyRecord) -> None:
        await asyncio.sleep(0)
        self._consumers.check_available()
        if self._consumers.fail_acks > 0:
            self._consumers.fail_acks -= 1
            raise LogUnavailable("the acknowledgement was lost")
        stored = self._consumers.server.records[self._key[1]]
        if not any(record in (each, _without_facts(each)) for each in stored if each.sequence == record.sequence):
            raise LogUnavailable("the record is of a log that was lost")
        self._consumers.server.ack_floors[self._key] = max(self._consumers.floor(*self._key), record.sequence)

    async def acknowledged(self) -> int:
        self._consumers.check_available()
        return self._consumers.floor(*self._key)

    async def lag(self) -> int:
        self._consumers.check_available()
        floor = self._consumers.floor(*self._key)
        return sum(record.sequence > floor for record in self._consumers.server.records[self._key[1]])


def _without_facts(record: LogRecord) -> UnreadableRecord:
    return UnreadableRecord(
        topic_id=record.facts.topic_id, sequence=record.sequence, headers={}, body=record.body, reason="no headers"
    )
