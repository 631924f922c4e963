"""The judge of chaos runs: a fault that hit nothing does not count, and a bad history fails whatever was hit."""

from collections.abc import Mapping
from typing import Any

import pytest

from tests.chaos.catalogue import CATALOGUE, KINDS, Hit, Part
from tests.chaos.faults import FAULTS
from tests.chaos.plan import plan_run
from tests.chaos.summary import FinishedRun, summarize
from tests.chaos.verdict import AFTER_S, RunVerdict, judge
from tests.soak.records import Record
from tests.soak.test_checker import find, good_story

FIRST, LAST = 10.0, 12.0


def run_with(*faults: str, target: str = "somebody", effects: Mapping[str, int] | None = None) -> list[Record]:
    """A good story with faults between 10 and 12 s; nothing of it happens in that time."""
    records = good_story()
    for number, fault in enumerate(faults, start=1):
        names = {"who": "chaos", "n": number}
        records.append({"t": FIRST, "k": "fault_begin", "fault": fault, "target": target, "totals": {}, **names})
        end: dict[str, Any] = {"k": "fault_end", "repaired": LAST, "totals": {}, "effects": effects or {}}
        records.append({"t": LAST + 3, **end, **names})
    return records


def a_try(begin: float, end: float, *, who: str = "ann", number: int = 1) -> list[Record]:
    """A try that was cut; the message is refused for good later, so that the history is good."""
    names = {"who": who, "topic": "c1", "id": f"cut-{who}-{number}"}
    fail = {"k": "fail", "code": "UNAVAILABLE", "reason": ""}
    attempt = {"k": "attempt", "content": "c", "prev": ""}
    return [
        {"t": begin, "try": 1, **attempt, **names},
        {"t": end, "try": 1, "final": False, **fail, **names},
        {"t": 90.0, "try": 2, **attempt, **names},
        {"t": 91.0, "try": 2, "final": True, **fail, **names},
    ]


def judged(records: list[Record]) -> RunVerdict:
    return judge(records, [])


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_that_hit_nothing_does_not_count(kind: str) -> None:
    verdict = judged(run_with(kind))

    assert verdict.holds
    assert not verdict.faults[0].counts
    assert not verdict.counts


@pytest.mark.parametrize("kind", KINDS)
def test_a_fault_counts_by_what_its_kind_counts_and_by_nothing_else(kind: str) -> None:
    for hit in Hit:
        verdict = judged(run_with(kind, effects={hit: 1}))
        assert verdict.counts == (hit in KINDS[kind].counts), hit


def test_one_fault_that_hit_nothing_spoils_the_run() -> None:
    records = run_with("node killed", "redis flushed") + a_try(9.9, 10.1)

    verdict = judged(records)

    assert [fault.counts for fault in verdict.faults] == [True, False]
    assert not verdict.counts


def test_a_run_without_faults_does_not_count() -> None:
    assert not judged(good_story()).counts


@pytest.mark.parametrize(
    ("begin", "end", "hits"),
    [
        (9.0, 10.1, True),
        (11.0, LAST + AFTER_S - 0.1, True),
        (8.0, 9.9, False),
        (LAST + 0.1, LAST + 0.2, False),
        (11.0, LAST + AFTER_S + 0.1, False),
    ],
)
def test_a_command_is_hit_that_was_in_flight_while_the_fault_lasted(begin: float, end: float, hits: bool) -> None:
    verdict = judged(run_with("node killed") + a_try(begin, end))

    assert verdict.faults[0].hits.get(Hit.COMMANDS_BROKEN, 0) == hits
    assert verdict.holds


def test_what_other_clients_suffer_is_no_hit_of_a_client_link() -> None:
    assert not judged(run_with("client link cut", target="bob") + a_try(9.9, 10.1, who="ann")).counts
    assert judged(run_with("client link cut", target="ann") + a_try(9.9, 10.1, who="ann")).counts


