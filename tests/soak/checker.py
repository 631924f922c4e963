"""Judges a soak run from its JSONL files alone: imports neither server nor SDK nor generated code.

`check(records)` folds the files into one picture and asks each rule of `RULES` for what is wrong with it. What readers
saw is compared with the log (the union of every event anybody received) and with the history (the last ListMessages of
the auditor, who is a member of everything all the time). A rule yields sentences; none means that the promise held.
"""

import json
import sys
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.picture import Reader, Run, Walk, ends_as_member, figures, was_member
from tests.soak.records import Record, read_records

GAP_EVENTS = 1_000
_SHOWN = 20

# ---- the rules


def acknowledged_lost(run: Run) -> Iterator[str]:
    """G1: what was acknowledged is in the history, under the number of the answer, with the content that was sent."""
    for (topic, message_id), acks in run.acks.items():
        row = run.auditor.history.get(topic, {}).get(acks[0]["number"])
        if row is None or row["id"] != message_id:
            yield f"{message_id} of {topic}, acknowledged as {acks[0]['number']}, is {row and row['id']} in the history"
        elif row["content"] != run.attempts[topic, message_id][0]["content"]:
            yield f"{message_id} of {topic} has other content in the history"


def duplicates(run: Run) -> Iterator[str]:
    """G3: an id is one message, in the history and in the log."""
    for topic, rows in run.auditor.history.items():
        for key, count in Counter((row["sender"], row["id"]) for row in rows.values()).items():
            if count > 1:
                yield f"{key} is {count} messages in the history of {topic}"
    for topic, events in run.log.items():
        sent = [(e["sender"], e["id"]) for e in events.values() if e["what"] == "message_sent"]
        for key, count in Counter(sent).items():
            if count > 1:
                yield f"{key} is {count} events of {topic}"


def one_order(run: Run) -> Iterator[str]:
    """G2: a position and a number mean the same for every reader; numbers and times go up along a topic."""
    yield from run.clashes
    for topic, events in run.log.items():
        number, commit_ms = 0, 0
        for position in sorted(events):
            event = events[position]
            if event["what"] == "message_sent":
                if event["number"] <= number:
                    yield f"{topic}: number {event['number']} at {position} comes after number {number}"
                number = event["number"]
            if event["commit_ms"] is None:  # only an SDK saw it
                continue
            if event["commit_ms"] < commit_ms:
                yield f"{topic}: time goes back at position {position}"
            commit_ms = event["commit_ms"]
    by_number: dict[tuple[str, int], tuple[str, str]] = {}
    for reader in run.readers.values():
        for topic, rows in reader.history.items():
            for number, row in rows.items():
                first = by_number.setdefault((topic, number), (row["id"], row["sender"]))
                if first != (row["id"], row["sender"]):
                    yield f"{topic}: number {number} is {row['id']} for {reader.who} and {first[0]} for another"


def holes(run: Run) -> Iterator[str]:
    """G2, G4: positions and numbers are dense; every reader got every position up to the head without being told."""
    for topic, events in run.log.items():
        missing = set(range(min(events), max(events) + 1)) - set(events)
        if missing:
            yield f"{topic}: nobody saw positions {sorted(missing)[:5]}"
    for topic, rows in run.auditor.history.items():
        head = run.auditor.history_head.get(topic)
        if head is None:
            yield f"{topic}: its history was not read to the end"
        elif sorted(rows) != list(range(1, len(rows) + 1)) or len(rows) != head["number"]:
            yield f"{topic}: the numbers of the history are not 1 to {head['number']}"
    for who, walks in run.walks.items():
        reader = run.readers[who]
        for topic, way in walks.items():
            yield from way.problems
            head = run.auditor.history_head.get(topic)
            if head and ends_as_member(run, topic, reader.user) and way.cursor != head["position"]:
                yield f"{who} in {topic}: stands at {way.cursor}, the head is {head['position']}"


def holes_in_streams(run: Run) -> Iterator[str]:
    """G4: one stream carries every event of a topic after the head that it named, each once."""
    for reader in run.readers.values():
        if reader.flavor == "sdk":
            continue
        last: dict[tuple[int, str], tuple[int, bool]] = {}
        for record in reader.seen:
            key = (record.get("stream", 0), record.get("topic", ""))
            match record["k"]:
                case "ended":
                    last.pop(key, None)
                case "head" if record["via"] == "heads":
                    last.setdefault(key, (record["position"], False))
                case "event" if record["via"] == "live":
                    yield from _check_live(reader.who, last.get(key), record)
                    last[key] = (record["position"], True)


def _check_live(who: str, last: tuple[int, bool] | None, event: Record) -> Iterator[str]:
    place = f"{who} in {event['topic']} on stream {event['stream']}"
    if last is None:
        yield f"{place}: position {event['position']} before Heads named the topic"
        return
    position, from_event = last
    if event["position"] > position + 1:
        yield f"{place}: position {event['position']} after {position}"
    if from_event and event["position"] <= position:
        yield f"{place}: position {event['position']} again after {position}"


