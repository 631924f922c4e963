"""Presence on several nodes, in virtual time: who is told what, when, and what is not told."""

import asyncio
import random
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from hubbub.presence.v1 import presence_service_pb2 as pb

from hubbub_server.app.read_presence import PresenceSummary
from hubbub_server.app.track_presence import TrackedSession
from hubbub_server.app.watch_presence import FRAME_INTERVAL_S, SIGN_OF_LIFE_S, WatchCommand
from hubbub_server.domain.commands import ChangePreferences, CreateGroup, RecordMembership, SetBlock, SetDraft
from hubbub_server.domain.errors import CredentialsExpired, InvalidField, NodeDraining
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.preferences import Preferences, PresenceVisibility, Status, StatusState
from hubbub_server.domain.presence import CHANGES_AT_ONCE, GRACE_S, HIDDEN, WATCHED_MAX, Activity, PresenceState, Share
from hubbub_server.ports.node_registry import LEASE_S
from tests.support.app_node import ALICE, BOB, CAROL, GROUP
from tests.support.presence_stage import AWAY, PresenceNode, PresenceStage, user
from tests.support.virtual_time import run_in_virtual_time

SOON_S = 1.5
DEAD_WITHIN_S = 15.0
"""G7."""
ACTIVE, INACTIVE = Activity.ACTIVE, Activity.INACTIVE


def on_stage(play: Callable[[PresenceStage, PresenceNode, PresenceNode], Coroutine[Any, Any, None]]) -> None:
    """Plays with two nodes."""

    failures: list[BaseException] = []

    async def run() -> None:
        stage = PresenceStage()
        async with stage.node("one") as one, stage.node("two") as two:
            try:
                await play(stage, one, two)
            except Exception as failure:  # as it is, not as what the nodes' groups make of it
                failures.append(failure)

    run_in_virtual_time(run())
    for failure in failures:
        raise failure


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


# ---- how much is told


def test_a_watcher_gets_one_frame_a_second_with_the_newest_of_each() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        users = [user(number) for number in range(100)]
        sessions = [one.session(each, ACTIVE) for each in users]
        await asyncio.sleep(SOON_S)
        async with two.watcher(ALICE, *users) as log:
            await asyncio.sleep(SOON_S)
            log.forget()
            for turn in range(60):
                for session in sessions[turn % 2 :: 2]:
                    session.report(INACTIVE if session.activity is ACTIVE else ACTIVE)
                await asyncio.sleep(0.15)
            await asyncio.sleep(90)

        gaps = [after - before for before, after in zip(log.times_s, log.times_s[1:], strict=False)]
        assert min(gaps) >= FRAME_INTERVAL_S
        last = {each.user_id: each.state for each in log.told}
        wanted = {session.user_id: "away" if session.activity is INACTIVE else "online" for session in sessions}
        assert {user_id: last.get(user_id, "online") for user_id in users} == wanted
        assert all(len(log.states(each)) <= CHANGES_AT_ONCE + 2 for each in users)

    on_stage(play)


def test_users_who_flap_within_the_grace_cause_no_traffic_and_beyond_it_little() -> None:
    """1,000 users every 10 s: nothing; when they stay away a little longer: at most one change a minute each."""

    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        users = [user(number) for number in range(WATCHED_MAX)]
        sessions = [one.session(each, ACTIVE) for each in users]
        await asyncio.sleep(SOON_S)
        async with two.watcher(ALICE, *users) as log:
            await asyncio.sleep(SOON_S)
            log.forget()
            for _ in range(6):
                for session in sessions:
                    session.close()
                await asyncio.sleep(5)
                sessions = [two.session(each) for each in users]
                await asyncio.sleep(5)
            assert log.news == []

            minutes = 10
            for _ in range(minutes * 3):
                for session in sessions[:10]:
                    session.close()
                await asyncio.sleep(GRACE_S + 3)
                sessions[:10] = [one.session(each, ACTIVE) for each in users[:10]]
                await asyncio.sleep(20 - GRACE_S - 3)

        assert max(len(log.states(each)) for each in users) <= CHANGES_AT_ONCE + minutes + 1

    on_stage(play)


