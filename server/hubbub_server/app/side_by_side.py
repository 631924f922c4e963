"""Does the same to many things, a few of them at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


async def side_by_side(do: Callable[[T], Awaitable[R]], things: Iterable[T], *, at_once: int) -> list[R]:
    """Returns what `do` returned for each thing, in their order. Raises the first error; the others are cancelled."""
    places = asyncio.Semaphore(at_once)

    async def run(thing: T) -> R:
        async with places:
            return await do(thing)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(run(thing)) for thing in things]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from errors  # callers know HubbubErrors, not groups of them
    return [task.result() for task in tasks]
