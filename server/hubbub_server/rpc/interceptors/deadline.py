"""Bounds the time of unary calls."""

import asyncio
from typing import Any, Final

from hubbub_server.domain.errors import DeadlinePassed
from hubbub_server.rpc.call import Call, Proceed

UNARY_MAX_S: Final = 10.0
_KEPT_FOR_THE_ANSWER: Final = 0.1  # of the client's time, so that our status arrives before its own


class Deadline:
    """Ends a unary call a little before the client's deadline, and after `max_s` at the latest; streams have none."""

    def __init__(self, *, max_s: float = UNARY_MAX_S) -> None:
        """`max_s` is also the time of clients that set no deadline."""
        self._max_s = max_s

    async def bound(self, call: Call, behave: Proceed) -> Any:
        """Serves a call by `behave`. Raises DeadlinePassed."""
        if call.is_stream:
            return await behave()
        remaining_s = call.time_remaining_s()
        limit_s = self._max_s if remaining_s is None else min(self._max_s, remaining_s * (1 - _KEPT_FOR_THE_ANSWER))
        scope = asyncio.timeout(limit_s)
        try:
            async with scope:
                return await behave()
        except TimeoutError as exc:
            if scope.expired():
                raise DeadlinePassed("the time of the call ran out") from exc
            raise
