"""Markers, mentions and settings over the wire: unary and in-band alike, and heard by the user's other devices."""

import uuid
from collections.abc import Awaitable

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as marker
from hubbub.conversation.v1 import conversation_pb2, message_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.user.v1 import preferences_pb2
from hubbub.user.v1 import settings_service_pb2 as settings

from tests.support.live_client import LiveClient, reason_of, status_of_error, text_message
from tests.support.node import Node, NodeCluster, RpcClient

pytestmark = pytest.mark.asyncio


class Pair:
    """Alice and Bob in a group, with two messages of Alice's; the second mentions Bob."""

    def __init__(self, alice: RpcClient, bob: RpcClient, group_id: str, alice_id: str, bob_id: str) -> None:
        self.alice, self.bob, self.group_id = alice, bob, group_id
        self.alice_id, self.bob_id = alice_id, bob_id

    async def view(self, client: RpcClient) -> conversation.ConversationView:
        """Returns the group as somebody sees it."""
        request = conversation.GetConversationRequest(conversation_id=self.group_id)
        return (await client.conversations.GetConversation(request, metadata=client.auth)).view


def mentioning(conversation_id: str, user_id: str) -> frame_pb2.SendMessageRequest:
    request = text_message(conversation_id)
    request.content.text.text = "@bob hello"
    request.content.text.entities.add(length=4, user_mention=message_pb2.UserMention(user_id=user_id))
    return request


@pytest_asyncio.fixture
async def pair(cluster: NodeCluster, node: Node) -> Pair:
    people = {name: await cluster.sign_up(name) for name in ("alice", "bob")}
    alice, bob = (node.client(people[name].access_token) for name in ("alice", "bob"))
    spec = conversation.GroupSpec(title="group", user_ids=[people["bob"].user_id])
    created = await alice.conversations.CreateConversation(
        conversation.CreateConversationRequest(request_id=str(uuid.uuid4()), group=spec), metadata=alice.auth
    )
    group_id = created.view.conversation.conversation_id
    await alice.chat.SendMessage(text_message(group_id), metadata=alice.auth)
    await alice.chat.SendMessage(mentioning(group_id, people["bob"].user_id), metadata=alice.auth)
    return Pair(alice, bob, group_id, people["alice"].user_id, people["bob"].user_id)


async def test_mark_read_in_band_is_answered_like_the_unary_call_and_heard_by_other_devices(pair: Pair) -> None:
    """C26: what the sender of the messages gets is no event, and once."""
    phone, laptop = await LiveClient.connect(pair.bob), await LiveClient.connect(pair.bob)
    alice = await LiveClient.connect(pair.alice)
    read = frame_pb2.MarkReadRequest(conversation_id=pair.group_id, message_number=2)
    await phone.command(frame_pb2.Command(request_id="1", mark_read=read))
    answer = (await phone.answer("1")).reply.mark_read
    unary = await pair.bob.markers.MarkRead(read, metadata=pair.bob.auth)
    await laptop.expect(lambda frame: len(frame.events) > 0)

    assert answer == unary
    assert answer.marker == read_state_pb2.ReadMarker(epoch=1, message_number=2, counted_number=2)
    (event,) = laptop.events
    assert event.topic_id == pair.bob_id
    assert event.position == answer.cursor.position
    assert event.read_marker_moved.marker == answer.marker
    await alice.expect(lambda frame: len(frame.signals) > 0)
    (signal,) = alice.signals
    assert (signal.conversation_id, signal.user_id, signal.read_marker.message_number) == (
        pair.group_id,
        pair.bob_id,
        2,
    )
    assert alice.events == []