def test_a_stream_that_had_to_be_opened_again_is_hit() -> None:
    assert judged([*run_with("envoy killed"), {"t": 11.0, "who": "ann", "k": "stream", "n": 2}]).counts
    assert not judged([*run_with("envoy killed"), {"t": 9.0, "who": "ann", "k": "stream", "n": 2}]).counts


def test_unknown_outcomes_count_by_how_many_came_while_the_fault_lasted() -> None:
    records = run_with("nats leader killed")
    find(records, "chaos", "fault_begin")["totals"] = {"unknown_outcomes": 3}
    find(records, "chaos", "fault_end")["totals"] = {"unknown_outcomes": 5}

    assert judged(records).faults[0].hits == {"unknown_outcomes": 2}


def test_a_pause_is_the_longest_time_without_an_answer_that_has_some_of_the_fault() -> None:
    records = run_with("node killed")
    acks = [record for record in records if record["k"] == "ack"]
    for record, t in zip(acks, (1.0, 9.5, 16.0, 20.5, 40.0), strict=True):
        record["t"] = t

    assert judged(records).faults[0].pause_s == 6.5


def test_a_bad_history_fails_whether_the_fault_hit_or_not() -> None:
    effects: dict[str, int]
    for effects in ({}, {"unknown_outcomes": 1}):
        records = run_with("nats power cut of all", effects=effects)
        for who in ("audit", "ann", "sdk"):
            find(records, who, "message", number=5)["id"] = "m9"
        verdict = judged(records)
        assert not verdict.holds
        assert verdict.problems["acknowledged_lost"]


def test_a_run_that_broke_off_fails() -> None:
    assert not judge(run_with("node killed", effects={"unknown_outcomes": 1}), ["client1 did not finish"]).holds


def test_the_summary_counts_only_runs_that_hold_and_hit() -> None:
    good = judged(run_with("redis flushed", effects={"leases_lost": 3}))
    idle = judged(run_with("redis flushed"))
    bad_records = run_with("redis flushed", effects={"leases_lost": 3})
    find(bad_records, "audit", "message", number=5)["id"] = "m9"
    runs = [FinishedRun(seed, 30.0, verdict) for seed, verdict in enumerate((good, idle, judged(bad_records)))]

    summary = summarize(runs)

    assert (summary["runs"], summary["runs_counted"], summary["failed_seeds"]) == (3, 1, [2])
    assert summary["runs_not_counted"] == {"1": ["redis flushed"]}
    assert (summary["lost"], summary["duplicated"], summary["holes"], summary["minutes"]) == (1, 0, 0, 1.5)
    assert (summary["faults"]["redis flushed"]["struck"], summary["faults"]["redis flushed"]["hit"]) == (3, 2)


def test_a_seed_is_always_the_same_run() -> None:
    assert plan_run(7) == plan_run(7)
    assert len({plan_run(seed) for seed in range(50)}) == 50


def test_as_many_seeds_in_a_row_as_there_are_kinds_meet_each_kind() -> None:
    for start in (0, 5 * len(CATALOGUE)):
        met = {fault.kind for seed in range(start, start + len(CATALOGUE)) for fault in plan_run(seed)}
        assert met == set(CATALOGUE)


def test_in_every_other_round_faults_are_alone() -> None:
    kinds = len(CATALOGUE)
    assert {len(plan_run(seed)) for seed in range(kinds)} == {1}
    assert {len(plan_run(seed)) for seed in range(kinds, 2 * kinds)} == {1, 2, 3}  # "everything" is always alone


def test_faults_of_one_run_break_different_parts() -> None:
    for seed in range(300):
        parts = [fault.kind.part for fault in plan_run(seed)]
        assert len(set(parts)) == len(parts)
        assert parts == [Part.ALL] or Part.ALL not in parts


def test_every_kind_of_the_catalogue_can_be_done() -> None:
    assert set(FAULTS) == set(KINDS)
