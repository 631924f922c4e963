"""The share of a worker: fair, at rest once it is fair, and never two live workers with one unit."""

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.ports.shard_leases import Claim, LeaseTable, Unit
from hubbub_server.workers.share import Share

TTL_S = 10.0
TICK_S = 2.5
ROLES = ("projector", "relay")


class Table:
    """A table of leases, and the workers that look at it one after the other."""

    def __init__(self, *, shards: int = 8) -> None:
        self.shards = shards
        self.now_s = 0.0
        self.beats: dict[str, int] = {}
        self.claims: dict[Unit, Claim] = {}
        self.workers: dict[str, tuple[Share, dict[Unit, int]]] = {}
        self.moves = 0
        self._revision = 0

    def join(self, worker_id: str) -> None:
        self.workers[worker_id] = (Share(worker_id, roles=ROLES, shards=self.shards, ttl_s=TTL_S), {})

    def die(self, worker_id: str) -> None:
        """Kill -9: its beat and claims stay as they are."""
        del self.workers[worker_id]

    def leave(self, worker_id: str) -> None:
        for unit, fence in self.workers.pop(worker_id)[1].items():
            assert self._write(unit, "", fence)
        del self.beats[worker_id]

    def beat(self, worker_id: str) -> None:
        self._revision += 1
        self.beats[worker_id] = self._revision

    def turn(self, worker_id: str) -> None:
        """One worker beats, looks and acts."""
        share, held = self.workers[worker_id]
        self.beat(worker_id)
        moves = share.look(LeaseTable(beats=dict(self.beats), claims=dict(self.claims)), held, self.now_s)
        for unit in moves.lost:
            del held[unit]
        for unit, fence in moves.give.items():
            held.pop(unit, None)
            self._write(unit, "", fence)
            self.moves += 1
        for unit, fence in moves.take.items():
            if claimed := self._write(unit, worker_id, fence):
                held[unit] = claimed
                self.moves += 1

    def round(self, *, but: str = "") -> None:
        """A tick's time passes; all workers but one have their turn."""
        self.now_s += TICK_S
        for worker_id in list(self.workers):
            if worker_id != but:
                self.turn(worker_id)

    def until_at_rest(self) -> int:
        """Plays rounds until two pass without a move; returns how many it took."""
        for rounds in range(100):
            before = self.moves
            self.round()
            self.round()
            if self.moves == before:
                return 2 * rounds
        raise AssertionError("never at rest")

    def holders(self) -> dict[Unit, str]:
        return {unit: worker_id for worker_id, (_, held) in self.workers.items() for unit in held}

    def counts(self, role: str) -> list[int]:
        """How many units of a role each worker has, smallest first."""
        return sorted(sum(unit.role == role for unit in held) for _, held in self.workers.values())

    def check_fair(self) -> None:
        everything = {Unit(role, shard) for role in ROLES for shard in range(self.shards)}
        assert set(self.holders()) == everything
        for role in ROLES:
            counts = self.counts(role)
            assert sum(counts) == self.shards
            assert counts[-1] - counts[0] <= 1

    def _write(self, unit: Unit, worker_id: str, fence: int) -> int:
        found = self.claims.get(unit)
        if (found.fence if found else 0) != fence:
            return 0
        self._revision += 1
        self.claims[unit] = Claim(worker_id=worker_id, fence=self._revision)
        return self._revision


def table_with(*names: str, shards: int = 8) -> Table:
    table = Table(shards=shards)
    for name in names:
        table.join(f"{name}.1")
    table.until_at_rest()
    return table


def test_a_worker_alone_takes_everything_at_once() -> None:
    table = Table()
    table.join("a.1")

    table.round()

    assert len(table.holders()) == 16


def test_a_worker_that_joins_gets_its_part_within_two_turns_and_nothing_else_moves() -> None:
    table = table_with("a")
    moves = table.moves
    table.join("b.1")

    table.round()
    table.round()
    table.until_at_rest()

    table.check_fair()
    assert table.moves - moves == 2 * 8  # each of the eight units: given, taken


def test_the_parts_of_a_worker_that_left_are_taken_at_once() -> None:
    table = table_with("a", "b", "c")
    table.leave("b.1")

    table.round()
    table.round()

    table.check_fair()