async def test_mark_delivered_in_band_is_answered_like_the_unary_call_and_heard_by_others(pair: Pair) -> None:
    phone, laptop = await LiveClient.connect(pair.bob), await LiveClient.connect(pair.bob)
    alice = await LiveClient.connect(pair.alice)
    received = frame_pb2.MarkDeliveredRequest(conversation_id=pair.group_id, message_number=2)
    await phone.command(frame_pb2.Command(request_id="1", mark_delivered=received))
    answer = (await phone.answer("1")).reply.mark_delivered
    assert answer == await pair.bob.markers.MarkDelivered(received, metadata=pair.bob.auth)
    await laptop.expect(lambda frame: len(frame.events) > 0)

    (event,) = laptop.events
    moved = event.delivered_marker_moved
    assert (event.topic_id, event.position) == (pair.bob_id, answer.cursor.position)
    assert (moved.conversation_id, moved.epoch, moved.message_number) == (pair.group_id, 1, answer.message_number)
    assert answer.message_number == 2
    await alice.expect(lambda frame: len(frame.signals) > 0)
    (signal,) = alice.signals
    assert (signal.user_id, signal.delivered_marker.message_number) == (pair.bob_id, 2)
    assert (await pair.view(pair.bob)).read_state.unread_count == 2


async def test_views_and_counters_tell_the_same(pair: Pair) -> None:
    view, of_alice = await pair.view(pair.bob), await pair.view(pair.alice)
    counters = await pair.bob.markers.GetCounters(marker.GetCountersRequest(), metadata=pair.bob.auth)
    listed = await pair.bob.conversations.ListConversations(
        conversation.ListConversationsRequest(), metadata=pair.bob.auth
    )

    assert (view.read_state.unread_count, view.read_state.mention_count) == (2, 1)
    assert (of_alice.read_state.unread_count, of_alice.read_state.mention_count) == (0, 0)
    assert view.conversation.receipts_mode == read_state_pb2.RECEIPTS_MODE_FULL
    assert [each.read_state for each in counters.counters] == [view.read_state]
    assert counters.counters[0].position == view.head.cursor.position
    assert (counters.badge_count, counters.mention_count) == (2, 1)
    assert listed.views[0].read_state == view.read_state


async def test_entities_come_back_as_they_were_sent(pair: Pair) -> None:
    mentions = await pair.bob.markers.ListMentions(
        marker.ListMentionsRequest(conversation_id=pair.group_id), metadata=pair.bob.auth
    )

    (message,) = mentions.messages
    assert message.message_number == 2
    assert message.content == mentioning(pair.group_id, pair.bob_id).content
    assert mentions.next_before_number == 0


async def test_own_mentions_come_from_all_conversations_in_pages(pair: Pair) -> None:
    bob = pair.bob
    spec = conversation.DirectSpec(user_id=pair.bob_id)
    made = await pair.alice.conversations.CreateConversation(
        conversation.CreateConversationRequest(direct=spec), metadata=pair.alice.auth
    )
    direct_id = made.view.conversation.conversation_id
    await pair.alice.chat.SendMessage(mentioning(direct_id, pair.bob_id), metadata=pair.alice.auth)
    whole = await bob.markers.ListMyMentions(marker.ListMyMentionsRequest(), metadata=bob.auth)
    first = await bob.markers.ListMyMentions(marker.ListMyMentionsRequest(page_size=1), metadata=bob.auth)
    rest = await bob.markers.ListMyMentions(
        marker.ListMyMentionsRequest(page_size=1, page_token=first.next_page_token), metadata=bob.auth
    )

    assert {each.conversation_id for each in whole.mentions} == {direct_id, pair.group_id}
    assert [*first.mentions, *rest.mentions] == list(whole.mentions)
    assert (whole.next_page_token, rest.next_page_token) == ("", "")
    for each in whole.mentions:
        request = history.GetMessageRequest(
            conversation_id=each.conversation_id, message_number=each.message.message_number
        )
        assert (await bob.history.GetMessage(request, metadata=bob.auth)).message == each.message
    of_alice = await pair.alice.markers.ListMyMentions(marker.ListMyMentionsRequest(), metadata=pair.alice.auth)
    assert list(of_alice.mentions) == []
    call = pair.alice.markers.ListMyMentions(
        marker.ListMyMentionsRequest(page_token=first.next_page_token), metadata=pair.alice.auth
    )
    assert await _reason(call) == "INVALID_FIELD page_token"
    call = bob.markers.ListMyMentions(marker.ListMyMentionsRequest(page_size=-1), metadata=bob.auth)
    assert await _reason(call) == "INVALID_FIELD page_size"


