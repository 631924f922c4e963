"""Time that tests move, and ids that count."""

from itertools import count


class FakeClock:
    """A Clock that stands still until `advance`."""

    def __init__(self, now_ms: int = 1_800_000_000_000) -> None:
        self._now_ms = now_ms
        self._monotonic_s = 1_000.0

    def now_ms(self) -> int:
        """Unix milliseconds."""
        return self._now_ms

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return self._monotonic_s

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now_ms += round(seconds * 1000)
        self._monotonic_s += seconds


class FakeIds:
    """An IdSource that counts: u00…01, u00…02."""

    def __init__(self) -> None:
        self._numbers = count(1)

    def new_id(self, prefix: str) -> str:
        """Returns the next id."""
        return f"{prefix}{next(self._numbers):026d}"
