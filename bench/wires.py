"""What clients must know of a wire: which answers hold events, when a stream hears its topic, when it must answer.

An answer is read once however many streams get the same bytes: that is what keeps a client cheaper than the server.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from hubbub.chat.v1 import chat_service_pb2

from bench.h2_client import split
from hubbub_server.wire.varint import encode_varint


@dataclass(frozen=True, slots=True)
class Answer:
    """What whole messages of one stream say."""

    events: int = 0
    stamps: tuple[float, ...] = ()
    """When events were sent: the number at the beginning of each text, CLOCK_MONOTONIC."""
    opens: bool = False
    """From here on the stream hears its topic."""
    is_over: bool = False
    """The server says goodbye."""
    reply: bytes = b""
    """What the client must answer."""


def read_hubbub(data: bytes) -> Answer:
    """Reads frames of ChatService.Connect."""
    events, stamps, opens, is_over, reply = 0, [], False, False, b""
    for message in split(data):
        frame = chat_service_pb2.ConnectResponse.FromString(message).frame
        events += len(frame.events)
        stamps += [stamp_of(event.message_sent.message.content.text.text) for event in frame.events]
        match frame.WhichOneof("control"):
            case "heads":
                opens = opens or frame.heads.complete
            case "heartbeat":
                reply = _ACK
            case "goodbye":
                is_over = True
    return Answer(events, tuple(filter(None, stamps)), opens, is_over, reply)


_ACK: Final = chat_service_pb2.ConnectRequest(ack=chat_service_pb2.Ack()).SerializeToString()


def read_centrifugo(data: bytes) -> Answer:
    """Reads Push messages of CentrifugoUniStream.Consume: pub 4 {data 4}, connect 10, disconnect 11."""
    events, stamps, opens, is_over = 0, [], False, False
    for message in split(data):
        for field, value in _fields(message):
            if field == 4:
                events += 1
                stamps += [stamp_of(text.decode().strip('"')) for inner, text in _fields(value) if inner == 4]
            opens = opens or field == 10
            is_over = is_over or field == 11
    return Answer(events, tuple(filter(None, stamps)), opens, is_over)


def stamp_of(text: str) -> float:
    """Returns the number at the beginning of a text, 0 without one."""
    word = text.partition(" ")[0]
    return float(word) if word.replace(".", "").isdigit() else 0.0


def field(number: int, value: bytes) -> bytes:
    """Encodes a length-delimited field of protobuf."""
    return encode_varint(number << 3 | 2) + encode_varint(len(value)) + value


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """Yields the length-delimited fields of a message; skips numbers."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        if key & 7 == 0:
            _, at = _read_varint(message, at)
            continue
        if key & 7 != 2:
            raise ValueError(f"wire type {key & 7}")
        size, at = _read_varint(message, at)
        yield key >> 3, message[at : at + size]
        at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at


WIRES: Final[Mapping[str, Callable[[bytes], Answer]]] = {"hubbub": read_hubbub, "centrifugo": read_centrifugo}
