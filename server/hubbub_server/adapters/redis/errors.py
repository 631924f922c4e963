"""Turns every exception of redis-py into RegistryUnavailable. No driver type leaves this folder."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import exceptions

from hubbub_server.domain.errors import RegistryUnavailable

_TOO_SLOW: Final = (TimeoutError, exceptions.TimeoutError)
_UNREACHABLE: Final = (exceptions.ConnectionError, OSError)  # wrong passwords and "loading" too


@contextmanager
def map_errors() -> Iterator[None]:
    """Maps what the driver and the network raise. A command that failed so may have been done all the same.

    Refusals are mapped too, whatever they are: full, read-only, no permission, or a script that is wrong there. Nothing
    that happens to the registry may end a node.
    """
    try:
        yield
    except _TOO_SLOW as exc:
        raise RegistryUnavailable("the registry did not answer in time") from exc
    except _UNREACHABLE as exc:
        raise RegistryUnavailable(f"the registry cannot be reached: {type(exc).__name__}") from exc
    except exceptions.ResponseError as exc:
        raise RegistryUnavailable(f"the registry refuses: {exc}") from exc
    except exceptions.RedisError as exc:
        raise RegistryUnavailable(f"the registry failed: {type(exc).__name__}") from exc
