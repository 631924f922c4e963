"""States of topics in the memory of a FakeLogServer, reached over the link of one node."""

from collections.abc import Sequence

from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_states import Snapshot, SnapshotTooLarge
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from tests.support.fakes.topic_log import FakeLogServer, FakeTopicLog

_CODEC = ProtoSnapshotCodec()


class FakeTopicStates:
    """TopicStates of one node. `reads` and `writes` count calls that reached the server."""

    def __init__(self, server: FakeLogServer, log: FakeTopicLog) -> None:
        self.reads = 0
        self.writes = 0
        self._server = server
        self._log = log

    async def read(self, topic_id: TopicId) -> Snapshot | None:
        return await self._log.request(lambda: self._read(topic_id))

    def _read(self, topic_id: TopicId) -> Snapshot | None:
        self.reads += 1
        encoded = self._server.states.get(topic_id)
        return None if encoded is None else _CODEC.decode(encoded)

    async def write(self, snapshot: Snapshot) -> None:
        encoded = _CODEC.encode(snapshot)
        if len(encoded) > self._server.max_record_bytes:
            raise SnapshotTooLarge(f"{len(encoded)} bytes")
        await self._log.request(lambda: self._write(snapshot, encoded))

    def _write(self, snapshot: Snapshot, encoded: bytes) -> None:
        self.writes += 1
        topic_id = snapshot.topic_id
        old = self._server.states.get(topic_id)
        if old is None or _place(_CODEC.decode(old)) < _place(snapshot):
            self._server.states[topic_id] = encoded
            self._server.newest_states[shard_of(topic_id, self._server.shards)] = topic_id

    async def list_topics(self, shard: int) -> Sequence[TopicId]:
        return await self._log.request(
            lambda: [t for t in self._server.states if shard_of(t, self._server.shards) == shard]
        )

    async def complete_epoch(self, shard: int) -> int:
        return await self._log.request(lambda: self._server.complete_epochs[shard])

    async def newest(self, shard: int) -> Snapshot | None:
        topic_id = self._server.newest_states.get(shard)
        return None if topic_id is None else await self.read(topic_id)

    async def declare_complete(self, shard: int, epoch: int) -> None:
        epochs = self._server.complete_epochs
        await self._log.request(lambda: epochs.__setitem__(shard, max(epoch, epochs[shard])))


def _place(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.state.epoch, snapshot.state.position
