"""What happens in a run, from its seed alone. Pure.

The first fault of a run goes through the catalogue in an order that changes from round to round: a round of as many
seeds as there are kinds meets each kind. In every other round it is alone, so that what comes of it can be told;
otherwise one or two others strike too, of other parts.
"""

import random
from dataclasses import dataclass

from tests.chaos.catalogue import CATALOGUE, KINDS, Kind, Part

FIRST_AT_S = (1.0, 2.5)
APART_S = (0.0, 5.0)
THREE_SHARE = 0.4


@dataclass(frozen=True)
class PlannedFault:
    """One fault. `choice` in [0, 1) decides whom it hits, where there is a choice."""

    kind: Kind
    at_s: float
    for_s: float
    choice: float


def plan_run(seed: int) -> tuple[PlannedFault, ...]:
    """Returns the faults of a run in the order of their beginnings; times count from the first message on."""
    chance = random.Random(seed)
    around, place = divmod(seed, len(CATALOGUE))
    kinds = [random.Random(around).sample(CATALOGUE, len(CATALOGUE))[place]]
    count = 1 if around % 2 == 0 else 2 + (chance.random() < THREE_SHARE)
    while len(kinds) < count and kinds[0].part is not Part.ALL:
        taken = {Part.ALL, *(kind.part for kind in kinds)}
        kinds.append(chance.choice([kind for kind in CATALOGUE if kind.part not in taken]))
    chance.shuffle(kinds)
    at_s = chance.uniform(*FIRST_AT_S)
    faults = []
    for kind in kinds:
        faults.append(plan_fault(kind, at_s, chance))
        at_s += chance.uniform(*APART_S)
    return tuple(faults)


def plan_only(names: list[str], seed: int) -> tuple[PlannedFault, ...]:
    """Returns faults of given kinds, one second apart: for looking at one kind."""
    chance = random.Random(seed)
    return tuple(plan_fault(KINDS[name], FIRST_AT_S[0] + index, chance) for index, name in enumerate(names))


def plan_fault(kind: Kind, at_s: float, chance: random.Random) -> PlannedFault:
    """Chooses how long and whom."""
    return PlannedFault(kind, at_s, chance.uniform(kind.least_s, kind.most_s), chance.random())
