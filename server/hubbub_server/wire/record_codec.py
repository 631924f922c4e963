"""The bytes of records: each event is field 1 of hubbub.chat.v1.ServerFrame, so a body is a frame and bodies join.

Events are encoded here once, when they are committed; those bytes are stored and sent, never others. Field numbers are
the storage format: tests/golden holds bytes of every kind.
"""

from collections.abc import Iterator, Sequence
from typing import Final, assert_never

from google.protobuf.message import DecodeError
from hubbub.chat.v1 import event_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2, read_state_pb2

from hubbub_server.domain import events
from hubbub_server.domain.events import ConversationKind, Event, EventKind, Member, MemberRole
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, canonical_uuid, is_conversation_id, is_user_id
from hubbub_server.domain.message import Message
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.ports.record_codec import DecodedEvent, RecordUndecodable
from hubbub_server.wire.content import content_from_pb, fill_content
from hubbub_server.wire.preferences import (
    conversation_preferences_from_pb,
    conversation_preferences_to_pb,
    marker_from_pb,
    marker_to_pb,
    preferences_from_pb,
    preferences_to_pb,
)
from hubbub_server.wire.times import fill_timestamp, milliseconds
from hubbub_server.wire.varint import encode_varint, read_varint

EVENTS_TAG: Final = b"\x0a"  # field 1, length-delimited

KIND_TO_PB: Final = {
    ConversationKind.DIRECT: conversation_pb2.CONVERSATION_KIND_DIRECT,
    ConversationKind.GROUP: conversation_pb2.CONVERSATION_KIND_GROUP,
}
KIND_FROM_PB: Final = {number: kind for kind, number in KIND_TO_PB.items()}
ROLE_TO_PB: Final = {
    MemberRole.OWNER: conversation_pb2.MEMBER_ROLE_OWNER,
    MemberRole.ADMIN: conversation_pb2.MEMBER_ROLE_ADMIN,
    MemberRole.MEMBER: conversation_pb2.MEMBER_ROLE_MEMBER,
}
ROLE_FROM_PB: Final = {number: role for role, number in ROLE_TO_PB.items()}
MODE_TO_PB: Final = {
    ReceiptsMode.FULL: read_state_pb2.RECEIPTS_MODE_FULL,
    ReceiptsMode.COUNT_ONLY: read_state_pb2.RECEIPTS_MODE_COUNT_ONLY,
    ReceiptsMode.OFF: read_state_pb2.RECEIPTS_MODE_OFF,
}
MODE_FROM_PB: Final = {number: mode for mode, number in MODE_TO_PB.items()} | {
    read_state_pb2.RECEIPTS_MODE_UNSPECIFIED: ReceiptsMode.FULL
}


class ProtoRecordCodec:
    """Implements RecordCodec with protobuf. Stateless."""

    def encode(self, event: Event) -> bytes:
        """Returns the framed bytes of one event. Raises ValueError for unknown kinds and contents: they only travel."""
        encoded = _event_to_pb(event).SerializeToString(deterministic=True)
        return EVENTS_TAG + encode_varint(len(encoded)) + encoded

    def decode(self, body: bytes) -> Sequence[DecodedEvent]:
        """Splits and decodes a body. `framed` are slices of it, untouched. Raises RecordUndecodable."""
        decoded = [_decode(framed, payload) for framed, payload in _split(body)]
        if not decoded:
            raise RecordUndecodable("a record has at least one event")
        return decoded


