"""Turns the contract's messages into values, one way."""

from datetime import UTC, datetime

from google.protobuf import timestamp_pb2
from hubbub.auth.v1 import auth_service_pb2 as auth_pb
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb
from hubbub.history.v1 import history_service_pb2 as history_pb
from hubbub.user.v1 import user_service_pb2 as users_pb

from hubbub_client import events, model
from hubbub_client.wire_entities import read_entities
from hubbub_client.wire_kept import (
    read_conversation_preferences,
    read_conversation_settings,
    read_marker,
    read_mode,
    read_preferences,
    read_read_state,
)

_KINDS = {
    conversation_pb2.CONVERSATION_KIND_DIRECT: model.ConversationKind.DIRECT,
    conversation_pb2.CONVERSATION_KIND_GROUP: model.ConversationKind.GROUP,
}
_ROLES = {
    conversation_pb2.MEMBER_ROLE_OWNER: model.MemberRole.OWNER,
    conversation_pb2.MEMBER_ROLE_ADMIN: model.MemberRole.ADMIN,
}


_TYPING = {
    frame_pb2.TYPING_KIND_TEXT: model.TypingKind.TEXT,
    frame_pb2.TYPING_KIND_RECORDING: model.TypingKind.RECORDING,
    frame_pb2.TYPING_KIND_UPLOADING: model.TypingKind.UPLOADING,
}
_TYPING_TO_PB = {kind: pb for pb, kind in _TYPING.items()}


def read_typing_kind(pb: frame_pb2.TypingKind.ValueType) -> model.TypingKind:
    """Returns what a user makes; an unknown kind reads as TEXT."""
    return _TYPING.get(pb, model.TypingKind.TEXT)


def write_typing_kind(kind: model.TypingKind) -> frame_pb2.TypingKind.ValueType:
    """Returns the message for what a user makes."""
    return _TYPING_TO_PB[kind]


def read_time(stamp: timestamp_pb2.Timestamp) -> datetime:
    """Returns an aware UTC time."""
    return stamp.ToDatetime(tzinfo=UTC)


def read_cursor(pb: conversation_pb2.Cursor) -> model.Cursor:
    """Returns a place in a topic."""
    return model.Cursor(pb.topic_id, pb.epoch, pb.position)


def write_cursor(cursor: model.Cursor) -> conversation_pb2.Cursor:
    """Returns the message for a place in a topic."""
    return conversation_pb2.Cursor(topic_id=cursor.topic_id, epoch=cursor.epoch, position=cursor.position)


def read_head(pb: conversation_pb2.TopicHead) -> model.TopicHead:
    """Returns the head of a topic."""
    return model.TopicHead(
        cursor=read_cursor(pb.cursor),
        last_message_number=pb.last_message_number,
        last_counted_number=pb.last_counted_number,
    )


def read_member(pb: conversation_pb2.Member) -> model.Member:
    """Returns a member; an unknown role reads as MEMBER."""
    role = _ROLES.get(pb.role, model.MemberRole.MEMBER)
    return model.Member(user_id=pb.user_id, role=role, join_position=pb.join_position)


def read_message(
    conversation_id: str, pb: message_pb2.Message, commit_time: timestamp_pb2.Timestamp | None = None
) -> model.Message:
    """Returns a message; `commit_time` is the event's when it came with one, where the message itself has none."""
    return model.Message(
        conversation_id=conversation_id,
        message_number=pb.message_number,
        counted_number=pb.counted_number,
        sender_id=pb.sender_id,
        client_message_id=pb.client_message_id,
        text=pb.content.text.text if pb.content.HasField("text") else pb.content.fallback_text,
        commit_time=read_time(commit_time or pb.commit_time),
        client_time=read_time(pb.client_time) if pb.HasField("client_time") else None,
        change_position=pb.change_position,
        deleted=pb.HasField("delete_time"),
        entities=read_entities(pb.content.text.entities),
    )


def read_conversation(pb: conversations_pb.ConversationView) -> model.Conversation:
    """Returns a conversation as the caller sees it."""
    conversation_id = pb.conversation.conversation_id
    return model.Conversation(
        conversation_id=conversation_id,
        kind=_KINDS.get(pb.conversation.kind, model.ConversationKind.UNKNOWN),
        title=pb.conversation.title,
        member_count=pb.conversation.member_count,
        membership=read_member(pb.membership),
        head=read_head(pb.head),
        last_message=read_message(conversation_id, pb.last_message) if pb.HasField("last_message") else None,
        receipts_mode=read_mode(pb.conversation.receipts_mode),
        read_state=read_read_state(pb.read_state),
        preferences=read_conversation_preferences(pb.preferences),
        settings=read_conversation_settings(pb.conversation.settings),
    )


def read_page(conversation_id: str, pb: history_pb.ListMessagesResponse) -> model.MessagePage:
    """Returns a page of messages."""
    return model.MessagePage(
        messages=tuple(read_message(conversation_id, message) for message in pb.messages),
        older_available=pb.older_available,
        newer_available=pb.newer_available,
        head=read_head(pb.head),
        head_unconfirmed=pb.head_unconfirmed,
    )


