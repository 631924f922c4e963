"""The loop that each role runs on each shard: fetch, handle, acknowledge, again.

Theory of operation. Records are handled in order, and acknowledged only when all up to them are handled for good;
whatever ends in between (a crash, a lost acknowledgement) makes them come again, so handling is idempotent. Trouble of
the log is waited out here, trouble of a store by the role. What does not pass by itself stops this shard with an alarm,
after the records before it are done; the other shards go on. Nothing is skipped, and no number of failures is too many.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

import structlog

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.record_consumer import PoisonRecord, RecordConsumer, RecordConsumers
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.backoff import Backoff

_MAX_RECORDS: Final = 100
_FETCH_WAIT_S: Final = 5.0
_LAG_INTERVAL_S: Final = 1.0

log = structlog.get_logger()

KeepAlive = Callable[[], Awaitable[None]]


class ShardHalted(Exception):
    """This shard cannot go on without a person, for a reason other than a poison record."""


class StartOver(Exception):
    """What was acknowledged is not done after all: the shard is to be handled again from its first record."""


class ShardRole(Protocol):
    """What a role does with the records of one shard."""

    @property
    def role(self) -> str:
        """Names the role; also the durable consumer."""

    async def start(self, acknowledged: int) -> None:
        """Prepares for what comes after the record with sequence `acknowledged`, 0: for the first one.

        Raises:
            StartOver: it cannot go on from there, but from the first record.
        """

    async def handle(self, records: Sequence[LogRecord], keep_alive: KeepAlive) -> None:
        """Handles records for good before it returns, however long that takes; awaits `keep_alive` while it waits.

        Raises:
            PoisonRecord: at the first record that can never be handled; none, some or all before it are handled.
            ShardHalted: it cannot go on.
            StartOver: as `start`.
        """


class ShardLoop:
    """Runs one role on one shard."""

    def __init__(self, role: ShardRole, shard: int, *, consumers: RecordConsumers, backoff: Backoff) -> None:
        self._role = role
        self._shard = shard
        self._consumers = consumers
        self._backoff = backoff
        self._lag = metrics.worker_lag_records.labels(role.role, shard)
        self._poisoned = metrics.worker_poisoned.labels(role.role, shard)
        self._applied = metrics.worker_applied_records.labels(role.role)
        self._lag_time_s = 0.0

    async def run(self) -> None:
        """Runs until it is cancelled; returns only when the shard is stopped for good, after raising the alarm."""
        self._poisoned.set(0)
        try:
            while True:
                try:
                    async with self._consumers.open(role=self._role.role, shard=self._shard) as consumer:
                        await self._role.start(await consumer.acknowledged())
                        await self._consume(consumer)
                except LogUnavailable as error:
                    await self._wait_for_log(error)
                except StartOver as error:
                    log.warning("shard starts over", role=self._role.role, shard=self._shard, reason=str(error))
                    await self._forget()
        except (PoisonRecord, ShardHalted) as error:
            self._poisoned.set(1)
            log.error("shard stopped", role=self._role.role, shard=self._shard, reason=str(error))

    async def _forget(self) -> None:
        while True:
            try:
                await self._consumers.forget(role=self._role.role, shard=self._shard)
            except LogUnavailable as error:
                await self._wait_for_log(error)
            else:
                return

    async def _consume(self, consumer: RecordConsumer) -> None:
        while True:
            try:
                records = await consumer.fetch(max_records=_MAX_RECORDS, wait_s=_FETCH_WAIT_S)
                if records:
                    await self._handle(consumer, records)
                await self._report_lag(consumer)
                self._backoff.reset()
            except LogUnavailable as error:
                # The consumer stays open: it knows what it gave out, and a later acknowledgement covers a lost one.
                await self._wait_for_log(error)

    async def _handle(self, consumer: RecordConsumer, records: Sequence[LogRecord]) -> None:
        async def keep_alive() -> None:
            with suppress(LogUnavailable):  # then the records come again, which is harmless
                await consumer.keep_alive()

        try:
            await self._role.handle(records, keep_alive)
        except PoisonRecord as poison:
            good = [record for record in records if record.sequence < poison.sequence]
            if good:
                await self._role.handle(good, keep_alive)
                with suppress(LogUnavailable):  # going on after it would pass over the poison record
                    await consumer.ack(good[-1])
            raise
        self._applied.inc(len(records))
        await consumer.ack(records[-1])

    async def _report_lag(self, consumer: RecordConsumer) -> None:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._lag_time_s >= _LAG_INTERVAL_S:
            self._lag_time_s = now_s
            self._lag.set(await consumer.lag())

    async def _wait_for_log(self, error: LogUnavailable) -> None:
        log.warning("log unavailable", role=self._role.role, shard=self._shard, reason=str(error))
        await self._backoff.wait()
