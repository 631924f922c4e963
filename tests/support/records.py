"""Writes a log for tests as nodes would: decided by the domain, encoded by the codec, one access change a record."""

import uuid
from collections.abc import Sequence

from hubbub_server.domain import topic as domain
from hubbub_server.domain.commands import Accepted, Answer, Command, Done, LookupNeeded, Refused
from hubbub_server.domain.events import Event, changes_access
from hubbub_server.domain.id_window import IdLookup
from hubbub_server.domain.ids import TopicId, shard_of
from hubbub_server.domain.topic import TopicState
from hubbub_server.ports.topic_log import LogRecord, NewRecord, RecordFacts
from hubbub_server.wire.record_codec import ProtoRecordCodec
from tests.support.fakes.topic_log import FakeLogServer

NOW_MS = 1_800_000_000_000


def new_record(events: Sequence[Event], hashes: Sequence[str], state: TopicState) -> NewRecord:
    """Returns the record of events that lead to `state`."""
    codec = ProtoRecordCodec()
    return NewRecord(
        facts=RecordFacts(
            record_id=str(uuid.uuid4()),
            topic_id=events[0].topic_id,
            epoch=events[0].epoch,
            first_position=events[0].position,
            last_position=events[-1].position,
            commit_time_ms=events[-1].commit_time_ms,
            last_message_number=state.head.last_message_number,
            last_counted_number=state.head.last_counted_number,
            kinds=frozenset(type(event.kind).__name__ for event in events),
            request_hashes=tuple(hashes) if any(hashes) else (),
        ),
        body=b"".join(map(codec.encode, events)),
    )


class LogWriter:
    """Decides commands on the states that it folds itself and appends the outcome to a FakeLogServer."""

    def __init__(self, server: FakeLogServer) -> None:
        self.server = server
        self.states: dict[TopicId, TopicState] = {}

    def shard(self, topic_id: TopicId) -> int:
        """Returns the shard of a topic."""
        return shard_of(topic_id, self.server.shards)

    def run(self, topic_id: TopicId, command: Command, *, now_ms: int = NOW_MS) -> Answer:
        """Runs a command; raises its refusal."""
        epoch = self.server.epochs[self.shard(topic_id)]
        state = self.states.get(topic_id) or domain.empty_state(topic_id, epoch)
        decision = domain.decide(state, command, now_ms)
        if isinstance(decision, LookupNeeded):  # the window forgets nothing here, so what it misses was never used
            nothing = IdLookup(applied_position=state.position, keys=decision.keys, found={})
            decision = domain.decide(state, command, now_ms, nothing)
        match decision:
            case Accepted(events=events, request_hashes=hashes, answer=answer):
                start = 0
                for end in range(1, len(events) + 1):
                    if end == len(events) or changes_access(events[end]) or changes_access(events[end - 1]):
                        self.append(events[start:end], hashes[start:end])
                        start = end
                return answer
            case Done(answer=answer):
                return answer
            case Refused(error=error):
                raise error
            case _:
                raise AssertionError(decision)

    def append(self, events: Sequence[Event], hashes: Sequence[str]) -> LogRecord:
        """Appends one record of these events and folds them."""
        topic_id = events[0].topic_id
        state = self.states.get(topic_id) or domain.empty_state(topic_id, events[0].epoch)
        for event, request_hash in zip(events, hashes, strict=True):
            state = domain.evolve(state, event, request_hash)
        self.states[topic_id] = state
        return self.append_record(new_record(events, hashes, state))

    def append_record(self, record: NewRecord) -> LogRecord:
        """Appends a record as it is."""
        topic_id = record.facts.topic_id
        log = self.server.by_topic.get(topic_id)
        self.server.append(record, log[-1].sequence if log else 0)
        return self.server.by_topic[topic_id][-1]
