"""Bounds how many RPCs are served at once."""

import random
from typing import Final

from hubbub_server.domain.errors import Unavailable
from hubbub_server.rpc.call import Call
from hubbub_server.rpc.interceptors.layered import OURS

MAX_UNARY: Final = 1_000
MAX_STREAMS: Final = 20_000
_RETRY_SPREAD_S: Final = 2.5


class Limits:
    """Refuses what is too many, with RetryInfo; unary calls and streams have separate budgets.

    Without a bound, idle streams or a reconnect storm would take the memory of those that are served.
    """

    def __init__(self, *, max_unary: int = MAX_UNARY, max_streams: int = MAX_STREAMS) -> None:
        """Bounds are inclusive."""
        self._free = {False: max_unary, True: max_streams}

    def enter(self, call: Call) -> None:
        """Implements Layer. Raises Unavailable. Health and reflection are always served."""
        if not call.method.startswith(OURS):
            return
        if self._free[call.is_stream] < 1:
            retry_after_s = random.uniform(0.5, _RETRY_SPREAD_S)  # not all of them again in the same second
            raise Unavailable("this node serves as many calls as it can", retry_after_s=retry_after_s)
        self._free[call.is_stream] -= 1

    def leave(self, call: Call) -> None:
        """Implements Layer."""
        if call.method.startswith(OURS):
            self._free[call.is_stream] += 1
