"""Many calls of a session, a few at a time. No driver."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Final, TypeVar

from hubbub_server.domain.errors import StoreUnavailable

T = TypeVar("T")

AT_ONCE: Final = 16


async def side_by_side(call: Callable[[T], Awaitable[None]], items: Iterable[T]) -> None:
    """Awaits `call` of each item, 16 at a time.

    Raises:
        StoreUnavailable: one of them failed so; others are done, given up, or were not begun.
    """
    waiting = iter(items)

    async def take() -> None:
        for item in waiting:  # shared: each takes the next one
            await call(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(AT_ONCE):
                group.create_task(take())
    except* StoreUnavailable as errors:
        failed = errors.exceptions[0]
    else:
        return
    raise StoreUnavailable(f"one of many calls failed: {failed}") from failed