async def test_marked_unread_until_it_is_read(pair: Pair) -> None:
    read = frame_pb2.MarkReadRequest(conversation_id=pair.group_id, message_number=2)
    await pair.bob.markers.MarkRead(read, metadata=pair.bob.auth)
    marked = await pair.bob.markers.MarkUnread(
        marker.MarkUnreadRequest(conversation_id=pair.group_id), metadata=pair.bob.auth
    )
    late = await pair.bob.markers.MarkRead(read, metadata=pair.bob.auth)
    assert late.unread_mark_position == marked.unread_mark_position > 0

    read.unread_mark_position = marked.unread_mark_position
    seen = await pair.bob.markers.MarkRead(read, metadata=pair.bob.auth)
    assert seen.unread_mark_position == 0
    assert (await pair.view(pair.bob)).read_state.unread_mark_position == 0


async def test_receipts_come_from_what_is_stored(pair: Pair, cluster: NodeCluster) -> None:
    read = frame_pb2.MarkReadRequest(conversation_id=pair.group_id, message_number=1)
    await pair.bob.markers.MarkRead(read, metadata=pair.bob.auth)
    await cluster.project()
    markers = await pair.alice.markers.ListMarkers(
        marker.ListMarkersRequest(conversation_id=pair.group_id), metadata=pair.alice.auth
    )
    readers = await pair.alice.markers.ListReaders(
        marker.ListReadersRequest(conversation_id=pair.group_id, message_number=1), metadata=pair.alice.auth
    )

    assert list(markers.markers) == [marker.MemberMarker(user_id=pair.bob_id, message_number=1, delivered_number=1)]
    assert (list(readers.user_ids), readers.reader_count) == ([pair.bob_id], 1)
    assert readers.receipts_mode == read_state_pb2.RECEIPTS_MODE_FULL


async def test_group_that_limits_receipts_says_so_to_all_its_members(pair: Pair) -> None:
    live = await LiveClient.connect(pair.bob)
    limit = conversation_pb2.ConversationSettings(receipts_limit=read_state_pb2.RECEIPTS_MODE_COUNT_ONLY)
    request = conversation.UpdateConversationRequest(
        conversation_id=pair.group_id, settings=limit, update_mask=FieldMask(paths=["receipts_limit"])
    )
    updated = await pair.alice.conversations.UpdateConversation(request, metadata=pair.alice.auth)
    await live.expect(lambda frame: len(frame.events) > 0)

    (event,) = live.events
    assert (event.topic_id, event.position, event.actor_id) == (pair.group_id, updated.cursor.position, pair.alice_id)
    assert event.conversation_settings_changed.settings == updated.settings == limit
    view = (await pair.view(pair.bob)).conversation
    assert (view.settings, view.receipts_mode) == (limit, read_state_pb2.RECEIPTS_MODE_COUNT_ONLY)
    listed = pair.bob.markers.ListMarkers(
        marker.ListMarkersRequest(conversation_id=pair.group_id), metadata=pair.bob.auth
    )
    assert await _reason(listed) == "CONVERSATION_STATE"


@pytest.mark.parametrize(
    ("paths", "limit", "field"),
    [([], 1, "update_mask"), (["title"], 1, "update_mask"), (["receipts_limit"], 9, "settings.receipts_limit")],
)
async def test_settings_that_are_none_are_refused(pair: Pair, paths: list[str], limit: int, field: str) -> None:
    settings_pb = conversation_pb2.ConversationSettings(receipts_limit=limit)  # type: ignore[arg-type]  # any number
    request = conversation.UpdateConversationRequest(
        conversation_id=pair.group_id, settings=settings_pb, update_mask=FieldMask(paths=paths)
    )
    call = pair.alice.conversations.UpdateConversation(request, metadata=pair.alice.auth)
    assert await _reason(call) == f"INVALID_FIELD {field}"


# ---- settings


