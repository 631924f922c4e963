"""Presence on several nodes, in virtual time: who is told to be there, and what is not told."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from hubbub_server.app.read_presence import PresenceSummary
from hubbub_server.domain.commands import CreateGroup, SetDraft
from hubbub_server.domain.preferences import PresenceVisibility, Status, StatusState
from hubbub_server.domain.presence import GRACE_S, Activity
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.app_node import ALICE, BOB, GROUP
from tests.support.presence_stage import SOON_S, PresenceNode, PresenceStage, belong, on_stage, user, wish
from tests.support.virtual_time import run_in_virtual_time

ACTIVE, INACTIVE = Activity.ACTIVE, Activity.INACTIVE


def test_who_signs_in_and_out_is_told_to_watchers_on_other_nodes() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "offline", within_s=SOON_S)
            session = one.session(BOB)
            await log.until(BOB, "online", within_s=SOON_S)
            session.report(INACTIVE)
            await log.until(BOB, "away", within_s=SOON_S)
            session.report(ACTIVE)
            await log.until(BOB, "online", within_s=SOON_S)
            left_s = asyncio.get_running_loop().time()
            session.close()
            gone = await log.until(BOB, "offline", within_s=GRACE_S + SOON_S)

        assert gone.at_s - left_s >= GRACE_S
        assert abs(gone.presence.last_seen_time.ToMilliseconds() - (1_000_000 + left_s) * 1000) < 1_000
        assert log.states(BOB) == ["offline", "online", "away", "online", "offline"]
        assert [update.snapshot for update in log.news] == [True, False, False, False, False]

    on_stage(play)


def test_sessions_of_one_user_on_several_nodes_are_one_presence() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE, BOB) as log:
            phone, desk = one.session(BOB, INACTIVE), two.session(BOB, ACTIVE)
            await log.until(BOB, "online", within_s=2 * SOON_S)
            log.forget()
            desk.report(INACTIVE)
            await log.until(BOB, "away", within_s=SOON_S)
            phone.close()
            await asyncio.sleep(2 * GRACE_S)

        assert log.states(BOB) == ["away"]

    on_stage(play)


@pytest.mark.parametrize("activity", [ACTIVE, INACTIVE])
def test_who_comes_back_within_the_grace_was_never_gone(activity: Activity) -> None:
    """C39: on the same node or another, and whatever a session says before it says what it is used for."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        session = one.session(BOB, activity)
        await asyncio.sleep(SOON_S)
        async with two.watcher(ALICE, BOB) as log:
            await asyncio.sleep(SOON_S)
            log.forget()
            for node in (two, one, one, two):
                session.close()
                await asyncio.sleep(GRACE_S - 1)
                session = node.session(BOB)
                await asyncio.sleep(0.5)
                session.report(activity)
                await asyncio.sleep(SOON_S)

        assert log.news == []

    on_stage(play)


def test_a_restarted_node_hands_its_users_on_without_a_word() -> None:
    """C39: it gives its life back before they are all somewhere else."""

    async def run() -> None:
        stage = PresenceStage()
        async with stage.node("two") as two, AsyncExitStack() as leaving:
            one = await leaving.enter_async_context(stage.node("one"))
            users = [user(number) for number in range(300)]
            for each in users:
                one.session(each, INACTIVE)
            await asyncio.sleep(SOON_S)
            async with two.watcher(ALICE, *users) as log:
                await asyncio.sleep(SOON_S)
                log.forget()
                await one.presence.tracker.leave()
                await leaving.aclose()
                await asyncio.sleep(GRACE_S - 2)
                for each in users:
                    two.session(each, INACTIVE)
                await asyncio.sleep(3 * LEASE_S)

            assert log.news == []

    run_in_virtual_time(run())


def test_what_the_users_own_topics_say_of_other_things_is_no_news() -> None:
    """Markers move all day: they cost neither the registry nor watchers anything."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, ACTIVE)
        await belong(one, BOB, 1)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=SOON_S)
            await asyncio.sleep(SOON_S)
            signals = len(stage.signals.published)
            log.forget()
            for text in ("I", "I am", "I am writing"):
                await two.app.submit(SetDraft(conversation_id=GROUP, text=text), topic_id=BOB)
                await asyncio.sleep(SOON_S)

        assert log.news == []
        assert len(stage.signals.published) == signals

    on_stage(play)


def test_lost_signals_are_made_good_within_a_lease() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "offline", within_s=SOON_S)
            two.bus.is_lost = True
            one.session(BOB, ACTIVE)
            await log.until(BOB, "online", within_s=LEASE_S + SOON_S)

    on_stage(play)


def test_a_watcher_is_a_session_of_its_own() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with one.watcher(BOB, activity=INACTIVE), two.watcher(ALICE, BOB, ALICE) as log:
            await log.until(BOB, "away", within_s=SOON_S)
            await log.until(ALICE, "online", within_s=SOON_S)

    on_stage(play)


def test_a_device_that_comes_back_beside_another_one_was_never_gone() -> None:
    """C39: on one node, where both are one share."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, INACTIVE)
        desk = one.session(BOB, ACTIVE)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=2 * SOON_S)
            log.forget()
            desk.close()
            await asyncio.sleep(GRACE_S - 1)
            desk = one.session(BOB, ACTIVE)
            await asyncio.sleep(2 * GRACE_S)
            assert log.news == []
            desk.close()
            gone_s = asyncio.get_running_loop().time()
            away = await log.until(BOB, "away", within_s=GRACE_S + SOON_S)

        assert away.at_s - gone_s >= GRACE_S

    on_stage(play)


def test_what_is_set_by_hand_is_shown_until_it_expires() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        session = one.session(BOB, ACTIVE)
        lunch = Status(
            state=StatusState.DO_NOT_DISTURB, text="at lunch", emoji="🍜", expire_time_ms=stage.clock.now_ms() + 60_000
        )
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=SOON_S)
            await two.presence.status.set(BOB, lunch)
            busy = await log.until(BOB, "do_not_disturb", within_s=2 * SOON_S)
            session.report(INACTIVE)
            over = await log.until(BOB, "away", within_s=60 + SOON_S)
            assert await one.presence.status.get(BOB) == Status()
            await one.presence.status.set(BOB, Status(state=StatusState.ONLINE))
            await log.until(BOB, "online", within_s=2 * SOON_S)

        assert (busy.presence.status_text, busy.presence.status_emoji) == ("at lunch", "🍜")
        assert busy.presence.status_expire_time.ToMilliseconds() == lunch.expire_time_ms
        assert over.at_s + 1_000_000 >= busy.presence.status_expire_time.ToMilliseconds() / 1000
        assert log.states(BOB)[-4:] == ["online", "do_not_disturb", "away", "online"]

    on_stage(play)


def test_many_members_are_counted_once_for_all_who_ask() -> None:
    """C89."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        members = [user(number) for number in range(400)]
        await one.app.submit(CreateGroup(creator_id=ALICE, title="room", user_ids=tuple(members)))
        for each in members[:100]:
            one.session(each)
        await wish(one, members[0], PresenceVisibility.NOBODY)
        await asyncio.sleep(2 * SOON_S)
        before = stage.server.calls
        counted = await asyncio.gather(*(two.presence.reader.summarize(each, GROUP) for each in members[1:51]))
        asked = stage.server.calls - before
        hiding = await two.presence.reader.summarize(members[0], GROUP)

        assert set(counted) == {PresenceSummary(member_count=401, present_count=99)}
        assert asked <= 10
        assert hiding == PresenceSummary(member_count=401, present_count=None)

    on_stage(play)
