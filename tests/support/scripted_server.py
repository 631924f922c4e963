"""A grpc.aio server that says only what a test tells it to, for clients: they must survive all that is allowed."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc import aio
from hubbub.auth.v1 import auth_service_pb2 as auth_pb
from hubbub.auth.v1 import auth_service_pb2_grpc as auth_grpc
from hubbub.chat.v1 import chat_service_pb2 as chat_pb
from hubbub.chat.v1 import chat_service_pb2_grpc as chat_grpc
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.chat.v1 import marker_service_pb2_grpc as markers_grpc
from hubbub.conversation.v1 import conversation_pb2, message_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb
from hubbub.conversation.v1 import conversation_service_pb2_grpc as conversations_grpc
from hubbub.history.v1 import history_service_pb2 as history_pb
from hubbub.history.v1 import history_service_pb2_grpc as history_grpc
from hubbub.user.v1 import user_service_pb2 as users_pb
from hubbub.user.v1 import user_service_pb2_grpc as users_grpc

ME = "u1"
WITHIN_S = 10.0
Context = aio.ServicerContext[Any, Any]


def status(code: grpc.StatusCode, reason: str, *, retry_delay_s: float = 0.0) -> status_pb2.Status:
    """A status as servers end calls with it."""
    info = any_pb2.Any()
    info.Pack(error_details_pb2.ErrorInfo(domain="hubbub", reason=f"ERROR_REASON_{reason}"))
    details = [info]
    if retry_delay_s:
        retry = any_pb2.Any()
        retry.Pack(error_details_pb2.RetryInfo(retry_delay=duration(retry_delay_s)))
        details.append(retry)
    return status_pb2.Status(code=code.value[0], message="refused", details=details)


def duration(seconds: float) -> duration_pb2.Duration:
    """A protobuf duration."""
    pb = duration_pb2.Duration()
    pb.FromTimedelta(timedelta(seconds=seconds))
    return pb


async def refuse(context: Context, refusal: status_pb2.Status) -> NoReturn:
    """Ends a call with a status."""
    code = next(code for code in grpc.StatusCode if code.value[0] == refusal.code)
    context.set_trailing_metadata((("grpc-status-details-bin", refusal.SerializeToString()),))
    await context.abort(code, refusal.message)
    raise AssertionError("abort raises")


def head(topic_id: str, position: int, *, epoch: int = 1) -> conversation_pb2.TopicHead:
    """A head."""
    cursor = conversation_pb2.Cursor(topic_id=topic_id, epoch=epoch, position=position)
    return conversation_pb2.TopicHead(cursor=cursor, last_message_number=position)


def message(topic_id: str, position: int, *, epoch: int = 1) -> event_pb2.Event:
    """A message_sent whose text is its position."""
    content = message_pb2.Content(text=message_pb2.TextContent(text=f"{topic_id} {position}"))
    body = message_pb2.Message(message_number=position, sender_id="u2", content=content)
    return event_pb2.Event(
        topic_id=topic_id, epoch=epoch, position=position, message_sent=event_pb2.MessageSent(message=body)
    )


def messages(topic_id: str, first: int, last: int) -> frame_pb2.ServerFrame:
    """Several messages in one frame, `last` included."""
    return frame_pb2.ServerFrame(events=[message(topic_id, position) for position in range(first, last + 1)])


def goodbye(
    reason: frame_pb2.GoodbyeReason.ValueType, *, reconnect: bool = True, retry_delay_s: float = 0.0
) -> frame_pb2.ServerFrame:
    """The last frame of a stream."""
    pb = frame_pb2.Goodbye(reason=reason, reconnect=reconnect)
    if retry_delay_s:
        pb.retry_delay.CopyFrom(duration(retry_delay_s))
    return frame_pb2.ServerFrame(goodbye=pb)


@dataclass(eq=False)
class Stream:
    """One Connect call: the test reads what the client wrote and says what the server answers."""

    token: str
    peer: str
    opened_s: float
    received: asyncio.Queue[chat_pb.ConnectRequest] = field(default_factory=asyncio.Queue)
    outgoing: asyncio.Queue[frame_pb2.ServerFrame | status_pb2.Status | None] = field(default_factory=asyncio.Queue)
    acks: list[int] = field(default_factory=list)
    """processed_events of the Acks that came; they are not among `received`."""

    async def hello(self) -> chat_pb.Hello:
        """Waits for the client's Hello."""
        return (await self.next_frame()).hello

    async def next_frame(self) -> chat_pb.ConnectRequest:
        """Waits for the next frame of the client."""
        async with asyncio.timeout(WITHIN_S):
            return await self.received.get()

    async def welcome(
        self, *heads: conversation_pb2.TopicHead, heartbeat_interval_s: float = 20.0, resumed: bool = False
    ) -> chat_pb.Hello:
        """Takes Hello, then says Welcome and complete Heads."""
        hello = await self.hello()
        welcome = frame_pb2.Welcome(
            session_id="s", user_id=ME, heartbeat_interval=duration(heartbeat_interval_s), resumed=resumed
        )
        self.say(frame_pb2.ServerFrame(welcome=welcome))
        self.say(frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=heads, complete=True)))
        return hello

    def say(self, *frames: frame_pb2.ServerFrame) -> None:
        """Sends frames."""
        for frame in frames:
            self.outgoing.put_nowait(frame)

    def reply(self, command: frame_pb2.Command, number: int) -> None:
        """Answers a send."""
        cursor = conversation_pb2.Cursor(topic_id=command.send_message.conversation_id, epoch=1, position=number)
        sent = frame_pb2.SendMessageResponse(message_number=number, cursor=cursor)
        self.say(frame_pb2.ServerFrame(reply=frame_pb2.Reply(request_id=command.request_id, send_message=sent)))

    def end(self, refusal: status_pb2.Status | None = None) -> None:
        """Ends the stream, with OK or with a status."""
        self.outgoing.put_nowait(refusal)


