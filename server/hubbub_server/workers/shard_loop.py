"""The loop that each role runs on each shard: fetch, handle, acknowledge, again.

Theory of operation. Records are handled in order, and acknowledged only when all up to them are handled for good;
whatever ends in between (a crash, a lost acknowledgement) makes them come again, so handling is idempotent. Trouble of
the log is waited out here, trouble of a store by the role; nothing is given back, no number of failures is too many.

A *poison* record, decided by what it is, goes to the dead letters, and so does what follows in its topic; all other
topics go on (dead_topics.py). What does not pass by itself and has no topic stops this shard with an alarm: records
that are missing in the log, a store that the log cannot fill, more dead topics than a few.

One worker runs this loop for a unit at a time, and it may be mistaken about that: frozen and woken after its lease was
taken over, it could still act. So the lease is looked at before each write and each acknowledgement; between the look
and the act it may freeze again. What is written then is harmless: projections commute, effects are remembered by their
source position, acknowledgements below the floor change nothing, and a letter is added only after the last one.
"""

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final

import structlog

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.dead_letters import DeadLetters, LetterTooLarge
from hubbub_server.ports.record_consumer import AnyRecord, PoisonRecord, RecordConsumer, RecordConsumers, RecordLost
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.dead_topics import DeadTopics, TooManyDeadTopics
from hubbub_server.workers.shard_role import Batch, ShardHalted, ShardRole, StartOver

_MAX_RECORDS: Final = 100
_FETCH_WAIT_S: Final = 5.0
_GATHER_S: Final = 0.25
"""Pause after a batch that was not full: under light traffic a batch costs as much as a record, for who comes next."""
_LAG_INTERVAL_S: Final = 2.0

log = structlog.get_logger()


class LeaseLost(Exception):
    """Another worker may have the unit by now."""


class ShardLoop:
    """Runs one role on one shard while `is_held` says that this worker may."""

    def __init__(
        self,
        role: ShardRole,
        shard: int,
        *,
        consumers: RecordConsumers,
        letters: DeadLetters,
        backoff: Backoff,
        is_held: Callable[[], bool],
        lag_alarm_records: int,
    ) -> None:
        """`lag_alarm_records` is the lag from which on it is worth an alarm."""
        self._role = role
        self._shard = shard
        self._consumers = consumers
        self._backoff = backoff
        self._is_held = is_held
        self._lag_alarm_records = lag_alarm_records
        self._is_lagging = False
        self._dead = DeadTopics(letters, role=role.role, shard=shard, backoff=backoff)
        self._lag = metrics.worker_lag_records.labels(role.role, shard)
        self._stopped = metrics.worker_stopped.labels(role.role, shard)
        self._applied = metrics.worker_applied_records.labels(role.role)

    async def run(self, tasks: asyncio.TaskGroup) -> None:
        """Runs until it is cancelled or the lease is lost. When the shard cannot go on, it keeps the alarm until then.

        `tasks` owns what runs beside it and ends with it.
        """
        self._stopped.set(0)
        try:
            await self._run_or_stop(tasks)
        except LeaseLost:
            log.warning("lease lost", role=self._role.role, shard=self._shard)
        finally:
            self._say_no_more()

    async def _run_or_stop(self, tasks: asyncio.TaskGroup) -> None:
        try:
            await self._run(tasks)
        except (RecordLost, ShardHalted, LetterTooLarge, TooManyDeadTopics) as error:
            self._stopped.set(1)
            log.error("shard stopped", role=self._role.role, shard=self._shard, reason=str(error))
            await asyncio.get_running_loop().create_future()  # a person is waited for, who starts the worker again

    def _say_no_more(self) -> None:
        """Takes back what the metrics say of this unit: it is for the next worker to tell."""
        for gauge in (metrics.worker_lag_records, metrics.worker_stopped, metrics.worker_dead_topics):
            gauge.remove(self._role.role, self._shard)

    async def _run(self, tasks: asyncio.TaskGroup) -> None:
        while True:
            try:
                async with self._consumers.open(role=self._role.role, shard=self._shard) as consumer:
                    await self._run_with(consumer, tasks)
            except LogUnavailable as error:
                await self._wait_for_log(error)
            except StartOver as error:
                log.warning("shard starts over", role=self._role.role, shard=self._shard, reason=str(error))
                await self._forget()

    async def _run_with(self, consumer: RecordConsumer, tasks: asyncio.TaskGroup) -> None:
        watching = tasks.create_task(self._watch_lag(consumer), name=f"lag of {self._role.role}-{self._shard}")
        try:
            await self._dead.load()
            await self._role.start(await consumer.acknowledged())
            await self._consume(consumer)
        finally:
            watching.cancel()

    async def _forget(self) -> None:
        while True:
            self._require_lease()
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
                self._backoff.reset()
                if 0 < len(records) < _MAX_RECORDS:
                    await asyncio.sleep(_GATHER_S)
            except LogUnavailable as error:
                # The consumer stays open: it knows what it gave out, and a later acknowledgement covers a lost one.
                await self._wait_for_log(error)

    async def _handle(self, consumer: RecordConsumer, records: Sequence[AnyRecord]) -> None:
        self._require_lease()
        await self._handle_for_good(records)
        self._applied.inc(len(records))
        self._require_lease()
        await consumer.ack(records[-1])

    async def _handle_for_good(self, records: Sequence[AnyRecord]) -> None:
        """Handles what lives and puts aside what is dead. Never raises LogUnavailable: a batch is not fetched again.

        What comes before a poison record is handled before that one is put aside: then the letters begin where the
        role's work on the topic ends.
        """
        start, end = records[0].sequence, records[-1].sequence
        living = await self._dead.put_aside(records, self._require_lease)
        while True:
            try:
                await self._role.handle(
                    Batch(first_sequence=start, last_sequence=end, records=living), self._require_lease
                )
            except PoisonRecord as poison:
                before = [record for record in living if record.sequence < poison.sequence]
                (killed,) = [record for record in living if record.sequence == poison.sequence]
                after = [record for record in living if record.sequence > poison.sequence]
                if poison.sequence > start:
                    batch = Batch(first_sequence=start, last_sequence=poison.sequence - 1, records=before)
                    await self._role.handle(batch, self._require_lease)
                await self._dead.kill(killed, poison.reason, self._require_lease)
                start, living = poison.sequence, await self._dead.put_aside(after, self._require_lease)
            else:
                return

    def _require_lease(self) -> None:
        if not self._is_held():
            raise LeaseLost

    async def _watch_lag(self, consumer: RecordConsumer) -> None:
        """Tells how far behind this shard is; also while the role waits for its store."""
        while True:
            with suppress(LogUnavailable):
                lag = await consumer.lag()
                self._lag.set(lag)
                self._judge(lag)
            await asyncio.sleep(_LAG_INTERVAL_S)

    def _judge(self, lag: int) -> None:
        """Raises the alarm once, and takes it back when half of the lag is gone."""
        if not self._is_lagging and lag >= self._lag_alarm_records:
            self._is_lagging = True
            log.error("shard lags", role=self._role.role, shard=self._shard, lag_records=lag)
        elif self._is_lagging and lag < self._lag_alarm_records / 2:
            self._is_lagging = False
            log.info("shard caught up", role=self._role.role, shard=self._shard, lag_records=lag)

    async def _wait_for_log(self, error: LogUnavailable) -> None:
        log.warning("log unavailable", role=self._role.role, shard=self._shard, reason=str(error))
        await self._backoff.wait()
        self._require_lease()