def test_the_parts_of_a_dead_worker_are_taken_after_its_time_and_not_before() -> None:
    """Takeover in seconds after kill -9."""
    table = table_with("a", "b")
    table.die("b.1")

    died_s = table.now_s
    while len(table.holders()) == 8:
        table.round()

    assert TTL_S <= table.now_s - died_s <= TTL_S + TICK_S
    table.check_fair()


def test_a_worker_that_starts_again_under_its_name_has_its_parts_at_once() -> None:
    """Its supervisor starts it only when the life before is over."""
    table = table_with("a", "b")
    table.die("b.1")
    table.join("b.2")

    table.round()

    table.check_fair()
    assert "b.1" not in table.holders().values()


def test_two_workers_with_one_name_share_and_do_not_fight() -> None:
    """A mistake of the operator costs one take-over."""
    table = table_with("a")
    table.join("a.2")

    table.until_at_rest()
    moves = table.moves
    for _ in range(20):
        table.round()

    assert table.moves == moves
    table.check_fair()


def test_after_an_outage_nobody_is_declared_dead_by_the_one_that_comes_back_first() -> None:
    """The log was away for a minute: nobody could beat, nobody could look."""
    table = table_with("a", "b", "c")
    before = table.holders()
    table.now_s += 60.0

    for worker_id in ("c.1", "a.1", "b.1"):
        table.turn(worker_id)
        table.now_s += 2.0
    table.until_at_rest()

    assert table.holders() == before


def test_a_frozen_worker_finds_its_units_lost() -> None:
    table = table_with("a", "b")
    while len(table.workers["a.1"][1]) < 16:
        table.round(but="b.1")
    share, held = table.workers["b.1"]

    moves = share.look(LeaseTable(beats=table.beats, claims=table.claims), held, table.now_s)

    assert sorted(moves.lost) == sorted(held)
    assert not moves.give


def test_a_claim_whose_answer_was_lost_is_taken_again_and_a_release_is_repeated() -> None:
    table = table_with("a", "b")
    _, held = table.workers["a.1"]
    missing = sorted(held)[0]
    del held[missing]

    table.round()
    table.check_fair()
    extra = sorted(table.workers["b.1"][1])[0]
    del table.workers["b.1"][1][extra]
    table.claims[extra] = Claim(worker_id="a.1", fence=table.claims[extra].fence)
    table.round()

    assert table.claims[extra].worker_id != "a.1"
    table.until_at_rest()
    table.check_fair()


@given(
    shards=st.integers(1, 12),
    script=st.lists(
        st.sampled_from(["join", "leave", "die", "round", "turn", "restart", "pause"]), min_size=1, max_size=40
    ),
    choose=st.randoms(use_true_random=False),
)
def test_whatever_workers_do_the_table_ends_fair_and_each_unit_has_one_holder(
    shards: int, script: list[str], choose: "object"
) -> None:
    """C11: two live workers never hold a unit at the same moment; at rest all units are held, evenly."""
    pick: Callable[[list[str]], str] = choose.choice  # type: ignore[attr-defined]  # random.Random
    table = Table(shards=shards)
    table.join("w0.0")
    lives = Counter({"w0": 1})
    for step in script:
        running = sorted(table.workers)
        match step:
            case "join" if len(running) < 5:
                name = f"w{len(lives)}"
                lives[name] = 1
                table.join(f"{name}.0")
            case "leave" if len(running) > 1:
                worker_id = pick(running)
                table.turn(worker_id)
                table.leave(worker_id)
            case "die" if len(running) > 1:
                table.die(pick(running))
            case "restart":
                worker_id = pick(running)
                name = worker_id.partition(".")[0]
                table.die(worker_id)
                table.join(f"{name}.{lives[name]}")
                lives[name] += 1
            case "turn":
                table.turn(pick(running))
            case "pause":
                table.now_s += 30.0
                table.round()
            case _:
                table.round()
        assert len(table.holders()) == sum(len(held) for _, held in table.workers.values())
    for _ in range(10):
        table.round()
    table.until_at_rest()
    table.check_fair()
