"""The topic log: one ordered durable event log per topic, in shards; the only place where order and truth are made.

A *record* is what one commit appends: public bytes (`body`, what clients receive, unchanged) and machine facts that
clients never get. Positions count events, dense per topic; sequences count records of a shard and are the log's own.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.ids import TopicId


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordFacts:
    """Machine facts of a record. `last_message_number` and `last_counted_number` are the topic's counts after it."""

    record_id: str
    topic_id: TopicId
    epoch: int
    first_position: int
    last_position: int
    commit_time_ms: int
    last_message_number: int
    last_counted_number: int
    kinds: frozenset[str]
    """Class names of the events in it (domain/events.py), so that readers can skip a record without decoding it."""
    request_hashes: tuple[str, ...] = ()
    """One entry an event; "" for none. May be empty when no event has one."""
    session_id: str = ""
    traceparent: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewRecord:
    """A record to append. `body` is encoded once; the same object is appended again when an outcome was unknown."""

    facts: RecordFacts
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """A record that is in the log. Equal for every reader."""

    facts: RecordFacts
    body: bytes
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHead:
    """The newest record of a topic without its body."""

    facts: RecordFacts
    sequence: int


class Conflict(Exception):
    """The head is not where the append expected it, or another append is in flight. This call appended nothing."""


class AppendUnknown(LogUnavailable):
    """The append was sent and its outcome is not known: the record may be there, or may still get there later."""


class LogFull(LogUnavailable):
    """The log refuses appends because it is full. Nothing was appended."""


class RecordTooLarge(ValueError):
    """The record with its headers exceeds what the log carries. Nothing was sent. A fault of the caller."""


class TopicListener(Protocol):
    """Hears about one topic. Called on the event loop, must not block, must not raise."""

    def on_record(self, record: LogRecord) -> None:
        """A record is in the log. A hint: it may come twice, late or never, but never out of order of its topic."""

    def on_poke(self, position: int) -> None:
        """Another node says that the topic's head is at least at `position`."""


class TopicLog(Protocol):
    """Appends to and reads from the logs of topics.

    Every method is bounded in time (the adapter's own time-outs, retried inside) and raises LogUnavailable when the
    log cannot answer. Reads are exact: they are answered by the leader, or checked against what the leader said, and a
    record that was acknowledged before the call is never missing from the answer.
    """

    @property
    def shards(self) -> int:
        """Number of shards."""

    def epoch(self, shard: int) -> int:
        """Epoch of a shard's log as last read, from 1; another after the log was recreated.

        Read again on reconnect and every 30 s.
        """

    def is_live(self) -> bool:
        """Tells whether the log was heard within the last 10 s: while False, live records may be missing."""

    async def append(self, record: NewRecord, *, after_sequence: int) -> int:
        """Appends a record if the newest record of its topic has sequence `after_sequence` (0: there is none).

        Returns the record's sequence: it is on disk on a quorum. A cancelled caller does not cancel the append itself.

        Raises:
            Conflict: another record is newer, or an append of this topic is in flight elsewhere; nothing was appended.
            AppendUnknown: no answer came; settle it with `read_next` and by appending the same record again.
            LogFull: nothing was appended.
            LogUnavailable: nothing was sent.
            RecordTooLarge: nothing was sent.
        """

    async def read_head(self, topic_id: TopicId) -> LogRecord | None:
        """Reads the newest record of a topic from the leader; None: trimmed or never made, not "unknown topic"."""

    async def read_next(self, topic_id: TopicId, *, after_sequence: int) -> LogRecord | None:
        """Reads from the leader the first record of a topic whose sequence is larger than `after_sequence`."""

    async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
        """Reads the heads of many topics, any number; topics without a record are left out."""

    async def read_last_sequence(self, shard: int) -> int:
        """Reads from the leader the sequence of a shard's newest record, trimmed ones included; 0: there was none.

        A log of another epoch than `epoch` says cannot answer: LogUnavailable.
        """

    async def read_range(
        self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        """Reads records of a topic in order: `after_sequence` < sequence <= `up_to_sequence`.

        `up_to_sequence` is the sequence of a known record. Ends early, after at least one record, when the bodies
        exceed `max_bytes`; the caller goes on after the last one. Complete: positions of the answer are dense.
        """

    async def follow(self, topic_id: TopicId, listener: TopicListener) -> None:
        """Starts hearing a topic. One listener a topic. Registered at the server when it returns.

        When it raises or is cancelled, nothing stays registered.
        """

    async def unfollow(self, topic_id: TopicId) -> None:
        """Stops hearing a topic. No call of the listener begins after it returned."""

    async def poke(self, topic_id: TopicId, position: int) -> None:
        """Tells all followers of a topic that its head is at least at `position`. Best effort."""

    def on_disturbance(self, callback: Callable[[], None]) -> None:
        """Registers a callback for "live records may have been lost, or the log was recreated": compare all heads.

        Called after a reconnect, a change of leader (at once and 2 s later), and a new epoch.
        """
