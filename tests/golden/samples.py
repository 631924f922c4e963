"""What the golden files hold. Never change a sample of a record: add another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from google.protobuf.json_format import MessageToDict

from hubbub_server.app import frames
from hubbub_server.app.frames import Outgoing
from hubbub_server.domain import errors, events, signals
from hubbub_server.domain.commands import Delivered, Marked, Sent
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.events import (
    BlockChanged,
    ConversationCreated,
    ConversationJoined,
    ConversationKind,
    ConversationLeft,
    ConversationMarkedUnread,
    ConversationPreferencesChanged,
    ConversationSettingsChanged,
    DeliveredMarkerMoved,
    DraftChanged,
    Event,
    EventKind,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
    PreferencesChanged,
    ReadMarker,
    ReadMarkerMoved,
    UserBlocked,
    UserUnblocked,
)
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import (
    BroadcastAudience,
    BroadcastMention,
    Code,
    Link,
    Message,
    TextContent,
    TextEntity,
    UserMention,
)
from hubbub_server.domain.preferences import (
    ConversationPreferences,
    DoNotDisturbSchedule,
    NotificationLevel,
    Preferences,
    PresenceVisibility,
    QuietHours,
    Status,
    StatusState,
)
from hubbub_server.domain.receipts import ReceiptsMode
from hubbub_server.domain.signals import DeliveredMarker, Signal, Typing
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.topic_log import AppendUnknown, LogFull
from hubbub_server.ports.topic_states import Snapshot
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from hubbub_server.wire.status import status_of
from tests.support.snapshots import (
    conversation_snapshot,
    plain_conversation_snapshot,
    plain_user_snapshot,
    user_snapshot,
)

FOLDER: Final = Path(__file__).resolve().parent
GROUP: Final = ConversationId(TopicId("c74dgnbfs6nhibocfew7v65l6vu"))
ALICE: Final = UserId(TopicId("u5nnq3vzkq7ujx2m7gdkc3a4mfe"))
BOB: Final = UserId(TopicId("uzt5m3ogd2o6y7p4b5kq2wqvsxi"))
_TIME_MS: Final = 1_800_000_000_123
_CODEC: Final = ProtoRecordCodec()
_SIGNAL_CODEC: Final = ProtoSignalCodec()


def _event(position: int, kind: EventKind, *, topic_id: TopicId = GROUP, actor_id: UserId | None = ALICE) -> Event:
    message_number = kind.message.message_number if isinstance(kind, MessageSent) else 0
    return Event(
        topic_id=topic_id,
        epoch=3,
        position=position,
        commit_time_ms=_TIME_MS + position,
        actor_id=actor_id,
        message_number=message_number,
        kind=kind,
    )


def _message(number: int, text: str, *entities: TextEntity, client_time_ms: int | None = None) -> MessageSent:
    return MessageSent(
        message=Message(
            message_number=number,
            counted_number=number,
            sender_id=BOB,
            client_message_id=ClientMessageId(f"01890000-0000-7000-8000-{number:012x}"),
            content=TextContent(text=text, entities=entities),
            client_time_ms=client_time_ms,
        )
    )


def _member(user_id: UserId, role: MemberRole, join_position: int) -> Member:
    return Member(user_id=user_id, role=role, join_position=join_position)


def _own(position: int, kind: EventKind) -> Event:
    return _event(position, kind, topic_id=BOB, actor_id=None)


_MARKER: Final = ReadMarker(epoch=3, message_number=3, counted_number=2)
_OF_CONVERSATION: Final = ConversationPreferences(
    mute_end_time_ms=253_402_300_799_000, notification_level=NotificationLevel.MENTIONS, pinned=True, archived=True
)
_PREFERENCES: Final = Preferences(
    notification_level=NotificationLevel.NONE,
    do_not_disturb=DoNotDisturbSchedule(
        time_zone="Europe/Vienna",
        hours=(QuietHours(weekdays=(1, 2, 7), start_minute=1_320, duration_minutes=540),),
    ),
    sends_read_receipts=False,
    sends_typing=False,
    presence_visibility=PresenceVisibility.CONTACTS,
    status=Status(state=StatusState.AWAY, text="on the train", emoji="🚆", expire_time_ms=_TIME_MS),
)

RECORDS: Final[Mapping[str, tuple[Event, ...]]] = {
    "group_created": (
        _event(1, ConversationCreated(conversation_kind=ConversationKind.GROUP, title="Café ☕")),
        _event(2, MembersAdded(members=(_member(ALICE, MemberRole.OWNER, 2),))),
        _event(3, MembersAdded(members=(_member(BOB, MemberRole.MEMBER, 3),))),
    ),
    "direct_created": (
        _event(1, ConversationCreated(conversation_kind=ConversationKind.DIRECT, title="")),
        _event(
            2,
            MembersAdded(
                members=(_member(ALICE, MemberRole.MEMBER, 2), _member(BOB, MemberRole.ADMIN, 2)),
            ),
        ),
    ),
    "message": (_event(4, _message(1, "hello"), actor_id=None),),
    "messages": (
        _event(5, _message(2, "naïve 👩‍👩‍👧 текст", client_time_ms=_TIME_MS - 5_000), actor_id=None),
        _event(6, _message(3, "x" * 200), actor_id=None),
    ),
    "member_removed": (_event(7, MemberRemoved(user_id=BOB)),),
    "conversation_joined": (
        _event(1, ConversationJoined(conversation_id=GROUP, epoch=3, join_position=3), topic_id=BOB, actor_id=None),
    ),
    "conversation_left": (
        _event(2, ConversationLeft(conversation_id=GROUP, epoch=3, leave_position=7), topic_id=BOB, actor_id=None),
    ),
    "message_with_entities": (
        _event(
            8,
            _message(
                4,
                "@alice @all @here see https://example.org or `x = 1` or\nprint(1)",
                TextEntity(start=0, length=6, kind=UserMention(user_id=ALICE)),
                TextEntity(start=7, length=4, kind=BroadcastMention(audience=BroadcastAudience.ALL)),
                TextEntity(start=12, length=5, kind=BroadcastMention(audience=BroadcastAudience.HERE)),
                TextEntity(start=22, length=19, kind=Link(url="https://example.org")),
                TextEntity(start=45, length=7, kind=Code()),
                TextEntity(start=56, length=8, kind=Code(block=True, language="python")),
            ),
            actor_id=None,
        ),
    ),
    "block_changed": (_event(9, BlockChanged(user_id=BOB, blocked=True)),),
    "read_marker_moved": (
        _own(3, ReadMarkerMoved(conversation_id=GROUP, marker=_MARKER, hidden=False)),
        _own(4, ReadMarkerMoved(conversation_id=GROUP, marker=_MARKER, hidden=True)),
    ),
    "conversation_marked_unread": (_own(5, ConversationMarkedUnread(conversation_id=GROUP)),),
    "conversation_preferences_changed": (
        _own(6, ConversationPreferencesChanged(conversation_id=GROUP, preferences=_OF_CONVERSATION)),
        _own(7, ConversationPreferencesChanged(conversation_id=GROUP, preferences=ConversationPreferences())),
    ),
    "draft_changed": (
        _own(8, DraftChanged(conversation_id=GROUP, text="I th")),
        _own(9, DraftChanged(conversation_id=GROUP, text="")),
    ),
    "user_blocked": (_own(10, UserBlocked(user_id=ALICE, conversation_id=GROUP)),),
    "user_unblocked": (_own(11, UserUnblocked(user_id=ALICE, conversation_id=GROUP)),),
    "preferences_changed": (
        _own(12, PreferencesChanged(preferences=_PREFERENCES)),
        _own(13, PreferencesChanged(preferences=Preferences())),
    ),
    "conversation_settings_changed": (_event(10, ConversationSettingsChanged(receipts_limit=ReceiptsMode.COUNT_ONLY)),),
    "delivered_marker_moved": (
        _own(14, DeliveredMarkerMoved(conversation_id=GROUP, marker=events.DeliveredMarker(epoch=3, message_number=4))),
    ),
}

_CURSOR: Final = Cursor(topic_id=GROUP, epoch=3, position=7)
_HEAD: Final = TopicHead(cursor=_CURSOR, last_message_number=3, last_counted_number=2)
_SENT: Final = Sent(message_number=1, cursor=_CURSOR, commit_time_ms=_TIME_MS)

SIGNALS: Final[Mapping[str, Signal]] = {
    "typing": Signal(conversation_id=GROUP, user_id=ALICE, kind=Typing(making=1, active=True)),
    "typing_over": Signal(conversation_id=GROUP, user_id=ALICE, kind=Typing(making=3, active=False)),
    "read_marker": Signal(conversation_id=GROUP, user_id=BOB, kind=signals.ReadMarker(message_number=3)),
    "delivered_marker": Signal(conversation_id=GROUP, user_id=BOB, kind=DeliveredMarker(message_number=2)),
    "read_floor": Signal(conversation_id=GROUP, user_id=None, kind=signals.ReadFloor(message_number=2)),
}

FRAMES: Final[Mapping[str, Outgoing]] = {
    "events": frames.Events(body=b"".join(map(_CODEC.encode, RECORDS["messages"])), count=2),
    "welcome": frames.Welcome(
        session_id="s1",
        user_id=ALICE,
        heartbeat_interval_s=20.0,
        ack_window_events=7,
        token_expire_time_ms=_TIME_MS,
        resumed=True,
    ),
    "heads": frames.Heads(heads=(_HEAD,), complete=True),
    "heartbeat": frames.Heartbeat(heads=(_HEAD,), resume_token="token", live=True),
    "reply_sent": frames.Reply(request_id="1", answer=_SENT),
    "reply_marked": frames.Reply(request_id="4", answer=Marked(marker=_MARKER, unread_mark_position=5, cursor=_CURSOR)),
    "reply_delivered": frames.Reply(request_id="5", answer=Delivered(message_number=4, is_news=True, cursor=_CURSOR)),
    "reply_reauthenticated": frames.Reply(request_id="2", answer=frames.Reauthenticated(token_expire_time_ms=_TIME_MS)),
    "reply_typing_set": frames.Reply(request_id="4", answer=frames.TypingSet()),
    **{f"signal_{name}": frames.Signals(body=_SIGNAL_CODEC.encode(signal)) for name, signal in SIGNALS.items()},
    "rejected_command": frames.Rejected(request_id="3", error=errors.IdReused(9)),
    "rejected_topic": frames.Rejected(topic_id=GROUP, error=errors.StoreUnavailable("the store is away")),
    "caught_up": frames.CaughtUp(heads=(_HEAD,)),
    "gap": frames.Gap(
        start=Cursor(topic_id=GROUP, epoch=3, position=1),
        head=_HEAD,
        newest_messages=(
            StoredMessage(
                message_number=1,
                counted_number=1,
                sender_id=BOB,
                change_position=4,
                commit_time_ms=_TIME_MS,
                body=_CODEC.decode(_CODEC.encode(RECORDS["message"][0]))[0].message_body,
            ),
        ),
    ),
    "reset": frames.Reset(head=_HEAD),
    "topic_ended": frames.TopicEnded(topic_id=GROUP),
    "lagging": frames.Lagging(),
    "goodbye": frames.Goodbye(
        reason=frames.GoodbyeReason.DRAINING, reconnect=True, retry_delay_s=1.5, resume_token="token"
    ),
}

ERRORS: Final[Mapping[str, BaseException]] = {
    "HubbubError": errors.HubbubError("told to nobody"),
    "InvalidField": errors.InvalidField("content.text.text", "1 to 8000 code points"),
    "ProtocolBreach": errors.ProtocolBreach("Hello comes first"),
    "BadCredentials": errors.BadCredentials(),
    "CredentialsExpired": errors.CredentialsExpired("the access token ended"),
    "NotPermitted": errors.NotPermitted("only owners and admins add members"),
    "InvitationRefused": errors.InvitationRefused([ALICE, BOB]),
    "NotFound": errors.NotFound("told to nobody"),
    "ConversationNotFound": errors.ConversationNotFound(),
    "MessageNotFound": errors.MessageNotFound(),
    "UserNotFound": errors.UserNotFound(),
    "IdReused": errors.IdReused(42),
    "NameTaken": errors.NameTaken(),
    "SendOrder": errors.SendOrder(),
    "WrongState": errors.WrongState("a group has at most 1000 members"),
    "LimitReached": errors.LimitReached("at most 20 conversations are pinned"),
    "RateLimited": errors.RateLimited("too fast", retry_after_s=2.5),
    "Unavailable": errors.Unavailable("not now"),
    "LogUnavailable": errors.LogUnavailable("the log is away", retry_after_s=30),
    "OutcomeUnknown": errors.OutcomeUnknown("no answer came in time"),
    "StoreUnavailable": errors.StoreUnavailable("the store is away", retry_after_s=0.0),
    "RegistryUnavailable": errors.RegistryUnavailable("the registry cannot be reached", retry_after_s=1),
    "DeadlinePassed": errors.DeadlinePassed("the time of the call ran out"),
    "NodeDraining": errors.NodeDraining("this node is leaving", retry_after_s=0.1),
    "LogFull": LogFull("the log is full", retry_after_s=5),
    "AppendUnknown": AppendUnknown("no answer came"),
    "a fault": ZeroDivisionError("told to nobody"),
}

STATES: Final[Mapping[str, Snapshot]] = {
    "conversation_2": conversation_snapshot(GROUP),
    "user_2": user_snapshot(ALICE),
}
OLD_STATES: Final[Mapping[str, Snapshot]] = {
    "conversation": plain_conversation_snapshot(GROUP),
    "user": plain_user_snapshot(ALICE),
}
"""Written by older versions, which this one still reads."""


def golden_files() -> dict[Path, bytes]:
    """Returns what each binary golden file must hold."""
    records = {
        FOLDER / "records" / f"{name}.bin": b"".join(map(_CODEC.encode, events)) for name, events in RECORDS.items()
    }
    messages = {FOLDER / "frames" / f"{name}.bin": encode_messages([frame])[0] for name, frame in FRAMES.items()}
    states = {FOLDER / "states" / f"{name}.bin": ProtoSnapshotCodec().encode(each) for name, each in STATES.items()}
    return records | messages | states


def error_table() -> dict[str, object]:
    """Returns what tests/golden/errors.json must hold."""
    return {
        name: MessageToDict(status_of(error, request_id="r1"), preserving_proto_field_name=True)
        for name, error in ERRORS.items()
    }
