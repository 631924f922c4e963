"""Reads a server's frames without trusting a decoder: the bytes of each event are cut out of the response as they came.

Every streaming response has the frame in field 1, and a frame has its events in field 1. Joined frames are repeated or
concatenated fields, which protobuf merges; so does this.
"""

from collections.abc import Iterator
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from hubbub.chat.v1 import event_pb2, frame_pb2

from tests.soak.records import digest


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def delimited(data: bytes, number: int) -> Iterator[bytes]:
    """Yields the length-delimited fields of one number, in order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        match key & 7:
            case 2:
                size, at = _varint(data, at)
                if key >> 3 == number:
                    yield data[at : at + size]
                at += size
            case 0:
                _, at = _varint(data, at)
            case 5:
                at += 4
            case 1:
                at += 8
            case other:
                raise ValueError(f"wire type {other}")


def read_frame(response: bytes) -> tuple[frame_pb2.ServerFrame, list[bytes]]:
    """Returns the frame of a streaming response, and the bytes of its events."""
    frame_bytes = b"".join(delimited(response, 1))
    return frame_pb2.ServerFrame.FromString(frame_bytes), list(delimited(frame_bytes, 1))


def milliseconds(time: Timestamp) -> int:
    """Returns a timestamp as milliseconds since 1970."""
    return time.seconds * 1000 + time.nanos // 1_000_000


def event_fields(event: event_pb2.Event, raw: bytes) -> dict[str, Any]:
    """Returns an event as the fields of an `event` record."""
    message = event.message_sent.message
    return {
        "topic": event.topic_id,
        "epoch": event.epoch,
        "position": event.position,
        "number": event.message_number,
        "id": message.client_message_id,
        "sender": message.sender_id,
        "content": digest(message.content.text.text) if message.client_message_id else "",
        "bytes": digest(raw) if raw else "",
        "commit_ms": milliseconds(event.commit_time),
        "what": event.WhichOneof("kind") or "unknown",
        "users": [m.user_id for m in event.members_added.members] or _removed(event),
    }


def _removed(event: event_pb2.Event) -> list[str]:
    return [event.member_removed.user_id] if event.HasField("member_removed") else []
