"""What a user sets comes to the user's other devices as an event with the whole new value, and has its limit."""

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from hubbub.chat.v1 import event_pb2
from hubbub.chat.v1 import marker_service_pb2 as marker
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.conversation.v1 import read_state_pb2
from hubbub.presence.v1 import presence_service_pb2 as presence
from hubbub.user.v1 import preferences_pb2
from hubbub.user.v1 import settings_service_pb2 as settings

from hubbub_server.domain.limits import DRAFTS_MAX, PINNED_MAX
from tests.support.live_client import LiveClient, reason_of, status_of_error
from tests.support.node import Node, NodeCluster, RpcClient

pytestmark = pytest.mark.asyncio

FOR_EVER = Timestamp(seconds=253_402_300_799)


class Owner:
    """A user with a group, and who else is there."""

    def __init__(self, client: RpcClient, token: str, user_id: str, other_id: str) -> None:
        self.client, self.token, self.user_id, self.other_id = client, token, user_id, other_id
        self.group_id = ""

    async def call(self, method: Callable[..., Awaitable[Any]], request: object) -> Any:
        """Calls as this user."""
        return await method(request, metadata=self.client.auth)

    async def group(self) -> str:
        """Makes one more group."""
        request = conversation.CreateConversationRequest(
            request_id=str(uuid.uuid4()), group=conversation.GroupSpec(title="tea")
        )
        made = await self.call(self.client.conversations.CreateConversation, request)
        group_id: str = made.view.conversation.conversation_id
        return group_id

    async def pin(self, group_id: str, *, pinned: bool = True) -> None:
        """Pins a conversation."""
        request = settings.UpdateConversationPreferencesRequest(
            conversation_id=group_id,
            preferences=read_state_pb2.ConversationPreferences(pinned=pinned),
            update_mask=FieldMask(paths=["pinned"]),
        )
        await self.call(self.client.settings.UpdateConversationPreferences, request)

    async def draft(self, group_id: str, text: str) -> None:
        """Keeps a draft."""
        request = settings.SetDraftRequest(conversation_id=group_id, text=text)
        await self.call(self.client.settings.SetDraft, request)


@pytest_asyncio.fixture
async def owner(cluster: NodeCluster, node: Node) -> Owner:
    alice, bob = await cluster.sign_up("alice"), await cluster.sign_up("bob")
    one = Owner(node.client(alice.access_token), alice.access_token, alice.user_id, bob.user_id)
    one.group_id = await one.group()
    return one


Change = Callable[[Owner], Awaitable[event_pb2.Event]]


async def _preferences(owner: Owner) -> event_pb2.Event:
    wanted = preferences_pb2.Preferences(
        notification_level=read_state_pb2.NOTIFICATION_LEVEL_MENTIONS,
        do_not_disturb=preferences_pb2.DoNotDisturbSchedule(
            time_zone="Europe/Vienna",
            hours=[preferences_pb2.QuietHours(weekdays=[1, 7], start_minute=1_439, duration_minutes=1_440)] * 14,
        ),
        sends_typing=True,
        presence_visibility=preferences_pb2.PRESENCE_VISIBILITY_NOBODY,
        status=preferences_pb2.Status(state=preferences_pb2.STATUS_STATE_DO_NOT_DISTURB, expire_time=FOR_EVER),
    )
    request = settings.UpdatePreferencesRequest(preferences=wanted, update_mask=FieldMask(paths=["*"]))
    await owner.call(owner.client.settings.UpdatePreferences, request)
    return event_pb2.Event(preferences_changed=event_pb2.PreferencesChanged(preferences=wanted))


async def _of_conversation(owner: Owner) -> event_pb2.Event:
    wanted = read_state_pb2.ConversationPreferences(
        mute_end_time=FOR_EVER,
        notification_level=read_state_pb2.NOTIFICATION_LEVEL_NONE,
        pinned=True,
        archived=True,
    )
    request = settings.UpdateConversationPreferencesRequest(
        conversation_id=owner.group_id, preferences=wanted, update_mask=FieldMask(paths=["*"])
    )
    await owner.call(owner.client.settings.UpdateConversationPreferences, request)
    changed = event_pb2.ConversationPreferencesChanged(conversation_id=owner.group_id, preferences=wanted)
    return event_pb2.Event(conversation_preferences_changed=changed)


async def _draft(owner: Owner) -> event_pb2.Event:
    await owner.draft(owner.group_id, "I th")
    return event_pb2.Event(draft_changed=event_pb2.DraftChanged(conversation_id=owner.group_id, text="I th"))


async def _draft_over(owner: Owner) -> event_pb2.Event:
    await owner.draft(owner.group_id, "I th")
    await owner.draft(owner.group_id, "")
    return event_pb2.Event(draft_changed=event_pb2.DraftChanged(conversation_id=owner.group_id))


async def _unread(owner: Owner) -> event_pb2.Event:
    await owner.call(owner.client.markers.MarkUnread, marker.MarkUnreadRequest(conversation_id=owner.group_id))
    marked = event_pb2.ConversationMarkedUnread(conversation_id=owner.group_id)
    return event_pb2.Event(conversation_marked_unread=marked)


