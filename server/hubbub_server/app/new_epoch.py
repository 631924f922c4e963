"""Begins another epoch of a shard's log, after it was lost, restored from an older copy, or lost records.

What was stored anywhere is kept: for each topic the log, the states and the store are put together, and the result
becomes the topic's snapshot in the new epoch. So positions and message numbers go on above everything that was stored,
and a cursor of before gets a Reset. Records that are nowhere are named; the state goes on without them.

Order: the log's epoch first, so that nodes that still commit do it where this will see it; then the snapshots, until no
record has come meanwhile; last the log is taken for whole as it is, and it is declared that the states are complete:
commits are taken again. Stopped anywhere in between it is run again. Two at once, as workers in development may be, do
the same work twice: snapshots only get newer, epochs only higher, and whoever is overtaken stops.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from hubbub_server.app.stored_topic import whole_state
from hubbub_server.app.take_snapshots import UnknownEvents
from hubbub_server.app.topic_fold import decode_events, fold
from hubbub_server.domain import topic as domain
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.id_window import IdWindow
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.log_shards import LogShards
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.record_consumer import RecordConsumers
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_log import LogRecord, TopicLog
from hubbub_server.ports.topic_states import Snapshot, TopicStates

_READ_MAX_BYTES: Final = 1024 * 1024
_TOPICS_A_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Positions `first` to `last` of a topic are nowhere, or in a record that cannot be read."""

    topic_id: TopicId
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True)
class NewEpochReport:
    """What was done to a shard."""

    shard: int
    epoch: int
    topics: int
    losses: Sequence[Loss]


class NewEpoch:
    """Begins epochs. The store must be up."""

    def __init__(
        self,
        *,
        log: TopicLog,
        log_shards: LogShards,
        states: TopicStates,
        directory: TopicDirectory,
        consumers: RecordConsumers,
        codec: RecordCodec,
        roles: Sequence[str],
    ) -> None:
        """Takes the ports; `roles` are those of the workers, which start over."""
        self._log = log
        self._log_shards = log_shards
        self._states = states
        self._directory = directory
        self._consumers = consumers
        self._codec = codec
        self._roles = roles

    async def begin(self, shard: int) -> NewEpochReport:
        """Begins another epoch of a shard. Repeatable.

        Raises:
            LogUnavailable, StoreUnavailable: it is not finished; the shard stays refused.
            UnknownEvents, SnapshotTooLarge: it cannot be finished by this version.
        """
        epoch = await self._raise_epoch(shard)
        for role in self._roles:
            await self._consumers.forget(role=role, shard=shard)
        topics = {*await self._states.list_topics(shard), *await self._stored_topics(shard)}
        losses: dict[TopicId, list[Loss]] = {}
        seen = 0
        while (bounds := await self._log_shards.read_bounds(shard)).last_sequence > seen or topics:
            if await self._states.complete_epoch(shard) >= epoch:
                break  # somebody else was faster, and commits go on
            topics |= await self._topics_in_log(shard, seen, bounds.last_sequence)
            for topic_id in topics:
                losses[topic_id] = await self._settle(topic_id, epoch)
            topics, seen = set(), bounds.last_sequence
        if bounds.epoch != epoch:
            raise LogUnavailable("somebody else has begun another epoch meanwhile")
        await self._log_shards.accept_losses(shard)
        await self._states.declare_complete(shard, epoch)
        return NewEpochReport(
            shard=shard, epoch=epoch, topics=len(losses), losses=[loss for each in losses.values() for loss in each]
        )

    async def _raise_epoch(self, shard: int) -> int:
        """Gives the log an epoch above all that is stored; one that was made anew may have it already."""
        stored = await self._directory.read_shard(shard)
        bounds = await self._log_shards.read_bounds(shard)
        complete_epoch = await self._states.complete_epoch(shard)
        epoch = max(bounds.epoch, complete_epoch + 1, stored.epoch + 1 if stored else 1)
        if epoch > bounds.epoch:
            await self._log_shards.set_epoch(shard, epoch)
        return epoch

    async def _stored_topics(self, shard: int) -> set[TopicId]:
        topics: set[TopicId] = set()
        page: Sequence[TopicId] = await self._directory.list_topics(after=None, limit=_TOPICS_A_PAGE)
        while page:
            topics.update(topic_id for topic_id in page if shard_of(topic_id, self._log.shards) == shard)
            page = await self._directory.list_topics(after=page[-1], limit=_TOPICS_A_PAGE)
        return topics

    async def _topics_in_log(self, shard: int, after_sequence: int, up_to_sequence: int) -> set[TopicId]:
        topics: set[TopicId] = set()
        while records := await self._log_shards.read_records(
            shard, after_sequence=after_sequence, up_to_sequence=up_to_sequence
        ):
            topics.update(record.facts.topic_id for record in records)
            after_sequence = records[-1].sequence
        return topics

    async def _settle(self, topic_id: TopicId, epoch: int) -> list[Loss]:
        """Puts together what there is of a topic and writes it as its snapshot in the new epoch."""
        stored = await self._directory.load(topic_id)
        snapshot = await self._states.read(topic_id)
        known = [whole_state(stored, self._codec)] if stored else []
        known += [snapshot.state] if snapshot else []
        empty = domain.empty_state(topic_id, epoch)
        state = max(known, key=lambda each: (each.epoch, each.position), default=empty)
        head = await self._log.read_head(topic_id)
        losses: list[Loss] = []
        if head is not None and head.facts.last_position > state.position:
            state, losses = self._fold_over_holes(state, await self._read_all(topic_id, head))
        if state.has_unknown_event:
            raise UnknownEvents(topic_id)
        if isinstance(state, ConversationState):
            state = replace(state, window=IdWindow(state.window.floor_at(state.position), state.position))
        sequence = head.sequence if head else 0
        await self._states.write(Snapshot(topic_id=topic_id, state=replace(state, epoch=epoch), sequence=sequence))
        return losses

    async def _read_all(self, topic_id: TopicId, head: LogRecord) -> list[LogRecord]:
        """Reads all that the log has of a topic, one by one where it is not whole."""
        records: list[LogRecord] = []
        while (after := records[-1].sequence if records else 0) < head.sequence:
            try:
                records += await self._log.read_range(
                    topic_id, after_sequence=after, up_to_sequence=head.sequence, max_bytes=_READ_MAX_BYTES
                )
            except LogUnavailable:
                record = await self._log.read_next(topic_id, after_sequence=after)
                if record is None:
                    break
                records.append(record)
        return records

    def _fold_over_holes(self, state: TopicState, records: Iterable[LogRecord]) -> tuple[TopicState, list[Loss]]:
        """Folds what comes after a state. Positions alone tell: they never go back, also not with a new epoch."""
        losses: list[Loss] = []
        for record in records:
            facts = record.facts
            if facts.last_position <= state.position:
                continue
            if facts.first_position > state.position + 1:
                losses.append(Loss(topic_id=facts.topic_id, first=state.position + 1, last=facts.first_position - 1))
                state = replace(state, position=facts.first_position - 1)
            try:
                state = fold(state, record, decode_events(self._codec, record))
            except ValueError:  # poison
                losses.append(Loss(topic_id=facts.topic_id, first=facts.first_position, last=facts.last_position))
                state = replace(state, position=facts.last_position)
        return state, losses
