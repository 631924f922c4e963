"""Time and new ids, so that tests can hold both."""

from typing import Protocol


class Clock(Protocol):
    """Tells the time."""

    def now_ms(self) -> int:
        """Unix milliseconds; may jump."""

    def monotonic_s(self) -> float:
        """Seconds that never go back; for waits and ages."""


class IdSource(Protocol):
    """Makes new ids."""

    def new_id(self, prefix: str) -> str:
        """Returns `prefix` and 26 random characters of [a-z0-9] (at least 128 bits)."""
