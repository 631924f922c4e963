"""Poison: its topic is put aside for the role that cannot handle it, everything else goes on, a replay heals it."""

from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from hubbub_server.domain.ids import ConversationId, TopicId
from hubbub_server.ports.dead_letters import Letter
from hubbub_server.ports.projection import ProjectionBatch
from hubbub_server.ports.topic_log import LogRecord
from hubbub_server.workers.dead_topics import MAX_DEAD_TOPICS
from hubbub_server.workers.replay import Replay, Replayed
from tests.support.fakes.store import FakeStore
from tests.support.waiting import until
from tests.unit.domain.builders import BOB
from tests.unit.workers.stage import SHARDS, Stage, gauge

pytestmark = pytest.mark.asyncio


@pytest.fixture
def stage() -> Stage:
    return Stage()


def poison(stage: Stage, sequence: int, *, shard: int = 0) -> LogRecord:
    """Makes a record's body undecodable; returns what it was."""
    whole = stage.server.records[shard][sequence - 1]
    stage.server.records[shard][sequence - 1] = replace(whole, body=b"\xff")
    return whole


def heal_letters(stage: Stage, whole: LogRecord) -> None:
    """A program that can read the record: as if its body had been right."""
    for key, letters in stage.letters.letters.items():
        stage.letters.letters[key] = [
            replace(letter, record=whole) if letter.record.sequence == whole.sequence else letter for letter in letters
        ]


def sequences(stage: Stage, topic_id: TopicId, role: str = "projector") -> list[int]:
    """Returns the sequences of the letters of a topic of shard 0."""
    return [letter.record.sequence for letter in stage.letters.letters.get((role, 0, topic_id), [])]


async def replay(stage: Stage, only: TopicId | None = None) -> list[Replayed]:
    return [each async for each in Replay(stage.letters, roles=stage.roles(), shards=SHARDS).run(only)]


async def test_poison_puts_its_topic_aside_and_the_shard_goes_on(stage: Stage) -> None:
    """C13: what is before it is stored, what follows in the topic waits with it, other topics know nothing of it."""
    bad, good = stage.make_group(0), stage.make_group(0)
    stage.send(bad, 1, 2, 3)  # sequences 5, 6, 7 after two of each creation
    stage.send(good, *range(1, 11))
    poison(stage, 6)

    with capture_logs() as logs:
        async with stage.working():
            await stage.until_caught_up(0)
            assert gauge("dead_topics", "projector", 0) == 1
            assert gauge("stopped", "projector", 0) == 0

    assert await stage.stored_numbers(bad) == [1]
    assert await stage.stored_numbers(good) == list(range(1, 11))
    assert sequences(stage, bad) == [6, 7]
    assert gauge("dead_topics", "projector", 0) == 0  # the next worker tells
    (alarm,) = [line for line in logs if line["log_level"] == "error"]
    assert (alarm["event"], alarm["role"], alarm["topic_id"]) == ("record put into the dead letters", "projector", bad)
    assert alarm["sequence"] == 6


async def test_the_store_never_has_a_hole_in_a_dead_topic(stage: Stage) -> None:
    """Its applied floor stays before the poison: whoever reads knows where the store ends."""
    bad = stage.make_group(0)
    stage.send(bad, 1, 2, 3)
    poison(stage, 4)

    async with stage.working():
        await stage.until_caught_up(0)
        stage.send(bad, 4)
        await stage.until_caught_up(0)

    applied = await stage.store.read_applied(bad)
    assert applied is not None
    assert applied.position == 3
    assert await stage.stored_numbers(bad) == [1]


async def test_a_dead_topic_is_dead_for_the_next_worker(stage: Stage) -> None:
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)
    stage.send(bad, 3)

    async with stage.working():
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(bad) == []
    assert sequences(stage, bad) == [3, 4, 5]