def _split(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    start = 0
    while start < len(body):
        if body[start : start + 1] != EVENTS_TAG:
            raise RecordUndecodable(f"something else than an event at byte {start}")
        try:
            length, payload_start = read_varint(body, start + 1)
        except ValueError as exc:
            raise RecordUndecodable(f"no length at byte {start + 1}") from exc
        end = payload_start + length
        if end > len(body):
            raise RecordUndecodable(f"the event at byte {start} is cut")
        yield body[start:end], body[payload_start:end]
        start = end


def _decode(framed: bytes, payload: bytes) -> DecodedEvent:
    try:
        pb = event_pb2.Event.FromString(payload)
    except DecodeError as exc:
        raise RecordUndecodable("not an event") from exc
    if not (is_conversation_id(pb.topic_id) or is_user_id(pb.topic_id)) or pb.epoch < 1 or pb.position < 1:
        raise RecordUndecodable("an event without its place")
    if pb.message_number < 0:
        raise RecordUndecodable("a negative message number")
    event = Event(
        topic_id=TopicId(pb.topic_id),
        epoch=pb.epoch,
        position=pb.position,
        commit_time_ms=milliseconds(pb.commit_time),
        actor_id=_user_id(pb.actor_id) if pb.actor_id else None,
        message_number=pb.message_number,
        kind=_kind_from_pb(pb),
    )
    carries_message = isinstance(event.kind, events.MessageSent)
    message_body = pb.message_sent.message.SerializeToString(deterministic=True) if carries_message else b""
    return DecodedEvent(event=event, framed=framed, message_body=message_body)


# ---- to protobuf


def _event_to_pb(event: Event) -> event_pb2.Event:  # noqa: C901, PLR0912  # one case a kind
    pb = event_pb2.Event(
        topic_id=event.topic_id,
        epoch=event.epoch,
        position=event.position,
        actor_id=event.actor_id or "",
        message_number=event.message_number,
    )
    fill_timestamp(pb.commit_time, event.commit_time_ms)
    match event.kind:
        case events.MessageSent(message=message):
            _fill_message(pb.message_sent.message, message)
        case events.ConversationCreated(conversation_kind=kind, title=title):
            pb.conversation_created.conversation.CopyFrom(
                conversation_pb2.Conversation(conversation_id=event.topic_id, kind=KIND_TO_PB[kind], title=title)
            )
        case events.ConversationSettingsChanged(receipts_limit=limit):
            pb.conversation_settings_changed.settings.CopyFrom(settings_to_pb(limit))
        case events.MembersAdded(members=members):
            pb.members_added.members.extend(map(member_to_pb, members))
        case events.MemberRemoved(user_id=user_id):
            pb.member_removed.user_id = user_id
        case events.BlockChanged(user_id=user_id, blocked=blocked):
            pb.block_changed.CopyFrom(event_pb2.BlockChanged(user_id=user_id, blocked=blocked))
        case events.ConversationJoined(conversation_id=conversation_id, epoch=epoch, join_position=position):
            pb.conversation_joined.CopyFrom(
                event_pb2.ConversationJoined(conversation_id=conversation_id, epoch=epoch, join_position=position)
            )
        case events.ConversationLeft(conversation_id=conversation_id, epoch=epoch, leave_position=position):
            pb.conversation_left.CopyFrom(
                event_pb2.ConversationLeft(conversation_id=conversation_id, epoch=epoch, leave_position=position)
            )
        case events.ReadMarkerMoved(conversation_id=conversation_id, marker=marker, hidden=hidden):
            pb.read_marker_moved.CopyFrom(
                event_pb2.ReadMarkerMoved(conversation_id=conversation_id, marker=marker_to_pb(marker), hidden=hidden)
            )
        case events.ConversationMarkedUnread(conversation_id=conversation_id):
            pb.conversation_marked_unread.conversation_id = conversation_id
        case events.ConversationPreferencesChanged(conversation_id=conversation_id, preferences=preferences):
            pb.conversation_preferences_changed.CopyFrom(
                event_pb2.ConversationPreferencesChanged(
                    conversation_id=conversation_id, preferences=conversation_preferences_to_pb(preferences)
                )
            )
        case events.DraftChanged(conversation_id=conversation_id, text=text):
            pb.draft_changed.CopyFrom(event_pb2.DraftChanged(conversation_id=conversation_id, text=text))
        case events.UserBlocked(user_id=user_id, conversation_id=conversation_id):
            pb.user_blocked.CopyFrom(event_pb2.UserBlocked(user_id=user_id, conversation_id=conversation_id))
        case events.UserUnblocked(user_id=user_id, conversation_id=conversation_id):
            pb.user_unblocked.CopyFrom(event_pb2.UserUnblocked(user_id=user_id, conversation_id=conversation_id))
        case events.PreferencesChanged(preferences=wanted):
            pb.preferences_changed.preferences.CopyFrom(preferences_to_pb(wanted))
        case events.DeliveredMarkerMoved(conversation_id=conversation_id, marker=delivered):
            pb.delivered_marker_moved.CopyFrom(
                event_pb2.DeliveredMarkerMoved(
                    conversation_id=conversation_id, epoch=delivered.epoch, message_number=delivered.message_number
                )
            )
        case events.UnknownKind():
            raise ValueError("an unknown kind cannot be encoded again")
        case _:
            assert_never(event.kind)
    return pb


def _fill_message(pb: message_pb2.Message, message: Message) -> None:
    # In place: a message that is made first and copied then costs twice as much, for each one that is sent.
    pb.message_number = message.message_number
    pb.counted_number = message.counted_number
    pb.sender_id = message.sender_id
    pb.client_message_id = message.client_message_id
    fill_content(pb.content, message.content)
    if message.client_time_ms is not None:
        fill_timestamp(pb.client_time, message.client_time_ms)


def member_to_pb(member: Member) -> conversation_pb2.Member:
    """Returns a member as in pages and in MembersAdded."""
    return conversation_pb2.Member(
        user_id=member.user_id, role=ROLE_TO_PB[member.role], join_position=member.join_position
    )


def settings_to_pb(receipts_limit: ReceiptsMode) -> conversation_pb2.ConversationSettings:
    """Returns the settings of a conversation, all of them."""
    return conversation_pb2.ConversationSettings(receipts_limit=MODE_TO_PB[receipts_limit])


def receipts_limit_from_pb(pb: conversation_pb2.ConversationSettings) -> ReceiptsMode:
    """Reads settings; the contract: an unknown limit counts as OFF."""
    return MODE_FROM_PB.get(pb.receipts_limit, ReceiptsMode.OFF)


# ---- from protobuf


def _kind_from_pb(pb: event_pb2.Event) -> EventKind:  # noqa: C901, PLR0911, PLR0912  # one case a kind
    match pb.WhichOneof("kind"):
        case "message_sent":
            return events.MessageSent(message=_message_from_pb(pb.message_sent.message))
        case "conversation_created":
            conversation = pb.conversation_created.conversation
            kind = KIND_FROM_PB.get(conversation.kind)
            if kind is None:  # a sort of conversation that this version has no rules for
                return events.UnknownKind()
            return events.ConversationCreated(conversation_kind=kind, title=conversation.title)
        case "conversation_settings_changed":
            return events.ConversationSettingsChanged(
                receipts_limit=receipts_limit_from_pb(pb.conversation_settings_changed.settings)
            )
        case "members_added":
            return events.MembersAdded(members=tuple(map(_member_from_pb, pb.members_added.members)))
        case "member_removed":
            return events.MemberRemoved(user_id=_user_id(pb.member_removed.user_id))
        case "block_changed":
            return events.BlockChanged(user_id=_user_id(pb.block_changed.user_id), blocked=pb.block_changed.blocked)
        case "conversation_joined":
            joined = pb.conversation_joined
            return events.ConversationJoined(
                conversation_id=_conversation_id(joined.conversation_id),
                epoch=joined.epoch,
                join_position=joined.join_position,
            )
        case "conversation_left":
            left = pb.conversation_left
            return events.ConversationLeft(
                conversation_id=_conversation_id(left.conversation_id),
                epoch=left.epoch,
                leave_position=left.leave_position,
            )
        case "read_marker_moved":
            moved = pb.read_marker_moved
            return events.ReadMarkerMoved(
                conversation_id=_conversation_id(moved.conversation_id),
                marker=marker_from_pb(moved.marker),
                hidden=moved.hidden,
            )
        case "conversation_marked_unread":
            return events.ConversationMarkedUnread(
                conversation_id=_conversation_id(pb.conversation_marked_unread.conversation_id)
            )
        case "conversation_preferences_changed":
            changed = pb.conversation_preferences_changed
            return events.ConversationPreferencesChanged(
                conversation_id=_conversation_id(changed.conversation_id),
                preferences=conversation_preferences_from_pb(changed.preferences),
            )
        case "draft_changed":
            draft = pb.draft_changed
            return events.DraftChanged(conversation_id=_conversation_id(draft.conversation_id), text=draft.text)
        case "user_blocked":
            blocked = pb.user_blocked
            return events.UserBlocked(
                user_id=_user_id(blocked.user_id), conversation_id=_conversation_id(blocked.conversation_id)
            )
        case "user_unblocked":
            unblocked = pb.user_unblocked
            return events.UserUnblocked(
                user_id=_user_id(unblocked.user_id), conversation_id=_conversation_id(unblocked.conversation_id)
            )
        case "preferences_changed":
            return events.PreferencesChanged(preferences=preferences_from_pb(pb.preferences_changed.preferences))
        case "delivered_marker_moved":
            received = pb.delivered_marker_moved
            return events.DeliveredMarkerMoved(
                conversation_id=_conversation_id(received.conversation_id),
                marker=events.DeliveredMarker(epoch=received.epoch, message_number=received.message_number),
            )
        case None:
            return events.UnknownKind()


def _message_from_pb(pb: message_pb2.Message) -> Message:
    client_message_id = canonical_uuid(pb.client_message_id)
    if client_message_id is None or pb.message_number < 1 or pb.counted_number < 0:
        raise RecordUndecodable("a message without its numbers or its id")
    return Message(
        message_number=pb.message_number,
        counted_number=pb.counted_number,
        sender_id=_user_id(pb.sender_id),
        client_message_id=client_message_id,
        content=content_from_pb(pb.content),
        client_time_ms=milliseconds(pb.client_time) if pb.HasField("client_time") else None,
    )


def _member_from_pb(pb: conversation_pb2.Member) -> Member:
    role = ROLE_FROM_PB.get(pb.role, MemberRole.MEMBER)  # the contract: an unknown role counts as MEMBER
    return Member(user_id=_user_id(pb.user_id), role=role, join_position=pb.join_position)


def _user_id(text: str) -> UserId:
    if not is_user_id(text):
        raise RecordUndecodable("something that is no user id")
    return text


def _conversation_id(text: str) -> ConversationId:
    if not is_conversation_id(text):
        raise RecordUndecodable("something that is no conversation id")
    return text
