"""Judges a chaos run from its JSONL files alone: did every promise hold, and did every fault hit something?

The promises are the checker's of the soak. A run counts when each of its faults hit; one that does not count and holds
proves nothing, one that does not hold is a failure whether it counts or not.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from tests.chaos.catalogue import KINDS, Hit, Part
from tests.soak import checker
from tests.soak.records import Record

# So long after its repair a fault may still be what broke something: sessions and elections take their time.
AFTER_S = 8.0
LATE_S = 1.0


@dataclass(frozen=True)
class FaultReport:
    """One fault of a run: whom it hit, what came of it, and how long sends paused."""

    kind: str
    target: str
    hits: dict[str, int]
    """All that was seen; only what the kind counts makes it count."""
    pause_s: float
    """The longest time in which no send of anybody was answered."""
    slowest_send_s: float
    """The longest time from the first try of a send to its answer."""

    @property
    def counts(self) -> bool:
        """True when it hit something that its kind counts."""
        return any(self.hits.get(hit, 0) > 0 for hit in KINDS[self.kind].counts)


@dataclass(frozen=True)
class RunVerdict:
    """What came of a run."""

    problems: dict[str, list[str]]
    """By rule of the checker; "run" is for what kept the run itself from its end."""
    figures: dict[str, float]
    faults: list[FaultReport]

    @property
    def holds(self) -> bool:
        """True when nothing is wrong."""
        return not any(self.problems.values())

    @property
    def counts(self) -> bool:
        """True when there were faults and each hit something."""
        return bool(self.faults) and all(fault.counts for fault in self.faults)


def judge(records: Iterable[Record], wrong: list[str]) -> RunVerdict:
    """Judges a run; `wrong` is what went wrong with the run itself."""
    kept = list(records)
    verdict = checker.check(kept)
    return RunVerdict(verdict.problems | {"run": wrong}, verdict.figures, list(_faults(kept)))


@dataclass(frozen=True)
class _Try:
    """One try of a send, from when it left until an answer came or it failed."""

    who: str
    begin: float
    end: float
    is_broken: bool


def _faults(records: list[Record]) -> Iterator[FaultReport]:
    tries, sends = list(_tries(records)), list(_sends(records))
    streams = [(r["t"], r["who"]) for r in records if r["k"] == "stream" and r["n"] >= 2]
    answered = sorted(r["t"] for r in records if r["k"] == "ack")
    quiet = next((r["t"] for r in records if r["k"] == "quiet"), float("inf"))
    ends = {r["n"]: r for r in records if r["k"] == "fault_end"}
    for begun in sorted((r for r in records if r["k"] == "fault_begin"), key=lambda r: r["n"]):
        end = ends.get(begun["n"])
        if end is None:
            continue  # the run broke off; its problems say so
        begin_t, end_t = begun["t"], end["repaired"] + AFTER_S
        clients = {begun["target"]} if KINDS[begun["fault"]].part is Part.CLIENT_LINK else None
        met = [t for t in tries if t.begin <= end["repaired"] and begin_t <= t.end <= end_t and _is_of(t.who, clients)]
        hits = {
            Hit.COMMANDS_BROKEN: sum(t.is_broken for t in met),
            Hit.COMMANDS_LATE: sum(not t.is_broken and t.end - t.begin >= LATE_S for t in met),
            Hit.STREAMS_BROKEN: sum(begin_t <= t <= end_t and _is_of(who, clients) for t, who in streams),
            Hit.UNKNOWN_OUTCOMES: _grown(begun, end, "unknown_outcomes"),
            **{Hit(name): value for name, value in end["effects"].items()},
        }
        yield FaultReport(
            kind=begun["fault"],
            target=begun["target"],
            hits={str(name): value for name, value in hits.items() if value},
            pause_s=round(_longest_pause_s(answered, begin_t, min(end_t, quiet)), 2),
            slowest_send_s=round(
                max((b - a for a, b in sends if a <= end["repaired"] and begin_t <= b <= end_t), default=0.0), 2
            ),
        )


def _is_of(who: str, clients: set[str] | None) -> bool:
    return clients is None or who in clients


def _grown(begun: Record, end: Record, name: str) -> int:
    return int(end["totals"].get(name, 0) - begun["totals"].get(name, 0))


def _tries(records: list[Record]) -> Iterator[_Try]:
    """Pairs each try with what came of it."""
    begun: dict[tuple[str, str, str, int], float] = {}
    for record in records:
        if record["k"] in ("attempt", "ack", "fail"):
            key = (record["who"], record["topic"], record["id"], record["try"])
            if record["k"] == "attempt":
                begun[key] = record["t"]
            elif key in begun:
                is_broken = record["k"] == "fail" and not record["final"]
                yield _Try(record["who"], begun.pop(key), record["t"], is_broken)


def _sends(records: list[Record]) -> Iterator[tuple[float, float]]:
    """For each acknowledged send, when its first try left and when the first answer came."""
    first: dict[tuple[str, str], float] = {}
    acked: dict[tuple[str, str], float] = defaultdict(lambda: float("inf"))
    for record in records:
        key = (record.get("topic", ""), record.get("id", ""))
        if record["k"] == "attempt":
            first[key] = min(record["t"], first.get(key, record["t"]))
        elif record["k"] == "ack":
            acked[key] = min(record["t"], acked[key])
    yield from ((first[key], end) for key, end in acked.items() if key in first)


def _longest_pause_s(answered: list[float], begin_t: float, end_t: float) -> float:
    """The longest gap between two answers that has something of the time in which the fault was felt."""
    return max(
        (after - before for before, after in pairwise(answered) if after > begin_t and before < end_t),
        default=0.0,
    )
