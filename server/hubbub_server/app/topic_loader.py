"""Brings the state of a topic together: what is stored of it, and the tail of its log after that, checked dense.

Law: a log without a record of a topic means "trimmed or never made"; the log alone never says which. The head is read
first, then what is stored: a topic's last record is trimmed only after its snapshot was written, so whoever finds no
record finds the snapshot. A state that cannot be had whole is refused, it is never an empty one.
"""

from dataclasses import dataclass, replace
from typing import Final

from hubbub_server.app.stored_topic import whole_state
from hubbub_server.app.topic_fold import LoadedTopic, Place, TopicDamaged, TopicFold
from hubbub_server.domain import topic as domain
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import LogUnavailable, StoreUnavailable
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_log import LogRecord, TopicLog
from hubbub_server.ports.topic_states import Snapshot, TopicStates

READ_MAX_BYTES: Final = 128 * 1024
"""Read at once: folding it must not hold up the loop for long."""
_TRIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class _Base:
    """A state to fold on, and where reading begins: there, or earlier, for the ids of the records in between.

    `doubt`: why the store could not confirm it.
    """

    state: TopicState
    begin: Place
    doubt: StoreUnavailable | None = None


class TopicLoader:
    """Loads topics from log, states and store."""

    def __init__(
        self,
        *,
        log: TopicLog,
        shards: LogShards,
        states: TopicStates,
        directory: TopicDirectory,
        codec: RecordCodec,
    ) -> None:
        """Takes the ports."""
        self._log = log
        self._shards = shards
        self._states = states
        self._directory = directory
        self._codec = codec

    async def load(self, topic_id: TopicId, *, from_store: bool = False) -> LoadedTopic:
        """Loads a topic at its head. The store is asked only where there is no snapshot of this epoch.

        With `from_store` it is always asked: the id window then has every id that the store has not applied.

        Raises:
            LogUnavailable: the log cannot be read.
            TopicDamaged: the log is not whole.
            StoreUnavailable: the store is down, and nothing else tells.
            RecordUndecodable, ValueError: a record is poison.
        """
        for _ in range(_TRIES - 1):
            try:
                return await self._load(topic_id, from_store)
            except TopicDamaged:  # perhaps one of them moved between the two reads
                continue
        return await self._load(topic_id, from_store)

    async def _load(self, topic_id: TopicId, from_store: bool) -> LoadedTopic:
        shard = shard_of(topic_id, self._log.shards)
        head = await self._log.read_head(topic_id)
        epoch = self._log.epoch(shard)
        snapshot = None if from_store else await self._states.read(topic_id)
        if snapshot is None or snapshot.state.epoch != epoch:
            base = await self._find_base(topic_id, shard, epoch, head, snapshot)
            return await self._fold_tail(topic_id, epoch, base, head)
        await self._check_snapshot(snapshot, shard, head)
        if head is not None and (recent := _base_with_recent_ids(snapshot)) is not None:
            try:
                return await self._fold_tail(topic_id, epoch, recent, head)
            except TopicDamaged:
                pass  # those records are trimmed
        base = _Base(state=snapshot.state, begin=Place(snapshot.state.position, snapshot.sequence))
        return await self._fold_tail(topic_id, epoch, base, head)

    async def _fold_tail(self, topic_id: TopicId, epoch: int, base: _Base, head: LogRecord | None) -> LoadedTopic:
        folding = TopicFold(base.state, [base.begin], self._codec)
        while head is not None and folding.read.sequence < head.sequence:
            for record in await self._log.read_range(
                topic_id,
                after_sequence=folding.read.sequence,
                up_to_sequence=head.sequence,
                max_bytes=READ_MAX_BYTES,
            ):
                try:
                    folding.take(record)
                except TopicDamaged as damaged:
                    raise (base.doubt or damaged) from None
        state = folding.state
        if state.epoch < epoch:  # a node that had not heard of the epoch yet appended behind it
            state = replace(state, epoch=epoch)
        return LoadedTopic(state=state, sequence=head.sequence if head else 0, tail=folding.tail, places=folding.places)

    async def _check_snapshot(self, snapshot: Snapshot, shard: int, head: LogRecord | None) -> None:
        """Tells a log that was trimmed from one that lost records."""
        if head is not None:
            is_whole = head.sequence >= snapshot.sequence
        elif snapshot.sequence == 0:
            is_whole = True
        else:
            bounds = await self._shards.read_bounds(shard)
            is_whole = bounds.epoch == snapshot.state.epoch and bounds.first_sequence > snapshot.sequence
        if not is_whole:
            raise TopicDamaged("the log ends before the state of the topic")

    async def _find_base(
        self, topic_id: TopicId, shard: int, epoch: int, head: LogRecord | None, snapshot: Snapshot | None
    ) -> _Base:
        """Returns where to start without a snapshot of this epoch: from the store, or from the topic's first record."""
        empty = _Base(state=domain.empty_state(topic_id, epoch), begin=Place(0, 0))
        try:
            stored = await self._directory.load(topic_id)
        except StoreUnavailable as error:
            if snapshot is None and await self._is_all_in_log(shard, epoch, head):
                return replace(empty, doubt=error)
            raise
        newest = max(stored.applied.epoch if stored else 0, snapshot.state.epoch if snapshot else 0)
        if newest > epoch:
            raise LogUnavailable("the log is older than what is stored", retry_after_s=30)
        if stored is not None and stored.applied.epoch == epoch:
            if (head.sequence if head else 0) < stored.applied.sequence:
                raise TopicDamaged("the log ends before what the store has applied")
            return _Base(
                state=whole_state(stored, self._codec), begin=Place(stored.applied.position, stored.applied.sequence)
            )
        known = [whole_state(stored, self._codec)] if stored else []
        known += [snapshot.state] if snapshot else []
        if not known:
            return empty
        state = max(known, key=lambda each: (each.epoch, each.position))
        # A recreated log goes on above everything stored.
        return _Base(state=replace(state, epoch=epoch), begin=Place(state.position, 0))

    async def _is_all_in_log(self, shard: int, epoch: int, head: LogRecord | None) -> bool:
        """Tells whether a topic without a snapshot has all its records in the log, if it was ever made.

        The tail tells of a topic that has a head. One without was never made if every topic that was trimmed, or is of
        an older epoch, has a snapshot.
        """
        if head is not None:
            return True
        bounds = await self._shards.read_bounds(shard)
        return bounds.epoch == epoch == await self._states.complete_epoch(shard)


def _base_with_recent_ids(snapshot: Snapshot) -> _Base | None:
    recent, state = snapshot.recent_ids, snapshot.state
    if recent is None or not isinstance(state, ConversationState):
        return None
    window = IdWindow(recent.floor_ms, recent.position)
    return _Base(state=replace(state, window=window), begin=Place(recent.position, recent.sequence))
