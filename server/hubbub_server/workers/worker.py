"""One worker process: every role on every shard. One active worker is assumed; a second one costs speed, no more."""

import asyncio
from dataclasses import dataclass

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import RecordConsumers
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.projector import Projector
from hubbub_server.workers.relay import Relay, UserTopics
from hubbub_server.workers.shard_loop import ShardLoop, ShardRole
from hubbub_server.workers.state_keeper import StateKeeper
from hubbub_server.workers.trimmer import Trimmer

ROLES = (Projector.role, Relay.role, StateKeeper.role)
"""Who must have handled a record before it may be trimmed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How long a worker waits: between tries, from `first_retry_s` to `max_retry_s`; between passes of the trimmer.

    `kept_s` is how long the log keeps every record at least.
    """

    first_retry_s: float = 0.1
    max_retry_s: float = 5.0
    trim_interval_s: float = 60.0
    kept_s: float = 7 * 24 * 3600.0


class Worker:
    """Runs the roles and the trimmer of all shards."""

    def __init__(
        self,
        *,
        consumers: RecordConsumers,
        projection: Projection,
        codec: RecordCodec,
        hub: UserTopics,
        log_shards: LogShards,
        snapshots: TakeSnapshots,
        shards: int,
        pace: Pace,
    ) -> None:
        """Takes the ports, and the hub of this process."""
        self._consumers = consumers
        self._projection = projection
        self._codec = codec
        self._hub = hub
        self._log_shards = log_shards
        self._snapshots = snapshots
        self._shards = shards
        self._pace = pace

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                for role in self._roles(shard):
                    loop = ShardLoop(role, shard, consumers=self._consumers, backoff=self._new_backoff())
                    group.create_task(loop.run(), name=f"{role.role}-{shard}")
                group.create_task(self._trimmer(shard).run(), name=f"trim-{shard}")

    def _roles(self, shard: int) -> tuple[ShardRole, ...]:
        return (
            Projector(shard, projection=self._projection, codec=self._codec, backoff=self._new_backoff()),
            Relay(shard, hub=self._hub, codec=self._codec, backoff=self._new_backoff()),
            StateKeeper(shard, snapshots=self._snapshots, backoff=self._new_backoff()),
        )

    def _trimmer(self, shard: int) -> Trimmer:
        return Trimmer(
            shard,
            log_shards=self._log_shards,
            consumers=self._consumers,
            projection=self._projection,
            snapshots=self._snapshots,
            roles=ROLES,
            kept_s=self._pace.kept_s,
            interval_s=self._pace.trim_interval_s,
        )

    def _new_backoff(self) -> Backoff:
        return Backoff(first_s=self._pace.first_retry_s, max_s=self._pace.max_retry_s)
