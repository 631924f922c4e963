"""What a client of the edge may say: valid HTTP/2 with calls of gRPC, some of them odd, made from chance alone.

A conversation is a list of pieces: the preface, then one frame each. Its calls are interleaved.
"""

import random
from collections.abc import Callable, Sequence
from typing import Final

import hpack
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.history.v1 import history_service_pb2
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from hubbub_server.edge.grpc_messages import prefixed
from tests.fuzz.house import ECHO, MUCH, House
from tests.support.app_node import message_id
from tests.support.live_client import text_message

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
CONNECT, SUBSCRIBE = "/hubbub.chat.v1.ChatService/Connect", "/hubbub.chat.v1.ChatService/Subscribe"
SYNC, SYNC_ONCE = "/hubbub.history.v1.HistoryService/Sync", "/hubbub.history.v1.HistoryService/SyncOnce"
_PATHS: Final = (ECHO, MUCH, CONNECT, SUBSCRIBE, SYNC, SYNC_ONCE, "/no.Such/Method", "", "/\xff")
_OFTEN: Final = (8, 4, 6, 2, 2, 2, 1, 0.2, 0.2)
_INSTANCE: Final = "01890a5d-ac96-774b-bcce-b302099a8057"
_ODD_FIELDS: Final = (
    ("grpc-timeout", "0m"),
    ("grpc-timeout", "1S"),
    ("grpc-timeout", "99999999H"),
    ("grpc-timeout", "-1S"),
    ("grpc-timeout", "\u0661S"),
    ("grpc-encoding", "gzip"),
    ("grpc-encoding", "identity"),
    ("content-type", "text/plain"),
    ("content-length", "7"),
    ("x-bin", "!!!!"),
    ("x-bin", "AAE"),
    ("x-request-id", "r" * 300),
    ("Upper", "case"),
    ("connection", "close"),
    ("te", "gzip"),
    ("x", "\0"),
    ("", "no name"),
    ("cookie", "a=b"),
    ("x-large", "v" * 5_000),
    (":path", "/again"),
    ("authorization", "Bearer no.token.at-all"),
)
_SETTINGS: Final[tuple[dict[int, int], ...]] = (
    {SettingsFrame.INITIAL_WINDOW_SIZE: 0},
    {SettingsFrame.INITIAL_WINDOW_SIZE: 2**31 - 1},
    {SettingsFrame.INITIAL_WINDOW_SIZE: 100},
    {SettingsFrame.HEADER_TABLE_SIZE: 0},
    {SettingsFrame.HEADER_TABLE_SIZE: 2**32 - 1},
    {SettingsFrame.MAX_FRAME_SIZE: 16_384},
    {SettingsFrame.MAX_CONCURRENT_STREAMS: 0},
    {SettingsFrame.ENABLE_PUSH: 0},
    {0x99: 7},
    {},
)
_FRAME_BYTES: Final = 16_000
Later = bytes | Callable[[], bytes]


