"""Where a CQL cluster is, and how the driver is set up for it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    DCAwareRoundRobinPolicy,
    ExponentialReconnectionPolicy,
    RetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import tuple_factory

_PROTOCOL_VERSION: Final = 4
"""What ScyllaDB and Cassandra both speak; has unset values."""
_CONNECT_TIMEOUT_S: Final = 3.0
_HEARTBEAT_S: Final = 5.0
_RECONNECT_S: Final = (0.5, 5.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class CqlEndpoint:
    """A cluster and the keyspace in it. `datacenter` is the local one: only its servers are asked."""

    contact_points: Sequence[str]
    port: int
    datacenter: str
    keyspace: str
    username: str = ""
    """Empty: the cluster asks for none."""
    password: str = field(default="", repr=False)
    replicas: int = 1
    """Copies of each row in the datacenter; counts when the keyspace is made."""
    tablets: bool | None = None
    """As `replicas`, for ScyllaDB; None for Cassandra, which has none."""


class RetryOnce(RetryPolicy):  # type: ignore[misc]  # the driver has no types
    """Tries once more, at the next server, within the same deadline. Every statement of ours may be repeated."""

    def on_read_timeout(self, *_query: Any, retry_num: int, **_facts: Any) -> tuple[int, None]:
        """Says what to do after a failure that the driver did not expect to pass by itself."""
        return (self.RETRY_NEXT_HOST if retry_num == 0 else self.RETHROW), None

    # A second write is the same write, by its timestamp; another coordinator may see more replicas, or be less busy.
    on_write_timeout = on_unavailable = on_request_error = on_read_timeout


def new_cluster(endpoint: CqlEndpoint) -> Cluster:
    """Returns the driver's cluster, not connected. Connecting and closing it block: do both in a thread."""
    profile = ExecutionProfile(
        load_balancing_policy=TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=endpoint.datacenter)),
        retry_policy=RetryOnce(),
        consistency_level=ConsistencyLevel.LOCAL_QUORUM,
        row_factory=tuple_factory,
    )
    return Cluster(
        list(endpoint.contact_points),
        port=endpoint.port,
        auth_provider=PlainTextAuthProvider(endpoint.username, endpoint.password) if endpoint.username else None,
        connection_class=LibevConnection,  # named, so that a wheel without it fails here and not by running slowly
        protocol_version=_PROTOCOL_VERSION,
        execution_profiles={EXEC_PROFILE_DEFAULT: profile},
        reconnection_policy=ExponentialReconnectionPolicy(*_RECONNECT_S),
        connect_timeout=_CONNECT_TIMEOUT_S,
        control_connection_timeout=_CONNECT_TIMEOUT_S,
        idle_heartbeat_interval=_HEARTBEAT_S,
        idle_heartbeat_timeout=_HEARTBEAT_S,
        max_schema_agreement_wait=30,
        compression=False,
    )
