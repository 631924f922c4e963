"""Who may see whose presence, in virtual time, and that nobody sees more."""

import asyncio
import random

import pytest
from hubbub.presence.v1 import presence_service_pb2 as pb

from hubbub_server.app.track_presence import TrackedSession
from hubbub_server.domain.preferences import PresenceVisibility, Status, StatusState
from hubbub_server.domain.presence import GRACE_S, HIDDEN, Activity, PresenceState
from tests.support.app_node import ALICE, BOB, CAROL
from tests.support.presence_stage import SOON_S, PresenceNode, PresenceStage, belong, block, on_stage, wish
from tests.support.virtual_time import run_in_virtual_time

ACTIVE, INACTIVE = Activity.ACTIVE, Activity.INACTIVE


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
