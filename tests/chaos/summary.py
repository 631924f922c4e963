"""What many runs say together: counted runs, what was lost, which faults hit, how long sends paused. Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from tests.chaos.catalogue import CATALOGUE
from tests.chaos.verdict import FaultReport, RunVerdict

_CLASSES: Final = {
    "lost": ("acknowledged_lost",),
    "duplicated": ("duplicates", "changed_on_retry"),
    "reordered": ("one_order", "pipeline_broken"),
    "holes": ("holes", "holes_in_streams", "left_out"),
}
_SUMS: Final = ("acknowledged", "events", "deliveries", "reads_checked", "removals", "resumes", "unknown_outcomes")


@dataclass(frozen=True)
class FinishedRun:
    """A run that was judged."""

    seed: int
    seconds: float
    verdict: RunVerdict

    def line(self) -> str:
        """Says in one line what came of it."""
        verdict = self.verdict
        outcome = "FAILED" if not verdict.holds else "counted" if verdict.counts else "not counted"
        faults = "; ".join(_tell(fault) for fault in verdict.faults)
        sent = f"{verdict.figures.get('acknowledged', 0):g} messages"
        return f"seed {self.seed} {outcome} · {self.seconds:.0f} s · {sent} · {faults}"


def _tell(fault: FaultReport) -> str:
    hits = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in fault.hits.items()) or "nothing hit"
    mark = "" if fault.counts else " DID NOT HIT"
    pauses = f"nobody answered for {fault.pause_s:g} s, slowest send {fault.slowest_send_s:g} s"
    return f"{fault.kind} ({fault.target}){mark}: {hits}, {pauses}"


def summarize(runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Packs the figures of all runs for docs/report.json."""
    problems = {name: _count(runs, rules) for name, rules in _CLASSES.items()}
    known = {rule for rules in _CLASSES.values() for rule in rules}
    struck = {fault.kind for run in runs for fault in run.verdict.faults}
    faults = {kind.name: _of_kind(runs, kind.name) for kind in CATALOGUE if kind.name in struck}
    others = {rule for run in runs for rule in run.verdict.problems} - known
    return {
        "runs": len(runs),
        "runs_counted": sum(run.verdict.holds and run.verdict.counts for run in runs),
        "runs_not_counted": {
            str(run.seed): [fault.kind for fault in run.verdict.faults if not fault.counts]
            for run in runs
            if run.verdict.holds and not run.verdict.counts
        },
        "failed_seeds": [run.seed for run in runs if not run.verdict.holds],
        "minutes": round(sum(run.seconds for run in runs) / 60, 1),
        "messages": sum(round(run.verdict.figures.get("acknowledged", 0)) for run in runs),
        **problems,
        "other_problems": _count(runs, others),
        "kinds_that_hit": sum(figure["hit"] > 0 for figure in faults.values()),
        "faults": faults,
        "sums": {name: sum(round(run.verdict.figures.get(name, 0)) for run in runs) for name in _SUMS},
    }


def _count(runs: Iterable[FinishedRun], rules: Iterable[str]) -> int:
    names = set(rules)
    return sum(len(found) for run in runs for rule, found in run.verdict.problems.items() if rule in names)


def _of_kind(runs: Iterable[FinishedRun], kind: str) -> dict[str, float]:
    """Says how often a kind of fault hit. Pauses count where it was the only one, so that they are its own."""
    met = [(fault, len(run.verdict.faults) == 1) for run in runs for fault in run.verdict.faults if fault.kind == kind]
    alone = [fault for fault, is_alone in met if is_alone]
    return {
        "struck": len(met),
        "hit": sum(fault.counts for fault, _ in met),
        "longest_pause_s": max((fault.pause_s for fault in alone), default=0.0),
        "slowest_send_s": max((fault.slowest_send_s for fault in alone), default=0.0),
        "longest_pause_with_others_s": max((fault.pause_s for fault, _ in met), default=0.0),
    }
