"""The newest known state of each topic, kept beside the log, so that neither old records nor the store are needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.topic import TopicState


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentIds:
    """Where a window of client ids may begin: with what the log has after the record with `sequence`.

    `position` is that of the record's last event, `floor_ms` the floor of the window there.
    """

    position: int
    sequence: int
    floor_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A topic's state as of one record of its log, with an empty id window: its floor is above all ids up to there.

    `sequence` is that of the record in the log of `state.epoch`; 0: nothing of the topic is in that log.
    `recent_ids` spares look-ups while the log still has those records.
    """

    topic_id: TopicId
    state: TopicState
    sequence: int
    recent_ids: RecentIds | None = None


class SnapshotUndecodable(ValueError):
    """These bytes are no state, or one that this version must not decide on."""


class SnapshotTooLarge(ValueError):
    """The state is larger than what can be kept. Nothing was written."""


class SnapshotCodec(Protocol):
    """Encodes and decodes snapshots."""

    def encode(self, snapshot: Snapshot) -> bytes:
        """Returns the bytes of a snapshot. Raises ValueError for a state with unknown events: it is not all known."""

    def decode(self, encoded: bytes) -> Snapshot:
        """Reads a snapshot. Raises SnapshotUndecodable."""


class TopicStates(Protocol):
    """Keeps one snapshot a topic. Reads are answered by the leader. Every method raises LogUnavailable.

    The states of a shard are *complete* for an epoch when each topic that the log of this epoch does not have from its
    first position on has one. A shard whose states were lost is complete for no epoch until somebody makes it so.
    """

    async def read(self, topic_id: TopicId) -> Snapshot | None:
        """Reads the newest snapshot. Raises LogUnavailable also for one that this version must not use."""

    async def write(self, snapshot: Snapshot) -> None:
        """Writes a snapshot, unless there is one of the same place or a newer one; that is by (epoch, position).

        Raises:
            SnapshotTooLarge: nothing was written.
        """

    async def list_topics(self, shard: int) -> Sequence[TopicId]:
        """Lists the topics of a shard that have a snapshot."""

    async def complete_epoch(self, shard: int) -> int:
        """Reads for which epoch the states of a shard are complete; 0 for none."""

    async def newest(self, shard: int) -> Snapshot | None:
        """Reads the snapshot that was written last in a shard; None when there is none."""

    async def declare_complete(self, shard: int, epoch: int) -> None:
        """Says that the states of a shard are complete for an epoch, unless they are for it or a later one."""
