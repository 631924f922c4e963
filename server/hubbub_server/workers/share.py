"""What one worker takes and gives, from what it reads of the table of leases. No I/O, no clock of its own.

Theory of operation. Every worker looks at the same table every few seconds. A worker is *alive* for an observer until
its beat stayed the same for `ttl_s` of the observer's own monotonic time; the worker itself counts from before it sent
its last beat, so it stops before anybody may take over. An observer that could not read for a while knows nothing of
that while and counts anew: after an outage of the log nobody is declared dead by whoever comes back first.

Who is alive gives each worker its target for each role, by rank and the same for all: the units over the number of
workers, and the remainder to other ranks for each role. Above its target a worker gives back, below it takes units that
nobody alive holds. Targets add up to all units, so at rest nothing moves, and a worker that joins or leaves moves only
what it must.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from hubbub_server.ports.shard_leases import LeaseTable, Unit

_DEAF_PART: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Moves:
    """What is to be done now: `lost` is another's; `give` is ours to release, `take` to claim, each at its fence."""

    lost: Sequence[Unit]
    give: Mapping[Unit, int]
    take: Mapping[Unit, int]


class Share:
    """The share of one worker."""

    def __init__(self, worker_id: str, *, roles: Sequence[str], shards: int, ttl_s: float) -> None:
        """`worker_id` is "<name>.<life>": an earlier life of the same name is over when this one begins."""
        self._worker_id = worker_id
        self._roles = tuple(roles)
        self._shards = shards
        self._ttl_s = ttl_s
        self._beats: dict[str, tuple[int, float]] = {}
        """Of each worker its last beat, and when it was first seen."""
        self._earlier_lives: Mapping[str, int] | None = None
        """The last beats of workers that had this name when this life began. One that beats on lives after all."""
        self._looked_s = float("-inf")

    def look(self, table: LeaseTable, held: Mapping[Unit, int], now_s: float) -> Moves:
        """Decides what to do. `held` are the fences of what this worker works on, `now_s` is after the table was read.

        A claim of ours that we do not work on is taken again or given back: its answer was lost, or we were frozen.
        """
        alive = self._alive(table, now_s)
        lost = [unit for unit, fence in held.items() if self._is_lost(table, unit, fence)]
        give: dict[Unit, int] = {}
        take: dict[Unit, int] = {}
        for index, role in enumerate(self._roles):
            ranked = sorted(alive)
            target = self._target(index, ranked)
            mine = sorted(unit for unit in held if unit.role == role and unit not in lost)
            places = [unit for unit in self._from_own_place(role, ranked) if unit not in held]
            free = [unit for unit in places if _holder(table, unit) not in alive - {self._worker_id}]
            wanted = free[: max(0, target - len(mine))]
            take |= {unit: _fence(table, unit) for unit in wanted}
            give |= {unit: held[unit] for unit in mine[target:]}
            give |= {
                unit: _fence(table, unit)
                for unit in free
                if unit not in wanted and _holder(table, unit) == self._worker_id
            }
        return Moves(lost=lost, give=give, take=take)

    def _alive(self, table: LeaseTable, now_s: float) -> set[str]:
        if now_s - self._looked_s > _DEAF_PART * self._ttl_s:
            self._beats.clear()
        self._looked_s = now_s
        if self._earlier_lives is None:
            name = self._worker_id.rpartition(".")[0]
            self._earlier_lives = {
                w: beat for w, beat in table.beats.items() if w.rpartition(".")[0] == name and w != self._worker_id
            }
        self._beats = {
            worker_id: seen if (seen := self._beats.get(worker_id)) and seen[0] == beat else (beat, now_s)
            for worker_id, beat in table.beats.items()
        }
        alive = {
            worker_id
            for worker_id, (beat, since_s) in self._beats.items()
            if now_s - since_s < self._ttl_s and self._earlier_lives.get(worker_id) != beat
        }
        return alive | {self._worker_id}

    def _is_lost(self, table: LeaseTable, unit: Unit, fence: int) -> bool:
        return (_holder(table, unit), _fence(table, unit)) != (self._worker_id, fence)

    def _target(self, role_index: int, ranked: Sequence[str]) -> int:
        each, left = divmod(self._shards, len(ranked))
        rank = (ranked.index(self._worker_id) + role_index) % len(ranked)
        return each + (1 if rank < left else 0)

    def _from_own_place(self, role: str, ranked: Sequence[str]) -> list[Unit]:
        """Returns a role's units, beginning at another one for each rank: two that take at once take others."""
        start = ranked.index(self._worker_id) * self._shards // len(ranked)
        return [Unit(role, (start + n) % self._shards) for n in range(self._shards)]


def _holder(table: LeaseTable, unit: Unit) -> str:
    claim = table.claims.get(unit)
    return claim.worker_id if claim else ""


def _fence(table: LeaseTable, unit: Unit) -> int:
    claim = table.claims.get(unit)
    return claim.fence if claim else 0