class ScriptedServer(
    auth_grpc.AuthServiceServicer,
    chat_grpc.ChatServiceServicer,
    history_grpc.HistoryServiceServicer,
    markers_grpc.MarkerServiceServicer,
    conversations_grpc.ConversationServiceServicer,
    users_grpc.UserServiceServicer,
):
    """The services. Streams come by `next_stream`, answers to Sync from `sync`; other calls are noted in `calls`."""

    def __init__(self) -> None:
        self.address = ""
        self.calls: list[str] = []
        self.sync_requests: list[list[tuple[str, int]]] = []
        self.sync: Callable[[history_pb.SyncRequest], AsyncIterator[frame_pb2.ServerFrame]] | None = None
        self.before_call: Callable[[str, Context], Awaitable[None]] | None = None
        self.logins = 0
        self.token_life_s = 600.0
        self.views: list[conversations_pb.ConversationView] = []
        self.receipts_mode: read_state_pb2.ReceiptsMode.ValueType = read_state_pb2.RECEIPTS_MODE_OFF
        self.delivered: asyncio.Queue[tuple[str, int]] = asyncio.Queue()
        self.streams: list[Stream] = []
        self._new_streams: asyncio.Queue[Stream] = asyncio.Queue()

    async def next_stream(self) -> Stream:
        """Waits for the next Connect."""
        async with asyncio.timeout(WITHIN_S):
            return await self._new_streams.get()

    async def _note(self, name: str, context: Context) -> None:
        self.calls.append(name)
        if self.before_call is not None:
            await self.before_call(name, context)

    def _credentials(self) -> auth_pb.Credentials:
        self.logins += 1
        credentials = auth_pb.Credentials(
            access_token=f"access {self.logins}", refresh_token=f"refresh {self.logins}", user_id=ME
        )
        credentials.access_expire_time.FromDatetime(datetime.now(UTC) + timedelta(seconds=self.token_life_s))
        return credentials

    async def Login(self, request: auth_pb.LoginRequest, context: Context) -> auth_pb.LoginResponse:
        """Answers with the next pair of tokens."""
        await self._note(f"Login {request.password}", context)
        return auth_pb.LoginResponse(credentials=self._credentials())

    async def Register(self, _: auth_pb.RegisterRequest, context: Context) -> auth_pb.RegisterResponse:
        """Answers with the next pair of tokens."""
        await self._note("Register", context)
        return auth_pb.RegisterResponse(credentials=self._credentials())

    async def RefreshToken(
        self, request: auth_pb.RefreshTokenRequest, context: Context
    ) -> auth_pb.RefreshTokenResponse:
        """Answers with the next pair of tokens."""
        await self._note(request.refresh_token, context)
        return auth_pb.RefreshTokenResponse(credentials=self._credentials())

    async def Connect(
        self, request_iterator: AsyncIterator[chat_pb.ConnectRequest], context: Context
    ) -> AsyncIterator[chat_pb.ConnectResponse]:
        """Hands the stream to the test."""
        metadata = {key: value for key, value in context.invocation_metadata() or ()}
        token = str(metadata.get("authorization", "")).removeprefix("Bearer ")
        stream = Stream(token, context.peer(), asyncio.get_running_loop().time())
        self.streams.append(stream)
        self._new_streams.put_nowait(stream)

        async def receive() -> None:
            async for request in request_iterator:
                if request.HasField("ack"):
                    stream.acks.append(request.ack.processed_events)
                else:
                    stream.received.put_nowait(request)

        receiver = asyncio.ensure_future(receive())
        try:
            while True:
                answer = await stream.outgoing.get()
                if answer is None:
                    return
                if isinstance(answer, status_pb2.Status):
                    await refuse(context, answer)
                yield chat_pb.ConnectResponse(frame=answer)
        finally:
            receiver.cancel()

    async def SyncOnce(
        self, request: history_pb.SyncOnceRequest, context: Context
    ) -> AsyncIterator[history_pb.SyncOnceResponse]:
        """Notes the request and answers from the script; without one everything is caught up."""
        cursors = request.request.cursors
        self.sync_requests.append([(cursor.topic_id, cursor.position) for cursor in cursors])
        await self._note("SyncOnce", context)
        if self.sync is not None:
            async for frame in self.sync(request.request):
                yield history_pb.SyncOnceResponse(frame=frame)
        else:
            heads = [conversation_pb2.TopicHead(cursor=cursor) for cursor in cursors]
            caught_up = frame_pb2.ServerFrame(caught_up=frame_pb2.CaughtUp(heads=heads))
            yield history_pb.SyncOnceResponse(frame=caught_up)

    async def ListConversations(
        self, _: conversations_pb.ListConversationsRequest, context: Context
    ) -> conversations_pb.ListConversationsResponse:
        """Lists `views`."""
        await self._note("ListConversations", context)
        return conversations_pb.ListConversationsResponse(views=self.views)

    async def GetConversation(
        self, request: conversations_pb.GetConversationRequest, _: Context
    ) -> conversations_pb.GetConversationResponse:
        """Answers with a conversation of `receipts_mode`, as of its start. Not noted: clients ask when they like."""
        view = conversations_pb.ConversationView(head=head(request.conversation_id, 0))
        view.conversation.conversation_id = request.conversation_id
        view.conversation.receipts_mode = self.receipts_mode
        return conversations_pb.GetConversationResponse(view=view)

    async def MarkDelivered(
        self, request: frame_pb2.MarkDeliveredRequest, context: Context
    ) -> frame_pb2.MarkDeliveredResponse:
        """Keeps it in `delivered`, then answers."""
        self.delivered.put_nowait((request.conversation_id, request.message_number))
        await self._note("MarkDelivered", context)
        return frame_pb2.MarkDeliveredResponse(message_number=request.message_number)

    async def LookupUser(self, request: users_pb.LookupUserRequest, context: Context) -> users_pb.LookupUserResponse:
        """Finds everybody."""
        await self._note("LookupUser", context)
        return users_pb.LookupUserResponse(user=users_pb.User(user_id="u2", login_name=request.login_name))

    async def _refuse(self, *_: Any) -> Any:
        raise NotImplementedError

    # Not scripted.
    Subscribe: Any = _refuse
    SendMessage: Any = _refuse
    SetTyping: Any = _refuse
    MarkRead: Any = _refuse
    MarkUnread: Any = _refuse
    ListMarkers: Any = _refuse
    ListReaders: Any = _refuse
    GetCounters: Any = _refuse
    ListMentions: Any = _refuse
    ListMyMentions: Any = _refuse
    CreateConversation: Any = _refuse
    ListMembers: Any = _refuse
    UpdateConversation: Any = _refuse
    AddMembers: Any = _refuse
    RemoveMember: Any = _refuse
    Sync: Any = _refuse
    ListMessages: Any = _refuse
    GetMessage: Any = _refuse
    BatchGetUsers: Any = _refuse


@asynccontextmanager
async def scripted_server() -> AsyncIterator[ScriptedServer]:
    """Runs one on a free port."""
    scripted, server = ScriptedServer(), aio.server()
    auth_grpc.add_AuthServiceServicer_to_server(scripted, server)
    chat_grpc.add_ChatServiceServicer_to_server(scripted, server)
    history_grpc.add_HistoryServiceServicer_to_server(scripted, server)
    markers_grpc.add_MarkerServiceServicer_to_server(scripted, server)
    conversations_grpc.add_ConversationServiceServicer_to_server(scripted, server)
    users_grpc.add_UserServiceServicer_to_server(scripted, server)
    scripted.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        yield scripted
    finally:
        await server.stop(grace=None)