async def test_a_record_without_facts_is_put_aside_for_every_role(stage: Stage) -> None:
    bad = stage.make_group(0, BOB)
    stage.send(bad, 1, 2)
    stage.consumers.unreadable.add((0, 4))

    async with stage.working():
        await stage.until_caught_up(0)

    assert await stage.stored_numbers(bad) == []
    for role in ("projector", "relay"):
        assert sequences(stage, bad, role) == [4, 5]


async def test_a_shard_whose_last_record_is_poison_goes_on_after_a_restart(stage: Stage) -> None:
    """The store knows that it is done with it, so it is not made again from the first record."""
    bad = stage.make_group(0)
    stage.send(bad, 1)
    poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)

    with capture_logs() as logs:
        async with stage.working():
            stage.send(stage.make_group(0), 1)
            await stage.until_caught_up(0)

    assert "shard starts over" not in [line["event"] for line in logs]


async def test_a_log_that_is_away_while_a_letter_is_written_loses_no_record_of_the_batch(stage: Stage) -> None:
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    good = stage.make_group(0)
    stage.send(good, 1)
    poison(stage, 3)

    def fail_once() -> None:
        stage.letters.is_unavailable = True
        stage.letters.on_add = lambda: None

    stage.letters.on_add = fail_once
    with capture_logs() as logs:
        async with stage.working():
            await until(lambda: sum(line["event"] == "log unavailable" for line in logs) > 3)
            stage.letters.is_unavailable = False
            await stage.until_caught_up(0)

    assert set(sequences(stage, bad)) == {3, 4}
    assert await stage.stored_numbers(good) == [1]


async def test_more_dead_topics_than_a_few_stop_the_shard(stage: Stage) -> None:
    """So many topics cannot be broken, it is the program: copying the whole log helps nobody."""
    rooms = [stage.make_group(0) for _ in range(MAX_DEAD_TOPICS + 1)]
    for room in rooms:
        stage.send(room, 1)
        poison(stage, stage.server.last_sequences[0])

    async with stage.working():
        await until(lambda: gauge("stopped", "projector", 0) == 1)
        assert gauge("dead_topics", "projector", 0) == MAX_DEAD_TOPICS

    assert stage.consumers.floor("projector", 0) < stage.server.last_sequences[0]


async def test_a_record_that_fits_no_letter_stops_the_shard(stage: Stage) -> None:
    stage.send(stage.make_group(0), 1)
    poison(stage, 3)
    stage.letters.max_body_bytes = 0

    async with stage.working():
        await until(lambda: gauge("stopped", "projector", 0) == 1)

    assert stage.consumers.floor("projector", 0) < 3


async def test_a_replay_with_a_program_that_can_heals_the_topic(stage: Stage) -> None:
    bad = stage.make_group(0)
    stage.send(bad, 1, 2, 3)
    whole = poison(stage, 4)
    async with stage.working():
        await stage.until_caught_up(0)
    heal_letters(stage, whole)

    outcomes = await replay(stage)

    assert outcomes == [Replayed(role="projector", shard=0, topic_id=bad, records=2, reason="")]
    assert await stage.stored_numbers(bad) == [1, 2, 3]
    assert sequences(stage, bad) == []


async def test_a_worker_that_runs_while_its_topic_is_healed_goes_on_with_it(stage: Stage) -> None:
    """It still thinks that the topic is dead; what comes next is stored after what was replayed."""
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    whole = poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)
        heal_letters(stage, whole)
        await replay(stage)
        stage.send(bad, 3, 4)
        await stage.until_caught_up(0)
        await until(lambda: gauge("dead_topics", "projector", 0) == 0)

    assert await stage.stored_numbers(bad) == [1, 2, 3, 4]
    assert sequences(stage, bad) == []


async def test_what_is_put_aside_during_a_replay_is_replayed_too(stage: Stage) -> None:
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    whole = poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)
        heal_letters(stage, whole)
        stage.store.on_apply = lambda _: late()

        def late() -> None:
            stage.store.on_apply = lambda _: None
            stage.send(bad, 3)

        outcomes = await replay(stage)
        await stage.until_caught_up(0)
        outcomes += await replay(stage)

    assert await stage.stored_numbers(bad) == [1, 2, 3]
    assert sequences(stage, bad) == []
    assert all(outcome.reason == "" for outcome in outcomes)


