"""The registry of presence in memory, beside that of nodes. `error`, when there is one, is raised by every call."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import GRACE_S, NotedShare, Share, UserSessions
from hubbub_server.ports.presence_registry import BATCH_MAX, RegistryLook
from tests.support.fakes.node_registry import FakeRegistryServer


class FakePresenceServer:
    """What all nodes share."""

    def __init__(self, nodes: FakeRegistryServer, *, grace_s: float = GRACE_S, born_ms: int | None = None) -> None:
        """Takes the leases; without `born_ms` the table is born when it is first asked."""
        self._nodes = nodes
        self._grace_ms = round(grace_s * 1000)
        self._now_ms = 0
        self._born_ms = born_ms
        self.noted: dict[UserId, dict[str, NotedShare]] = {}
        self._seen_ms: dict[UserId, int] = {}
        self.calls = 0
        """How often anybody asked."""

    def flush(self) -> None:
        """Loses everything, the leases too."""
        self._nodes.flush()
        self._born_ms = None
        self.noted.clear()
        self._seen_ms.clear()

    def reach(self) -> None:
        """Lets the server's time go on."""
        self.calls += 1
        self._now_ms = round(self._nodes.reach() * 1000)
        if self._born_ms is None:
            self._born_ms = self._now_ms

    def put(self, life_id: str, shares: Mapping[UserId, Share | None]) -> list[UserId] | None:
        """Notes shares."""
        if not self._nodes.is_good(life_id):
            return None
        return [user_id for user_id, share in shares.items() if self._put_one(life_id, user_id, share)]

    def _put_one(self, life_id: str, user_id: UserId, share: Share | None) -> bool:
        all_noted = self.noted.setdefault(user_id, {})
        before = all_noted.get(life_id)
        if share is not None:
            is_news = before is None or before.share != share
            if is_news:
                self._tidy(user_id)
            all_noted[life_id] = NotedShare(share=share, noted_ms=self._now_ms)
            return is_news
        if before is None:
            return False
        self._tidy(user_id)
        del all_noted[life_id]
        until_ms = self._now_ms + self._grace_ms
        all_noted[f"{life_id}~"] = replace(before, noted_ms=self._now_ms, until_ms=until_ms)
        return True

    def _tidy(self, user_id: UserId) -> None:
        for life_id, each in list(self.noted[user_id].items()):
            if (each.until_ms and each.until_ms <= self._now_ms) or (
                not each.until_ms and not self._nodes.knows(life_id)
            ):
                self._drop(user_id, life_id)

    def _drop(self, user_id: UserId, life_id: str) -> None:
        dropped = self.noted[user_id].pop(life_id)
        self._seen_ms[user_id] = max(self._seen_ms.get(user_id, 0), dropped.noted_ms)

    def read(self, user_ids: Sequence[UserId]) -> dict[UserId, UserSessions]:
        """Reads what counts."""
        return {user_id: self._read_one(user_id) for user_id in user_ids}

    def _read_one(self, user_id: UserId) -> UserSessions:
        counting: dict[str, NotedShare] = {}
        seen_ms = self._seen_ms.get(user_id, 0)
        for life_id, each in self.noted.get(user_id, {}).items():
            if each.until_ms > self._now_ms or (not each.until_ms and self._nodes.is_good(life_id)):
                counting[life_id] = each
            else:
                seen_ms = max(seen_ms, each.noted_ms)
        return UserSessions(shares=counting, seen_ms=seen_ms)

    def look(self) -> RegistryLook:
        """Looks at the lives."""
        assert self._born_ms is not None
        alive = frozenset(life.life_id for life in self._nodes.read().alive)
        return RegistryLook(now_ms=self._now_ms, born_ms=self._born_ms, alive=alive)

    def forget(self, life_id: str) -> list[UserId]:
        """Removes shares of a life that is over."""
        if self._nodes.is_good(life_id):
            return []
        users = [user_id for user_id, noted in self.noted.items() if life_id in noted][:BATCH_MAX]
        for user_id in users:
            self._drop(user_id, life_id)
        return users


class FakePresenceRegistry:
    """PresenceRegistry of one node."""

    def __init__(self, server: FakePresenceServer) -> None:
        """Takes what all nodes share."""
        self._server = server
        self.error: Exception | None = None

    async def put(self, life_id: str, shares: Mapping[UserId, Share | None]) -> Sequence[UserId] | None:
        """Notes shares."""
        return (await self._travel()).put(life_id, shares)

    async def read(self, user_ids: Sequence[UserId]) -> Mapping[UserId, UserSessions]:
        """Reads what counts."""
        return (await self._travel()).read(user_ids)

    async def look(self) -> RegistryLook:
        """Looks at the lives."""
        return (await self._travel()).look()

    async def forget(self, life_id: str) -> Sequence[UserId]:
        """Removes shares of a life that is over."""
        return (await self._travel()).forget(life_id)

    async def _travel(self) -> FakePresenceServer:
        await asyncio.sleep(0)
        if self.error is not None:
            raise self.error
        self._server.reach()
        return self._server
