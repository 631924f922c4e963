"""Presence when nodes die and the registry is away, in virtual time (G7)."""

import asyncio
from collections.abc import Mapping, Sequence

from hubbub_server.domain.ids import UserId
from hubbub_server.domain.presence import GRACE_S, WATCHED_MAX, Activity, Share
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.app_node import ALICE, BOB, CAROL
from tests.support.presence_stage import AWAY, SOON_S, PresenceNode, PresenceStage, on_stage, user

DEAD_WITHIN_S = 15.0
"""G7."""
ACTIVE, INACTIVE = Activity.ACTIVE, Activity.INACTIVE


def test_users_of_a_dead_node_are_offline_in_time_in_one_frame_a_watcher() -> None:
    """G7, C35, C89."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        users = [user(number) for number in range(WATCHED_MAX)]
        for each in users:
            one.session(each, ACTIVE)
        await asyncio.sleep(SOON_S)
        async with two.watcher(ALICE, *users) as log:
            await asyncio.sleep(SOON_S)
            assert [each.state for each in log.told] == ["online"] * WATCHED_MAX
            log.forget()
            dead_s = asyncio.get_running_loop().time()
            one.cut()
            await log.until(users[-1], "offline", within_s=DEAD_WITHIN_S)
            await asyncio.sleep(60)

        assert [each.state for each in log.told] == ["offline"] * WATCHED_MAX
        assert max(each.at_s for each in log.told) - dead_s <= DEAD_WITHIN_S
        assert len(log.news) == 1
        lives = {life_id for noted in stage.server.noted.values() for life_id in noted}
        assert not any(life_id.startswith("one") for life_id in lives)  # nobody haunts the registry

    on_stage(play)


def test_a_node_that_was_taken_for_dead_tells_everything_again() -> None:
    """G7: frozen or cut off, its life is over; it begins another one."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, ACTIVE)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=SOON_S)
            one.cut()
            await log.until(BOB, "offline", within_s=DEAD_WITHIN_S)
            one.node_registry.error = one.registry.error = None
            one.bus.come_back()
            await log.until(BOB, "online", within_s=LEASE_S)

    on_stage(play)


def test_another_life_tells_at_once_also_of_whom_the_one_before_told_a_moment_ago() -> None:
    """G7: not only when their next turn comes, a lease after that."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        session = one.session(BOB, ACTIVE)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=SOON_S)
            one.node_registry.error = AWAY  # it cannot renew its lease, and tells as long as that is good
            await asyncio.sleep(LEASE_S / 2)
            session.report(INACTIVE)
            told = await log.until(BOB, "away", within_s=SOON_S)
            gone = await log.until(BOB, "offline", within_s=DEAD_WITHIN_S)
            one.node_registry.error = None
            again = await log.until(BOB, "away", within_s=LEASE_S)

        assert gone.at_s - told.at_s < LEASE_S / 2
        assert again.at_s - told.at_s < LEASE_S

    on_stage(play)


def test_a_flushed_registry_is_doubted_and_whole_within_a_lease() -> None:
    """The failure matrix, row Redis: nobody is told to be offline for it."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, INACTIVE)
        async with two.watcher(ALICE, BOB, CAROL) as log:
            await log.until(BOB, "away", within_s=SOON_S)
            log.forget()
            flushed_s = asyncio.get_running_loop().time()
            stage.server.flush()
            back = await log.until(BOB, "away", within_s=LEASE_S)
            known = await log.until(CAROL, "offline", within_s=LEASE_S + 3)

        assert back.at_s - flushed_s <= LEASE_S
        assert known.at_s - flushed_s >= LEASE_S
        assert set(log.states(BOB)) == {"unspecified", "away"}
        assert log.states(CAROL) == ["unspecified", "offline"]
        assert [update.snapshot for update in log.news if len(update.presences) == 2] == [True, True]

    on_stage(play)


def test_a_registry_that_is_away_is_unknown_and_known_again() -> None:
    """The failure matrix, row Redis; what happened meanwhile is told then."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        bob, carol = one.session(BOB, ACTIVE), one.session(CAROL, ACTIVE)
        async with two.watcher(ALICE, BOB, CAROL) as log:
            await log.until(CAROL, "online", within_s=SOON_S)
            stage.break_registry([one, two])
            await log.until(CAROL, "unspecified", within_s=LEASE_S)
            bob.close()
            carol.report(INACTIVE)
            await asyncio.sleep(60)
            log.forget()
            stage.break_registry([one, two], None)
            await log.until(CAROL, "away", within_s=LEASE_S)
            await log.until(BOB, "offline", within_s=GRACE_S + LEASE_S)

        assert set(log.states(BOB)) <= {"unspecified", "online", "offline"}
        assert log.news[0].snapshot

    on_stage(play)


def test_without_a_registry_users_are_unknown_and_streams_work() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        stage.break_registry([two])
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "unspecified", within_s=5.0)

    on_stage(play)


def test_what_was_told_without_an_answer_does_not_haunt() -> None:
    """G7: the registry has noted a session, and nobody knows; the session ends before that can be told again."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        put = one.registry.put

        async def put_in_vain(life_id: str, shares: Mapping[UserId, Share | None]) -> Sequence[UserId] | None:
            await put(life_id, shares)
            raise AWAY

        one.registry.put = put_in_vain  # type: ignore[method-assign]  # the answers are lost
        session = one.session(BOB)
        await asyncio.sleep(0.5)
        session.close()
        one.registry.put = put  # type: ignore[method-assign]
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=SOON_S)
            await log.until(BOB, "offline", within_s=GRACE_S + 3 * SOON_S)

    on_stage(play)