async def _block(owner: Owner) -> event_pb2.Event:
    await owner.call(owner.client.settings.BlockUser, settings.BlockUserRequest(user_id=owner.other_id))
    return event_pb2.Event(user_blocked=event_pb2.UserBlocked(user_id=owner.other_id))


async def _unblock(owner: Owner) -> event_pb2.Event:
    await _block(owner)
    await owner.call(owner.client.settings.UnblockUser, settings.UnblockUserRequest(user_id=owner.other_id))
    return event_pb2.Event(user_unblocked=event_pb2.UserUnblocked(user_id=owner.other_id))


@pytest.mark.parametrize(
    "change",
    [_preferences, _of_conversation, _draft, _draft_over, _unread, _block, _unblock],
    ids=["preferences", "of a conversation", "draft", "draft over", "unread", "block", "unblock"],
)
async def test_change_comes_to_other_devices_as_an_event_of_the_own_topic(
    cluster: NodeCluster, owner: Owner, change: Change
) -> None:
    """The device hangs on another node."""
    async with cluster.node() as other:
        device = await LiveClient.connect(other.client(owner.token))
        expected = await change(owner)
        kind = expected.WhichOneof("kind")
        assert kind is not None

        def is_it(event: event_pb2.Event) -> bool:
            told = getattr(event, kind)
            if kind in ("user_blocked", "user_unblocked"):
                assert told.conversation_id
                told.conversation_id = ""
            return event.topic_id == owner.user_id and told == getattr(expected, kind)

        await device.expect(lambda frame: any(e.WhichOneof("kind") == kind and is_it(e) for e in frame.events))


async def _reason(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(status_of_error(error))
    return ""


@pytest.mark.parametrize(
    "time",
    [Timestamp(seconds=10**15), Timestamp(seconds=-(10**15)), Timestamp(nanos=10**9), Timestamp(nanos=-1)],
    ids=["late", "early", "nanos", "negative nanos"],
)
async def test_time_that_is_none_is_refused_wherever_it_is_given(owner: Owner, time: Timestamp) -> None:
    """It would be stored, and no JSON of the user's preferences could be made any more."""
    status = preferences_pb2.Status(expire_time=time)
    calls: list[tuple[Callable[..., Awaitable[Any]], object]] = [
        (
            owner.client.presence.SetPresence,
            presence.SetPresenceRequest(presence=presence.ManualPresence(expire_time=time)),
        ),
        (
            owner.client.settings.UpdatePreferences,
            settings.UpdatePreferencesRequest(
                preferences=preferences_pb2.Preferences(status=status), update_mask=FieldMask(paths=["status"])
            ),
        ),
        (
            owner.client.settings.UpdateConversationPreferences,
            settings.UpdateConversationPreferencesRequest(
                conversation_id=owner.group_id,
                preferences=read_state_pb2.ConversationPreferences(mute_end_time=time),
                update_mask=FieldMask(paths=["mute_end_time"]),
            ),
        ),
    ]
    assert [await _reason(owner.call(method, request)) for method, request in calls] == ["INVALID_FIELD"] * 3


async def test_what_the_mask_does_not_name_is_not_looked_at(owner: Owner) -> None:
    """Who reads all, changes one field and names it meets no rule that came, or differs, with another version."""
    wanted = preferences_pb2.Preferences(
        notification_level=read_state_pb2.NOTIFICATION_LEVEL_MENTIONS,
        do_not_disturb=preferences_pb2.DoNotDisturbSchedule(time_zone="Mars/Base"),
        status=preferences_pb2.Status(state=77, text="x" * 101),  # type: ignore[arg-type]  # of a newer client
    )
    request = settings.UpdatePreferencesRequest(
        preferences=wanted, update_mask=FieldMask(paths=["notification_level", "sends_typing"])
    )
    changed = (await owner.call(owner.client.settings.UpdatePreferences, request)).preferences

    assert changed.notification_level == wanted.notification_level
    assert changed.sends_read_receipts
    assert not changed.sends_typing
    assert not changed.do_not_disturb.time_zone
    assert not changed.status.text


async def test_at_most_20_conversations_are_pinned(owner: Owner) -> None:
    groups = [await owner.group() for _ in range(PINNED_MAX + 1)]
    for group_id in groups[:PINNED_MAX]:
        await owner.pin(group_id)

    assert await _reason(owner.pin(groups[PINNED_MAX])) == "LIMIT_REACHED"
    assert await _reason(owner.pin(groups[0])) == ""
    await owner.pin(groups[0], pinned=False)
    assert await _reason(owner.pin(groups[PINNED_MAX])) == ""


async def test_at_most_50_drafts_are_kept(owner: Owner) -> None:
    groups = [await owner.group() for _ in range(DRAFTS_MAX + 1)]
    for group_id in groups[:DRAFTS_MAX]:
        await owner.draft(group_id, "x")

    assert await _reason(owner.draft(groups[DRAFTS_MAX], "x")) == "LIMIT_REACHED"
    assert await _reason(owner.draft(groups[0], "y")) == ""
    await owner.draft(groups[0], "")
    assert await _reason(owner.draft(groups[DRAFTS_MAX], "x")) == ""
