"""How long to wait before the next try: exponential, with full jitter."""

import random
from collections.abc import Callable


class Backoff:
    """Waits at random between nothing and a bound that doubles with each try, up to a maximum.

    Args:
        first_s: bound of the first wait.
        max_s: largest bound.
        rand: returns a float in [0, 1); tests give their own.
    """

    def __init__(self, first_s: float, max_s: float, rand: Callable[[], float] = random.random) -> None:
        self._first_s, self._max_s, self._rand = first_s, max_s, rand
        self._tries = 0

    def next_s(self) -> float:
        """Returns the next wait in seconds, never 0: a tight loop helps nobody."""
        bound = min(self._max_s, self._first_s * 2.0 ** min(self._tries, 32))
        self._tries += 1
        return max(0.001, bound * self._rand())

    def ease(self, tries: int) -> None:
        """Takes back tries beyond these: something worked for a while."""
        self._tries = min(self._tries, tries)

    def reset(self) -> None:
        """Starts again with the smallest bound: what failed works."""
        self._tries = 0
