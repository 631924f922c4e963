"""TopicStates on JetStream: STATE_k keeps one snapshot a topic, written under compare-and-set."""

from collections.abc import Sequence
from functools import partial
from typing import Any

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.documents import Documents, DocumentTooLarge
from hubbub_server.adapters.nats.records import state_stream_name, topic_of_subject
from hubbub_server.adapters.nats.streams import read_state_stream, read_stream_info, write_epoch
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.topic_states import Snapshot, SnapshotCodec, SnapshotTooLarge, SnapshotUndecodable

_WRITE_TRIES = 20


class NatsTopicStates:
    """TopicStates over an open connection whose streams exist."""

    def __init__(self, connection: NatsConnection, *, shards: int, codec: SnapshotCodec) -> None:
        """Takes the connection; `shards` as given to `ensure_streams`."""
        self._connection = connection
        self._codec = codec
        self._documents = [
            Documents(connection, stream=state_stream_name(shard), prefix=f"state.{shard}.") for shard in range(shards)
        ]

    async def read(self, topic_id: TopicId) -> Snapshot | None:
        """Reads the newest snapshot from the leader."""
        document = await self._of(topic_id).read(topic_id)
        return self._decode(document.value) if document else None

    async def write(self, snapshot: Snapshot) -> None:
        """Writes a snapshot unless there is one of the same place or a newer one."""
        documents = self._of(snapshot.topic_id)
        encoded = self._codec.encode(snapshot)
        for _ in range(_WRITE_TRIES):
            document = await documents.read(snapshot.topic_id)
            if document is not None and _place(self._decode(document.value)) >= _place(snapshot):
                return
            revision = document.revision if document else 0
            try:
                if await documents.write(snapshot.topic_id, encoded, revision=revision):
                    return
            except DocumentTooLarge as error:
                raise SnapshotTooLarge(f"state of {snapshot.topic_id}: {error}") from error
        raise LogUnavailable("others write this state all the time")

    async def list_topics(self, shard: int) -> Sequence[TopicId]:
        """Lists the topics of a shard that have a snapshot."""
        name = state_stream_name(shard)
        topics: list[TopicId] = []
        while True:
            query: dict[str, Any] = {"subjects_filter": ">", "offset": len(topics)}
            content = await self._connection.retry(partial(read_stream_info, self._connection, name, query))
            subjects = content["state"].get("subjects") or {}
            topics += map(topic_of_subject, subjects)
            if not subjects or len(topics) >= content.get("total", 0):
                return topics

    async def complete_epoch(self, shard: int) -> int:
        """Reads for which epoch the states of a shard are complete; 0 for none."""
        return (await self._connection.retry(partial(read_state_stream, self._connection, shard))).epoch

    async def newest(self, shard: int) -> Snapshot | None:
        """Reads the snapshot that was written last in a shard."""
        document = await self._documents[shard].read_newest()
        return self._decode(document.value) if document else None

    async def declare_complete(self, shard: int, epoch: int) -> None:
        """Says that the states of a shard are complete for an epoch."""
        await write_epoch(self._connection, state_stream_name(shard), epoch)

    def _of(self, topic_id: TopicId) -> Documents:
        return self._documents[shard_of(topic_id, len(self._documents))]

    def _decode(self, value: bytes) -> Snapshot:
        try:
            return self._codec.decode(value)
        except SnapshotUndecodable as error:
            raise LogUnavailable(f"the state of a topic cannot be read: {error}", retry_after_s=30) from error


def _place(snapshot: Snapshot) -> tuple[int, int]:
    return snapshot.state.epoch, snapshot.state.position
