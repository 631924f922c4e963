"""SignalCodec in protobuf: a ServerFrame with one signal."""

from google.protobuf.message import DecodeError
from hubbub.chat.v1 import frame_pb2

from hubbub_server.domain.ids import is_conversation_id, is_user_id
from hubbub_server.domain.limits import TYPING_EXPIRES_S
from hubbub_server.domain.signals import DeliveredMarker, ReadFloor, ReadMarker, Signal, Typing, UnknownSignal
from hubbub_server.wire.times import duration


class ProtoSignalCodec:
    """See SignalCodec."""

    def encode(self, signal: Signal) -> bytes:
        """See SignalCodec."""
        pb = frame_pb2.Signal(conversation_id=signal.conversation_id, user_id=signal.user_id or "")
        match signal.kind:
            case Typing(making=making, active=active):
                typing = frame_pb2.Typing(active=active, expires_in=duration(TYPING_EXPIRES_S if active else 0.0))
                typing.kind = making  # type: ignore[assignment]  # any number: enums are open
                pb.typing.CopyFrom(typing)
            case ReadMarker(message_number=number):
                pb.read_marker.message_number = number
            case DeliveredMarker(message_number=number):
                pb.delivered_marker.message_number = number
            case ReadFloor(message_number=number):
                pb.read_floor.message_number = number
            case UnknownSignal():
                raise ValueError("only the bytes of a newer signal are known")
        return frame_pb2.ServerFrame(signals=[pb]).SerializeToString(deterministic=True)

    def decode(self, body: bytes) -> Signal:
        """See SignalCodec."""
        try:
            frame = frame_pb2.ServerFrame.FromString(body)
        except DecodeError as error:
            raise ValueError("no frame") from error
        if len(frame.signals) != 1 or frame.events or frame.WhichOneof("control"):
            raise ValueError("not one signal")
        (pb,) = frame.signals
        kind = _kind_of(pb)
        if not is_conversation_id(pb.conversation_id):
            raise ValueError("a signal of nothing")
        if isinstance(kind, ReadFloor) and not pb.user_id:
            return Signal(conversation_id=pb.conversation_id, user_id=None, kind=kind)
        if not is_user_id(pb.user_id):
            raise ValueError("a signal of nobody")
        return Signal(conversation_id=pb.conversation_id, user_id=pb.user_id, kind=kind)


def _kind_of(pb: frame_pb2.Signal) -> Typing | ReadMarker | DeliveredMarker | ReadFloor | UnknownSignal:
    match pb.WhichOneof("kind"):
        case "typing":
            return Typing(making=pb.typing.kind, active=pb.typing.active)
        case "read_marker":
            return ReadMarker(message_number=pb.read_marker.message_number)
        case "delivered_marker":
            return DeliveredMarker(message_number=pb.delivered_marker.message_number)
        case "read_floor":
            return ReadFloor(message_number=pb.read_floor.message_number)
        case _:
            return UnknownSignal()