def read_user(pb: users_pb.User) -> model.User:
    """Returns a user."""
    return model.User(user_id=pb.user_id, login_name=pb.login_name, display_name=pb.display_name)


def read_credentials(pb: auth_pb.Credentials) -> model.Credentials:
    """Returns the tokens of a device."""
    return model.Credentials(
        user_id=pb.user_id,
        device_session_id=pb.device_session_id,
        access_token=pb.access_token,
        refresh_token=pb.refresh_token,
        access_expire_time=read_time(pb.access_expire_time),
    )


def read_sent(client_message_id: str, pb: frame_pb2.SendMessageResponse) -> model.Sent:
    """Returns what became of a send."""
    return model.Sent(
        client_message_id=client_message_id,
        message_number=pb.message_number,
        cursor=read_cursor(pb.cursor),
        commit_time=read_time(pb.commit_time),
    )


def read_gap(pb: frame_pb2.Gap) -> events.GapSkipped:
    """Returns a gap with its newest messages."""
    head = read_head(pb.head)
    messages = tuple(read_message(head.cursor.topic_id, message) for message in pb.newest_messages)
    return events.GapSkipped(start=read_cursor(getattr(pb, "from")), head=head, newest_messages=messages)


def read_event(pb: event_pb2.Event) -> events.TopicEvent:  # noqa: PLR0911  # one case a kind
    """Returns one durable event; a kind that this client does not know becomes UnknownEvent."""
    cursor = model.Cursor(pb.topic_id, pb.epoch, pb.position)
    match pb.WhichOneof("kind"):
        case "message_sent":
            message = read_message(pb.topic_id, pb.message_sent.message, pb.commit_time)
            return events.MessageReceived(cursor=cursor, message=message)
        case "conversation_created":
            created = pb.conversation_created.conversation
            kind = _KINDS.get(created.kind, model.ConversationKind.UNKNOWN)
            return events.ConversationCreated(cursor=cursor, actor_id=pb.actor_id, kind=kind, title=created.title)
        case "conversation_settings_changed":
            settings = read_conversation_settings(pb.conversation_settings_changed.settings)
            return events.ConversationSettingsChanged(cursor=cursor, actor_id=pb.actor_id, settings=settings)
        case "members_added":
            members = tuple(map(read_member, pb.members_added.members))
            return events.MembersAdded(cursor=cursor, actor_id=pb.actor_id, members=members)
        case "member_removed":
            return events.MemberRemoved(cursor=cursor, actor_id=pb.actor_id, user_id=pb.member_removed.user_id)
        case "conversation_joined":
            joined = pb.conversation_joined
            return events.ConversationJoined(
                cursor=cursor, conversation_id=joined.conversation_id, join_position=joined.join_position
            )
        case "conversation_left":
            left = pb.conversation_left
            return events.ConversationLeft(
                cursor=cursor, conversation_id=left.conversation_id, leave_position=left.leave_position
            )
        case "block_changed":
            change = pb.block_changed
            return events.BlockChanged(
                cursor=cursor, actor_id=pb.actor_id, user_id=change.user_id, is_blocked=change.blocked
            )
        case _:
            return _read_kept(pb, cursor) or events.UnknownEvent(cursor=cursor, message_number=pb.message_number)


def _read_kept(  # noqa: PLR0911  # one case a kind
    pb: event_pb2.Event, cursor: model.Cursor
) -> events.KeptEvent | None:
    """Returns an event about what the user keeps; None: it is of another kind."""
    match pb.WhichOneof("kind"):
        case "read_marker_moved":
            moved = pb.read_marker_moved
            return events.ReadMarkerMoved(
                cursor=cursor, conversation_id=moved.conversation_id, marker=read_marker(moved.marker)
            )
        case "delivered_marker_moved":
            received = pb.delivered_marker_moved
            return events.DeliveredMarkerMoved(
                cursor=cursor,
                conversation_id=received.conversation_id,
                epoch=received.epoch,
                message_number=received.message_number,
            )
        case "conversation_marked_unread":
            conversation_id = pb.conversation_marked_unread.conversation_id
            return events.ConversationMarkedUnread(cursor=cursor, conversation_id=conversation_id)
        case "conversation_preferences_changed":
            changed = pb.conversation_preferences_changed
            return events.ConversationPreferencesChanged(
                cursor=cursor,
                conversation_id=changed.conversation_id,
                preferences=read_conversation_preferences(changed.preferences),
            )
        case "draft_changed":
            draft = pb.draft_changed
            return events.DraftChanged(cursor=cursor, conversation_id=draft.conversation_id, text=draft.text)
        case "user_blocked":
            return events.UserBlocked(cursor=cursor, user_id=pb.user_blocked.user_id)
        case "user_unblocked":
            return events.UserUnblocked(cursor=cursor, user_id=pb.user_unblocked.user_id)
        case "preferences_changed":
            preferences = read_preferences(pb.preferences_changed.preferences)
            return events.PreferencesChanged(cursor=cursor, preferences=preferences)
        case _:
            return None
