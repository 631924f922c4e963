"""Compares the log of a shard with the store, topic by topic, and names what is missing or differs. Changes nothing.

A log that lost records, and a store that did, each show it in their positions, which are dense. What only one of the
two has is named with who has it; what neither has is lost. What was trimmed from the log is the store's alone, and in
order. Run it while the projector is caught up: what was committed meanwhile is not compared.
"""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.ports.event_store import EventStore
from hubbub_server.ports.log_shards import LogShards, ShardBounds
from hubbub_server.ports.projection import AppliedRow, EventRow
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_directory import TopicDirectory
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.ports.topic_states import TopicStates

_ROWS_A_PAGE: Final = 1_000
_TOPICS_A_PAGE: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about positions `first` to `last` of a topic."""

    topic_id: TopicId
    first: int
    last: int
    what: str

    def __str__(self) -> str:
        """Reads like "topic c1, positions 3 to 5: the store does not have them"."""
        span = f"position {self.first}" if self.first == self.last else f"positions {self.first} to {self.last}"
        return f"topic {self.topic_id}, {span}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class LostRecord:
    """The server that leads a shard's log lost this record, and perhaps more."""

    shard: int
    sequence: int

    def __str__(self) -> str:
        """Reads like "shard 3: the leader of its log lost record 21, …"."""
        return (
            f"shard {self.shard}: the leader of its log lost record {self.sequence}, perhaps more; "
            "what other servers have still is not named below"
        )


@dataclass(slots=True)
class _Seen:
    """What the log has of a topic: spans of positions in order, not touching, and the sequence of the newest record."""

    spans: list[tuple[int, int]] = field(default_factory=list)
    sequence: int = 0

    def add(self, record: LogRecord) -> None:
        first, last = record.facts.first_position, record.facts.last_position
        if self.spans and self.spans[-1][1] + 1 == first:
            self.spans[-1] = (self.spans[-1][0], last)
        else:
            self.spans.append((first, last))
        self.sequence = record.sequence


