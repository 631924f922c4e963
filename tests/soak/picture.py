"""The picture that a soak run's files give: who saw what, what was sent and answered, what was killed.

The *log* is the union of every event that anybody received; a position that two readers saw differently is a clash. A
`Walk` is one reader's way through one topic by the rules of the contract.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from tests.soak.records import Record

# A command was in flight at a kill when its try began this long before it at most, and broke this soon after it.
SENT_BEFORE_S, BROKEN_AFTER_S = 3.0, 1.0
JOINED, LEFT = "members_added", "member_removed"


@dataclass
class Reader:
    """What one client saw, in its own order."""

    who: str
    user: str
    flavor: str
    seen: list[Record] = field(default_factory=list)
    """start, stream, head, event, gap, reset, ended."""
    history: dict[str, dict[int, Record]] = field(default_factory=lambda: defaultdict(dict))
    history_head: dict[str, Record] = field(default_factory=dict)
    denied: set[str] = field(default_factory=set)
    pages: list[Record] = field(default_factory=list)


@dataclass
class Walk:
    """One reader's way through one topic by the rules of the contract: what it applied, and what it could not."""

    cursor: int | None = None
    covered: set[int] = field(default_factory=set)
    applied: dict[int, Record] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


class Run:
    """Everything that the files say, indexed."""

    def __init__(self, records: Iterable[Record]) -> None:
        """Folds the records."""
        self.readers: dict[str, Reader] = {}
        self.attempts: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self.acks: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self.fails: dict[tuple[str, str], list[Record]] = defaultdict(list)
        self.kills: list[Record] = []
        self.removals = 0
        self._change_times: dict[tuple[str, str, str, str], list[float]] = defaultdict(list)
        self.counters: Record = {}
        self.log: dict[str, dict[int, Record]] = defaultdict(dict)
        self.clashes: list[str] = []
        self.stream_count = 0
        self.resumes = 0
        for record in records:
            self._fold(record)
        self.walks = {
            who: {topic: walk(reader, topic) for topic in topics_of(reader)} for who, reader in self.readers.items()
        }
        self.memberships = {topic: _memberships(events) for topic, events in self.log.items()}

    @property
    def auditor(self) -> Reader:
        """The reader that is a member of everything."""
        return next(reader for reader in self.readers.values() if reader.flavor == "auditor")

    def change_times(self, topic: str, user: str, op: str, state: str) -> list[float]:
        """When changes of one user's membership began or were done, in order."""
        return self._change_times[topic, user, op, state]

    def sender_of(self, who: str) -> str:
        """The user of a process."""
        return self.readers[who].user

    def _fold(self, record: Record) -> None:
        who, kind = record["who"], record["k"]
        match kind:
            case "client":
                self.readers[who] = Reader(who, record["user"], record["flavor"])
            case "attempt" | "ack" | "fail":
                book = {"attempt": self.attempts, "ack": self.acks, "fail": self.fails}[kind]
                book[record["topic"], record["id"]].append(record)
            case "kill":
                self.kills.append(record)
            case "change":
                self._change_times[record["topic"], record["user"], record["op"], record["state"]].append(record["t"])
                self.removals += (record["op"], record["state"]) == ("remove", "done")
            case "counters":
                self.counters = record["totals"]
            case "fault" | "fault_begin" | "fault_end" | "quiet" | "goodbye" | "heartbeat" | "lagging":
                pass
            case _:
                self._fold_seen(self.readers[who], kind, record)

    def _fold_seen(self, reader: Reader, kind: str, record: Record) -> None:
        match kind:
            case "message":
                rows = reader.history[record["topic"]]
                if record["number"] in rows:
                    self.clashes.append(f"{reader.who} listed number {record['number']} of {record['topic']} twice")
                rows[record["number"]] = record
            case "history":
                reader.history_head[record["topic"]] = record
            case "denied":
                reader.denied.add(record["topic"])
            case "page":
                reader.pages.append(record)
            case _:
                reader.seen.append(record)
                if kind == "event":
                    self._fold_event(reader, record)
                elif kind == "stream":
                    self.stream_count += 1
                    self.resumes += record["n"] >= 2

    def _fold_event(self, reader: Reader, event: Record) -> None:
        known = self.log[event["topic"]].setdefault(event["position"], event)
        if any(None not in pair and pair[0] != pair[1] for pair in zip(identity(known), identity(event), strict=True)):
            self.clashes.append(
                f"position {event['position']} of {event['topic']} is {identity(event)} for {reader.who} "
                f"and {identity(known)} for {known['who']}"
            )
        if event["bytes"] and not known["bytes"]:
            self.log[event["topic"]][event["position"]] = event


