"""The unary calls that soak clients and the run itself make: sign in, list messages, change members. Raw stubs."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.history.v1 import history_service_pb2, history_service_pb2_grpc

from tests.soak.frames import milliseconds
from tests.soak.records import Journal, digest

CALL_TIMEOUT_S = 6.0
GIVE_UP_S = 180.0
_PASSING = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)
_OPTIONS = [
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
]
Answer = TypeVar("Answer")
Metadata = tuple[tuple[str, str], ...]


class UnconfirmedPage(Exception):
    """A page of a node that cannot read the log at the moment."""


def open_channel(port: int) -> grpc.aio.Channel:
    """Opens a channel that shares its connection with no other."""
    return grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=_OPTIONS)


def reason_of(status: status_pb2.Status) -> str:
    """Returns the reason of a status, empty when it has none."""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details:
        if detail.Unpack(info):
            return info.reason
    return ""


def status_of(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Returns the rich status of an error; an empty one when it was made on the way."""
    trailers: Any = error.trailing_metadata() or ()
    for key, value in trailers:
        if key == "grpc-status-details-bin":
            return status_pb2.Status.FromString(value if isinstance(value, bytes) else value.encode())
    return status_pb2.Status()


async def persist(call: Callable[[], Awaitable[Answer]], *, for_s: float = GIVE_UP_S) -> Answer:
    """Repeats a call that is safe to repeat until it answers; other errors than passing ones go to the caller."""
    end = time.monotonic() + for_s
    while True:
        try:
            return await call()
        except UnconfirmedPage:
            if time.monotonic() > end:
                raise
        except grpc.aio.AioRpcError as error:
            if error.code() not in _PASSING or time.monotonic() > end:
                raise
        await asyncio.sleep(random.uniform(0.05, 0.5))


class Login:
    """One user's tokens, renewed before they end."""

    def __init__(self, login_name: str, password: str) -> None:
        """Names the user."""
        self.login_name = login_name
        self._password = password
        self._credentials: auth_service_pb2.Credentials | None = None

    @property
    def token(self) -> str:
        """The newest access token."""
        assert self._credentials is not None
        return self._credentials.access_token

    @property
    def metadata(self) -> Metadata:
        """What calls carry."""
        return (("authorization", f"Bearer {self.token}"),)

    @property
    def user_id(self) -> str:
        """The user."""
        assert self._credentials is not None
        return self._credentials.user_id

    def needs_renewal(self) -> bool:
        """True when less than two minutes are left."""
        return self._credentials is None or self._credentials.access_expire_time.seconds - time.time() < 120

    async def renew(self, channel: grpc.aio.Channel) -> None:
        """Signs in, or refreshes; tries until it works."""
        stub = auth_service_pb2_grpc.AuthServiceStub(channel)
        if self._credentials is None:
            request = auth_service_pb2.LoginRequest(login_name=self.login_name, password=self._password)
            login = await persist(lambda: stub.Login(request, timeout=CALL_TIMEOUT_S * 2))
            self._credentials = login.credentials
            return
        refresh = auth_service_pb2.RefreshTokenRequest(refresh_token=self._credentials.refresh_token)
        answer = await persist(lambda: stub.RefreshToken(refresh, timeout=CALL_TIMEOUT_S))
        self._credentials = answer.credentials


async def read_page(port: int, login: Login, topic: str, journal: Journal) -> None:
    """Reads the newest message of a topic over a connection of its own and notes which head the page reflects."""
    request = history_service_pb2.ListMessagesRequest(conversation_id=topic, page_size=1)
    async with open_channel(port) as channel:
        stub = history_service_pb2_grpc.HistoryServiceStub(channel)
        begin = time.monotonic()
        try:
            page = await stub.ListMessages(request, metadata=login.metadata, timeout=CALL_TIMEOUT_S)
        except grpc.aio.AioRpcError:
            return  # a read that fails tells nothing; one that answers must be right
    head = page.head
    journal.write(
        "page",
        begin=begin,
        topic=topic,
        position=head.cursor.position,
        number=head.last_message_number,
        confirmed=not page.head_unconfirmed,
    )


async def _confirmed_page(
    stub: history_service_pb2_grpc.HistoryServiceStub,
    request: history_service_pb2.ListMessagesRequest,
    metadata: Metadata,
) -> history_service_pb2.ListMessagesResponse:
    """Reads a page; one that may lack something counts as none.

    Raises:
        UnconfirmedPage: the node cannot read the log.
    """
    page = await stub.ListMessages(request, metadata=metadata, timeout=CALL_TIMEOUT_S)
    if page.head_unconfirmed:
        raise UnconfirmedPage
    return page


async def read_history(port: int, login: Login, topic: str, journal: Journal) -> None:
    """Lists all messages of a topic from the first one on and writes them down."""
    number = 0
    async with open_channel(port) as channel:
        stub = history_service_pb2_grpc.HistoryServiceStub(channel)
        while True:
            request = history_service_pb2.ListMessagesRequest(
                conversation_id=topic,
                anchor_number=number,
                side=history_service_pb2.PAGE_SIDE_AFTER,
                page_size=200,
            )
            try:
                page = await persist(partial(_confirmed_page, stub, request, login.metadata))
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.NOT_FOUND:
                    journal.write("denied", topic=topic)
                    return
                raise
            for message in page.messages:
                number = message.message_number
                journal.write(
                    "message",
                    topic=topic,
                    number=number,
                    id=message.client_message_id,
                    sender=message.sender_id,
                    content=digest(message.content.text.text),
                    commit_ms=milliseconds(message.commit_time),
                )
            if not page.newer_available:
                head = page.head
                journal.write("history", topic=topic, position=head.cursor.position, number=head.last_message_number)
                return
