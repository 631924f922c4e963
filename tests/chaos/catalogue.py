"""The faults of chaos runs: what each is called, which part it breaks, how long, and what it must hit to count. Pure.

A fault of a run counts only if it *hit*: something of what `counts` names was seen while it lasted, or soon after. What
a fault may hit is known from three places: the journals of the clients (commands that broke or were late, streams that
broke), the counters of the nodes (unknown outcomes), and what the fault itself saw (its effects).
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Part(StrEnum):
    """What a fault breaks. Faults of one run break different parts."""

    NODE = "node"
    NODE_LINK = "node link"
    WORKER = "worker"
    NATS = "nats"
    CQL = "cql"
    REDIS = "redis"
    ENVOY = "envoy"
    CLIENT_LINK = "client link"
    CLOCK = "clock"
    ALL = "all"


class Hit(StrEnum):
    """What a fault can hit."""

    COMMANDS_BROKEN = "commands_broken"
    """Tries of a send that ended without an answer: cut, refused with UNAVAILABLE, too late."""
    COMMANDS_LATE = "commands_late"
    """Sends that were answered a second or more after they left."""
    STREAMS_BROKEN = "streams_broken"
    """Streams that had to be opened again."""
    UNKNOWN_OUTCOMES = "unknown_outcomes"
    """Commits of nodes whose answer did not come."""
    SHARDS_LEFT = "shards_left"
    """Units of work that the worker held, while records came for them."""
    RECORDS_WAITED = "records_waited"
    """The most records that waited for the store."""
    LEASES_LOST = "leases_lost"
    """Leases of nodes that Redis forgot."""
    REGISTRY_FAILURES = "registry_failures"
    """Renewals and looks at the registry that failed."""
    WRONG_COMMITS = "wrong_commits"
    """Records that a node committed while its clock was wrong."""
    DISK_ERRORS = "disk_errors"
    """Lines about the disk in the log of the server."""


_TRAFFIC: Final = (Hit.COMMANDS_BROKEN, Hit.COMMANDS_LATE, Hit.STREAMS_BROKEN, Hit.UNKNOWN_OUTCOMES)
_CLIENT: Final = (Hit.COMMANDS_BROKEN, Hit.COMMANDS_LATE, Hit.STREAMS_BROKEN)


@dataclass(frozen=True)
class Kind:
    """One kind of fault. It lasts between the two numbers of seconds, until it is repaired."""

    name: str
    part: Part
    least_s: float
    most_s: float
    counts: tuple[Hit, ...]


CATALOGUE: Final = (
    Kind("node killed", Part.NODE, 0, 3, _TRAFFIC),
    Kind("node frozen", Part.NODE, 3, 8, _TRAFFIC),
    Kind("node link cut", Part.NODE_LINK, 0, 4, _TRAFFIC),
    Kind("node link half-open", Part.NODE_LINK, 3, 8, _TRAFFIC),
    Kind("node link slow", Part.NODE_LINK, 4, 8, _TRAFFIC),
    Kind("worker killed", Part.WORKER, 0, 8, (Hit.SHARDS_LEFT,)),
    Kind("worker frozen", Part.WORKER, 3, 12, (Hit.SHARDS_LEFT,)),
    Kind("nats leader killed", Part.NATS, 0, 6, _TRAFFIC),
    Kind("nats leader frozen", Part.NATS, 3, 10, _TRAFFIC),
    Kind("nats follower killed", Part.NATS, 0, 6, _TRAFFIC),
    Kind("nats follower frozen", Part.NATS, 3, 10, _TRAFFIC),
    Kind("nats two of three killed", Part.NATS, 1, 5, _TRAFFIC),
    Kind("nats all killed", Part.NATS, 0, 4, _TRAFFIC),
    Kind("nats power cut of one", Part.NATS, 0, 3, _TRAFFIC),
    Kind("nats power cut of all", Part.NATS, 0, 3, _TRAFFIC),
    Kind("nats disk full", Part.NATS, 3, 6, (Hit.DISK_ERRORS,)),
    Kind("cql killed", Part.CQL, 4, 8, (Hit.RECORDS_WAITED,)),
    Kind("cql frozen", Part.CQL, 4, 10, (Hit.RECORDS_WAITED,)),
    Kind("redis killed", Part.REDIS, 3, 6, (Hit.LEASES_LOST, Hit.REGISTRY_FAILURES)),
    Kind("redis flushed", Part.REDIS, 0, 0, (Hit.LEASES_LOST,)),
    Kind("envoy killed", Part.ENVOY, 0, 2, _CLIENT),
    Kind("client link cut", Part.CLIENT_LINK, 0, 3, _CLIENT),
    Kind("client link half-open", Part.CLIENT_LINK, 3, 8, _CLIENT),
    Kind("client link slow", Part.CLIENT_LINK, 3, 8, _CLIENT),
    Kind("clock three minutes ahead", Part.CLOCK, 4, 8, (Hit.WRONG_COMMITS,)),
    Kind("clock three minutes behind", Part.CLOCK, 4, 8, (Hit.WRONG_COMMITS,)),
    Kind("everything killed", Part.ALL, 0, 2, _TRAFFIC),
)
KINDS: Final = {kind.name: kind for kind in CATALOGUE}
