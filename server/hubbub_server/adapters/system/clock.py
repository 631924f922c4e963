"""The machine's clocks."""

import time
from pathlib import Path


class SystemClock:
    """Implements Clock."""

    def now_ms(self) -> int:
        """Unix milliseconds of the wall clock; jumps when the machine's time is set."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()


class WrongClock:
    """Implements Clock for tests: its wall clock is wrong by what a file says, and jumps when the file changes."""

    def __init__(self, shift_file: Path) -> None:
        """Takes a file with a number of seconds; while there is none, the clock is right."""
        self._shift_file = shift_file

    def now_ms(self) -> int:
        """Unix milliseconds of the wall clock, and the shift."""
        try:
            shift_s = float(self._shift_file.read_text())
        except FileNotFoundError:
            shift_s = 0.0
        return time.time_ns() // 1_000_000 + round(shift_s * 1_000)

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()
