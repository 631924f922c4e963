"""Which records of a shard nobody has to read again."""

from collections.abc import Sequence

from hubbub_server.ports.dead_letters import DeadLetters
from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_consumer import RecordConsumers


class HandledRecords:
    """Asks everybody who handles records, and the store, which may be an older copy of what was acknowledged."""

    def __init__(
        self, *, roles: Sequence[str], consumers: RecordConsumers, letters: DeadLetters, projection: Projection
    ) -> None:
        """`roles` are those that must have handled a record."""
        self._roles = roles
        self._consumers = consumers
        self._letters = letters
        self._projection = projection

    async def up_to(self, shard: int, *, epoch: int) -> int:
        """Returns the last sequence of the log of `epoch` up to which all is done, 0: nothing.

        A topic in the dead letters is not done: it may be read again from the log.

        Raises:
            LogUnavailable, StoreUnavailable: that cannot be known now.
        """
        stored = await self._projection.read_shard(shard)
        done = [stored.sequence if stored and stored.epoch == epoch else 0]
        for role in self._roles:
            done.append(await self._consumers.acknowledged(role=role, shard=shard))
            dead = await self._letters.first_sequence(role=role, shard=shard)
            if dead is not None:
                done.append(dead - 1)
        return min(done)
