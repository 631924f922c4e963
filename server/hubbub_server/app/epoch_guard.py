"""Refuses commits to a shard whose log is not the one that states and store know.

Theory of operation. A log that was restored from an older copy, lost its newest records, or was lost and made anew
looks like any other; commits to it would take positions that were given before. So each shard is compared at start,
after each reconnect and every 30 s: the epoch of its log is the one for which its states are complete, its last
sequence is not below what states and store have seen of this epoch, nor below what this process has seen, and the log
has every record that was not trimmed. A topic that was loaded is committed to only after another look at its log: a
server that lost records may have become the leader since the last one, and have told the state. A shard that
fails twice in a row (a deposed leader may answer once) is refused until `hubbub log new-epoch` has made states and log
one again. While the store is down it has no say: states and log are enough to notice all but a restore of both.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.projection import ShardRow
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_states import TopicStates

_RETRY_AFTER_S: Final = 30.0

log = structlog.get_logger()


class ShardRefused(LogUnavailable):
    """This shard takes no commits: a person is asked."""


class EpochGuard:
    """Guards the shards of one process. Use as `async with`; the block owns the task that looks."""

    def __init__(
        self,
        *,
        log_shards: LogShards,
        states: TopicStates,
        directory: TopicDirectory,
        shards: int,
        on_refused: Callable[[int], Awaitable[object]] | None = None,
        interval_s: float = 30.0,
        second_look_s: float = 0.5,
        store_timeout_s: float = 1.0,
    ) -> None:
        """Takes the ports.

        Args:
            log_shards: The log.
            states: The states beside it.
            directory: The store.
            shards: Number of shards.
            on_refused: Called by the task that looks with each shard that is refused; then it looks again.
            interval_s: Between two looks.
            second_look_s: Before a shard that looks wrong is looked at again and refused.
            store_timeout_s: After this time the store counts as down.
        """
        self._log_shards = log_shards
        self._states = states
        self._directory = directory
        self._on_refused = on_refused
        self._interval_s = interval_s
        self._second_look_s = second_look_s
        self._store_timeout_s = store_timeout_s
        self._verdicts: list[str | None] = [None] * shards
        """Why a shard is refused; "": it is not; None: it must be looked at first."""
        self._highest = [(0, 0)] * shards
        """Largest (epoch, last sequence) that this process has seen."""
        self._looking = [asyncio.Lock() for _ in range(shards)]
        self._fresh_looks = [0] * shards
        """How many looks began because a topic was loaded."""
        self._look_now = asyncio.Event()

    async def __aenter__(self) -> Self:
        """Looks at all shards, as far as the log answers, and goes on looking."""
        await self._look_at_all()
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._task = self._tasks.create_task(self._run())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the looking."""
        self._task.cancel()
        await self._tasks.__aexit__(None, None, None)

    async def ensure(self, shard: int, *, is_fresh: bool = False) -> None:
        """Returns when a shard may be committed to; waits for a look if one is due, or `is_fresh`: for one from now.

        Raises:
            ShardRefused: it may not, until a person has decided.
            LogUnavailable: the log cannot be looked at.
        """
        if self._verdicts[shard] is None:
            await self._look_at(shard)
        elif is_fresh and not self._verdicts[shard]:
            await self._look_afresh(shard)
        if verdict := self._verdicts[shard]:
            raise ShardRefused(f"shard {shard} takes no commits: {verdict}", retry_after_s=_RETRY_AFTER_S)

    def recheck(self) -> None:
        """Says that another log may answer from now on: nothing is committed before it was looked at."""
        self._verdicts = [verdict or None for verdict in self._verdicts]
        self._look_now.set()

    def refused(self) -> dict[int, str]:
        """Returns the shards that are refused, and why."""
        return {shard: verdict for shard, verdict in enumerate(self._verdicts) if verdict}

    async def _run(self) -> None:
        while True:
            for shard in self.refused():
                await self._call_for_help(shard)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_s):
                    await self._look_now.wait()
            self._look_now.clear()
            await self._look_at_all()

    async def _call_for_help(self, shard: int) -> None:
        if self._on_refused is None:
            return
        try:
            await self._look_at(shard, again=True)  # others call for help too: theirs may have come meanwhile
            if self._verdicts[shard]:
                await self._on_refused(shard)
                await self._look_at(shard, again=True)
        except (LogUnavailable, StoreUnavailable) as error:
            log.warning("shard still refused", shard=shard, reason=str(error))
        except Exception:
            log.exception("shard still refused", shard=shard)  # nothing that help does may end the guard

    async def _look_at_all(self) -> None:
        for shard in range(len(self._verdicts)):
            try:
                await self._look_at(shard, again=True)
            except LogUnavailable as error:
                log.warning("shard not looked at", shard=shard, reason=str(error))

    async def _look_at(self, shard: int, *, again: bool = False) -> None:
        async with self._looking[shard]:  # single flight; each read inside is bounded
            if self._verdicts[shard] is not None and not again:
                return
            verdict = await self._judge(shard)
            if verdict:
                await asyncio.sleep(self._second_look_s)
                verdict = await self._judge(shard)
            if verdict and verdict != self._verdicts[shard]:
                log.error("shard refused", shard=shard, reason=verdict)
            self._verdicts[shard] = verdict
            metrics.refused_shards.labels(shard).set(bool(verdict))

    async def _look_afresh(self, shard: int) -> None:
        """Looks at the log alone, which is quick, and at all if something is odd. One look for all who wait for one."""
        due = self._fresh_looks[shard] + 1  # one that is under way began before we asked
        async with self._looking[shard]:
            if self._fresh_looks[shard] >= due:
                return
            self._fresh_looks[shard] += 1
            highest = self._highest[shard]
            bounds = await self._log_shards.read_bounds(shard)
            here = (bounds.epoch, bounds.last_sequence)
            if bounds.epoch == highest[0] and here >= highest and bounds.lost_sequence is None:
                self._highest[shard] = here
                return
        await self._look_at(shard, again=True)

    async def _judge(self, shard: int) -> str:
        """Says what is wrong with a shard; "" for nothing. The log is read last: it can only have grown."""
        stored = await self._read_store(shard)
        complete_epoch = await self._states.complete_epoch(shard)
        newest = await self._states.newest(shard)
        bounds = await self._log_shards.read_bounds(shard)
        here = (bounds.epoch, bounds.last_sequence)
        if complete_epoch != bounds.epoch:
            return f"its log is of epoch {bounds.epoch}, its states are complete for {complete_epoch}"
        if stored is not None and (stored.epoch, stored.sequence) > here:
            return f"its log ends at {here}, the store has applied {(stored.epoch, stored.sequence)}"
        if newest is not None and (newest.state.epoch, newest.sequence) > here:
            return f"its log ends at {here}, a state is of {(newest.state.epoch, newest.sequence)}"
        if bounds.lost_sequence is not None:
            return f"its log lost record {bounds.lost_sequence}, perhaps more"
        if self._highest[shard] > here:
            return f"its log ends at {here}, it had {self._highest[shard]}"
        self._highest[shard] = here
        return ""

    async def _read_store(self, shard: int) -> ShardRow | None:
        try:
            async with asyncio.timeout(self._store_timeout_s):
                return await self._directory.read_shard(shard)
        except (StoreUnavailable, TimeoutError):
            return None
