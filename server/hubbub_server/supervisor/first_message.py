"""The proof that everything works: a message from one demo account to the other, through Envoy, heard on a stream."""

import asyncio
import uuid
from contextlib import suppress
from typing import Final

import grpc
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.chat.v1 import chat_service_pb2, chat_service_pb2_grpc, event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

SENDER: Final = "alice"
RECEIVER: Final = "bob"
_TRY_TIMEOUT_S: Final = 15.0
_PAUSE_S: Final = 0.2
_MAY_PASS: Final = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED}
)


class NoMessage(Exception):
    """The message did not arrive in time, or was refused; the text says what was tried last."""


async def send_first_message(port: int, *, password: str, timeout_s: float) -> None:
    """Sends a message from alice to bob and waits until bob's stream has it. Makes the accounts when they are missing.

    Raises:
        NoMessage: it failed for good, or `timeout_s` passed.
    """
    failure = "no answer"
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    async with (
                        asyncio.timeout(_TRY_TIMEOUT_S),
                        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
                    ):
                        await _try_once(channel, password)
                        return
                except TimeoutError:
                    failure = "the message was sent and not received"
                except grpc.aio.AioRpcError as error:
                    failure = f"{error.code().name}: {error.details()}"
                    if error.code() not in _MAY_PASS:
                        break
                await asyncio.sleep(_PAUSE_S)
    raise NoMessage(f"no message went through Envoy on port {port}: {failure}")


async def _try_once(channel: grpc.aio.Channel, password: str) -> None:
    sender = await _sign_in(channel, SENDER, password)
    receiver = await _sign_in(channel, RECEIVER, password)
    conversations = conversation_service_pb2_grpc.ConversationServiceStub(channel)
    chat = chat_service_pb2_grpc.ChatServiceStub(channel)
    created = await conversations.CreateConversation(
        conversation_service_pb2.CreateConversationRequest(
            direct=conversation_service_pb2.DirectSpec(user_id=receiver.user_id)
        ),
        metadata=_bearer(sender),
    )
    hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
    stream = chat.Subscribe(chat_service_pb2.SubscribeRequest(hello=hello), metadata=_bearer(receiver))
    client_message_id = str(uuid.uuid4())
    request = frame_pb2.SendMessageRequest(
        conversation_id=created.view.conversation.conversation_id,
        client_message_id=client_message_id,
    )
    request.content.text.text = "hubbub is up"
    async for response in stream:
        if response.frame.HasField("heads"):
            await chat.SendMessage(request, metadata=_bearer(sender))
        if any(_is_message(event, client_message_id) for event in response.frame.events):
            break
    stream.cancel()


async def _sign_in(channel: grpc.aio.Channel, name: str, password: str) -> auth_service_pb2.Credentials:
    stub = auth_service_pb2_grpc.AuthServiceStub(channel)
    try:
        registered = await stub.Register(
            auth_service_pb2.RegisterRequest(login_name=name, password=password, display_name=name.title())
        )
    except grpc.aio.AioRpcError as error:
        if error.code() != grpc.StatusCode.ALREADY_EXISTS:
            raise
        login = await stub.Login(auth_service_pb2.LoginRequest(login_name=name, password=password))
        return login.credentials
    return registered.credentials


def _bearer(credentials: auth_service_pb2.Credentials) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {credentials.access_token}"),)


def _is_message(event: event_pb2.Event, client_message_id: str) -> bool:
    return event.message_sent.message.client_message_id == client_message_id