class Talker:
    """Makes conversations from one source of chance."""

    def __init__(self, chance: random.Random, house: House) -> None:
        """Takes what good calls need from the node."""
        self._chance = chance
        self._house = house
        self._hpack = hpack.Encoder()
        self._stream_id = -1

    def talk(self) -> list[bytes]:
        """Makes a conversation of a few calls."""
        chance = self._chance
        pieces = [PREFACE, SettingsFrame(0, settings=chance.choice(_SETTINGS)).serialize()]
        waiting: list[list[Later]] = []
        to_open = chance.choice((0, 1, 1, 2, 3, 5, 8))
        while to_open or waiting:
            if to_open and (not waiting or chance.random() < 0.3):
                to_open -= 1
                pieces.append(self._open_call(waiting))
            elif chance.random() < 0.15:
                pieces.append(self._control())
            else:
                call = chance.choice(waiting)
                piece = call.pop(0)
                pieces.append(piece if isinstance(piece, bytes) else piece())
                if not call:
                    waiting.remove(call)
        return pieces

    def _open_call(self, waiting: list[list[Later]]) -> bytes:
        """Makes the headers of a call; what else it says will wait."""
        chance = self._chance
        (path,) = chance.choices(_PATHS, _OFTEN)
        self._stream_id = stream_id = self._stream_id + 2
        body = b"".join(self._message(path) for _ in range(chance.choice((0, 1, 1, 2, 3, 20))))
        if path == CONNECT and chance.random() < 0.9:
            hello = chat_service_pb2.ConnectRequest(hello=chat_service_pb2.Hello(instance_id=_INSTANCE))
            body = prefixed(hello.SerializeToString()) + body
        if chance.random() < 0.15:
            body = _spoil(chance, body)
        how = chance.choice(("end", "end", "end", "empty end", "trailers", "reset", "open"))
        pieces: list[Later] = []
        cuts = sorted(chance.randrange(len(body)) for _ in range(chance.choice((0, 0, 1, 3)))) if body else []
        if len(body) > _FRAME_BYTES:
            cuts = list(range(_FRAME_BYTES, len(body), _FRAME_BYTES))
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if body else ():
            is_last = how == "end" and end == len(body)
            pieces.append(self._data(stream_id, body[start:end], end=is_last))
        if how == "empty end":
            pieces.append(self._data(stream_id, b"", end=True))
        elif how == "trailers":
            pieces.append(lambda: self._block(stream_id, [("x-trailer", "t")], end=True))
        elif how == "reset":
            pieces.append(RstStreamFrame(stream_id, error_code=chance.choice((0, 8, 5, 77))).serialize())
        if pieces:
            waiting.append(pieces)
        return self._headers(stream_id, path, end=how == "end" and not body)

    def _message(self, path: str) -> bytes:
        chance = self._chance
        if path == CONNECT:
            text = "t" * chance.choice((1, 100, 5_000))
            serial = message_id(chance.randrange(2**40))
            send = text_message(self._house.conversation_id, text, client_message_id=serial)
            request = chance.choice(
                (
                    chat_service_pb2.ConnectRequest(hello=chat_service_pb2.Hello(instance_id=_INSTANCE)),
                    chat_service_pb2.ConnectRequest(command=frame_pb2.Command(request_id="1", send_message=send)),
                    chat_service_pb2.ConnectRequest(ack=chat_service_pb2.Ack(processed_events=chance.randrange(5))),
                )
            ).SerializeToString()
        elif path == SUBSCRIBE:
            hello = chat_service_pb2.Hello(instance_id=_INSTANCE)
            request = chat_service_pb2.SubscribeRequest(hello=hello).SerializeToString()
        elif path in (SYNC, SYNC_ONCE):
            sync = history_service_pb2.SyncRequest()
            sync.cursors.add(topic_id=self._house.conversation_id, position=chance.randrange(3))
            once = history_service_pb2.SyncOnceRequest(request=sync)
            request = (sync if path == SYNC else once).SerializeToString()
        else:
            request = chance.randbytes(chance.choice((0, 1, 10, 1_000)))
        if request and chance.random() < 0.1:
            at = chance.randrange(len(request))
            request = request[:at] + chance.randbytes(1) + request[at + 1 :]
        return prefixed(request)

    def _headers(self, stream_id: int, path: str, *, end: bool) -> bytes:
        chance = self._chance
        fields = [
            (":method", "POST" if chance.random() < 0.97 else "GET"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "edge"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            ("authorization", f"Bearer {self._house.token}"),
        ]
        if chance.random() < 0.15:
            at = len(fields) if chance.random() < 0.8 else chance.randrange(len(fields))
            fields.insert(at, chance.choice(_ODD_FIELDS))
        if chance.random() < 0.03:
            fields += [("x-many", str(number)) for number in range(chance.choice((50, 100, 300)))]
        return self._block(stream_id, fields, end=end)

    def _block(self, stream_id: int, fields: Sequence[tuple[str, str]], *, end: bool) -> bytes:
        chance = self._chance
        block = self._hpack.encode(fields, huffman=chance.random() < 0.8)
        cuts = sorted(chance.randrange(len(block)) for _ in range(chance.choice((0, 0, 0, 0, 1, 5))))
        parts = [block[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(block)], strict=True)]
        head = HeadersFrame(stream_id, parts[0], flags=["END_STREAM"] if end else [])
        frames = [head, *(ContinuationFrame(stream_id, part) for part in parts[1:])]
        frames[-1].flags.add("END_HEADERS")
        if chance.random() < 0.1:
            head.flags.add("PRIORITY")
            head.depends_on, head.stream_weight = 0, 3
        if chance.random() < 0.1:
            head.flags.add("PADDED")
            head.pad_length = chance.randrange(256)
        return b"".join(frame.serialize() for frame in frames)

    def _data(self, stream_id: int, data: bytes, *, end: bool) -> bytes:
        frame = DataFrame(stream_id, data, flags=["END_STREAM"] if end else [])
        if self._chance.random() < 0.1:
            frame.flags.add("PADDED")
            frame.pad_length = self._chance.randrange(256)
        return frame.serialize()

    def _control(self) -> bytes:
        """Makes a frame that belongs to no call in particular."""
        chance = self._chance
        stream_id = chance.randrange(1, self._stream_id + 2, 2) if self._stream_id > 0 else 0
        (kind,) = chance.choices(range(6), (3, 1.5, 0.1, 1, 0.2, 4))
        match kind:
            case 0:
                return PingFrame(0, chance.randbytes(8)).serialize()
            case 1:
                return SettingsFrame(0, settings=chance.choice(_SETTINGS)).serialize()
            case 2:
                return SettingsFrame(0, flags=["ACK"]).serialize()
            case 3:
                return PriorityFrame(max(1, stream_id), depends_on=0).serialize()
            case 4:
                return GoAwayFrame(0, last_stream_id=0, error_code=chance.randrange(3)).serialize()
        (increment,) = chance.choices((1, 100, 65_535, 2**20, 2**31 - 1), (1, 1, 1, 1, 0.1))
        return WindowUpdateFrame(chance.choice((0, stream_id)), window_increment=increment).serialize()


def _spoil(chance: random.Random, body: bytes) -> bytes:
    """Makes messages wrong: compressed, too long, cut short, or no messages at all."""
    return chance.choice(
        (
            b"\1" + body[1:],
            b"\0\xff\xff\xff\xff" + body,
            body + b"\0\0\x10\0\1",
            body[:-1],
            body + b"\0\0\0",
            chance.randbytes(20) + body,
            prefixed(b"") * 1_000,
            b"\0\0\x0f\xff\xff" + b"y" * 30_000,
        )
    )
