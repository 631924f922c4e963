"""How often the driver tries a request again."""

import pytest
from cassandra import ConsistencyLevel
from cassandra.policies import RetryPolicy

from hubbub_server.adapters.cql.cluster import RetryOnce

QUORUM = ConsistencyLevel.LOCAL_QUORUM
# As the driver calls it: the statement, and what the server said.
FAILURES = {
    "on_read_timeout": {"consistency": QUORUM, "required_responses": 2, "received_responses": 1, "data_retrieved": 0},
    "on_write_timeout": {"consistency": QUORUM, "write_type": 1, "required_responses": 2, "received_responses": 1},
    "on_unavailable": {"consistency": QUORUM, "required_replicas": 2, "alive_replicas": 1},
    "on_request_error": {"consistency": QUORUM, "error": RuntimeError("overloaded")},
}


@pytest.mark.parametrize("failure", FAILURES)
def test_request_that_failed_is_tried_once_more_at_another_server(failure: str) -> None:
    """Retries are bounded: more of them would add to what overloads a store."""
    decide = getattr(RetryOnce(), failure)

    assert decide(None, retry_num=0, **FAILURES[failure]) == (RetryPolicy.RETRY_NEXT_HOST, None)
    assert decide(None, retry_num=1, **FAILURES[failure]) == (RetryPolicy.RETHROW, None)
