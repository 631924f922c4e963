"""Streams of watchers, in virtual time: how much they are told, whom they watch, how they end."""

import asyncio

import pytest

from hubbub_server.app.watch_presence import FRAME_INTERVAL_S, SIGN_OF_LIFE_S, WatchCommand
from hubbub_server.domain.errors import CredentialsExpired, InvalidField, NodeDraining
from hubbub_server.domain.presence import CHANGES_AT_ONCE, GRACE_S, WATCHED_MAX, Activity
from tests.support.app_node import ALICE, BOB, CAROL
from tests.support.presence_stage import SOON_S, PresenceNode, PresenceStage, on_stage, user

ACTIVE, INACTIVE = Activity.ACTIVE, Activity.INACTIVE


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
