"""The table of leases in memory. `is_unavailable` makes every call raise LogUnavailable."""

import asyncio

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.ports.shard_leases import Claim, LeaseTable, Unit


class FakeLeaseServer:
    """What all workers share."""

    def __init__(self) -> None:
        self.beats: dict[str, int] = {}
        self.claims: dict[Unit, Claim] = {}
        self.revision = 0

    def next_revision(self) -> int:
        """Counts writes."""
        self.revision += 1
        return self.revision

    def holders(self) -> dict[Unit, str]:
        """Returns who has each unit."""
        return {unit: claim.worker_id for unit, claim in self.claims.items()}


class FakeShardLeases:
    """ShardLeases of one worker."""

    def __init__(self, server: FakeLeaseServer | None = None) -> None:
        self.server = server or FakeLeaseServer()
        self.is_unavailable = False

    async def beat(self, worker_id: str) -> None:
        await self._travel()
        self.server.beats[worker_id] = self.server.next_revision()

    async def leave(self, worker_id: str) -> None:
        await self._travel()
        self.server.beats.pop(worker_id, None)

    async def read(self) -> LeaseTable:
        await self._travel()
        return LeaseTable(beats=dict(self.server.beats), claims=dict(self.server.claims))

    async def claim(self, unit: Unit, worker_id: str, *, fence: int) -> int | None:
        await self._travel()
        found = self.server.claims.get(unit)
        if (found.fence if found else 0) != fence:
            return None
        claim = Claim(worker_id=worker_id, fence=self.server.next_revision())
        self.server.claims[unit] = claim
        return claim.fence

    async def release(self, unit: Unit, *, fence: int) -> None:
        await self.claim(unit, "", fence=fence)

    async def _travel(self) -> None:
        await asyncio.sleep(0)
        if self.is_unavailable:
            raise LogUnavailable("not connected")
