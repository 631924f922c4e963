"""What workers do with each shard: the loops of the roles, where a new role is one entry, and the trimmer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import RecordConsumers
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.handled_records import HandledRecords
from hubbub_server.workers.projector import Projector
from hubbub_server.workers.relay import Relay, Topics
from hubbub_server.workers.shard_loop import ShardLoop
from hubbub_server.workers.shard_role import ShardRole
from hubbub_server.workers.state_keeper import StateKeeper
from hubbub_server.workers.trimmer import Trimmer
from hubbub_server.workers.worker import NewWork

NewRole = Callable[[int, Backoff], ShardRole]
"""Makes a role for one shard."""

ROLES = (Projector.role, Relay.role, StateKeeper.role)
"""Who must have handled a record before it may be trimmed."""
TRIM = "trim"
"""Names the trimmer in the table of leases."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a worker waits: between tries, from `first_retry_s` to `max_retry_s`; between passes of the trimmer.

    `kept_s` is how long the log keeps every record at least, `lag_alarm_records` the lag of a shard that is worth an
    alarm.
    """

    first_retry_s: float = 0.1
    max_retry_s: float = 5.0
    trim_interval_s: float = 60.0
    kept_s: float = 7 * 24 * 3600.0
    lag_alarm_records: int = 10_000

    def new_backoff(self) -> Backoff:
        """Returns a back-off of this pace."""
        return Backoff(first_s=self.first_retry_s, max_s=self.max_retry_s)


def worker_roles(
    *, projection: Projection, codec: RecordCodec, hub: Topics, snapshots: TakeSnapshots
) -> dict[str, NewRole]:
    """Returns how to make each role for a shard, by its name."""

    def projector(shard: int, backoff: Backoff) -> ShardRole:
        return Projector(shard, projection=projection, codec=codec, backoff=backoff)

    def relay(shard: int, backoff: Backoff) -> ShardRole:
        return Relay(shard, hub=hub, codec=codec, backoff=backoff)

    def state_keeper(shard: int, backoff: Backoff) -> ShardRole:
        return StateKeeper(shard, snapshots=snapshots, codec=codec, backoff=backoff)

    return {Projector.role: projector, Relay.role: relay, StateKeeper.role: state_keeper}


def shard_loops(
    roles: Mapping[str, NewRole], *, consumers: RecordConsumers, letters: DeadLetters, pace: Pace
) -> dict[str, NewWork]:
    """Returns how to make the loop of each role on a shard."""

    def loop_of(new_role: NewRole) -> NewWork:
        return lambda shard, is_held: ShardLoop(
            new_role(shard, pace.new_backoff()),
            shard,
            consumers=consumers,
            letters=letters,
            backoff=pace.new_backoff(),
            is_held=is_held,
            lag_alarm_records=pace.lag_alarm_records,
        )

    return {name: loop_of(new_role) for name, new_role in roles.items()}


def trimmers(
    *, log_shards: LogShards, handled: HandledRecords, snapshots: TakeSnapshots, pace: Pace
) -> dict[str, NewWork]:
    """Returns how to make the trimmer of a shard: one worker at a time trims it, like any other unit."""

    def trimmer(shard: int, is_held: Callable[[], bool]) -> Trimmer:
        return Trimmer(
            shard,
            log_shards=log_shards,
            handled=handled,
            snapshots=snapshots,
            is_held=is_held,
            kept_s=pace.kept_s,
            interval_s=pace.trim_interval_s,
        )

    return {TRIM: trimmer}
