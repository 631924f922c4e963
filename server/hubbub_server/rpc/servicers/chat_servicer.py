"""Serves hubbub.chat.v1.ChatService. Streams carry bytes, and each transport has its own pump for them."""

from hubbub.chat.v1 import chat_service_pb2 as pb
from hubbub.chat.v1 import chat_service_pb2_grpc, frame_pb2

from hubbub_server.app.conversations import Conversations
from hubbub_server.app.streams import Streams
from hubbub_server.app.typing_signals import TypingSignals
from hubbub_server.rpc.call import current_call
from hubbub_server.wire.commands import read_send_message, read_set_typing
from hubbub_server.wire.frames import read_hello
from hubbub_server.wire.values import sent_to_pb


class ChatServicer(chat_service_pb2_grpc.ChatServiceServicer):
    """Sends messages, tells who types, and opens streams."""

    def __init__(self, conversations: Conversations, streams: Streams, typing: TypingSignals) -> None:
        """Takes the use cases."""
        self._typing = typing
        self._conversations = conversations
        self._streams = streams

    # The generated base knows only generators; grpc.aio also takes coroutines that read and write themselves.

    async def Connect(self, request_iterator: object, context: object) -> None:  # type: ignore[override]  # see above
        """Opens a session in both directions."""
        call = current_call()
        await call.pump(call, self._streams.open(call.authenticated, takes_commands=True), takes_frames=True)

    async def Subscribe(self, request: pb.SubscribeRequest, context: object) -> None:  # type: ignore[override]  # see above
        """Opens a session for clients that cannot stream upwards."""
        call = current_call()
        hello = read_hello(request.hello)
        live = self._streams.open(call.authenticated, takes_commands=False)
        live.receive(hello)
        await call.pump(call, live, takes_frames=False)

    async def SendMessage(
        self, request: frame_pb2.SendMessageRequest, context: object
    ) -> frame_pb2.SendMessageResponse:
        """Sends a message to a conversation."""
        call = current_call()
        call.conversation_id = request.conversation_id[:32]
        send = read_send_message(request, call.authenticated.user_id)
        self._typing.message_submitted(call.authenticated.user_id, send.conversation_id)
        sent = await self._conversations.send(send.conversation_id, send.command, session_id=call.session_id)
        return sent_to_pb(sent)

    async def SetTyping(self, request: frame_pb2.SetTypingRequest, context: object) -> frame_pb2.SetTypingResponse:
        """Tells the other members of a conversation that the caller types, or stopped."""
        call = current_call()
        call.conversation_id = request.conversation_id[:32]
        command = read_set_typing(request)
        await self._typing.set(
            call.authenticated.user_id, command.conversation_id, command.typing, session_id=call.session_id
        )
        return frame_pb2.SetTypingResponse()
