"""Frames of streams: bytes of clients to values, values to bytes for clients.

ConnectResponse, SubscribeResponse, SyncResponse and SyncOnceResponse are alike: field 1 is a ServerFrame. So one
message of a stream is a prefix and a frame, and a frame of events is bodies of records as they were committed.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Final, assert_never

from google.protobuf.message import DecodeError
from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from hubbub_server.app import frames
from hubbub_server.app.frames import ClientFrame, Events, Outgoing, Signals, StreamCommand, UnknownFrame
from hubbub_server.domain.commands import Delivered, Marked, Sent
from hubbub_server.domain.errors import HubbubError, InvalidField, ProtocolBreach
from hubbub_server.domain.ids import UserId, canonical_uuid
from hubbub_server.domain.limits import FRAME_MAX_BYTES, REQUEST_ID_MAX_CHARACTERS, RESUME_TOKEN_MAX_BYTES
from hubbub_server.wire.commands import (
    read_mark_delivered,
    read_mark_read,
    read_reauthenticate,
    read_send_message,
    read_set_typing,
)
from hubbub_server.wire.status import status_of
from hubbub_server.wire.times import duration, timestamp
from hubbub_server.wire.values import (
    cursor_to_pb,
    delivered_to_pb,
    head_to_pb,
    marked_to_pb,
    sent_to_pb,
    stored_message_to_pb,
)
from hubbub_server.wire.varint import encode_varint

_FRAME_TAG: Final = b"\x0a"  # field 1, length-delimited

_JOINED: Final = (Events, Signals)

_REASON_TO_PB: Final = {
    frames.GoodbyeReason.DRAINING: frame_pb2.GOODBYE_REASON_DRAINING,
    frames.GoodbyeReason.SLOW_READER: frame_pb2.GOODBYE_REASON_SLOW_READER,
    frames.GoodbyeReason.TOKEN_EXPIRED: frame_pb2.GOODBYE_REASON_TOKEN_EXPIRED,
    frames.GoodbyeReason.REVOKED: frame_pb2.GOODBYE_REASON_REVOKED,
    frames.GoodbyeReason.DISPLACED: frame_pb2.GOODBYE_REASON_DISPLACED,
    frames.GoodbyeReason.PROTOCOL: frame_pb2.GOODBYE_REASON_PROTOCOL,
    frames.GoodbyeReason.MAX_AGE: frame_pb2.GOODBYE_REASON_MAX_AGE,
}

# ---- from the client


def read_connect_request(message: bytes, user_id: UserId) -> ClientFrame:
    """Reads a ConnectRequest of `user_id`. A bad command is part of the frame: the session answers it.

    Raises:
        ProtocolBreach: the message is larger than 256 KiB, or none at all; the stream ends.
        InvalidField: a field of Hello breaks its rule; the stream ends.
    """
    if len(message) > FRAME_MAX_BYTES:
        raise ProtocolBreach(f"a frame has at most {FRAME_MAX_BYTES} bytes")
    try:
        pb = chat_service_pb2.ConnectRequest.FromString(message)
    except DecodeError as exc:
        raise ProtocolBreach("something that is no frame") from exc
    match pb.WhichOneof("payload"):
        case "hello":
            return read_hello(pb.hello)
        case "command":
            return StreamCommand(request_id=pb.command.request_id, payload=_read_payload(pb.command, user_id))
        case "ack":
            return frames.Ack(processed_events=pb.ack.processed_events)
        case None:
            return UnknownFrame()


def read_hello(pb: chat_service_pb2.Hello) -> frames.Hello:
    """Reads a Hello. Raises InvalidField."""
    instance_id = canonical_uuid(pb.instance_id)
    if instance_id is None:
        raise InvalidField("hello.instance_id", "a UUID")
    if len(pb.resume_token.encode()) > RESUME_TOKEN_MAX_BYTES:
        raise InvalidField("hello.resume_token", f"at most {RESUME_TOKEN_MAX_BYTES} bytes")
    if pb.ack_window_events < 0:
        raise InvalidField("hello.ack_window_events", "0 or more")
    return frames.Hello(instance_id=instance_id, resume_token=pb.resume_token, ack_window_events=pb.ack_window_events)


def _read_payload(pb: frame_pb2.Command, user_id: UserId) -> frames.CommandPayload | HubbubError:
    try:
        if not 1 <= len(pb.request_id) <= REQUEST_ID_MAX_CHARACTERS:
            raise InvalidField("command.request_id", f"1 to {REQUEST_ID_MAX_CHARACTERS} characters")
        match pb.WhichOneof("payload"):
            case "send_message":
                return read_send_message(pb.send_message, user_id, prefix="command.send_message.")
            case "reauthenticate":
                return read_reauthenticate(pb.reauthenticate, prefix="command.reauthenticate.")
            case "set_typing":
                return read_set_typing(pb.set_typing, prefix="command.set_typing.")
            case "mark_read":
                return read_mark_read(pb.mark_read, prefix="command.mark_read.")
            case "mark_delivered":
                return read_mark_delivered(pb.mark_delivered, prefix="command.mark_delivered.")
            case None:
                raise InvalidField("command.payload", "one of the known commands")
    except HubbubError as error:
        return error


# ---- to the client


def encode_messages(outgoing: Sequence[Outgoing]) -> list[bytes]:
    """Turns frames that are ready together into as few messages of the stream as the contract allows.

    Neighbouring events and signals are joined, up to 256 KiB of frame; a control is alone in its message; in order.
    """
    messages: list[bytes] = []
    bodies: list[bytes] = []
    size_bytes = 0
    for each in outgoing:
        body = each.body if isinstance(each, _JOINED) else b""
        if bodies and (not body or size_bytes + len(body) > FRAME_MAX_BYTES):
            messages.append(_encode_bodies(bodies))
            bodies, size_bytes = [], 0
        if isinstance(each, _JOINED):
            bodies.append(body)
            size_bytes += len(body)
        else:
            messages.append(encode_frame(_control_to_pb(each).SerializeToString()))
    if bodies:
        messages.append(_encode_bodies(bodies))
    return messages


def _encode_bodies(bodies: list[bytes]) -> bytes:
    return encode_frame(b"".join(bodies)) if len(bodies) > 1 else _encode_record(bodies[0])


def encode_frame(frame: bytes) -> bytes:
    """Returns the bytes of a ServerFrame as those of a message of any of the streams."""
    return _FRAME_TAG + encode_varint(len(frame)) + frame


# A record goes to many streams one after the other: its message is made once and shared by all of them.
_encode_record = lru_cache(maxsize=16)(encode_frame)


def _control_to_pb(control: frames.Control) -> frame_pb2.ServerFrame:  # noqa: C901, PLR0911  # one case a kind
    match control:
        case frames.Welcome():
            return frame_pb2.ServerFrame(welcome=_welcome_to_pb(control))
        case frames.Heads(heads=heads, complete=complete):
            return frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=map(head_to_pb, heads), complete=complete))
        case frames.Heartbeat(heads=heads, resume_token=resume_token, live=live):
            return frame_pb2.ServerFrame(
                heartbeat=frame_pb2.Heartbeat(heads=map(head_to_pb, heads), resume_token=resume_token, live=live)
            )
        case frames.Reply():
            return frame_pb2.ServerFrame(reply=_reply_to_pb(control))
        case frames.Rejected(error=error, request_id=request_id, topic_id=topic_id):
            return frame_pb2.ServerFrame(
                rejected=frame_pb2.Rejected(request_id=request_id, topic_id=topic_id, status=status_of(error))
            )
        case frames.CaughtUp(heads=heads):
            return frame_pb2.ServerFrame(caught_up=frame_pb2.CaughtUp(heads=map(head_to_pb, heads)))
        case frames.Gap():
            return frame_pb2.ServerFrame(gap=_gap_to_pb(control))
        case frames.Reset(head=head):
            return frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head_to_pb(head)))
        case frames.TopicEnded(topic_id=topic_id):
            return frame_pb2.ServerFrame(topic_ended=frame_pb2.TopicEnded(topic_id=topic_id))
        case frames.Lagging():
            return frame_pb2.ServerFrame(lagging=frame_pb2.Lagging())
        case frames.Goodbye():
            return frame_pb2.ServerFrame(goodbye=_goodbye_to_pb(control))
        case _:
            assert_never(control)


def _welcome_to_pb(welcome: frames.Welcome) -> frame_pb2.Welcome:
    return frame_pb2.Welcome(
        session_id=welcome.session_id,
        user_id=welcome.user_id,
        heartbeat_interval=duration(welcome.heartbeat_interval_s),
        ack_window_events=welcome.ack_window_events,
        token_expire_time=timestamp(welcome.token_expire_time_ms),
        resumed=welcome.resumed,
    )


def _reply_to_pb(reply: frames.Reply) -> frame_pb2.Reply:
    match reply.answer:
        case Sent():
            return frame_pb2.Reply(request_id=reply.request_id, send_message=sent_to_pb(reply.answer))
        case Marked():
            return frame_pb2.Reply(request_id=reply.request_id, mark_read=marked_to_pb(reply.answer))
        case Delivered():
            return frame_pb2.Reply(request_id=reply.request_id, mark_delivered=delivered_to_pb(reply.answer))
        case frames.Reauthenticated(token_expire_time_ms=expire_time_ms):
            return frame_pb2.Reply(
                request_id=reply.request_id,
                reauthenticate=frame_pb2.ReauthenticateResponse(token_expire_time=timestamp(expire_time_ms)),
            )
        case frames.TypingSet():
            return frame_pb2.Reply(request_id=reply.request_id, set_typing=frame_pb2.SetTypingResponse())


def _gap_to_pb(gap: frames.Gap) -> frame_pb2.Gap:
    pb = frame_pb2.Gap(head=head_to_pb(gap.head), newest_messages=map(stored_message_to_pb, gap.newest_messages))
    getattr(pb, "from").CopyFrom(cursor_to_pb(gap.start))  # "from" is a keyword
    return pb


def _goodbye_to_pb(goodbye: frames.Goodbye) -> frame_pb2.Goodbye:
    return frame_pb2.Goodbye(
        reason=_REASON_TO_PB[goodbye.reason],
        reconnect=goodbye.reconnect,
        retry_delay=duration(goodbye.retry_delay_s),
        resume_token=goodbye.resume_token,
    )