async def test_settings_come_back_and_reach_other_devices(pair: Pair) -> None:
    live = await LiveClient.connect(pair.bob)
    wanted = preferences_pb2.Preferences(
        notification_level=read_state_pb2.NOTIFICATION_LEVEL_MENTIONS,
        do_not_disturb=preferences_pb2.DoNotDisturbSchedule(
            time_zone="Europe/Vienna",
            hours=[preferences_pb2.QuietHours(weekdays=[1, 7], start_minute=1_320, duration_minutes=540)],
        ),
        presence_visibility=preferences_pb2.PRESENCE_VISIBILITY_CONTACTS,
        status=preferences_pb2.Status(
            state=preferences_pb2.STATUS_STATE_AWAY, text="on the train", emoji="🚆", expire_time=Timestamp(seconds=9)
        ),
    )
    request = settings.UpdatePreferencesRequest(preferences=wanted, update_mask=FieldMask(paths=["*"]))
    updated = await pair.bob.settings.UpdatePreferences(request, metadata=pair.bob.auth)
    got = await pair.bob.settings.GetPreferences(settings.GetPreferencesRequest(), metadata=pair.bob.auth)
    await live.expect(lambda frame: len(frame.events) > 0)

    assert updated.preferences == got.preferences == wanted
    assert live.events[0].preferences_changed.preferences == wanted


async def test_preferences_of_a_conversation_and_drafts_come_back(pair: Pair) -> None:
    wanted = read_state_pb2.ConversationPreferences(
        mute_end_time=Timestamp(seconds=253_402_300_799), pinned=True, archived=True
    )
    updated = await pair.bob.settings.UpdateConversationPreferences(
        settings.UpdateConversationPreferencesRequest(
            conversation_id=pair.group_id,
            preferences=wanted,
            update_mask=FieldMask(paths=["mute_end_time", "pinned", "archived"]),
        ),
        metadata=pair.bob.auth,
    )
    await pair.bob.settings.SetDraft(
        settings.SetDraftRequest(conversation_id=pair.group_id, text="I th"), metadata=pair.bob.auth
    )
    drafts = await pair.bob.settings.ListDrafts(settings.ListDraftsRequest(), metadata=pair.bob.auth)
    counters = await pair.bob.markers.GetCounters(marker.GetCountersRequest(), metadata=pair.bob.auth)

    assert updated.preferences == wanted == (await pair.view(pair.bob)).preferences
    assert [(each.conversation_id, each.text) for each in drafts.drafts] == [(pair.group_id, "I th")]
    assert (counters.badge_count, counters.counters[0].read_state.unread_count) == (0, 2)


async def test_blocked_user_is_refused_unary_and_in_band(pair: Pair) -> None:
    created = await pair.bob.conversations.CreateConversation(
        conversation.CreateConversationRequest(direct=conversation.DirectSpec(user_id=pair.alice_id)),
        metadata=pair.bob.auth,
    )
    direct_id = created.view.conversation.conversation_id
    live = await LiveClient.connect(pair.bob)
    await pair.alice.settings.BlockUser(settings.BlockUserRequest(user_id=pair.bob_id), metadata=pair.alice.auth)
    blocked = await pair.alice.settings.ListBlockedUsers(settings.ListBlockedUsersRequest(), metadata=pair.alice.auth)
    await live.command(frame_pb2.Command(request_id="1", send_message=text_message(direct_id)))

    assert list(blocked.user_ids) == [pair.bob_id]
    assert reason_of((await live.answer("1")).rejected.status) == "NOT_PERMITTED"
    assert await _reason(pair.bob.chat.SendMessage(text_message(direct_id), metadata=pair.bob.auth)) == "NOT_PERMITTED"
    await pair.alice.chat.SendMessage(text_message(direct_id), metadata=pair.alice.auth)
    await pair.bob.chat.SendMessage(text_message(pair.group_id), metadata=pair.bob.auth)
    await pair.alice.settings.UnblockUser(settings.UnblockUserRequest(user_id=pair.bob_id), metadata=pair.alice.auth)
    await pair.bob.chat.SendMessage(text_message(direct_id), metadata=pair.bob.auth)


# ---- what may be wrong


async def _reason(call: Awaitable[object]) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = status_of_error(error)
        bad = error_details_pb2.BadRequest()
        fields = [v.field for detail in status.details if detail.Unpack(bad) for v in bad.field_violations]
        return " ".join([reason_of(status), *fields])
    return ""


