"""Requests to commands. Checks what can be seen in the request alone; `prefix` goes before the paths of its fields."""

from google.protobuf.timestamp_pb2 import Timestamp
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import message_pb2

from hubbub_server.app.frames import ReadUpTo, Reauthenticate, ReceivedUpTo, Send, SetTyping
from hubbub_server.domain.commands import SendMessage
from hubbub_server.domain.errors import ConversationNotFound, InvalidField
from hubbub_server.domain.ids import ClientMessageId, ConversationId, UserId, canonical_uuid, is_conversation_id
from hubbub_server.domain.limits import FALLBACK_MAX_CODE_POINTS
from hubbub_server.domain.message import Content, check_content
from hubbub_server.domain.signals import Typing
from hubbub_server.wire.content import content_from_pb
from hubbub_server.wire.times import check_time, milliseconds


def read_send_message(pb: frame_pb2.SendMessageRequest, sender_id: UserId, *, prefix: str = "") -> Send:
    """Reads a message to send.

    Raises:
        InvalidField: a field breaks its rule.
        ConversationNotFound: the conversation_id is none of ours, so it is nobody's.
    """
    if not pb.conversation_id:
        raise InvalidField(f"{prefix}conversation_id", "required")
    previous_id = pb.previous_client_message_id
    command = SendMessage(
        sender_id=sender_id,
        client_message_id=_read_uuid(f"{prefix}client_message_id", pb.client_message_id),
        content=_read_content(f"{prefix}content", pb.content),
        client_time_ms=_read_time(f"{prefix}client_time", pb.client_time) if pb.HasField("client_time") else None,
        previous_client_message_id=(
            _read_uuid(f"{prefix}previous_client_message_id", previous_id) if previous_id else None
        ),
    )
    if not is_conversation_id(pb.conversation_id):
        raise ConversationNotFound
    return Send(conversation_id=pb.conversation_id, command=command)


def read_mark_read(pb: frame_pb2.MarkReadRequest, *, prefix: str = "") -> ReadUpTo:
    """Reads how far somebody has read.

    Raises:
        InvalidField: a field breaks its rule.
        ConversationNotFound: the conversation_id is none of ours, so it is nobody's.
    """
    if pb.unread_mark_position < 0:
        raise InvalidField(f"{prefix}unread_mark_position", "0 or more")
    conversation_id, message_number = _read_message(pb, prefix)
    return ReadUpTo(
        conversation_id=conversation_id,
        message_number=message_number,
        unread_mark_position=pb.unread_mark_position,
    )


def read_mark_delivered(pb: frame_pb2.MarkDeliveredRequest, *, prefix: str = "") -> ReceivedUpTo:
    """Reads how far a device has received. Raises as `read_mark_read`."""
    conversation_id, message_number = _read_message(pb, prefix)
    return ReceivedUpTo(conversation_id=conversation_id, message_number=message_number)


def _read_message(
    pb: frame_pb2.MarkReadRequest | frame_pb2.MarkDeliveredRequest, prefix: str
) -> tuple[ConversationId, int]:
    if not pb.conversation_id:
        raise InvalidField(f"{prefix}conversation_id", "required")
    if pb.message_number < 1:
        raise InvalidField(f"{prefix}message_number", "1 or more")
    if not is_conversation_id(pb.conversation_id):
        raise ConversationNotFound
    return pb.conversation_id, pb.message_number


def read_reauthenticate(pb: frame_pb2.ReauthenticateRequest, *, prefix: str = "") -> Reauthenticate:
    """Reads a newer token. Raises InvalidField when there is none."""
    if not pb.access_token:
        raise InvalidField(f"{prefix}access_token", "required")
    return Reauthenticate(access_token=pb.access_token)


def read_set_typing(pb: frame_pb2.SetTypingRequest, *, prefix: str = "") -> SetTyping:
    """Reads what the caller does in a conversation.

    Raises:
        InvalidField: there is no conversation_id.
        ConversationNotFound: it is none of ours.
    """
    if not pb.conversation_id:
        raise InvalidField(f"{prefix}conversation_id", "required")
    if not is_conversation_id(pb.conversation_id):
        raise ConversationNotFound
    making = pb.kind or frame_pb2.TYPING_KIND_TEXT
    return SetTyping(conversation_id=pb.conversation_id, typing=Typing(making=making, active=pb.active))


def _read_uuid(field: str, text: str) -> ClientMessageId:
    uuid = canonical_uuid(text)
    if uuid is None:
        raise InvalidField(field, "a UUID")
    return uuid


def _read_content(field: str, pb: message_pb2.Content) -> Content:
    if len(pb.fallback_text) > FALLBACK_MAX_CODE_POINTS:
        raise InvalidField(f"{field}.fallback_text", f"at most {FALLBACK_MAX_CODE_POINTS} code points")
    content = content_from_pb(pb)
    check_content(field, content)
    return content


def _read_time(field: str, pb: Timestamp) -> int:
    check_time(field, pb)
    return milliseconds(pb)