def identity(event: Record) -> tuple[object, ...]:
    """What must be equal for every reader of a position; None where a reader was not told."""
    names = ("epoch", "number", "id", "sender", "content", "commit_ms", "what", "bytes")
    return tuple(event[name] or None for name in names)


def topics_of(reader: Reader) -> list[str]:
    """The topics that a reader saw anything of."""
    return list(dict.fromkeys(record["topic"] for record in reader.seen if "topic" in record))


def walk(reader: Reader, topic: str) -> Walk:
    """Walks a reader through a topic. A raw client may see an event twice (live and Sync) or early; an SDK must not."""
    way = Walk()
    for record in reader.seen:
        if record.get("topic") != topic:
            continue
        match record["k"]:
            case "start" | "gap" | "reset":
                way.cursor = record["position"]
            case "event":
                _step(way, reader, record)
    return way


def _step(way: Walk, reader: Reader, event: Record) -> None:
    position = event["position"]
    place = f"{reader.who} in {event['topic']}"
    if way.cursor is None:
        way.problems.append(f"{place}: position {position} of a topic that it does not follow")
    elif position == way.cursor + 1:
        way.cursor = position
        way.covered.add(position)
        way.applied[position] = event
    elif reader.flavor == "sdk":
        way.problems.append(f"{place}: the SDK gave position {position} after {way.cursor}")


def _memberships(events: dict[int, Record]) -> dict[str, list[tuple[int, bool]]]:
    """For each user the positions at which membership changed, ascending, and what it was from there on."""
    changes: dict[str, list[tuple[int, bool]]] = defaultdict(list)
    for position in sorted(events):
        event = events[position]
        if event["what"] in (JOINED, LEFT):
            for user in event["users"]:
                changes[user].append((position, event["what"] == JOINED))
    return changes


def was_member(changes: list[tuple[int, bool]], position: int) -> bool:
    index = bisect_right(changes, position, key=lambda change: change[0])
    return index > 0 and changes[index - 1][1]


def ends_as_member(run: Run, topic: str, user: str) -> bool:
    changes = run.memberships.get(topic, {}).get(user, [])
    return bool(changes) and changes[-1][1]


def figures(run: Run) -> dict[str, float]:
    """Counts what the run did, so that a run which did too little fails."""
    fails = sorted(
        (fail["t"], next((a["t"] for a in run.attempts[key] if a["try"] == fail["try"]), fail["t"]))
        for key, given in run.fails.items()
        for fail in given
        if not fail["final"]
    )
    node_kills = [kill for kill in run.kills if kill["what"] == "node"]
    in_flight = sum(
        any(0 < kill["t"] - begin < SENT_BEFORE_S and 0 < end - kill["t"] < BROKEN_AFTER_S for end, begin in fails)
        for kill in node_kills
    )
    new = [tries[0]["t"] for tries in run.attempts.values()]
    span_s = max(new) - min(new) if new else 0.0
    return {
        "acknowledged": len(run.acks),
        "attempts": sum(map(len, run.attempts.values())),
        "messages_per_s": round(len(run.acks) / span_s, 1) if span_s else 0.0,
        "retried_and_acknowledged": sum(len(run.attempts[key]) > 1 for key in run.acks),
        "events": sum(len(events) for events in run.log.values()),
        "deliveries": sum(r["k"] == "event" for reader in run.readers.values() for r in reader.seen),
        "reads_checked": sum(len(reader.pages) for reader in run.readers.values()),
        "reads_unconfirmed": sum(not page["confirmed"] for reader in run.readers.values() for page in reader.pages),
        "removals": run.removals,
        "kills": len(run.kills),
        "node_kills": len(node_kills),
        "kills_with_command_in_flight": in_flight,
        "streams": run.stream_count,
        "resumes": run.resumes,
        **run.counters,
    }
