"""What the soak run tells its client processes: a plan as the only argument, then one JSON command a line on stdin.

Commands: `burst` (topic, count), `quiet` (send nothing new; answer `idle` on stdout when nothing is pending), `finish`
(heads: wait for these positions, read everything back, exit). Also on stdout: `ready`, the first stream is open, and
`flying`, a burst was written.
"""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Plan:
    """Who a client process is and what it does."""

    who: str
    flavor: str
    login_name: str
    password: str
    user_id: str
    port: int
    """Where the client reaches the cluster: its own fault proxy."""
    topics: tuple[str, ...]
    epoch: int
    """Epoch of the log's first life."""
    sends_per_s: float
    seed: int
    journal: str

    def to_argument(self) -> str:
        """Packs the plan into one argument."""
        return json.dumps(asdict(self))

    @property
    def journal_path(self) -> Path:
        """Where the client writes its journal."""
        return Path(self.journal)


def read_plan() -> Plan:
    """Reads the plan from the command line."""
    fields = json.loads(sys.argv[1])
    return Plan(**{**fields, "topics": tuple(fields["topics"])})


async def read_commands() -> AsyncIterator[dict[str, Any]]:
    """Yields the run's commands; ends when the run is gone."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        yield json.loads(line)


def say(**fields: Any) -> None:
    """Tells the run something."""
    print(json.dumps(fields), flush=True)


class Talk:
    """Makes up messages. The seed decides what is said, where and when."""

    def __init__(self, plan: Plan) -> None:
        """Starts the conversation."""
        self._random = random.Random(plan.seed)
        self._who = plan.who
        self._count = 0
        self._rate = plan.sends_per_s

    def text(self) -> str:
        """Returns a text that no other message has."""
        self._count += 1
        return f"{self._who} says {self._count}: " + "la " * self._random.randrange(1, 30)

    def topic(self, topics: list[str]) -> str:
        """Chooses where to say it."""
        return self._random.choice(topics)

    def pause_s(self) -> float:
        """Returns how long to be silent before the next message."""
        return self._random.expovariate(self._rate)

    def happens(self, probability: float) -> bool:
        """Tosses a coin."""
        return self._random.random() < probability

    def between(self, low: float, high: float) -> float:
        """Chooses a number."""
        return self._random.uniform(low, high)