def left_out(run: Run) -> Iterator[str]:
    """G4: no log was recreated, so nobody is told to forget; only who misses more than 1,000 events is told to skip."""
    for reader in run.readers.values():
        for record in reader.seen:
            if record["k"] == "reset" or (record["k"] == "gap" and record["position"] - record["from"] <= GAP_EVENTS):
                yield f"{reader.who} in {record['topic']}: {record['k']} from {record['from']} to {record['position']}"


def changed_on_retry(run: Run) -> Iterator[str]:
    """G3: every answer to an id is the first one, and the one in the log."""
    for (topic, message_id), acks in run.acks.items():
        answers = {tuple(ack[name] for name in ("number", "epoch", "position", "commit_ms")) for ack in acks}
        if len(answers) > 1:
            yield f"{message_id} of {topic} was answered as {sorted(answers)}"
            continue
        event = run.log[topic].get(acks[0]["position"])
        if event is None or (event["id"], event["number"], event["commit_ms"]) != (
            message_id,
            acks[0]["number"],
            acks[0]["commit_ms"],
        ):
            yield f"{message_id} of {topic} was answered with position {acks[0]['position']}, which is another event"


def live_is_not_history(run: Run) -> Iterator[str]:
    """G2, G4: what a reader saw happen is what it reads back, for every position that it covered."""
    for who, walks in run.walks.items():
        reader = run.readers[who]
        for topic in reader.history_head:
            way = walks.get(topic, Walk())
            seen = {e["number"]: e for e in way.applied.values() if e["what"] == "message_sent"}
            rows = reader.history[topic]
            head = reader.history_head[topic]["position"]
            for number, event in seen.items():
                row = rows.get(number)
                if event["position"] <= head and (row is None or _row(row) != _row(event)):
                    yield f"{who} in {topic}: saw {number} as {_row(event)}, reads {row and _row(row)}"
            numbers = {e["number"]: p for p, e in run.log[topic].items() if e["what"] == "message_sent"}
            for number in rows:
                if number not in numbers:
                    yield f"{who} in {topic}: reads number {number}, which nobody saw"
                elif numbers[number] in way.covered and number not in seen:
                    yield f"{who} in {topic}: reads number {number}, but saw something else"


def _row(record: Record) -> tuple[object, ...]:
    return tuple(record[name] for name in ("id", "sender", "content", "commit_ms"))


def read_after_removal(run: Run) -> Iterator[str]:
    """G5: who was removed at n receives nothing after n, unless someone had begun to add them again."""
    for reader in run.readers.values():
        for event in reader.seen:
            if event["k"] == "event" and event["topic"] in run.memberships:
                yield from _check_removed(run, reader, event)
        for topic in reader.history_head:
            if topic in run.memberships and not ends_as_member(run, topic, reader.user):
                yield f"{reader.who} listed {topic} at the end, where it is no member"
        for topic in reader.denied:
            if ends_as_member(run, topic, reader.user):
                yield f"{reader.who} may not list {topic} at the end, where it is a member"


def _check_removed(run: Run, reader: Reader, event: Record) -> Iterator[str]:
    topic, position = event["topic"], event["position"]
    changes = run.memberships[topic].get(reader.user, [])
    removals = [place for place, is_member in changes if not is_member and place < position]
    if not removals or was_member(changes, position):
        return
    done = run.change_times(topic, reader.user, "remove", "done")
    removed_t = done[len(removals) - 1] if len(done) >= len(removals) else float("inf")
    if not any(removed_t < t <= event["t"] for t in run.change_times(topic, reader.user, "add", "begin")):
        yield f"{reader.who} got position {position} of {topic}, removed at {removals[-1]}"


def posted_without_membership(run: Run) -> Iterator[str]:
    """G5: every message was sent by a member of that position."""
    for topic, events in run.log.items():
        for position, event in events.items():
            if event["what"] == "message_sent" and not was_member(
                run.memberships[topic].get(event["sender"], []), position
            ):
                yield f"{event['sender']} posted {position} in {topic} without being a member"


def invented(run: Run) -> Iterator[str]:
    """Every message was sent by its sender; what was refused for good on every try is not there."""
    users = {reader.user for reader in run.readers.values()}
    for topic, rows in run.auditor.history.items():
        for number, row in rows.items():
            key = (topic, row["id"])
            tries = run.attempts.get(key, [])
            if row["sender"] in users and not any(
                run.sender_of(a["who"]) == row["sender"] and a["content"] == row["content"] for a in tries
            ):
                yield f"{topic}: number {number} was never sent like this by {row['sender']}"
            elif _was_refused(run, key, tries):
                yield f"{topic}: number {number} was refused on every try"


