"""What callers share who ask for the same at the same time."""

import asyncio
from collections.abc import Awaitable

import pytest

from hubbub_server.adapters.cql.shared_reads import SharedReads
from hubbub_server.domain.errors import StoreUnavailable

pytestmark = pytest.mark.asyncio


class Source:
    """A slow store of one number."""

    def __init__(self) -> None:
        self.number = 0
        self.reads = 0
        self.under_way = 0
        self.most_under_way = 0
        self.gate = asyncio.Event()

    async def read(self) -> int:
        self.reads += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        number = self.number
        try:
            await self.gate.wait()
            await asyncio.sleep(0)  # as every answer from a network, it comes in a later turn of the loop
        finally:
            self.under_way -= 1
        return number


async def started(group: asyncio.TaskGroup, call: Awaitable[int]) -> asyncio.Task[int]:
    """Starts a call and lets it come as far as it can."""

    async def run() -> int:
        return await call

    task = group.create_task(run())
    for _ in range(3):
        await asyncio.sleep(0)
    return task


async def test_many_callers_are_two_reads() -> None:
    """The first one's, and one for all who came while it was under way."""
    source, reads = Source(), SharedReads()
    async with asyncio.TaskGroup() as group:
        tasks = [await started(group, reads.run("key", source.read)) for _ in range(100)]
        source.gate.set()

    assert [task.result() for task in tasks] == [0] * 100
    assert source.reads == 2
    assert source.most_under_way == 1


async def test_nobody_gets_a_read_that_began_before_the_call() -> None:
    """G3: an id that was stored before the call must be found, even when the same look-up is under way."""
    source, reads = Source(), SharedReads()
    async with asyncio.TaskGroup() as group:
        first = await started(group, reads.run("key", source.read))
        source.number = 1
        second = await started(group, reads.run("key", source.read))
        source.gate.set()

    assert (first.result(), second.result()) == (0, 1)


async def test_other_keys_do_not_wait() -> None:
    source, other, reads = Source(), Source(), SharedReads()
    other.gate.set()
    async with asyncio.TaskGroup() as group:
        await started(group, reads.run("key", source.read))
        assert await reads.run("other", other.read) == 0
        source.gate.set()


async def test_a_cancelled_caller_takes_nobody_along() -> None:
    source, reads = Source(), SharedReads()
    async with asyncio.TaskGroup() as group:
        first = await started(group, reads.run("key", source.read))
        others = [await started(group, reads.run("key", source.read)) for _ in range(3)]
        first.cancel()
        await asyncio.sleep(0)
        others[0].cancel()
        await asyncio.sleep(0)
        source.gate.set()

    assert [task.result() for task in others[1:]] == [0, 0]
    assert first.cancelled()
    assert others[0].cancelled()


async def test_failure_is_shared_by_those_who_share_the_read_only() -> None:
    source, reads = Source(), SharedReads()
    failing = True

    async def read() -> int:
        number = await source.read()
        if failing:
            raise StoreUnavailable("down")
        return number

    async with asyncio.TaskGroup() as group:
        first = await started(group, _outcome(reads.run("key", read)))
        second = await started(group, _outcome(reads.run("key", read)))
        source.gate.set()
        await first
        failing = False

    assert (first.result(), second.result()) == (-1, 0)


async def test_nothing_is_remembered() -> None:
    source, reads = Source(), SharedReads()
    source.gate.set()

    assert await reads.run("key", source.read) == 0
    source.number = 1
    assert await reads.run("key", source.read) == 1


async def _outcome(call: Awaitable[int]) -> int:
    try:
        return await call
    except StoreUnavailable:
        return -1
