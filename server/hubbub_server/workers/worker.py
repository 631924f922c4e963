"""One worker process: every role on every shard. One active worker is assumed; a second one costs speed, no more."""

import asyncio

from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import RecordConsumers
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.projector import Projector
from hubbub_server.workers.relay import Relay, UserTopics
from hubbub_server.workers.shard_loop import ShardLoop, ShardRole


class Worker:
    """Runs the projector and the relay of all shards."""

    def __init__(
        self,
        *,
        consumers: RecordConsumers,
        projection: Projection,
        codec: RecordCodec,
        hub: UserTopics,
        shards: int,
        first_retry_s: float = 0.1,
        max_retry_s: float = 5.0,
    ) -> None:
        """Takes the ports and the hub of this process. Retries wait `first_retry_s` to `max_retry_s`."""
        self._consumers = consumers
        self._projection = projection
        self._codec = codec
        self._hub = hub
        self._shards = shards
        self._first_retry_s = first_retry_s
        self._max_retry_s = max_retry_s

    async def run(self) -> None:
        """Runs until it is cancelled; returns only when every shard of every role was stopped by an alarm."""
        async with asyncio.TaskGroup() as group:
            for shard in range(self._shards):
                projector = Projector(
                    shard, projection=self._projection, codec=self._codec, backoff=self._new_backoff()
                )
                relay = Relay(shard, hub=self._hub, codec=self._codec, backoff=self._new_backoff())
                roles: tuple[ShardRole, ...] = (projector, relay)
                for role in roles:
                    loop = ShardLoop(role, shard, consumers=self._consumers, backoff=self._new_backoff())
                    group.create_task(loop.run(), name=f"{role.role}-{shard}")

    def _new_backoff(self) -> Backoff:
        return Backoff(first_s=self._first_retry_s, max_s=self._max_retry_s)
