"""The roles that a worker has: a new one is one entry here."""

from hubbub_server.ports.projection import Projection
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.workers.backoff import Backoff
from hubbub_server.workers.projector import Projector
from hubbub_server.workers.relay import Relay, UserTopics
from hubbub_server.workers.shard_role import ShardRole
from hubbub_server.workers.worker import NewRole


def worker_roles(*, projection: Projection, codec: RecordCodec, hub: UserTopics) -> dict[str, NewRole]:
    """Returns how to make each role for a shard, by its name."""

    def projector(shard: int, backoff: Backoff) -> ShardRole:
        return Projector(shard, projection=projection, codec=codec, backoff=backoff)

    def relay(shard: int, backoff: Backoff) -> ShardRole:
        return Relay(shard, hub=hub, codec=codec, backoff=backoff)

    return {Projector.role: projector, Relay.role: relay}