async def test_letters_that_come_while_a_replay_works_stay(stage: Stage) -> None:
    """It removes what it has handled, no more."""
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    whole = poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)
    heal_letters(stage, whole)
    stage.send(bad, 3)
    late = stage.server.records[0][-1]

    def add_late(_: ProjectionBatch) -> None:
        stage.store.on_apply = lambda _: None
        key = ("projector", 0, bad)
        stage.letters.letters[key] = [*stage.letters.letters[key], Letter(number=99, record=late, reason="late")]

    stage.store.on_apply = add_late
    (outcome,) = await replay(stage)

    assert outcome.records == 3
    assert await stage.stored_numbers(bad) == [1, 2, 3]


async def test_what_is_still_poison_stays_and_so_does_what_follows(stage: Stage) -> None:
    bad = stage.make_group(0)
    stage.send(bad, 1, 2, 3, 4)
    first = poison(stage, 3)
    second = poison(stage, 5)
    async with stage.working():
        await stage.until_caught_up(0)
    heal_letters(stage, first)

    (outcome,) = await replay(stage)

    assert (outcome.records, outcome.topic_id) == (2, bad)
    assert "not" in outcome.reason or "else" in outcome.reason
    assert await stage.stored_numbers(bad) == [1, 2]
    assert sequences(stage, bad) == [5, 6]
    heal_letters(stage, second)
    (outcome,) = await replay(stage)
    assert await stage.stored_numbers(bad) == [1, 2, 3, 4]


async def test_records_that_come_again_are_not_put_aside_again(stage: Stage) -> None:
    """A worker died between the letters and the acknowledgement."""
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    poison(stage, 3)
    stage.consumers.fail_acks = 1_000_000
    async with stage.working():
        await until(lambda: sequences(stage, bad) == [3, 4])
    stage.consumers.fail_acks = 0

    async with stage.working():
        await stage.until_caught_up(0)

    assert sequences(stage, bad) == [3, 4]


async def test_a_new_store_gets_what_came_before_the_letters(stage: Stage) -> None:
    """The shard is projected again from its first record; the topic stays dead from its poison on."""
    bad = stage.make_group(0, BOB)
    stage.send(bad, 1, 2, 3)
    whole = poison(stage, 5)
    async with stage.working():
        await stage.until_caught_up(0, 1)
    stage.store = FakeStore()

    async with stage.working():
        await until(lambda: stage.store.applies >= 2)
        await stage.until_caught_up(0, 1)

    assert await stage.stored_numbers(bad) == [1]
    assert sequences(stage, bad) == [5, 6]
    heal_letters(stage, whole)
    await replay(stage)
    assert await stage.stored_numbers(bad) == [1, 2, 3]


async def test_a_dead_topic_stays_dead_when_its_log_is_recreated(stage: Stage) -> None:
    """Sequences begin anew, and none of them is taken for one from before the letters."""
    bad = stage.make_group(0)
    stage.send(bad, 1, 2)
    poison(stage, 3)
    async with stage.working():
        await stage.until_caught_up(0)
    stage.server.recreate(0)
    stage.writer.states.clear()
    again = stage.make_group(0)

    async with stage.working():
        await stage.until_caught_up(0)

    assert again == bad
    assert sequences(stage, bad) == [3, 4, 1, 2]


async def test_one_topic_can_be_replayed_alone(stage: Stage) -> None:
    rooms = [stage.make_group(0), stage.make_group(0)]
    wholes = []
    for room in rooms:
        stage.send(room, 1)
        wholes.append(poison(stage, stage.server.last_sequences[0]))
    async with stage.working():
        await stage.until_caught_up(0)
    for whole in wholes:
        heal_letters(stage, whole)

    (outcome,) = await replay(stage, rooms[1])

    assert outcome.topic_id == rooms[1]
    assert sequences(stage, rooms[0]) != []
    assert await stage.stored_numbers(ConversationId(rooms[1])) == [1]
