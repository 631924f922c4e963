"""Nodes in one registry, on virtual time: who lives is known, who is gone is settled once, and the registry may go."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from prometheus_client import REGISTRY

from hubbub_server.app.registered_node import RegisteredNode
from hubbub_server.domain.errors import RegistryUnavailable
from hubbub_server.ports.node_registry import LEASE_S, NodeLife
from tests.support.fakes.clock import FakeIds
from tests.support.fakes.node_registry import FakeNodeRegistry, FakeRegistryServer
from tests.support.virtual_time import run_in_virtual_time

LOOK_S = 1.0
RENEW_S = 2.5
GONE_WITHIN_S = LEASE_S + 2 * LOOK_S
AWAY = RegistryUnavailable("not connected")


class LoopClock:
    """The clock of the loop, which tests let run."""

    def now_ms(self) -> int:
        """Not asked for."""
        raise AssertionError

    def monotonic_s(self) -> float:
        """Seconds of the loop."""
        return asyncio.get_running_loop().time()


class Stage:
    """Nodes on one registry."""

    def __init__(self) -> None:
        self.server = FakeRegistryServer(LoopClock().monotonic_s)
        self.registries: dict[str, FakeNodeRegistry] = {}
        self.settled: list[tuple[str, str]] = []
        """(who settled, which life)"""
        self.on_gone: Callable[[NodeLife], Awaitable[None]] | None = None
        self._ids = FakeIds()

    def node(self, name: str) -> RegisteredNode:
        """Returns a node that notes what it settles."""
        registry = self.registries[name] = FakeNodeRegistry(self.server)

        async def settle(life: NodeLife) -> None:
            if self.on_gone is not None:
                await self.on_gone(life)
            self.settled.append((name, life.life_id))

        return RegisteredNode(
            registry, node_id=name, address=f"{name}:50051", clock=LoopClock(), ids=self._ids, on_gone=settle
        )

    async def alive(self) -> list[str]:
        """Returns the names of nodes that live."""
        return [life.node_id for life in (await FakeNodeRegistry(self.server).read()).alive]

    async def gone(self) -> list[str]:
        """Returns the names of nodes that wait to be settled."""
        return [life.node_id for life in (await FakeNodeRegistry(self.server).read()).gone]

    @asynccontextmanager
    async def nodes(self, *names: str) -> AsyncIterator[list[RegisteredNode]]:
        """Runs nodes; they have begun."""
        async with AsyncExitStack() as stack:
            running = [await stack.enter_async_context(self.node(name)) for name in names]
            await asyncio.sleep(LOOK_S)
            yield running


def on_stage(play: Callable[[Stage], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        await play(Stage())

    run_in_virtual_time(run())


def life_id(node: RegisteredNode) -> str:
    assert node.life is not None
    return node.life.life_id


def test_nodes_live_as_long_as_they_run_in_one_life() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b") as (a, b):
            lives = life_id(a), life_id(b)
            await asyncio.sleep(10 * LEASE_S)

            assert await stage.alive() == ["a", "b"]
            assert (life_id(a), life_id(b)) == lives
            assert stage.settled == []

    on_stage(play)


def test_a_node_that_leaves_is_settled_at_once_by_one_other() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b"):
            async with stage.nodes("c") as (c,):
                left = life_id(c)
            await asyncio.sleep(2 * LOOK_S)

            assert [life for _, life in stage.settled] == [left]
            assert await stage.alive() == ["a", "b"]
            assert await stage.gone() == []

    on_stage(play)


def test_a_node_that_dies_is_settled_once_within_its_lease_and_a_look() -> None:
    """G7: the node cannot say anything any more, and three others look."""

    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b", "c"):
            dead = NodeLife(life_id="d.1", node_id="d", address="d:50051")
            await FakeNodeRegistry(stage.server).begin(dead)
            await asyncio.sleep(LEASE_S - LOOK_S)
            early = list(stage.settled)
            await asyncio.sleep(GONE_WITHIN_S - LEASE_S + LOOK_S)

            assert early == []
            assert [life for _, life in stage.settled] == ["d.1"]
            assert await stage.alive() == ["a", "b", "c"]

    on_stage(play)


def test_a_node_that_was_cut_off_for_longer_than_its_lease_begins_another_life() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b") as (a, _):
            first = life_id(a)
            stage.registries["a"].error = AWAY
            await asyncio.sleep(GONE_WITHIN_S + RENEW_S)
            cut_off, seen = a.life, await stage.alive()
            stage.registries["a"].error = None
            await asyncio.sleep(2 * LOOK_S)

            assert cut_off is None
            assert seen == ["b"]
            assert stage.settled == [("b", first)]
            assert await stage.alive() == ["a", "b"]
            assert life_id(a) != first

    on_stage(play)


def test_an_outage_of_the_registry_ends_nobodys_life() -> None:
    """All were cut off alike: whoever is back first must not take the others for dead."""

    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b", "c") as nodes:
            lives = [life_id(node) for node in nodes]
            for registry in stage.registries.values():
                registry.error = AWAY
            await asyncio.sleep(10 * LEASE_S)
            stage.registries["a"].error = None
            await asyncio.sleep(LEASE_S / 2)
            for registry in stage.registries.values():
                registry.error = None
            await asyncio.sleep(2 * LEASE_S)

            assert [life_id(node) for node in nodes] == lives
            assert stage.settled == []

    on_stage(play)


def test_a_registry_that_lost_everything_has_it_again_within_one_lease() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b") as nodes:
            lives = [life_id(node) for node in nodes]
            stage.server.flush()
            await asyncio.sleep(RENEW_S + LOOK_S)

            assert await stage.alive() == ["a", "b"]
            assert [life_id(node) for node in nodes] != lives
            assert stage.settled == []

    on_stage(play)


def test_the_metric_shows_who_lives_and_nobody_while_that_is_unknown() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a", "b"):
            await asyncio.sleep(LOOK_S)
            seen = [REGISTRY.get_sample_value("hubbub_registered_nodes")]
            failures = REGISTRY.get_sample_value("hubbub_registry_failures_total") or 0
            for registry in stage.registries.values():
                registry.error = AWAY
            await asyncio.sleep(1.5 * LOOK_S)
            seen.append(REGISTRY.get_sample_value("hubbub_registered_nodes"))

            assert seen == [2, 0]
            assert (REGISTRY.get_sample_value("hubbub_registry_failures_total") or 0) > failures

    on_stage(play)


def test_what_could_not_be_settled_is_tried_again() -> None:
    async def play(stage: Stage) -> None:
        failures = iter([RuntimeError("a bug"), None])

        async def fail_once(_life: NodeLife) -> None:
            if (error := next(failures)) is not None:
                raise error

        stage.on_gone = fail_once
        async with stage.nodes("a"):
            async with stage.nodes("b") as (b,):
                left = life_id(b)
            await asyncio.sleep(1.5 * LOOK_S)
            first = await stage.gone()
            await asyncio.sleep(LOOK_S)

            assert first == ["b"]
            assert stage.settled == [("a", left)]
            assert await stage.gone() == []

    on_stage(play)


def test_what_a_dead_settler_began_is_settled_by_another() -> None:
    """G7: it claimed, and died before it had announced anybody."""

    async def play(stage: Stage) -> None:
        dead = FakeNodeRegistry(stage.server)
        await dead.begin(NodeLife(life_id="x.1", node_id="x", address="x:50051"))
        await dead.end("x.1")
        await dead.begin(NodeLife(life_id="d.1", node_id="d", address="d:50051"))
        assert await dead.claim("x.1", by="d.1")
        async with stage.nodes("a"):
            await asyncio.sleep(LOOK_S)
            early = list(stage.settled)
            await asyncio.sleep(GONE_WITHIN_S)

            assert early == []
            assert sorted(stage.settled) == [("a", "d.1"), ("a", "x.1")]

    on_stage(play)


def test_a_registry_that_holds_nonsense_does_not_end_the_node() -> None:
    async def play(stage: Stage) -> None:
        async with stage.nodes("a") as (a,):
            stage.registries["a"].error = ValueError("not what we wrote")
            await asyncio.sleep(LOOK_S)
            stage.registries["a"].error = None
            await asyncio.sleep(LOOK_S)

            assert a.life is not None
            assert await stage.alive() == ["a"]

    on_stage(play)


def test_slow_settling_costs_nobody_their_life() -> None:
    async def play(stage: Stage) -> None:
        async def take_long(_life: NodeLife) -> None:
            await asyncio.sleep(3 * LEASE_S)

        stage.on_gone = take_long
        async with stage.nodes("a", "b") as nodes:
            lives = [life_id(node) for node in nodes]
            async with stage.nodes("c"):
                pass
            await asyncio.sleep(4 * LEASE_S)

            assert [life_id(node) for node in nodes] == lives
            assert len(stage.settled) == 1

    on_stage(play)


@pytest.mark.parametrize("error", [AWAY, None])
def test_a_node_starts_and_leaves_with_and_without_its_registry(error: Exception | None) -> None:
    async def play(stage: Stage) -> None:
        node = stage.node("a")
        stage.registries["a"].error = error
        began_s = LoopClock().monotonic_s()
        async with node:
            assert LoopClock().monotonic_s() == began_s
            await asyncio.sleep(LOOK_S)
            assert (node.life is None) == (error is not None)

        assert LoopClock().monotonic_s() == began_s + LOOK_S
        assert await stage.alive() == []

    on_stage(play)