def test_who_is_in_the_background_hears_nothing_and_then_everything() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE, BOB, CAROL) as log:
            await log.until(CAROL, "offline", within_s=SOON_S)
            log.stream.receive(WatchCommand(activity=INACTIVE, is_background=True))
            log.forget()
            one.session(BOB, ACTIVE)
            await asyncio.sleep(65)
            assert [update.ByteSize() for update in log.updates] == [0] * 3  # signs of life
            log.stream.receive(WatchCommand(activity=ACTIVE))
            await log.until(BOB, "online", within_s=SOON_S)

        assert [update.snapshot for update in log.news] == [True]
        assert log.states(CAROL) == ["offline"]

    on_stage(play)


def test_a_silent_stream_gives_signs_of_life() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE) as log:
            await asyncio.sleep(5 * SIGN_OF_LIFE_S)

        assert log.updates[0].snapshot
        gaps = [after - before for before, after in zip(log.times_s, log.times_s[1:], strict=False)]
        assert len(gaps) >= 4
        assert max(gaps) <= SIGN_OF_LIFE_S + 2

    on_stage(play)


# ---- streams


def test_the_watched_set_changes_and_is_bounded() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        many = [user(number) for number in range(WATCHED_MAX)]
        one.session(BOB)
        async with two.watcher(ALICE, *many) as log:
            await log.until(many[-1], "offline", within_s=SOON_S)
            log.forget()
            log.stream.receive(WatchCommand(removed=tuple(many[:2]), added=(BOB, "nobody, ever")))
            await log.until(BOB, "online", within_s=SOON_S)
            one.session(many[0])
            await asyncio.sleep(2 * SOON_S)
            assert {(each.user_id, each.state) for each in log.told} == {(BOB, "online"), ("nobody, ever", "offline")}
            log.stream.receive(WatchCommand(added=(CAROL,)))
            assert isinstance(log.stream.end_error, InvalidField)
        assert two.bus.keys == set()

    on_stage(play)


def test_a_stream_ends_with_its_token_and_with_its_node() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE) as log, two.watcher(BOB) as other:
            log.stream.tick(2**60 + 60_001)
            two.presence.streams.drain()
            await asyncio.sleep(0.01)

            assert isinstance(log.stream.end_error, CredentialsExpired)
            assert isinstance(other.stream.end_error, NodeDraining)
            with pytest.raises(NodeDraining):
                two.presence.streams.open(log.stream.caller)

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


# ---- who may see, and what is set by hand


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


async def wish(node: PresenceNode, user_id: UserId, visibility: PresenceVisibility) -> None:
    preferences = Preferences(presence_visibility=visibility)
    await node.app.submit(ChangePreferences(preferences=preferences, names={"presence_visibility"}), topic_id=user_id)


async def block(node: PresenceNode, user_id: UserId, other: UserId, *, blocked: bool) -> None:
    await node.app.submit(SetBlock(user_id=other, conversation_id=GROUP, blocked=blocked), topic_id=user_id)


async def belong(node: PresenceNode, user_id: UserId, position: int, *, joined: bool = True) -> None:
    command = RecordMembership(conversation_id=GROUP, epoch=1, position=position, joined=joined)
    await node.app.submit(command, topic_id=user_id)


def test_who_hides_is_offline_for_all_and_sees_nobody() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, ACTIVE)
        async with two.watcher(ALICE, BOB) as log, one.watcher(BOB, ALICE, BOB) as bobs:
            await log.until(BOB, "online", within_s=SOON_S)
            await bobs.until(ALICE, "online", within_s=SOON_S)
            await wish(two, BOB, PresenceVisibility.NOBODY)
            hidden = await log.until(BOB, "offline", within_s=2 * SOON_S)
            await bobs.until(ALICE, "offline", within_s=2 * SOON_S)
            assert bobs.states(BOB)[-1] == "online"
            await wish(two, BOB, PresenceVisibility.EVERYONE)
            await log.until(BOB, "online", within_s=2 * SOON_S)
            await bobs.until(ALICE, "online", within_s=2 * SOON_S)

        assert not hidden.presence.HasField("last_seen_time")

    on_stage(play)


def test_contacts_are_those_who_share_a_conversation_at_that_moment() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        one.session(BOB, ACTIVE)
        await wish(one, BOB, PresenceVisibility.CONTACTS)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "offline", within_s=SOON_S)
            await belong(one, BOB, 1)
            await asyncio.sleep(2 * SOON_S)
            assert log.states(BOB) == ["offline"]
            await belong(one, ALICE, 1)
            await log.until(BOB, "online", within_s=2 * SOON_S)
            assert (await two.presence.reader.list(ALICE, [BOB]))[0].shown.state is PresenceState.ONLINE
            await belong(one, BOB, 2, joined=False)
            await log.until(BOB, "offline", within_s=2 * SOON_S)
            assert (await two.presence.reader.list(ALICE, [BOB]))[0].shown == HIDDEN

    on_stage(play)


