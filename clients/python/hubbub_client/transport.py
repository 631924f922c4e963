"""The channel to the server, and the stubs on it."""

from typing import Final, Self

import grpc
from grpc import aio
from hubbub.auth.v1 import auth_service_pb2_grpc as auth_grpc
from hubbub.chat.v1 import chat_service_pb2_grpc as chat_grpc
from hubbub.chat.v1 import marker_service_pb2_grpc as markers_grpc
from hubbub.conversation.v1 import conversation_service_pb2_grpc as conversations_grpc
from hubbub.history.v1 import history_service_pb2_grpc as history_grpc
from hubbub.presence.v1 import presence_service_pb2_grpc as presence_grpc
from hubbub.user.v1 import settings_service_pb2_grpc as settings_grpc
from hubbub.user.v1 import user_service_pb2_grpc as users_grpc

_OPTIONS: Final = (
    # A renewed channel must not find the dead connection of the old one in a pool that all channels share.
    ("grpc.use_local_subchannel_pool", 1),
    # The client has its own pauses with jitter; the channel's default ones grow to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 5_000),  # in truth the time-out of one attempt
    ("grpc.max_receive_message_length", 4 * 1024 * 1024),
)


class Stubs:
    """The services of the contract on one channel."""

    def __init__(self, channel: aio.Channel) -> None:
        self.auth = auth_grpc.AuthServiceStub(channel)
        self.chat = chat_grpc.ChatServiceStub(channel)
        self.conversations = conversations_grpc.ConversationServiceStub(channel)
        self.history = history_grpc.HistoryServiceStub(channel)
        self.markers = markers_grpc.MarkerServiceStub(channel)
        self.presence = presence_grpc.PresenceServiceStub(channel)
        self.settings = settings_grpc.SettingsServiceStub(channel)
        self.users = users_grpc.UserServiceStub(channel)


class Transport:
    """Owns the channel. Opened by `async with`; `stubs` may change with every `renew`, so read it for each call.

    Args:
        target: "host:port".
        credentials: for TLS; None speaks plain text.
    """

    def __init__(self, target: str, credentials: grpc.ChannelCredentials | None) -> None:
        self._target, self._credentials = target, credentials
        self._channel: aio.Channel | None = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._channel is not None:
            await self._channel.close()

    def _open(self) -> None:
        if self._credentials is None:
            self._channel = aio.insecure_channel(self._target, options=_OPTIONS)
        else:
            self._channel = aio.secure_channel(self._target, self._credentials, options=_OPTIONS)
        self.stubs = Stubs(self._channel)

    def renew(self) -> aio.Channel | None:
        """Replaces a channel whose connection went silent; returns it, to be closed once its calls are over."""
        silent = self._channel
        self._open()
        return silent