def _was_refused(run: Run, key: tuple[str, str], tries: list[Record]) -> bool:
    """True when every try of a raw client was refused for good; an SDK repeats without telling."""
    is_raw = bool(tries) and run.readers[tries[0]["who"]].flavor == "raw"
    return is_raw and len(tries) == sum(fail["final"] for fail in run.fails.get(key, []))


def unanswered(run: Run) -> Iterator[str]:
    """Every send ends with an answer."""
    for key in run.attempts:
        if key not in run.acks and not any(fail["final"] for fail in run.fails.get(key, [])):
            yield f"{key[1]} of {key[0]} has no answer"


def pipeline_broken(run: Run) -> Iterator[str]:
    """A message that names a previous one comes after it; it is not there without it (C06)."""
    numbers = {
        (topic, row["id"]): number for topic, rows in run.auditor.history.items() for number, row in rows.items()
    }
    for (topic, message_id), tries in run.attempts.items():
        previous, number = tries[0].get("prev"), numbers.get((topic, message_id))
        if not previous or number is None:
            continue
        before = numbers.get((topic, previous))
        if before is None and run.readers[tries[0]["who"]].flavor == "sdk":
            continue  # the SDK lets a message go when the one before it was refused
        if before is None:
            yield f"{message_id} of {topic} is there, the one before it is not"
        elif before >= number:
            yield f"{message_id} of {topic} is before the one that was sent before it"


def head_lied(run: Run) -> Iterator[str]:
    """G4: a head names the number of the newest message at its position, and nothing that does not exist."""
    number_at: dict[str, tuple[list[int], list[int]]] = {}
    for topic, events in run.log.items():
        sent = sorted(p for p, e in events.items() if e["what"] == "message_sent")
        number_at[topic] = (sent, [events[p]["number"] for p in sent])
    for reader in run.readers.values():
        for head in reader.seen:
            if head["k"] != "head" or head["topic"] not in number_at:
                continue
            positions, numbers = number_at[head["topic"]]
            index = bisect_right(positions, head["position"])
            if head["position"] > max(run.log[head["topic"]]):
                yield f"{reader.who} was told head {head['position']} of {head['topic']}, which does not exist"
            elif head["number"] != (numbers[index - 1] if index else 0):
                yield f"{reader.who} was told number {head['number']} at {head['position']} of {head['topic']}"


def stale_read(run: Run) -> Iterator[str]:
    """A read contains everything that was acknowledged before it began, unless it says that it may not."""
    acks: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for (topic, _), given in run.acks.items():
        acks[topic].extend((ack["t"], ack["position"]) for ack in given)
    newest: dict[str, tuple[list[float], list[int]]] = {}
    for topic, pairs in acks.items():
        pairs.sort()
        highest, column = 0, []
        for _, position in pairs:
            highest = max(highest, position)
            column.append(highest)
        newest[topic] = ([t for t, _ in pairs], column)
    for reader in run.readers.values():
        for page in reader.pages:
            times, positions = newest.get(page["topic"], ([], []))
            index = bisect_right(times, page["begin"])
            if page["confirmed"] and index and positions[index - 1] > page["position"]:
                newer = positions[index - 1]
                yield f"{reader.who} read {page['topic']} at {page['position']}, {newer} was acknowledged"


RULES: dict[str, Callable[[Run], Iterator[str]]] = {
    rule.__name__: rule
    for rule in (
        acknowledged_lost,
        duplicates,
        one_order,
        holes,
        holes_in_streams,
        left_out,
        changed_on_retry,
        live_is_not_history,
        read_after_removal,
        posted_without_membership,
        invented,
        unanswered,
        pipeline_broken,
        head_lied,
        stale_read,
    )
}


@dataclass(frozen=True)
class Verdict:
    """What is wrong, by rule, and what was counted."""

    problems: dict[str, list[str]]
    figures: dict[str, float]

    @property
    def holds(self) -> bool:
        """True when no rule found anything."""
        return not any(self.problems.values())


def check(records: Iterable[Record]) -> Verdict:
    """Judges a run."""
    run = Run(records)
    return Verdict({name: list(rule(run)) for name, rule in RULES.items()}, figures(run))


def below_minima(found: dict[str, float], minima: dict[str, float]) -> list[str]:
    """Says which figures are too small for the run to mean something."""
    return [
        f"{name} is {found.get(name, 0):g}, needed {least:g}"
        for name, least in minima.items()
        if found.get(name, 0) < least
    ]


def main(folder: str) -> int:
    """Judges the files of a folder and prints what is wrong."""
    verdict = check(read_records(Path(folder)))
    print(json.dumps(verdict.figures, indent=2))
    for name, problems in verdict.problems.items():
        print(f"{name}: {len(problems)}")
        for problem in problems[:_SHOWN]:
            print(f"    {problem}")
    return 0 if verdict.holds else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
