"""What users want, on nodes: seen everywhere at once, and what it does to others."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import BlockEffects, MembershipEffects
from hubbub_server.app.settings import UserSettings
from hubbub_server.domain.errors import (
    ConversationNotFound,
    InvalidField,
    LimitReached,
    NotPermitted,
    UserNotFound,
)
from hubbub_server.domain.ids import UserId
from hubbub_server.domain.limits import DRAFTS_MAX, TEXT_MAX_CODE_POINTS
from hubbub_server.domain.preferences import (
    ConversationPreferences,
    DoNotDisturbSchedule,
    NotificationLevel,
    Preferences,
    QuietHours,
    Status,
)
from hubbub_server.domain.user_topic import UserTopicState
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, create_group, send
from tests.unit.app.test_conversations import known_users

pytestmark = pytest.mark.asyncio

KEY = b"k" * 32


@asynccontextmanager
async def settings_on(cluster: AppCluster) -> AsyncIterator[tuple[AppNode, UserSettings, Conversations]]:
    accounts = await known_users()
    async with cluster.node() as node:
        memberships = MembershipEffects(node.hub)
        settings = UserSettings(
            hub=node.hub,
            read_states=node.read_states,
            membership_effects=memberships,
            block_effects=BlockEffects(node.hub),
            accounts=accounts,
            id_key=KEY,
        )
        conversations = Conversations(
            hub=node.hub,
            reader=node.reader,
            read_states=node.read_states,
            effects=memberships,
            accounts=accounts,
            id_key=KEY,
        )
        yield node, settings, conversations


async def blocked_of(node: AppNode, user_id: UserId) -> set[UserId]:
    state = (await node.hub.at_head(user_id)).state
    assert isinstance(state, UserTopicState)
    return set(state.blocked)


# ---- preferences


async def test_preferences_are_the_same_on_every_node_at_once() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (_, one, _), settings_on(cluster) as (_, two, _):
        assert await two.preferences(ALICE) == Preferences()
        wanted = Preferences(notification_level=NotificationLevel.NONE, sends_typing=False)
        changed, cursor = await one.update_preferences(ALICE, wanted, ["notification_level"])

        assert changed == await two.preferences(ALICE) == Preferences(notification_level=NotificationLevel.NONE)
        assert (await two.update_preferences(ALICE, wanted, ["notification_level"]))[1] == cursor


HOURS = QuietHours(weekdays=(1,), start_minute=0, duration_minutes=1)


@pytest.mark.parametrize(
    "preferences",
    [
        Preferences(do_not_disturb=DoNotDisturbSchedule(hours=(HOURS,))),
        Preferences(do_not_disturb=DoNotDisturbSchedule(time_zone="Mars/Base")),
        Preferences(do_not_disturb=DoNotDisturbSchedule(time_zone="../etc/passwd")),
        Preferences(do_not_disturb=DoNotDisturbSchedule(time_zone="UTC", hours=(HOURS,) * 15)),
        *(
            Preferences(
                do_not_disturb=DoNotDisturbSchedule(
                    time_zone="UTC",
                    hours=(QuietHours(weekdays=days, start_minute=start, duration_minutes=duration),),
                )
            )
            for days, start, duration in [
                *(((), 0, 1), ((0,), 0, 1), ((8,), 0, 1), ((2, 1), 0, 1), ((1, 1), 0, 1)),
                *(((1,), -1, 1), ((1,), 1440, 1), ((1,), 0, 0), ((1,), 0, 1441)),
            ]
        ),
        Preferences(status=Status(text="x" * 101)),
        Preferences(status=Status(text="a\nb")),
        Preferences(status=Status(emoji="x" * 17)),
        Preferences(status=Status(text="a\u202eb")),
        Preferences(status=Status(emoji="a b")),
        Preferences(status=Status(emoji="\u2066")),
        Preferences(do_not_disturb=DoNotDisturbSchedule(time_zone="localtime")),
    ],
)
async def test_preferences_that_break_their_rules_are_refused(preferences: Preferences) -> None:
    async with settings_on(AppCluster()) as (_, settings, _):
        with pytest.raises(InvalidField, match=r"preferences\.(do_not_disturb|status)"):
            await settings.update_preferences(ALICE, preferences, ["status"])


async def test_preferences_at_their_bounds_are_taken() -> None:
    schedule = DoNotDisturbSchedule(
        time_zone="Europe/Vienna",
        hours=(QuietHours(weekdays=(1, 7), start_minute=1439, duration_minutes=1440),) * 14,
    )
    wanted = Preferences(do_not_disturb=schedule, status=Status(text="می‌خواهم" + "x" * 92, emoji="🏴󠁧󠁢󠁷󠁬󠁳󠁿👩‍🚀" + "x" * 6))
    async with settings_on(AppCluster()) as (_, settings, _):
        assert (await settings.update_preferences(ALICE, wanted, ["do_not_disturb", "status"]))[0] == wanted


async def test_preferences_and_drafts_are_of_conversations_that_one_is_in() -> None:
    async with settings_on(AppCluster()) as (node, settings, conversations):
        await create_group(node, BOB)
        wanted = ConversationPreferences(pinned=True)
        changed, _ = await settings.update_conversation_preferences(BOB, GROUP, wanted, ["pinned"])
        await settings.set_draft(BOB, GROUP, "I th")

        assert changed == (await conversations.get(BOB, GROUP)).preferences == wanted
        assert [(c, draft.text) for c, draft in await settings.list_drafts(BOB)] == [(GROUP, "I th")]
        assert (await conversations.get(ALICE, GROUP)).preferences == ConversationPreferences()
        with pytest.raises(ConversationNotFound):
            await settings.update_conversation_preferences(CAROL, GROUP, wanted, ["pinned"])
        with pytest.raises(ConversationNotFound):
            await settings.set_draft(CAROL, GROUP, "I th")


async def test_drafts_are_bounded_and_newest_first() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations):
        views = [
            await conversations.create_group(
                ALICE, request_id=f"00000000-0000-4000-8000-{number:012d}", title="tea", user_ids=[]
            )
            for number in range(DRAFTS_MAX + 1)
        ]
        for view in views[:DRAFTS_MAX]:
            cluster.clock.advance(1.0)
            await settings.set_draft(ALICE, view.conversation_id, "x")
        drafts = [conversation_id for conversation_id, _ in await settings.list_drafts(ALICE)]
        assert drafts == [view.conversation_id for view in reversed(views[:DRAFTS_MAX])]
        with pytest.raises(LimitReached):
            await settings.set_draft(ALICE, views[DRAFTS_MAX].conversation_id, "x")
        await settings.set_draft(ALICE, views[0].conversation_id, "x" * TEXT_MAX_CODE_POINTS)
        with pytest.raises(InvalidField):
            await settings.set_draft(ALICE, views[0].conversation_id, "x" * (TEXT_MAX_CODE_POINTS + 1))
        with pytest.raises(InvalidField):
            await settings.set_draft(ALICE, views[0].conversation_id, "👩" * TEXT_MAX_CODE_POINTS + "x")


# ---- blocks


async def test_blocked_user_is_refused_from_the_answer_on_until_it_is_taken_back() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (node, settings, conversations), settings_on(cluster) as (other, _, theirs):
        direct = (await conversations.create_direct(ALICE, BOB)).conversation_id
        await settings.block(ALICE, BOB)

        with pytest.raises(NotPermitted):
            await theirs.send(direct, send(BOB, 1))
        await theirs.send(direct, send(ALICE, 2))
        assert await blocked_of(other, ALICE) == {BOB}
        await settings.unblock(ALICE, BOB)
        await theirs.send(direct, send(BOB, 1))
        assert await blocked_of(node, ALICE) == set()


async def test_blocking_again_writes_nothing() -> None:
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations):
        direct = (await conversations.create_direct(ALICE, BOB)).conversation_id
        first = await settings.block(ALICE, BOB)
        events = len(cluster.events(direct))

        assert await settings.block(ALICE, BOB) == first
        await settings.unblock(ALICE, CAROL)
        assert len(cluster.events(direct)) == events
        assert len(cluster.events(ALICE)) == first.position


async def test_block_of_a_stranger_refuses_the_conversation_that_they_would_begin() -> None:
    """And hides it: nothing is in the stranger's list."""
    cluster = AppCluster()
    async with settings_on(cluster) as (_, settings, conversations):
        await settings.block(ALICE, BOB)

        with pytest.raises(NotPermitted):
            await conversations.create_direct(BOB, ALICE)
        for user_id in (ALICE, BOB):
            assert (await conversations.list(user_id, page_size=0, page_token=""))[0] == []
        direct = (await conversations.create_direct(ALICE, BOB)).conversation_id
        with pytest.raises(NotPermitted):
            await conversations.send(direct, send(BOB, 1))


@pytest.mark.parametrize(("user_id", "error"), [(ALICE, InvalidField), ("uzoe", UserNotFound), ("x", UserNotFound)])
async def test_only_other_users_that_exist_are_blocked(user_id: str, error: type[Exception]) -> None:
    async with settings_on(AppCluster()) as (_, settings, _):
        with pytest.raises(error):
            await settings.block(ALICE, user_id)


async def test_blocked_users_are_listed_in_pages_newest_first() -> None:
    async with settings_on(AppCluster()) as (_, settings, _):
        await settings.block(ALICE, BOB)
        await settings.block(ALICE, CAROL)
        first, token = await settings.list_blocked(ALICE, page_size=1, page_token="")
        second, end = await settings.list_blocked(ALICE, page_size=1, page_token=token)

        assert (first, second, end) == ([CAROL], [BOB], "")
