"""What every NodeRegistry promises: lives that end once, leases by its own clock, one claim at a time."""

import asyncio
import time
from dataclasses import replace

import pytest

from hubbub_server.ports.node_registry import NodeLife, NodeRegistry, NodeTable
from tests.support.node_registries import LEASE_S
from tests.support.waiting import until, until_found

pytestmark = pytest.mark.asyncio

Registries = tuple[NodeRegistry, NodeRegistry]

A = NodeLife(life_id="a.1", node_id="a", address="10.0.0.1:50051")
B = NodeLife(life_id="b.1", node_id="b", address="10.0.0.2:50051")
C = NodeLife(life_id="c.1", node_id="c", address="10.0.0.3:50051")


async def until_gone(registry: NodeRegistry, life: NodeLife, *, kept: NodeLife | None = None) -> NodeTable:
    """Looks until a life is gone; `kept` is renewed meanwhile."""

    async def look() -> NodeTable | None:
        if kept is not None:
            assert await registry.renew(kept.life_id)
        table = await registry.read()
        return table if life in table.gone else None

    return await until_found(look)


async def begin_gone(registry: NodeRegistry, life: NodeLife) -> None:
    await registry.begin(life)
    await registry.end(life.life_id)


async def test_a_life_that_begins_is_seen_by_all_with_its_facts(node_registries: Registries) -> None:
    mine, theirs = node_registries
    assert await theirs.read() == NodeTable(alive=[], gone=[])

    await mine.begin(A)

    assert await theirs.read() == NodeTable(alive=[A], gone=[])


async def test_a_life_that_is_not_renewed_is_gone_after_its_lease_and_not_before(node_registries: Registries) -> None:
    """G7."""
    mine, theirs = node_registries
    before_s = time.monotonic()
    await mine.begin(A)

    table = await until_gone(theirs, A)

    lived_s = time.monotonic() - before_s
    assert table == NodeTable(alive=[], gone=[A])
    assert lived_s >= LEASE_S * 0.99  # the server counts in whole milliseconds


async def test_a_life_that_is_renewed_outlives_its_lease(node_registries: Registries) -> None:
    mine, theirs = node_registries
    await mine.begin(A)
    await mine.begin(B)

    table = await until_gone(theirs, B, kept=A)

    assert table.alive == [A]


async def test_a_life_whose_lease_ran_out_stays_over(node_registries: Registries) -> None:
    """G7: a node that was frozen finds others at work on what it left; it cannot come back as if nothing had been."""
    mine, theirs = node_registries
    await mine.begin(A)
    await until_gone(theirs, A)

    renewed = await mine.renew(A.life_id)
    await mine.begin(A)

    assert not renewed
    assert await theirs.read() == NodeTable(alive=[], gone=[A])


async def test_a_life_that_ended_is_gone_at_once_and_stays_over(node_registries: Registries) -> None:
    mine, theirs = node_registries
    await mine.begin(A)

    await mine.end(A.life_id)

    assert await theirs.read() == NodeTable(alive=[], gone=[A])
    assert not await mine.renew(A.life_id)


async def test_a_life_that_nobody_knows_cannot_be_renewed_or_ended(node_registries: Registries) -> None:
    """A registry that lost its data says so: the node begins anew and tells everything again."""
    mine, theirs = node_registries

    renewed = await mine.renew(A.life_id)
    await mine.end(A.life_id)

    assert not renewed
    assert await theirs.read() == NodeTable(alive=[], gone=[])


async def test_to_begin_again_changes_nothing(node_registries: Registries) -> None:
    """The answer to the first call may have been lost."""
    mine, theirs = node_registries
    await mine.begin(A)

    await mine.begin(replace(A, address="10.9.9.9:1"))

    assert await theirs.read() == NodeTable(alive=[A], gone=[])


async def test_two_lives_of_one_node_stand_side_by_side(node_registries: Registries) -> None:
    """Restarted within its lease: the earlier life is another one's to settle, when its time has come."""
    mine, theirs = node_registries
    again = replace(A, life_id="a.2")
    await mine.begin(A)
    await mine.begin(again)

    table = await until_gone(theirs, A, kept=again)

    assert table == NodeTable(alive=[again], gone=[A])


async def test_of_many_claims_at_once_one_succeeds(node_registries: Registries) -> None:
    """G7: one node announces the users of a gone one offline."""
    mine, theirs = node_registries
    await begin_gone(mine, A)
    observers = [replace(B, life_id=f"b.{n}") for n in range(8)]
    for each in observers:
        await mine.begin(each)

    claims = await asyncio.gather(
        *(node_registries[n % 2].claim(A.life_id, by=each.life_id) for n, each in enumerate(observers))
    )

    assert sum(claims) == 1
    assert [await theirs.claim(A.life_id, by=each.life_id) for each in observers] == claims


async def test_a_good_life_cannot_be_claimed_nor_can_one_that_nobody_knows(node_registries: Registries) -> None:
    """G7: the users of a node that lives are not announced offline."""
    mine, theirs = node_registries
    await mine.begin(A)
    await mine.begin(B)

    assert not await theirs.claim(A.life_id, by=B.life_id)
    assert not await theirs.claim(C.life_id, by=B.life_id)


async def test_who_is_over_claims_nothing(node_registries: Registries) -> None:
    mine, theirs = node_registries
    await begin_gone(mine, A)
    await begin_gone(mine, B)

    assert not await theirs.claim(A.life_id, by=B.life_id)
    assert not await theirs.claim(A.life_id, by="nobody")


async def test_the_claim_of_a_claimer_that_died_passes_on(node_registries: Registries) -> None:
    """G7: what a claimer did not settle before it died is not left to haunt."""
    mine, theirs = node_registries
    await begin_gone(mine, A)
    await mine.begin(B)
    await mine.begin(C)
    assert await mine.claim(A.life_id, by=B.life_id)
    assert not await theirs.claim(A.life_id, by=C.life_id)

    await mine.end(B.life_id)
    passed_on = await theirs.claim(A.life_id, by=C.life_id)
    await mine.settle(A.life_id, by=B.life_id)

    assert passed_on
    assert A in (await theirs.read()).gone


async def test_a_settled_life_is_gone_from_the_table(node_registries: Registries) -> None:
    mine, theirs = node_registries
    await begin_gone(mine, A)
    await mine.begin(B)
    assert await mine.claim(A.life_id, by=B.life_id)

    await mine.settle(A.life_id, by=B.life_id)
    await mine.settle(A.life_id, by=B.life_id)

    assert await theirs.read() == NodeTable(alive=[B], gone=[])
    assert not await theirs.claim(A.life_id, by=B.life_id)


async def test_after_a_time_in_which_nobody_could_look_all_that_lived_have_a_whole_lease(
    node_registries: Registries,
) -> None:
    """An outage of the registry is not the death of every node, and does not bring back who was dead before."""
    mine, theirs = node_registries
    await mine.begin(A)
    await mine.begin(B)
    await begin_gone(mine, C)
    back_s = time.monotonic() + 2 * LEASE_S
    await until(lambda: time.monotonic() > back_s)

    back = await theirs.read()
    later = await until_gone(theirs, B, kept=A)

    assert back == NodeTable(alive=[A, B], gone=[C])
    assert later == NodeTable(alive=[A], gone=[B, C])
    assert time.monotonic() > back_s + LEASE_S * 0.99
