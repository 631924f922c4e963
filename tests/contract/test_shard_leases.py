"""What every ShardLeases promises: one table for all workers, claims by compare-and-set, fences that only grow."""

import asyncio
import secrets

import pytest

from hubbub_server.ports.shard_leases import Claim, ShardLeases, Unit

pytestmark = pytest.mark.asyncio

Leases = tuple[ShardLeases, ShardLeases]


def new_unit(shard: int = 0) -> Unit:
    """Real servers are shared: each test has roles and workers of its own."""
    return Unit(f"role-{secrets.token_hex(6)}", shard)


def new_worker() -> str:
    return f"worker.{secrets.token_hex(6)}"


async def test_a_beat_is_seen_by_all_and_each_one_is_another(leases: Leases) -> None:
    mine, theirs = leases
    worker_id = new_worker()

    assert worker_id not in (await theirs.read()).beats
    await mine.beat(worker_id)
    first = (await theirs.read()).beats[worker_id]
    await mine.beat(worker_id)
    second = (await theirs.read()).beats[worker_id]

    assert first != second


async def test_a_worker_that_left_does_not_beat_any_more(leases: Leases) -> None:
    mine, theirs = leases
    worker_id = new_worker()
    await mine.beat(worker_id)

    await mine.leave(worker_id)

    assert worker_id not in (await theirs.read()).beats
    assert worker_id not in (await mine.read()).beats


async def test_a_worker_that_left_may_return(leases: Leases) -> None:
    mine, theirs = leases
    worker_id = new_worker()
    await mine.leave(worker_id)

    await mine.beat(worker_id)

    assert worker_id in (await theirs.read()).beats


async def test_a_claim_is_seen_by_all_with_its_fence(leases: Leases) -> None:
    mine, theirs = leases
    unit, worker_id = new_unit(7), new_worker()

    fence = await mine.claim(unit, worker_id, fence=0)

    assert fence is not None
    assert fence > 0
    assert (await theirs.read()).claims[unit] == Claim(worker_id=worker_id, fence=fence)


async def test_what_somebody_claimed_meanwhile_cannot_be_claimed(leases: Leases) -> None:
    """C11: one active worker a unit."""
    mine, theirs = leases
    unit = new_unit()
    fence = await mine.claim(unit, "worker.a", fence=0)

    refused = await theirs.claim(unit, "worker.b", fence=0)

    assert refused is None
    assert (await theirs.read()).claims[unit] == Claim(worker_id="worker.a", fence=fence or 0)


async def test_a_claim_can_be_taken_over_and_its_fence_grows(leases: Leases) -> None:
    mine, theirs = leases
    unit = new_unit()
    first = await mine.claim(unit, "worker.a", fence=0)
    assert first is not None

    second = await theirs.claim(unit, "worker.b", fence=first)

    assert second is not None
    assert second > first
    assert await mine.claim(unit, "worker.a", fence=first) is None
    assert (await mine.read()).claims[unit] == Claim(worker_id="worker.b", fence=second)


async def test_of_many_claims_at_once_one_succeeds(leases: Leases) -> None:
    unit = new_unit()

    fences = await asyncio.gather(*(leases[n % 2].claim(unit, f"worker.{n}", fence=0) for n in range(8)))

    (winner,) = [(n, fence) for n, fence in enumerate(fences) if fence is not None]
    assert (await leases[0].read()).claims[unit] == Claim(worker_id=f"worker.{winner[0]}", fence=winner[1])


async def test_a_released_unit_is_nobodys_and_can_be_claimed(leases: Leases) -> None:
    mine, theirs = leases
    unit = new_unit()
    fence = await mine.claim(unit, "worker.a", fence=0)
    assert fence is not None

    await mine.release(unit, fence=fence)
    released = (await theirs.read()).claims[unit]
    again = await theirs.claim(unit, "worker.b", fence=released.fence)

    assert released.worker_id == ""
    assert again is not None
    assert again > released.fence > fence


async def test_a_late_release_does_not_touch_the_next_claim(leases: Leases) -> None:
    """A worker that was frozen gives back what is another's by now."""
    mine, theirs = leases
    unit = new_unit()
    old = await mine.claim(unit, "worker.a", fence=0)
    assert old is not None
    new = await theirs.claim(unit, "worker.b", fence=old)
    assert new is not None

    await mine.release(unit, fence=old)

    assert (await mine.read()).claims[unit] == Claim(worker_id="worker.b", fence=new)


async def test_units_are_apart(leases: Leases) -> None:
    unit = new_unit(0)
    others = [Unit(unit.role, 1), Unit(f"{unit.role}-b", 0)]
    await leases[0].claim(unit, "worker.a", fence=0)

    for other in others:
        assert await leases[1].claim(other, "worker.b", fence=0) is not None

    claims = (await leases[0].read()).claims
    assert [claims[each].worker_id for each in (unit, *others)] == ["worker.a", "worker.b", "worker.b"]