def _entity(**changes: int) -> message_pb2.TextEntity:
    return message_pb2.TextEntity(**{"start": 0, "length": 1} | changes, code=message_pb2.Code())  # type: ignore[arg-type]  # numbers


async def test_bad_requests_name_the_field(pair: Pair) -> None:
    bob, group_id = pair.bob, pair.group_id

    def send(*entities: message_pb2.TextEntity) -> Awaitable[object]:
        request = text_message(group_id)
        request.content.text.entities.extend(entities)
        return bob.chat.SendMessage(request, metadata=bob.auth)

    def mark(**fields: int) -> Awaitable[object]:
        return bob.markers.MarkRead(
            frame_pb2.MarkReadRequest(conversation_id=group_id, **fields),
            metadata=bob.auth,
        )

    def update(preferences: preferences_pb2.Preferences, *paths: str) -> Awaitable[object]:
        request = settings.UpdatePreferencesRequest(preferences=preferences, update_mask=FieldMask(paths=paths))
        return bob.settings.UpdatePreferences(request, metadata=bob.auth)

    unknown_level = preferences_pb2.Preferences(notification_level=99)  # type: ignore[arg-type]  # of a newer version
    bad_time = preferences_pb2.Preferences(status=preferences_pb2.Status(expire_time=Timestamp(seconds=2**60)))
    empty = preferences_pb2.Preferences()
    outcomes = {
        "INVALID_FIELD content.text.entities[0].start": send(_entity(start=-1)),
        "INVALID_FIELD content.text.entities[1].start": send(_entity(), _entity()),
        "INVALID_FIELD content.text.entities[0].length": send(_entity(length=9_000)),
        "INVALID_FIELD content.text.entities[0].kind": send(message_pb2.TextEntity(length=1)),
        "INVALID_FIELD message_number": mark(message_number=0),
        "INVALID_FIELD unread_mark_position": mark(message_number=1, unread_mark_position=-1),
        "MESSAGE_NOT_FOUND": mark(message_number=3),
        "INVALID_FIELD message_number ": bob.markers.MarkDelivered(
            frame_pb2.MarkDeliveredRequest(conversation_id=group_id), metadata=bob.auth
        ),
        "MESSAGE_NOT_FOUND ": bob.markers.MarkDelivered(
            frame_pb2.MarkDeliveredRequest(conversation_id=group_id, message_number=3), metadata=bob.auth
        ),
        "INVALID_FIELD update_mask": update(empty),
        "INVALID_FIELD update_mask ": update(empty, "status.text"),
        "INVALID_FIELD preferences.notification_level": update(unknown_level, "notification_level"),
        "INVALID_FIELD preferences.status.expire_time": update(bad_time, "status"),
        "INVALID_FIELD user_id": bob.settings.BlockUser(
            settings.BlockUserRequest(user_id=pair.bob_id), metadata=bob.auth
        ),
        "INVALID_FIELD page_size": bob.markers.ListMentions(
            marker.ListMentionsRequest(conversation_id=group_id, page_size=-1), metadata=bob.auth
        ),
        "INVALID_FIELD before_number": bob.markers.ListMentions(
            marker.ListMentionsRequest(conversation_id=group_id, before_number=-1), metadata=bob.auth
        ),
        "INVALID_FIELD page_token": bob.settings.ListBlockedUsers(
            settings.ListBlockedUsersRequest(page_token="made up"),  # no secret
            metadata=bob.auth,
        ),
        "INVALID_FIELD text": bob.settings.SetDraft(
            settings.SetDraftRequest(conversation_id=group_id, text="x" * 8_001), metadata=bob.auth
        ),
    }

    assert [await _reason(call) for call in outcomes.values()] == [name.rstrip() for name in outcomes]


async def test_cursor_of_an_answer_is_of_the_own_topic(pair: Pair) -> None:
    draft = await pair.bob.settings.SetDraft(
        settings.SetDraftRequest(conversation_id=pair.group_id, text="I th"), metadata=pair.bob.auth
    )

    assert draft.cursor == conversation_pb2.Cursor(topic_id=pair.bob_id, epoch=1, position=2)