class VerifyLog:
    """Compares log and store."""

    def __init__(
        self,
        *,
        log_shards: LogShards,
        states: TopicStates,
        directory: TopicDirectory,
        events: EventStore,
        codec: RecordCodec,
        shards: int,
    ) -> None:
        """Takes the ports."""
        self._log_shards = log_shards
        self._states = states
        self._directory = directory
        self._events = events
        self._codec = codec
        self._shards = shards

    async def compare(self, shard: int) -> AsyncIterator[Finding | LostRecord]:
        """Compares one shard. The order of the findings says nothing.

        Raises:
            LogUnavailable, StoreUnavailable: it cannot be read now.
        """
        bounds = await self._log_shards.read_bounds(shard)
        if bounds.lost_sequence is not None:
            yield LostRecord(shard=shard, sequence=bounds.lost_sequence)
        seen: dict[TopicId, _Seen] = {}
        async for records in self._read_log(shard, bounds):
            for record in records:
                seen.setdefault(record.facts.topic_id, _Seen()).add(record)
            for topic_id in {record.facts.topic_id for record in records}:
                own = [record for record in records if record.facts.topic_id == topic_id]
                async for finding in self._compare_bytes(topic_id, own):
                    yield finding
        async for topic_id in self._topics(shard, seen):
            for finding in await self._compare_spans(topic_id, seen.get(topic_id, _Seen()), bounds):
                yield finding

    async def _read_log(self, shard: int, bounds: ShardBounds) -> AsyncIterator[Sequence[LogRecord]]:
        after = bounds.first_sequence - 1
        while records := await self._log_shards.read_records(
            shard, after_sequence=after, up_to_sequence=bounds.last_sequence
        ):
            yield records
            after = records[-1].sequence

    async def _topics(self, shard: int, seen: Mapping[TopicId, _Seen]) -> AsyncIterator[TopicId]:
        for topic_id in {*seen, *await self._states.list_topics(shard)}:
            yield topic_id
        page: Sequence[TopicId] = await self._directory.list_topics(after=None, limit=_TOPICS_A_PAGE)
        while page:
            for topic_id in page:
                if shard_of(topic_id, self._shards) == shard and topic_id not in seen:
                    yield topic_id
            page = await self._directory.list_topics(after=page[-1], limit=_TOPICS_A_PAGE)

    async def _compare_bytes(self, topic_id: TopicId, records: Sequence[LogRecord]) -> AsyncIterator[Finding]:
        """Compares what both have, byte by byte: committed bytes never change."""
        first = records[0].facts.first_position
        last = records[-1].facts.last_position
        rows = {row.position: row async for row in self._read_rows(topic_id, first, last)}
        for record in records:
            try:
                decoded = self._codec.decode(record.body)
            except ValueError as error:
                span = (record.facts.first_position, record.facts.last_position)
                yield Finding(topic_id=topic_id, first=span[0], last=span[1], what=f"cannot be read: {error}")
                continue
            for each in decoded:
                position = each.event.position
                row = rows.get(position)
                if row is not None and row.epoch == each.event.epoch and row.framed != each.framed:
                    yield Finding(topic_id=topic_id, first=position, last=position, what="log and store differ")

    async def _compare_spans(self, topic_id: TopicId, seen: _Seen, bounds: ShardBounds) -> list[Finding]:
        applied = await self._directory.read_applied(topic_id)
        stored = await self._stored_spans(topic_id)
        snapshot = await self._states.read(topic_id)
        head = max(
            seen.spans[-1][1] if seen.spans else 0,
            applied.position if applied else 0,
            snapshot.state.position if snapshot else 0,
        )
        begin, end = (seen.spans[0][0], seen.spans[-1][1]) if seen.spans else (head, 0)
        if applied is not None and _is_newest_lost(applied, bounds, seen):
            begin, end = 1 if bounds.lost_sequence == 1 else begin, head
        found = {
            "neither log nor store has them": _outside([*seen.spans, *stored], (1, head)),
            "the log lost them, the store has them": _within(_outside(seen.spans, (begin, end)), stored),
            "the store lost them, the log has them": _within(
                _outside(stored, (1, applied.position if applied else 0)), seen.spans
            ),
        }
        return [
            Finding(topic_id=topic_id, first=first, last=last, what=what)
            for what, spans in found.items()
            for first, last in spans
        ]

    async def _stored_spans(self, topic_id: TopicId) -> list[tuple[int, int]]:
        spans: list[tuple[int, int]] = []
        async for row in self._read_rows(topic_id, 1, None):
            if spans and spans[-1][1] + 1 == row.position:
                spans[-1] = (spans[-1][0], row.position)
            else:
                spans.append((row.position, row.position))
        return spans

    async def _read_rows(self, topic_id: TopicId, first: int, last: int | None) -> AsyncIterator[EventRow]:
        position = first - 1
        while rows := await self._events.read_after(topic_id, after_position=position, limit=_ROWS_A_PAGE):
            for row in rows:
                if last is not None and row.position > last:
                    return
                yield row
            position = rows[-1].position


def _is_newest_lost(applied: AppliedRow, bounds: ShardBounds, seen: _Seen) -> bool:
    """Tells whether the newest record that the store has applied was not trimmed, and yet is not in the log."""
    whole_from = bounds.first_sequence if bounds.lost_sequence is None else bounds.lost_sequence
    is_trimmed = applied.epoch != bounds.epoch or applied.sequence < min(whole_from, bounds.first_sequence)
    return not is_trimmed and seen.sequence < applied.sequence


def _outside(spans: Iterable[tuple[int, int]], bounds: tuple[int, int]) -> list[tuple[int, int]]:
    """Returns what is within `bounds` and in none of the spans."""
    first, last = bounds
    missing: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if start > first:
            missing.append((first, min(start - 1, last)))
        first = max(first, end + 1)
        if first > last:
            break
    if first <= last:
        missing.append((first, last))
    return [(a, b) for a, b in missing if a <= b]


def _within(spans: Iterable[tuple[int, int]], others: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Returns the parts of `spans` that are in `others`."""
    ordered = sorted(others)
    return [(max(start, a), min(end, b)) for start, end in spans for a, b in ordered if max(start, a) <= min(end, b)]
