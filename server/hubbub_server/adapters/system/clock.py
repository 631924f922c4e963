"""The machine's clocks."""

import time


class SystemClock:
    """Implements Clock."""

    def now_ms(self) -> int:
        """Unix milliseconds of the wall clock; jumps when the machine's time is set."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """Seconds of the monotonic clock."""
        return time.monotonic()
