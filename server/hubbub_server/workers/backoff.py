"""Waiting between tries."""

import asyncio
import random


class Backoff:
    """Waits twice as long each time, from `first_s` to `max_s`, with jitter so that workers do not try in step."""

    def __init__(self, *, first_s: float = 0.1, max_s: float = 5.0) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._next_s = first_s

    async def wait(self) -> None:
        """Waits between half and the whole of the next span."""
        span_s = self._next_s
        self._next_s = min(2 * span_s, self._max_s)
        await asyncio.sleep(random.uniform(span_s / 2, span_s))

    def reset(self) -> None:
        """Starts again at `first_s`: it worked."""
        self._next_s = self._first_s
