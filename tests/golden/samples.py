"""What the golden files hold. Never change a sample of a record: add another one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from google.protobuf.json_format import MessageToDict

from hubbub_server.app import frames
from hubbub_server.app.frames import Outgoing
from hubbub_server.domain import errors
from hubbub_server.domain.commands import Sent
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.events import (
    ConversationCreated,
    ConversationJoined,
    ConversationKind,
    ConversationLeft,
    Event,
    EventKind,
    Member,
    MemberRemoved,
    MemberRole,
    MembersAdded,
    MessageSent,
)
from hubbub_server.domain.ids import ClientMessageId, ConversationId, TopicId, UserId
from hubbub_server.domain.message import Message, TextContent
from hubbub_server.domain.signals import DeliveredMarker, ReadMarker, Signal, Typing
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.ports.topic_log import AppendUnknown, LogFull
from hubbub_server.ports.topic_states import Snapshot
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.record_codec import ProtoRecordCodec
from hubbub_server.wire.signal_codec import ProtoSignalCodec
from hubbub_server.wire.snapshot_codec import ProtoSnapshotCodec
from hubbub_server.wire.status import status_of
from tests.support.snapshots import conversation_snapshot, user_snapshot

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


def _message(number: int, text: str, *, client_time_ms: int | None = None) -> MessageSent:
    return MessageSent(
        message=Message(
            message_number=number,
            counted_number=number,
            sender_id=BOB,
            client_message_id=ClientMessageId(f"01890000-0000-7000-8000-{number:012x}"),
            content=TextContent(text=text),
            client_time_ms=client_time_ms,
        )
    )


def _member(user_id: UserId, role: MemberRole, join_position: int) -> Member:
    return Member(user_id=user_id, role=role, join_position=join_position)


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
}

_CURSOR: Final = Cursor(topic_id=GROUP, epoch=3, position=7)
_HEAD: Final = TopicHead(cursor=_CURSOR, last_message_number=3, last_counted_number=2)
_SENT: Final = Sent(message_number=1, cursor=_CURSOR, commit_time_ms=_TIME_MS)

SIGNALS: Final[Mapping[str, Signal]] = {
    "typing": Signal(conversation_id=GROUP, user_id=ALICE, kind=Typing(making=1, active=True)),
    "typing_over": Signal(conversation_id=GROUP, user_id=ALICE, kind=Typing(making=3, active=False)),
    "read_marker": Signal(conversation_id=GROUP, user_id=BOB, kind=ReadMarker(message_number=3)),
    "delivered_marker": Signal(conversation_id=GROUP, user_id=BOB, kind=DeliveredMarker(message_number=2)),
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
    "NotFound": errors.NotFound("told to nobody"),
    "ConversationNotFound": errors.ConversationNotFound(),
    "MessageNotFound": errors.MessageNotFound(),
    "UserNotFound": errors.UserNotFound(),
    "IdReused": errors.IdReused(42),
    "NameTaken": errors.NameTaken(),
    "SendOrder": errors.SendOrder(),
    "WrongState": errors.WrongState("a group has at most 1000 members"),
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
    "conversation": conversation_snapshot(GROUP),
    "user": user_snapshot(ALICE),
}


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
