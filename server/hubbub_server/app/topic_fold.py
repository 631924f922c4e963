"""Folds the records of a topic's log onto a state, checked dense: none is left out, none is taken twice."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from hubbub_server.domain import topic as domain
from hubbub_server.domain.conversation import ConversationState, remember_id
from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.events import Event
from hubbub_server.domain.frozen import dataclass
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.record_codec import RecordCodec
from hubbub_server.ports.topic_log import LogRecord

TAIL_MAX_RECORDS: Final = 128
_PLACES: Final = 1024


@dataclass(frozen=True, slots=True)
class Place:
    """The end of a record: position of its last event, and its sequence. 0 and 0: before the first record."""

    position: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedTopic:
    """A topic as of the head that the leader named. The next commit expects `sequence`; 0: the log has no record.

    `tail` are the newest records, at most 128, the last one at `sequence`; it may be empty. `places` are the newest
    ends of records that are known, ascending, the last one is the head's; the id window has all ids after the first.
    """

    state: TopicState
    sequence: int
    tail: Iterable[LogRecord]
    places: Sequence[Place]


class TopicDamaged(LogUnavailable):
    """Log and what is stored do not fit together, again and again: records are lost, or cannot be read."""

    def __init__(self, text: str) -> None:
        """Says what does not fit."""
        super().__init__(text, retry_after_s=30)


class TopicFold:
    """A state that moves along its log. A record that does not continue it changes nothing."""

    def __init__(
        self, state: TopicState, places: Iterable[Place], codec: RecordCodec, *, kept: int = TAIL_MAX_RECORDS
    ) -> None:
        """Starts behind the last of `places`; up to `state`, if that is further on, only the ids are missing.

        `kept` bounds `tail`.
        """
        self.state = state
        self.places = deque(places, maxlen=_PLACES)
        self.read = self.places[-1]
        """The end of the last record."""
        self.tail: deque[LogRecord] = deque(maxlen=kept)
        self._begin = self.read
        self._codec = codec

    def take(self, record: LogRecord) -> None:
        """Takes the next record.

        Raises:
            TopicDamaged: it does not follow the last one.
            RecordUndecodable, ValueError: it is poison.
        """
        facts = record.facts
        if facts.last_position <= self._begin.position:  # of an older epoch, and stored
            self.read = Place(self.read.position, record.sequence)
            return
        if facts.first_position != self.read.position + 1:
            raise TopicDamaged("the log does not continue what is stored")
        events = decode_events(self._codec, record)
        if facts.last_position <= self.state.position:
            self.state = _remember(self.state, record, events)
        else:
            self.state = fold(self.state, record, events)
        self.read = Place(facts.last_position, record.sequence)
        self.places.append(self.read)
        self.tail.append(record)

    def trim(self, recent_ids: int) -> None:
        """Lets go of all ids but the newest ones, and of places before them."""
        if not isinstance(self.state, ConversationState):
            return
        window = self.state.window.trim(self.state.position, recent_ids)
        self.state = replace(self.state, window=window)
        while self.places[0].position < window.evicted_position:
            self.places.popleft()

    def loaded(self) -> LoadedTopic:
        """Returns the topic as of the last record."""
        return LoadedTopic(state=self.state, sequence=self.read.sequence, tail=self.tail, places=self.places)


def _remember(state: TopicState, record: LogRecord, events: Sequence[Event]) -> TopicState:
    """Takes the client ids of a record that is in the state already."""
    if isinstance(state, ConversationState):
        for event, hash_of_request in _with_hashes(record, events):
            state = remember_id(state, event, hash_of_request)
    return state


def decode_events(codec: RecordCodec, record: LogRecord) -> tuple[Event, ...]:
    """Decodes the events of a record. Raises RecordUndecodable."""
    return tuple(decoded.event for decoded in codec.decode(record.body))


def fold(state: TopicState, record: LogRecord, events: Sequence[Event]) -> TopicState:
    """Folds the events of a record. Raises ValueError when they do not continue the state."""
    for event, hash_of_request in _with_hashes(record, events):
        state = domain.evolve(state, event, hash_of_request)
    return state


def _with_hashes(record: LogRecord, events: Sequence[Event]) -> Iterable[tuple[Event, str]]:
    return zip(events, record.facts.request_hashes or ("",) * len(events), strict=True)
