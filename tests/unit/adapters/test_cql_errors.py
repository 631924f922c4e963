"""What the driver may raise, and what becomes of it."""

import pytest
from cassandra import (
    AlreadyExists,
    InvalidRequest,
    OperationTimedOut,
    OperationType,
    RateLimitReached,
    ReadFailure,
    ReadTimeout,
    Unavailable,
    UnresolvableContactPoints,
    WriteFailure,
    WriteTimeout,
)
from cassandra.cluster import NoHostAvailable
from cassandra.connection import ConnectionBusy, ConnectionException, ConnectionShutdown
from cassandra.pool import NoConnectionsAvailable
from cassandra.protocol import IsBootstrappingErrorMessage, OverloadedErrorMessage, ServerError

from hubbub_server.adapters.cql.errors import is_outage, map_errors
from hubbub_server.domain.errors import StoreUnavailable

OUTAGES = [
    TimeoutError(),
    ConnectionRefusedError(),
    OperationTimedOut(),
    ReadTimeout("text"),
    WriteTimeout("text", write_type=0),
    Unavailable("text"),
    ReadFailure("text"),
    WriteFailure("text", write_type=0),
    NoHostAvailable("text", {}),
    UnresolvableContactPoints({}),
    ConnectionException("text"),
    ConnectionShutdown("text"),
    ConnectionBusy(),
    NoConnectionsAvailable(),
    OverloadedErrorMessage(0, "text", None),
    IsBootstrappingErrorMessage(0, "text", None),
    ServerError(0, "text", None),
]


@pytest.mark.parametrize("error", OUTAGES, ids=lambda error: type(error).__name__)
def test_outage_becomes_store_unavailable(error: Exception) -> None:
    with pytest.raises(StoreUnavailable) as raised, map_errors():
        raise error

    assert raised.value.__cause__ is error
    assert is_outage(error)


def test_rate_limit_of_a_partition_is_unavailable_and_no_outage() -> None:
    """It must not open the breaker for all the others."""
    error = RateLimitReached(OperationType.Write, rejected_by_coordinator=True)

    with pytest.raises(StoreUnavailable), map_errors():
        raise error
    assert not is_outage(error)


@pytest.mark.parametrize("fault", [InvalidRequest("text"), AlreadyExists("k", "t"), ValueError(), KeyError()])
def test_our_own_faults_pass_unchanged(fault: Exception) -> None:
    with pytest.raises(type(fault)) as raised, map_errors():
        raise fault

    assert raised.value is fault
    assert not is_outage(fault)
