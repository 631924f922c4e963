"""Keeps this node in the registry, and settles what nodes that are gone left behind.

Theory of operation. Two tasks. One begins a life and renews its lease every 2.5 s of the monotonic clock; when the
registry says that the life is over it begins another one at once. The other looks at the table every second; what is
gone and can be claimed is handed to `on_gone`, then removed. It may take its time: the lease is not its affair. A
registry that does not answer changes nothing for anybody but for those who ask who lives: the node serves on, and what
it says there is true again a lease after the registry is back.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final, Self

import structlog

from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.obs import metrics
from hubbub_server.ports.clock import Clock, IdSource
from hubbub_server.ports.node_registry import LEASE_S, NodeLife, NodeRegistry

_RENEW_INTERVAL_S: Final = 2.5
_LOOK_INTERVAL_S: Final = 1.0

log = structlog.get_logger()


async def _nothing_to_do(_life: NodeLife) -> None:
    """Settles a life that left nothing behind."""


class RegisteredNode:
    """Use as `async with`; the block owns the tasks and is the time for which this node says that it lives."""

    def __init__(
        self,
        registry: NodeRegistry,
        *,
        node_id: str,
        address: str,
        clock: Clock,
        ids: IdSource,
        on_gone: Callable[[NodeLife], Awaitable[None]] = _nothing_to_do,
    ) -> None:
        """Takes the registry and what it is told of this node.

        Args:
            registry: The table.
            node_id: Name of the node, the same in all its lives.
            address: Where its gRPC port is, seen from other nodes.
            clock: The monotonic one counts.
            ids: For the ids of lives.
            on_gone: Settles a life that is gone, of this node or another. Called again, on any node, until it has
                returned once.
        """
        self._registry = registry
        self._node_id = node_id
        self._address = address
        self._clock = clock
        self._ids = ids
        self._on_gone = on_gone
        self._life: NodeLife | None = None
        self._good_until_s = float("-inf")
        self._is_reachable = True

    async def __aenter__(self) -> Self:
        """Starts both tasks; does not wait for the registry."""
        self._tasks = asyncio.TaskGroup()
        await self._tasks.__aenter__()
        self._running = [self._tasks.create_task(self._keep_life()), self._tasks.create_task(self._keep_looking())]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Ends the tasks and the life; others see it gone at once, or when its lease has run out."""
        for task in self._running:
            task.cancel()
        await self._tasks.__aexit__(None, None, None)
        metrics.registered_nodes.set(0)
        if self._life is not None:
            with suppress(RegistryUnavailable):
                await self._registry.end(self._life.life_id)

    @property
    def life(self) -> NodeLife | None:
        """The life that others believe in, None while there is none for certain."""
        return self._life if self._clock.monotonic_s() < self._good_until_s else None

    async def _keep_life(self) -> None:
        while True:
            is_kept = await self._try(self._begin_or_renew)
            await asyncio.sleep(_RENEW_INTERVAL_S if is_kept else _LOOK_INTERVAL_S)

    async def _keep_looking(self) -> None:
        while True:
            if not await self._try(self._look):
                metrics.registered_nodes.set(0)
            await asyncio.sleep(_LOOK_INTERVAL_S)

    async def _try(self, step: Callable[[], Awaitable[None]]) -> bool:
        try:
            await step()
        except RegistryUnavailable as error:
            metrics.registry_failures.inc()
            if self._is_reachable:
                log.warning("registry of nodes away", reason=str(error))
            self._is_reachable = False
            return False
        except Exception:
            log.exception("registry of nodes failed")  # whatever is in it, the node serves on
            return False
        if not self._is_reachable:
            log.info("registry of nodes is back")
        self._is_reachable = True
        return True

    async def _begin_or_renew(self) -> None:
        sent_s = self._clock.monotonic_s()
        if self._life is None or not await self._registry.renew(self._life.life_id):
            self._life = NodeLife(
                life_id=self._ids.new_id(f"{self._node_id}."), node_id=self._node_id, address=self._address
            )
            self._good_until_s = float("-inf")
            sent_s = self._clock.monotonic_s()
            await self._registry.begin(self._life)
            log.info("life begins", life=self._life.life_id)
        self._good_until_s = sent_s + LEASE_S

    async def _look(self) -> None:
        table = await self._registry.read()
        metrics.registered_nodes.set(len(table.alive))
        if (me := self.life) is None:
            return
        for life in table.gone:
            if await self._registry.claim(life.life_id, by=me.life_id):
                await self._settle(life, by=me.life_id)

    async def _settle(self, life: NodeLife, *, by: str) -> None:
        try:
            await self._on_gone(life)
        except RegistryUnavailable:
            raise
        except Exception:
            log.exception("gone node not settled", node=life.node_id, life=life.life_id)
            return
        await self._registry.settle(life.life_id, by=by)
        log.info("gone node settled", node=life.node_id, life=life.life_id)
