"""The checker passes a good history and catches each bad one: a checker that finds nothing proves nothing."""

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from tests.soak.checker import RULES, below_minima, check
from tests.soak.records import Record

TOPIC = "c1"
USERS = {"audit": "u0", "ann": "u1", "bob": "u2", "sdk": "u3"}
FLAVORS = {"audit": "auditor", "ann": "raw", "bob": "raw", "sdk": "sdk"}


class Story:
    """Writes the records of a small run: everybody joins, ann sends five, bob is removed after the third."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.t = 0.0
        self.log: list[Record] = []

    def write(self, who: str, kind: str, **fields: Any) -> Record:
        self.t += 0.01
        record = {"t": self.t, "who": who, "k": kind, **fields}
        self.records.append(record)
        return record

    def commit(self, what: str, *, users: tuple[str, ...] = (), message_id: str = "", sender: str = "") -> Record:
        position = len(self.log) + 1
        number = sum(e["what"] == "message_sent" for e in self.log) + 1 if what == "message_sent" else 0
        event = {
            "topic": TOPIC,
            "epoch": 1,
            "position": position,
            "number": number,
            "id": message_id,
            "sender": sender,
            "content": f"text of {message_id}" if message_id else "",
            "bytes": f"bytes of {position}",
            "commit_ms": 1000 + position,
            "what": what,
            "users": list(users),
        }
        self.log.append(event)
        return event

    def deliver(self, who: str, event: Record, *, via: str = "live") -> None:
        self.write(who, "event", via=via, stream=1 if via == "live" else 0, **event)

    def send(self, who: str, message_id: str, prev: str = "") -> None:
        self.write(who, "attempt", topic=TOPIC, id=message_id, **{"try": 1}, content=f"text of {message_id}", prev=prev)

    def ack(self, who: str, event: Record, attempt: int = 1) -> None:
        answer = {name: event[name] for name in ("topic", "id", "number", "epoch", "position", "commit_ms")}
        self.write(who, "ack", **answer, **{"try": attempt})

    def list_messages(self, who: str) -> None:
        for event in self.log:
            if event["what"] == "message_sent":
                row = {name: event[name] for name in ("topic", "number", "id", "sender", "content", "commit_ms")}
                self.write(who, "message", **row)
        self.write(who, "history", topic=TOPIC, position=len(self.log), number=self.last_number())

    def last_number(self) -> int:
        return max((e["number"] for e in self.log), default=0)


def good_story() -> list[Record]:
    story = Story()
    for who, user in USERS.items():
        story.write(who, "client", user=user, flavor=FLAVORS[who])
        story.write(who, "start", topic=TOPIC, position=0)
        story.write(who, "stream", n=1)
        story.write(who, "head", stream=1, topic=TOPIC, epoch=1, position=0, number=0, via="heads")
    for event in (story.commit("conversation_created"), story.commit("members_added", users=tuple(USERS.values()))):
        for who in USERS:
            story.deliver(who, event)
    for index in range(1, 6):
        if index == 4:
            story.write("soak", "change", op="remove", topic=TOPIC, user="u2", state="begin")
            removal = story.commit("member_removed", users=("u2",))
            story.write(
                "soak", "change", op="remove", topic=TOPIC, user="u2", state="done", position=removal["position"]
            )
            for who in USERS:
                story.deliver(who, removal)
            story.write("bob", "ended", stream=1, topic=TOPIC)
        story.send("ann", f"m{index}", prev=f"m{index - 1}" if index > 1 else "")
        event = story.commit("message_sent", message_id=f"m{index}", sender="u1")
        story.ack("ann", event)
        for who in USERS:
            if who != "bob" or index < 4:
                story.deliver(who, event)
    story.send("ann", "refused")
    story.write("ann", "fail", topic=TOPIC, id="refused", **{"try": 1}, code="INVALID_ARGUMENT", reason="", final=True)
    head = {"position": len(story.log), "number": story.last_number()}
    story.write("ann", "page", begin=story.t, topic=TOPIC, confirmed=True, **head)
    for who in ("audit", "ann", "sdk"):
        story.write(who, "head", stream=1, topic=TOPIC, epoch=1, position=8, number=5, via="heartbeat")
    story.write("bob", "denied", topic=TOPIC)
    for who in ("audit", "ann", "sdk"):
        story.list_messages(who)
    story.write("soak", "counters", totals={"conflicts": 7})
    return story.records


def find(records: list[Record], who: str, kind: str, **fields: Any) -> Record:
    """The first record of that kind."""
    return next(
        r for r in records if (r["who"], r["k"]) == (who, kind) and all(r.get(n) == v for n, v in fields.items())
    )


def drop(records: list[Record], who: str, kind: str, **fields: Any) -> None:
    records.remove(find(records, who, kind, **fields))


def repeat(records: list[Record], record: Record, **changes: Any) -> None:
    """Puts a changed copy right behind a record."""
    records.insert(records.index(record) + 1, {**record, **changes})


# ---- one function a bad history: what a broken server would have left behind


def an_acknowledged_message_is_not_in_the_history(records: list[Record]) -> None:
    for who in ("audit", "ann", "sdk"):
        find(records, who, "message", number=5)["id"] = "m9"


def the_last_acknowledged_message_vanished(records: list[Record]) -> None:
    for who in ("audit", "ann", "sdk"):
        drop(records, who, "message", number=5)
        find(records, who, "history").update(position=7, number=4)
        drop(records, who, "event", position=8)


def an_id_became_two_messages(records: list[Record]) -> None:
    for who in ("audit", "ann", "sdk"):
        repeat(records, find(records, who, "message", number=5), number=6)
        find(records, who, "history")["number"] = 6


def an_id_became_two_events(records: list[Record]) -> None:
    for who in ("audit", "ann", "sdk"):
        repeat(records, find(records, who, "event", position=8), position=9, number=6, bytes="bytes of 9")


def two_readers_saw_two_orders(records: list[Record]) -> None:
    one, two = (find(records, "sdk", "event", position=p) for p in (3, 4))
    for name in ("id", "number", "content", "bytes"):
        one[name], two[name] = two[name], one[name]


def the_bytes_differ_between_live_and_sync(records: list[Record]) -> None:
    repeat(records, find(records, "ann", "event", position=3), via="sync", stream=0, bytes="encoded again")


def numbers_are_not_in_the_order_of_positions(records: list[Record]) -> None:
    for who in USERS:
        find(records, who, "event", position=3)["number"] = 2
        find(records, who, "event", position=4)["number"] = 1


def a_number_is_missing_in_the_history(records: list[Record]) -> None:
    for who in ("audit", "ann", "sdk"):
        drop(records, who, "message", number=2)


def time_goes_back(records: list[Record]) -> None:
    for who in USERS:
        find(records, who, "event", position=4)["commit_ms"] = 1


def a_reader_misses_the_last_event(records: list[Record]) -> None:
    drop(records, "sdk", "event", position=8)


def a_stream_has_a_hole_that_sync_filled(records: list[Record]) -> None:
    find(records, "ann", "event", position=4).update(via="sync", stream=0)


def a_stream_brings_an_event_twice(records: list[Record]) -> None:
    repeat(records, find(records, "ann", "event", position=4))


def an_event_comes_before_heads_named_its_topic(records: list[Record]) -> None:
    drop(records, "ann", "head", via="heads")


def a_reader_was_told_to_forget(records: list[Record]) -> None:
    records.append({"t": 99.0, "who": "ann", "k": "reset", "topic": TOPIC, "from": 8, "position": 8})


def a_reader_was_told_to_skip_a_few(records: list[Record]) -> None:
    records.append({"t": 99.0, "who": "ann", "k": "gap", "topic": TOPIC, "from": 3, "position": 8})


def the_sdk_gave_an_event_twice(records: list[Record]) -> None:
    repeat(records, find(records, "sdk", "event", position=4))


def a_retry_got_another_number(records: list[Record]) -> None:
    repeat(records, find(records, "ann", "ack", id="m2"), number=3, position=5, **{"try": 2})


def a_retry_got_another_time(records: list[Record]) -> None:
    repeat(records, find(records, "ann", "ack", id="m2"), commit_ms=1, **{"try": 2})


def an_answer_names_a_position_of_another_message(records: list[Record]) -> None:
    find(records, "ann", "ack", id="m2")["position"] = 5


def a_reader_lists_other_content_than_it_saw(records: list[Record]) -> None:
    find(records, "sdk", "message", number=2)["content"] = "edited by nobody"


def a_reader_lists_less_than_it_saw(records: list[Record]) -> None:
    drop(records, "sdk", "message", number=2)


def a_removed_user_got_the_next_event(records: list[Record]) -> None:
    event = {**find(records, "ann", "event", position=7), "who": "bob"}
    records.insert(records.index(find(records, "bob", "ended")), event)


def a_removed_user_got_it_by_sync(records: list[Record]) -> None:
    event = {**find(records, "ann", "event", position=7), "who": "bob", "via": "sync", "stream": 0}
    records.insert(records.index(find(records, "bob", "ended")) + 1, event)


def a_stream_goes_on_after_it_told_the_end(records: list[Record]) -> None:
    removal = find(records, "bob", "event", position=6)
    records.remove(removal)
    records.insert(records.index(find(records, "bob", "ended")) + 1, removal)


def a_removed_user_lists_messages(records: list[Record]) -> None:
    drop(records, "bob", "denied")
    records.append({"t": 99.0, "who": "bob", "k": "history", "topic": TOPIC, "position": 8, "number": 5})


def a_removed_user_posted(records: list[Record]) -> None:
    for record in records:
        if record.get("id") == "m5" and "sender" in record:
            record["sender"] = "u2"


def a_message_that_nobody_sent(records: list[Record]) -> None:
    for record in [r for r in records if r["k"] in ("attempt", "ack") and r["id"] == "m5"]:
        records.remove(record)


def a_refused_message_is_there(records: list[Record]) -> None:
    for record in [r for r in records if r["k"] == "ack" and r["id"] == "m5"]:
        record.update(k="fail", code="INVALID_ARGUMENT", reason="", final=True)


def a_send_has_no_answer(records: list[Record]) -> None:
    drop(records, "ann", "fail", id="refused")


def a_pipeline_changed_its_order(records: list[Record]) -> None:
    find(records, "ann", "attempt", id="m2")["prev"] = "m4"


def a_head_names_another_number(records: list[Record]) -> None:
    find(records, "sdk", "head", via="heartbeat")["number"] = 4


def a_head_does_not_exist(records: list[Record]) -> None:
    find(records, "sdk", "head", via="heartbeat")["position"] = 12


def a_read_misses_what_was_acknowledged(records: list[Record]) -> None:
    find(records, "ann", "page").update(position=7, number=4)


BAD: dict[Callable[[list[Record]], None], str] = {
    an_acknowledged_message_is_not_in_the_history: "acknowledged_lost",
    the_last_acknowledged_message_vanished: "acknowledged_lost",
    an_id_became_two_messages: "duplicates",
    an_id_became_two_events: "duplicates",
    two_readers_saw_two_orders: "one_order",
    the_bytes_differ_between_live_and_sync: "one_order",
    numbers_are_not_in_the_order_of_positions: "one_order",
    time_goes_back: "one_order",
    a_number_is_missing_in_the_history: "holes",
    a_reader_misses_the_last_event: "holes",
    the_sdk_gave_an_event_twice: "holes",
    a_stream_has_a_hole_that_sync_filled: "holes_in_streams",
    a_stream_brings_an_event_twice: "holes_in_streams",
    an_event_comes_before_heads_named_its_topic: "holes_in_streams",
    a_reader_was_told_to_forget: "left_out",
    a_reader_was_told_to_skip_a_few: "left_out",
    a_retry_got_another_number: "changed_on_retry",
    a_retry_got_another_time: "changed_on_retry",
    an_answer_names_a_position_of_another_message: "changed_on_retry",
    a_reader_lists_other_content_than_it_saw: "live_is_not_history",
    a_reader_lists_less_than_it_saw: "live_is_not_history",
    a_removed_user_got_the_next_event: "read_after_removal",
    a_removed_user_got_it_by_sync: "read_after_removal",
    a_stream_goes_on_after_it_told_the_end: "holes_in_streams",
    a_removed_user_lists_messages: "read_after_removal",
    a_removed_user_posted: "posted_without_membership",
    a_message_that_nobody_sent: "invented",
    a_refused_message_is_there: "invented",
    a_send_has_no_answer: "unanswered",
    a_pipeline_changed_its_order: "pipeline_broken",
    a_head_names_another_number: "head_lied",
    a_head_does_not_exist: "head_lied",
    a_read_misses_what_was_acknowledged: "stale_read",
}


def test_a_good_history_passes() -> None:
    verdict = check(good_story())
    assert {name: found for name, found in verdict.problems.items() if found} == {}
    assert verdict.holds
    assert verdict.figures["acknowledged"] == 5
    assert verdict.figures["conflicts"] == 7


@pytest.mark.parametrize("break_it", BAD, ids=lambda f: str(f.__name__))
def test_a_bad_history_is_caught(break_it: Callable[[list[Record]], None]) -> None:
    records = good_story()
    break_it(records)
    verdict = check(records)
    assert not verdict.holds
    assert verdict.problems[BAD[break_it]]


def test_every_rule_catches_something() -> None:
    assert set(BAD.values()) == set(RULES)


def test_a_reader_that_was_added_again_may_read_what_it_missed() -> None:
    records = good_story()
    end = records.index(find(records, "bob", "denied"))
    del records[end]
    added = {**find(records, "ann", "event", position=2), "position": 9, "bytes": "bytes of 9", "users": ["u2"]}
    added["commit_ms"] = 1009
    begun = {"op": "add", "topic": TOPIC, "user": "u2", "state": "begin"}
    records.insert(end, {"t": 50.0, "who": "soak", "k": "change", **begun})
    named = {**find(records, "bob", "head"), "position": 8, "number": 5}
    for index, position in enumerate((7, 8)):
        missed = {**find(records, "ann", "event", position=position), "who": "bob", "via": "sync", "t": 51.0}
        records.insert(end + 1 + index, missed)
    for who in USERS:
        records.insert(end + 3, {**added, "who": who, "t": 52.0})
    records.insert(end + 3, named)
    for record in records:
        if record["k"] == "history":
            record["position"] = 9
    assert check(records).holds


def test_a_read_that_says_it_may_lack_something_may() -> None:
    records = good_story()
    a_read_misses_what_was_acknowledged(records)
    find(records, "ann", "page")["confirmed"] = False
    assert check(records).holds


def test_an_end_that_sync_told_first_ends_no_stream() -> None:
    records = good_story()
    removal = find(records, "bob", "event", position=6)
    by_sync = {**removal, "via": "sync", "stream": 0}
    ended = {**find(records, "bob", "ended"), "stream": 0}
    place = records.index(removal)
    records[place:place] = [by_sync, ended]
    assert check(records).holds


def test_a_kill_counts_when_a_command_broke_with_it() -> None:
    records = good_story()
    begin = find(records, "ann", "attempt", id="m3")["t"]
    for what in ("node", "worker"):
        records.append({"t": begin + 0.001, "who": "soak", "k": "kill", "what": what, "pid": 1})
    fail = {"t": begin + 0.5, "who": "ann", "k": "fail", "topic": TOPIC, "id": "m3", "try": 1}
    records.append({**fail, "code": "UNAVAILABLE", "reason": "", "final": False})
    figures = check(records).figures
    assert (figures["kills"], figures["node_kills"], figures["kills_with_command_in_flight"]) == (2, 1, 1)


def test_a_run_that_did_too_little_is_told() -> None:
    assert below_minima({"kills": 3, "resumes": 9}, {"kills": 4, "resumes": 9, "gaps": 1}) == [
        "kills is 3, needed 4",
        "gaps is 0, needed 1",
    ]


def test_the_checker_knows_neither_server_nor_sdk_nor_generated_code() -> None:
    code = "import sys, tests.soak.checker; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    strangers = {"hubbub", "hubbub_server", "hubbub_client", "grpc", "google"}
    assert strangers.isdisjoint(done.stdout.split())
