"""Accounts and groups for measurements, made over the public contract."""

import asyncio
import secrets
from dataclasses import dataclass

from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.chat.v1 import chat_service_pb2_grpc, frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from tests.soak.api import open_channel
from tests.soak.outbox import uuid7

_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class User:
    """A signed-in user."""

    user_id: str
    token: str

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What calls carry."""
        return (("authorization", f"Bearer {self.token}"),)


async def register(port: int, count: int) -> list[User]:
    """Makes new accounts. Their tokens live ten minutes."""
    users = []
    async with open_channel(port) as channel:
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        for _ in range(count):
            request = auth_service_pb2.RegisterRequest(
                login_name=f"b{secrets.token_hex(8)}", password=secrets.token_hex(8), display_name="bench"
            )
            answer = await stub.Register(request, timeout=_TIMEOUT_S, wait_for_ready=True)
            users.append(User(answer.credentials.user_id, answer.credentials.access_token))
    return users


async def create_group(port: int, owner: User, members: list[User]) -> str:
    """Makes a group and returns its id."""
    request = conversation_service_pb2.CreateConversationRequest(request_id=uuid7())
    request.group.title = "bench"
    request.group.user_ids.extend(user.user_id for user in members)
    async with open_channel(port) as channel:
        stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)
        answer = await stub.CreateConversation(
            request, metadata=owner.metadata, timeout=_TIMEOUT_S, wait_for_ready=True
        )
    return answer.view.conversation.conversation_id


def message(topic: str, text: str) -> frame_pb2.SendMessageRequest:
    """Returns a new message."""
    request = frame_pb2.SendMessageRequest(conversation_id=topic, client_message_id=uuid7())
    request.content.text.text = text
    return request


async def send(
    stub: chat_service_pb2_grpc.ChatServiceStub, user: User, topic: str, text: str
) -> frame_pb2.SendMessageResponse:
    """Sends a message by unary call."""
    answer: frame_pb2.SendMessageResponse = await stub.SendMessage(
        message(topic, text), metadata=user.metadata, timeout=_TIMEOUT_S
    )
    return answer


async def pace(rate_per_s: float, stop: asyncio.Event) -> None:
    """Waits for the next beat of a steady rate."""
    try:
        async with asyncio.timeout(1 / rate_per_s):
            await stop.wait()
    except TimeoutError:
        return
