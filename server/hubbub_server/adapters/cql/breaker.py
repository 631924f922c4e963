"""A circuit breaker: while a store fails, calls are refused at once, not each after its own time-out. No I/O."""


class CircuitBreaker:
    """Opens after `failures` failures in a row; then lets one call through every `pause_s`, until one succeeds."""

    def __init__(self, *, failures: int = 5, pause_s: float = 1.0) -> None:
        self.pause_s = pause_s
        self._limit = failures
        self._failures = 0
        self._refuses_until_s = 0.0

    def admits(self, now_s: float) -> bool:
        """Tells whether a call may go out now. One that is let through while open stands for all of the next pause."""
        if self._failures < self._limit:
            return True
        if now_s < self._refuses_until_s:
            return False
        self._refuses_until_s = now_s + self.pause_s
        return True

    def succeeded(self) -> None:
        """A call was answered."""
        self._failures = 0

    def failed(self, now_s: float) -> None:
        """A call was not answered."""
        self._failures += 1
        if self._failures == self._limit:
            self._refuses_until_s = now_s + self.pause_s
