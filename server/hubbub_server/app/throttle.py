"""Token buckets by key: how often somebody may try. In memory of one node; a cluster allows as many times more."""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from hubbub_server.domain.errors import RateLimited
from hubbub_server.ports.clock import Clock

_SHORTEST_WAIT_S: Final = 0.001


@dataclass(slots=True)
class _Bucket:
    tokens: float
    filled_at_s: float


class Throttle:
    """Lets `burst` tries of a key pass at once and `per_s` a second after that, on the monotonic clock.

    Remembers at most `max_keys` keys; the one that was used longest ago is forgotten, which is to say full again.
    """

    def __init__(self, clock: Clock, *, text: str, burst: int, per_s: float, max_keys: int = 10_000) -> None:
        self._clock = clock
        self._text = text
        self._burst = burst
        self._per_s = per_s
        self._max_keys = max_keys
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, key: str) -> None:
        """Takes one try of `key`.

        Raises:
            RateLimited: there is none left; `retry_after_s` is positive and exactly when there is one again.
        """
        bucket = self._fill(key)
        if bucket.tokens < 1:
            wait_s = (1 - bucket.tokens) / self._per_s
            raise RateLimited(self._text, retry_after_s=max(_SHORTEST_WAIT_S, wait_s))
        bucket.tokens -= 1

    def give_back(self, key: str) -> None:
        """Returns a try that turned out to be harmless."""
        bucket = self._fill(key)
        bucket.tokens = min(self._burst, bucket.tokens + 1)

    def _fill(self, key: str) -> _Bucket:
        now_s = self._clock.monotonic_s()
        bucket = self._buckets.get(key)
        if bucket is None:
            bucket = self._buckets[key] = _Bucket(self._burst, now_s)
            if len(self._buckets) > self._max_keys:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(key)
            bucket.tokens = min(self._burst, bucket.tokens + (now_s - bucket.filled_at_s) * self._per_s)
            bucket.filled_at_s = now_s
        return bucket
