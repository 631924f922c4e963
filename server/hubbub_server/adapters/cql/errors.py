"""Turns what the driver raises into StoreUnavailable."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from cassandra import CoordinationFailure, OperationTimedOut, RateLimitReached, Timeout, Unavailable
from cassandra import UnresolvableContactPoints as NoAddress
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import (
    BadCredentials,
    IsBootstrappingErrorMessage,
    OverloadedErrorMessage,
    ServerError,
    TruncateError,
)

from hubbub_server.domain.errors import StoreUnavailable

_UNREACHABLE: Final = (NoHostAvailable, NoAddress, ConnectionException, ConnectionBusy, NoConnectionsAvailable, OSError)
_TOO_SLOW: Final = (TimeoutError, OperationTimedOut, Timeout)
_REFUSED: Final = (Unavailable, CoordinationFailure, OverloadedErrorMessage, IsBootstrappingErrorMessage, TruncateError)
_FAILED: Final = (ServerError, BadCredentials)


def is_outage(error: Exception) -> bool:
    """Tells whether an error of the driver speaks of the store as a whole; a rate limit is one partition's."""
    return isinstance(error, (*_TOO_SLOW, *_UNREACHABLE, *_REFUSED, *_FAILED))


@contextmanager
def map_errors() -> Iterator[None]:
    """Maps everything that says "not now": nobody there, too few replicas, too slow, overloaded.

    A write that failed so may be there all the same. Wrong statements and values are our faults and pass unchanged.
    """
    try:
        yield
    except _TOO_SLOW as exc:
        raise StoreUnavailable("the store is too slow") from exc
    except _UNREACHABLE as exc:
        raise StoreUnavailable(f"the store cannot be reached: {type(exc).__name__}") from exc
    except RateLimitReached as exc:
        raise StoreUnavailable("the store limits the rate of this partition", retry_after_s=2.0) from exc
    except _REFUSED as exc:
        raise StoreUnavailable(f"the store cannot answer now: {type(exc).__name__}") from exc
    except _FAILED as exc:
        raise StoreUnavailable(f"the store failed: {exc.summary}") from exc