def test_who_blocks_and_who_is_blocked_are_offline_for_each_other() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        async with two.watcher(ALICE, BOB) as log, one.watcher(BOB, ALICE) as bobs:
            await log.until(BOB, "online", within_s=2 * SOON_S)
            await bobs.until(ALICE, "online", within_s=2 * SOON_S)
            await block(two, BOB, ALICE, blocked=True)
            await log.until(BOB, "offline", within_s=2 * SOON_S)
            await bobs.until(ALICE, "offline", within_s=2 * SOON_S)
            for asking, about in ((ALICE, BOB), (BOB, ALICE)):
                assert (await one.presence.reader.list(asking, [about]))[0].shown == HIDDEN
            await block(two, BOB, ALICE, blocked=False)
            await log.until(BOB, "online", within_s=2 * SOON_S)

    on_stage(play)


def test_of_whom_is_hidden_nothing_is_told_whatever_they_do() -> None:
    async def play(stage: PresenceStage, one: PresenceNode, two: PresenceNode) -> None:
        await wish(one, BOB, PresenceVisibility.NOBODY)
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "offline", within_s=SOON_S)
            log.forget()
            session = one.session(BOB, ACTIVE)
            await asyncio.sleep(5)
            session.report(INACTIVE)
            await two.presence.status.set(BOB, Status(state=StatusState.AWAY, text="hidden"))
            await asyncio.sleep(5)
            session.close()
            await asyncio.sleep(2 * GRACE_S)

        assert log.news == []

    on_stage(play)


def script_of(seed: int) -> list[str]:
    """Returns 30 things that a user may do on two devices and two nodes."""
    chooser = random.Random(seed)
    return [chooser.choice(("open", "close", "active", "inactive", "text", "wait")) for _ in range(30)]


async def transcript(seed: int, *, is_invisible: bool) -> list[bytes]:
    """Returns what Alice is told of Bob, who becomes invisible and goes on, or signs out; times are left out."""
    stage = PresenceStage()
    async with stage.node("one") as one, stage.node("two") as two:
        first = one.session(BOB, ACTIVE)
        await two.presence.status.set(BOB, Status(text="here"))
        async with two.watcher(ALICE, BOB) as log:
            await log.until(BOB, "online", within_s=2 * SOON_S)
            if is_invisible:
                await one.presence.status.set(BOB, Status(state=StatusState.INVISIBLE, text="here"))
            else:
                await one.presence.status.set(BOB, Status(state=StatusState.ONLINE, text="here"))
                first.close()
            sessions = [first]
            for action in script_of(seed):
                await asyncio.sleep(3)
                if is_invisible:
                    await act(action, sessions, one, two)
            asked = await one.presence.reader.list(ALICE, [BOB])
            async with one.watcher(CAROL, BOB) as other:
                await other.until(BOB, "offline", within_s=SOON_S)
        told = [without_times(update) for update in (*log.updates, *other.updates)]
        return [*told, asked[0].shown.state.value.encode()]


async def act(action: str, sessions: list[TrackedSession], one: PresenceNode, two: PresenceNode) -> None:
    match action:
        case "open":
            sessions.append((one, two)[len(sessions) % 2].session(BOB))
        case "close":
            if sessions:
                sessions.pop().close()
        case "active" | "inactive":
            for session in sessions:
                session.report(ACTIVE if action == "active" else INACTIVE)
        case "text":
            await two.presence.status.set(BOB, Status(state=StatusState.INVISIBLE, text=f"{len(sessions)}"))


def without_times(update: pb.PresenceUpdate) -> bytes:
    for presence in update.presences:
        presence.version = 0
        if presence.HasField("last_seen_time"):
            presence.last_seen_time.FromMilliseconds(1)
    return update.SerializeToString(deterministic=True)


@pytest.mark.parametrize("seed", range(5))
def test_who_is_invisible_is_told_as_who_signed_out_byte_for_byte(seed: int) -> None:
    invisible = run_in_virtual_time(transcript(seed, is_invisible=True))
    signed_out = run_in_virtual_time(transcript(seed, is_invisible=False))

    assert invisible == signed_out
    assert len(invisible) > 5


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
