"""Single flight: callers that ask for the same thing at the same time share one read. No driver.

A caller gets only the outcome of a read that began after its call: joining one that is under way could give it rows
from before something that it already knows to be stored. So whoever comes while a read is under way waits for its end,
and the next read is for all who waited. However many ask, at most one read of a thing is under way.
"""

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from hubbub_server.domain.errors import StoreUnavailable


class _Abandoned(Exception):
    """Whoever led the read was cancelled; those who waited ask again."""


@dataclass(frozen=True, slots=True)
class _Flight:
    begin: int
    outcome: asyncio.Future[Any] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def fail(self, error: Exception) -> None:
        self.outcome.set_exception(error)
        self.outcome.exception()  # nobody else may be waiting, which is no mistake


class SharedReads:
    """Runs reads by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight] = {}
        self._ticks = itertools.count()

    async def run(self, key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        """Returns what a `read` of this key returned that began after this call. Raises StoreUnavailable as it does."""
        asked = next(self._ticks)
        while (flight := self._flights.get(key)) is not None:
            try:
                outcome = await asyncio.shield(flight.outcome)
            except (StoreUnavailable, _Abandoned) as error:
                if flight.begin > asked and isinstance(error, StoreUnavailable):
                    raise
            else:
                if flight.begin > asked:
                    return outcome
        return await self._lead(key, read)

    async def _lead(self, key: Hashable, read: Callable[[], Awaitable[Any]]) -> Any:
        flight = self._flights[key] = _Flight(next(self._ticks))
        try:
            outcome = await read()
        except StoreUnavailable as error:
            flight.fail(error)
            raise
        except BaseException:
            flight.fail(_Abandoned())
            raise
        else:
            flight.outcome.set_result(outcome)
            return outcome
        finally:
            del self._flights[key]
