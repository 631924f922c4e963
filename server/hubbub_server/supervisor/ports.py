"""Free ports on this machine."""

import random
import socket
from collections.abc import Collection
from contextlib import ExitStack
from typing import Final

# Below the range from which the kernel takes the ports of outgoing connections: one of those may not take the port of a
# program while that is being restarted.
_FIRST: Final = 15_000
_LAST: Final = 32_000
_TRIES: Final = 1_000


def is_free(port: int) -> bool:
    """Tells whether somebody could listen on a port of the loopback now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def find_free(count: int, *, besides: Collection[int] = ()) -> list[int]:
    """Returns different ports that are free now, none of those that are named.

    Raises:
        OSError: there are not enough.
    """
    found: list[int] = []
    with ExitStack() as held:
        for _ in range(_TRIES):
            if len(found) == count:
                return found
            port = random.randint(_FIRST, _LAST)
            if port in besides:
                continue
            probe = held.enter_context(socket.socket())
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            found.append(port)
    raise OSError("no free ports")
