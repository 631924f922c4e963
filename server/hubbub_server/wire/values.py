"""Values to protobuf messages and back: what answers and frames are made of."""

from hubbub.auth.v1 import auth_service_pb2
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_pb2, conversation_service_pb2, message_pb2, read_state_pb2
from hubbub.user.v1 import user_service_pb2

from hubbub_server.app.authenticate import Credentials
from hubbub_server.app.conversations import ConversationView
from hubbub_server.app.read_states import ReadState
from hubbub_server.domain.commands import Delivered, Marked, Sent
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.ids import TopicId
from hubbub_server.domain.receipts import receipts_mode
from hubbub_server.ports.accounts import Profile
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.wire.preferences import conversation_preferences_to_pb, marker_to_pb
from hubbub_server.wire.record_codec import KIND_TO_PB, MODE_TO_PB, member_to_pb, settings_to_pb
from hubbub_server.wire.times import timestamp


def cursor_to_pb(cursor: Cursor) -> conversation_pb2.Cursor:
    """Returns a place in a log."""
    return conversation_pb2.Cursor(topic_id=cursor.topic_id, epoch=cursor.epoch, position=cursor.position)


def cursor_from_pb(pb: conversation_pb2.Cursor) -> Cursor:
    """Reads a place that a client names; nothing of it is checked here."""
    return Cursor(topic_id=TopicId(pb.topic_id), epoch=pb.epoch, position=pb.position)


def head_to_pb(head: TopicHead) -> conversation_pb2.TopicHead:
    """Returns a head."""
    return conversation_pb2.TopicHead(
        cursor=cursor_to_pb(head.cursor),
        last_message_number=head.last_message_number,
        last_counted_number=head.last_counted_number,
    )


def sent_to_pb(sent: Sent) -> frame_pb2.SendMessageResponse:
    """Returns the answer to a send, the same unary and in-band."""
    return frame_pb2.SendMessageResponse(
        message_number=sent.message_number,
        cursor=cursor_to_pb(sent.cursor),
        commit_time=timestamp(sent.commit_time_ms),
    )


def marked_to_pb(marked: Marked) -> frame_pb2.MarkReadResponse:
    """Returns the answer to MarkRead, the same unary and in-band."""
    return frame_pb2.MarkReadResponse(
        marker=marker_to_pb(marked.marker),
        unread_mark_position=marked.unread_mark_position,
        cursor=cursor_to_pb(marked.cursor),
    )


def delivered_to_pb(delivered: Delivered) -> frame_pb2.MarkDeliveredResponse:
    """Returns the answer to MarkDelivered, the same unary and in-band."""
    return frame_pb2.MarkDeliveredResponse(
        message_number=delivered.message_number, cursor=cursor_to_pb(delivered.cursor)
    )


def stored_message_to_pb(stored: StoredMessage) -> message_pb2.Message:
    """Returns a message of a page: the bytes that were stored, with the "state" fields joined on."""
    state = message_pb2.Message(commit_time=timestamp(stored.commit_time_ms), change_position=stored.change_position)
    return message_pb2.Message.FromString(stored.body + state.SerializeToString())


def view_to_pb(view: ConversationView) -> conversation_service_pb2.ConversationView:
    """Returns a conversation as one member sees it."""
    return conversation_service_pb2.ConversationView(
        conversation=conversation_pb2.Conversation(
            conversation_id=view.conversation_id,
            kind=KIND_TO_PB[view.kind],
            title=view.title,
            member_count=view.member_count,
            receipts_mode=MODE_TO_PB[receipts_mode(view.member_count, view.receipts_limit)],
            settings=settings_to_pb(view.receipts_limit),
        ),
        membership=member_to_pb(view.membership),
        head=head_to_pb(view.head),
        last_message=stored_message_to_pb(view.last_message) if view.last_message else None,
        read_state=read_state_to_pb(view.read_state),
        preferences=conversation_preferences_to_pb(view.preferences),
    )


def read_state_to_pb(read_state: ReadState) -> read_state_pb2.ReadState:
    """Returns what is unread for the caller."""
    return read_state_pb2.ReadState(
        marker=marker_to_pb(read_state.marker),
        unread_count=read_state.unread_count,
        mention_count=read_state.mention_count,
        unread_mark_position=read_state.unread_mark_position,
    )


def credentials_to_pb(credentials: Credentials) -> auth_service_pb2.Credentials:
    """Returns what a signed-in device holds."""
    return auth_service_pb2.Credentials(
        access_token=credentials.access_token,
        access_expire_time=timestamp(credentials.access_expire_time_ms),
        refresh_token=credentials.refresh_token,
        user_id=credentials.user_id,
        device_session_id=credentials.device_session_id,
    )


def user_to_pb(profile: Profile) -> user_service_pb2.User:
    """Returns a user as every other one sees them."""
    return user_service_pb2.User(
        user_id=profile.user_id, login_name=profile.login_name, display_name=profile.display_name
    )
