"""Waits for conditions; tests never sleep for a time that they hope is long enough."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hubbub_server.domain.errors import LogUnavailable

T = TypeVar("T")

TIMEOUT_S = 30.0
_POLL_S = 0.005


async def until(condition: Callable[[], bool]) -> None:
    """Waits until a condition holds."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():  # noqa: ASYNC110  # conditions of code that knows nothing of tests
            await asyncio.sleep(_POLL_S)


async def until_found(look: Callable[[], Awaitable[T | None]]) -> T:
    """Repeats a look-up until it finds something."""
    async with asyncio.timeout(TIMEOUT_S):
        while (found := await look()) is None:  # noqa: ASYNC110  # as above
            await asyncio.sleep(_POLL_S)
        return found


async def until_it_answers(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call while the log is unavailable; a log that comes back from a crash has its time to do so."""
    async with asyncio.timeout(TIMEOUT_S):
        while True:
            try:
                return await call()
            except LogUnavailable:
                await asyncio.sleep(_POLL_S)
