"""The registry of nodes in memory, on a clock of its own. `error`, when there is one, is raised by every call."""

import asyncio
from collections.abc import Callable

from hubbub_server.ports.node_registry import LEASE_S, NodeLife, NodeTable


class FakeRegistryServer:
    """What all nodes share."""

    def __init__(self, now_s: Callable[[], float], *, lease_s: float = LEASE_S) -> None:
        """Takes the server's clock."""
        self._now_s = now_s
        self._lease_s = lease_s
        self._lives: dict[str, NodeLife] = {}
        self._ends_s: dict[str, float] = {}
        self._claims: dict[str, str] = {}
        self._reached_s = float("-inf")

    def flush(self) -> None:
        """Loses everything."""
        for each in (self._lives, self._ends_s, self._claims):
            each.clear()
        self._reached_s = float("-inf")

    def reach(self) -> float:
        """Returns the time after it made good what nobody could look at."""
        now_s = self._now_s()
        if not 0 <= now_s - self._reached_s <= self._lease_s / 2:
            for life_id, end_s in self._ends_s.items():
                self._ends_s[life_id] = now_s + self._lease_s if end_s > self._reached_s else float("-inf")
        self._reached_s = now_s
        return now_s

    def is_good(self, life_id: str) -> bool:
        """Tells whether a life is good, by the last time reached."""
        return self._ends_s.get(life_id, float("-inf")) > self._reached_s

    def knows(self, life_id: str) -> bool:
        """Tells whether a life is in the table, good or over."""
        return life_id in self._lives

    def begin(self, life: NodeLife) -> None:
        """Adds a life."""
        if life.life_id not in self._lives:
            self._lives[life.life_id] = life
            self._ends_s[life.life_id] = self._reached_s + self._lease_s

    def renew(self, life_id: str) -> bool:
        """Renews a good life."""
        is_good = self.is_good(life_id)
        if is_good:
            self._ends_s[life_id] = self._reached_s + self._lease_s
        return is_good

    def end(self, life_id: str) -> None:
        """Ends a life."""
        if life_id in self._ends_s:
            self._ends_s[life_id] = float("-inf")

    def read(self) -> NodeTable:
        """Reads the table."""
        lives = [self._lives[life_id] for life_id in sorted(self._lives)]
        return NodeTable(
            alive=[life for life in lives if self.is_good(life.life_id)],
            gone=[life for life in lives if not self.is_good(life.life_id)],
        )

    def claim(self, life_id: str, by: str) -> bool:
        """Claims a life that is gone."""
        holder = self._claims.get(life_id, by)
        if life_id not in self._lives or self.is_good(life_id) or not self.is_good(by):
            return False
        if holder != by and self.is_good(holder):
            return False
        self._claims[life_id] = by
        return True

    def settle(self, life_id: str, by: str) -> None:
        """Removes a claimed life."""
        if self._claims.get(life_id) == by:
            del self._claims[life_id], self._lives[life_id], self._ends_s[life_id]


class FakeNodeRegistry:
    """NodeRegistry of one node."""

    def __init__(self, server: FakeRegistryServer) -> None:
        """Takes what all nodes share."""
        self._server = server
        self.error: Exception | None = None

    async def begin(self, life: NodeLife) -> None:
        """Begins a life."""
        (await self._travel()).begin(life)

    async def renew(self, life_id: str) -> bool:
        """Renews a lease."""
        return (await self._travel()).renew(life_id)

    async def end(self, life_id: str) -> None:
        """Ends a life."""
        (await self._travel()).end(life_id)

    async def read(self) -> NodeTable:
        """Reads the table."""
        return (await self._travel()).read()

    async def claim(self, life_id: str, *, by: str) -> bool:
        """Claims a life."""
        return (await self._travel()).claim(life_id, by)

    async def settle(self, life_id: str, *, by: str) -> None:
        """Settles a life."""
        (await self._travel()).settle(life_id, by)

    async def _travel(self) -> FakeRegistryServer:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self._server.reach()
        return self._server
