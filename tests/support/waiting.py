"""Waiting for a condition instead of for a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from hubbub_server.domain.errors import LogUnavailable

T = TypeVar("T")

RECOVERY_TIMEOUT_S = 30.0
PATIENCE_S = 30.0
_POLL_S = 0.005


async def until(condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Returns as soon as `condition()` is true. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # any condition, so there is no event to wait for
            await asyncio.sleep(0.001)


async def until_found(look: Callable[[], Awaitable[T | None]]) -> T:
    """Repeats a look-up until it finds something."""
    async with asyncio.timeout(RECOVERY_TIMEOUT_S):
        while (found := await look()) is None:  # noqa: ASYNC110  # as above
            await asyncio.sleep(_POLL_S)
        return found


async def until_it_answers(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call while the log is unavailable; a log that comes back from a crash has its time to do so."""
    async with asyncio.timeout(RECOVERY_TIMEOUT_S):
        while True:
            try:
                return await call()
            except LogUnavailable:
                await asyncio.sleep(_POLL_S)


def wait_until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> None:
    """As `until`, for tests without a loop. Raises AssertionError."""
    deadline_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.02)
