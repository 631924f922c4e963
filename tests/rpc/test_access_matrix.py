"""Who may call what: every RPC of the contract's descriptors × every sort of caller. A new RPC without a row fails."""

import asyncio
import uuid
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.field_mask_pb2 import FieldMask
from hubbub.auth.v1 import auth_service_pb2 as auth
from hubbub.chat.v1 import chat_service_pb2 as chat
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as marker
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.presence.v1 import presence_service_pb2 as presence
from hubbub.user.v1 import settings_service_pb2 as settings
from hubbub.user.v1 import user_service_pb2 as users

from hubbub_server.app.authenticate import Credentials
from tests.support.live_client import end_of, reason_of, status_of_error, text_message
from tests.support.node import PASSWORD, Node, NodeCluster, RpcClient

pytestmark = pytest.mark.asyncio

_DESCRIPTORS = Path(__file__).resolve().parents[2] / "proto" / "gen" / "hubbub.pb"
CALLERS = ("anonymous", "expired", "forged", "non-member", "ex-member", "member")
ABSENT = "c" + "a" * 26


@dataclass(frozen=True)
class Scene:
    """A group of an owner with one member, one who was removed, and one message before that."""

    node: Node
    group_id: str
    owner: Credentials
    refresh_token: str
    tokens: dict[str, str | None]

    def client(self, caller: str) -> RpcClient:
        """Returns the stubs of a caller."""
        return self.node.client(self.tokens[caller])


Ask = Callable[[Scene, RpcClient, str], Awaitable[str]]


async def _unary(call: Any) -> str:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return reason_of(status_of_error(error)) or error.code().name
    return "OK"


async def _first(call: Any) -> str:
    """Returns OK when a stream gives a frame; it is left then."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError:
        return reason_of(await end_of(call))
    call.cancel()
    return "OK" if response.frame.HasField("welcome") else "nothing"


async def _send_in_band(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    return await _in_band(client, frame_pb2.Command(request_id="1", send_message=text_message(conversation_id)))


async def _type_in_band(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    return await _in_band(client, frame_pb2.Command(request_id="1", set_typing=_typing(conversation_id)))


def _typing(conversation_id: str) -> frame_pb2.SetTypingRequest:
    return frame_pb2.SetTypingRequest(conversation_id=conversation_id, active=True)


async def _read_in_band(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    read = frame_pb2.MarkReadRequest(conversation_id=conversation_id, message_number=1)
    return await _in_band(client, frame_pb2.Command(request_id="1", mark_read=read))


async def _received_in_band(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    received = frame_pb2.MarkDeliveredRequest(conversation_id=conversation_id, message_number=1)
    return await _in_band(client, frame_pb2.Command(request_id="1", mark_delivered=received))


async def _in_band(client: RpcClient, command: frame_pb2.Command) -> str:
    call = client.chat.Connect(metadata=client.auth)
    outcome = await _command(call, command)
    call.cancel()
    return reason_of(outcome.rejected.status) or ("OK" if outcome.HasField("reply") else "nothing")


async def _command(call: Any, command: frame_pb2.Command) -> frame_pb2.ServerFrame:
    await call.write(chat.ConnectRequest(hello=_hello()))
    await call.write(chat.ConnectRequest(command=command))
    while True:
        frame: frame_pb2.ServerFrame = (await call.read()).frame
        if frame.HasField("reply") or frame.HasField("rejected"):
            return frame


async def _connect(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    call = client.chat.Connect(metadata=client.auth)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused already: the status says why
        await call.write(chat.ConnectRequest(hello=_hello()))
    return await _first(call)


def _hello() -> chat.Hello:
    return chat.Hello(instance_id=str(uuid.uuid4()))


async def _synced(call: Any) -> str:
    """Returns what a Sync of one topic came to."""
    answers = []
    try:
        async for response in call:
            control = response.frame.WhichOneof("control")
            if control == "rejected":
                answers.append(reason_of(response.frame.rejected.status))
            elif control == "topic_ended":
                answers.append("TopicEnded")
            answers += [f"{event.position}" for event in response.frame.events]
    except grpc.aio.AioRpcError:
        return reason_of(await end_of(call))
    return " ".join(answers)


async def _sync(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    call = client.history.Sync(metadata=client.auth)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused already: the status says why
        await call.write(_sync_request(conversation_id))
        await call.done_writing()
    return await _synced(call)


def _sync_request(conversation_id: str) -> history.SyncRequest:
    return history.SyncRequest(cursors=[conversation_pb2.Cursor(topic_id=conversation_id, epoch=1)])


async def _watch(scene: Scene, client: RpcClient, conversation_id: str) -> str:
    call = client.presence.Watch(metadata=client.auth)
    with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # refused already: the status says why
        await call.write(presence.WatchRequest(added_user_ids=[scene.owner.user_id]))
    return await _told(call)


async def _told(call: Any) -> str:
    """Returns OK when a stream tells presence; it is left then."""
    try:
        response = await call.read()
    except grpc.aio.AioRpcError:
        return reason_of(await end_of(call))
    call.cancel()
    return "OK" if response.update.presences else "nothing"


@dataclass(frozen=True)
class Row:
    """How to call an RPC, and what callers with a good token get (others: by their token)."""

    ask: Ask
    non_member: str = "OK"
    ex_member: str = "OK"
    member: str = "OK"
    is_open: bool = False

    def expected(self, caller: str) -> str:
        """Returns the outcome for a caller."""
        by_token = {"anonymous": "INVALID_CREDENTIALS", "forged": "INVALID_CREDENTIALS", "expired": "TOKEN_EXPIRED"}
        if caller in by_token:
            return self.member if self.is_open else by_token[caller]
        return {"non-member": self.non_member, "ex-member": self.ex_member, "member": self.member}[caller]


def _members_only(ask: Ask, *, member: str = "OK") -> Row:
    return Row(ask, non_member="CONVERSATION_NOT_FOUND", ex_member="CONVERSATION_NOT_FOUND", member=member)


ROWS: dict[str, Row] = {
    "hubbub.auth.v1.AuthService/Register": Row(
        lambda s, c, i: _unary(
            c.accounts.Register(
                auth.RegisterRequest(login_name=f"new.{uuid.uuid4().hex[:8]}", password=PASSWORD, display_name="New"),
                metadata=c.auth,
            )
        ),
        is_open=True,
    ),
    "hubbub.auth.v1.AuthService/Login": Row(
        lambda s, c, i: _unary(
            c.accounts.Login(auth.LoginRequest(login_name="owner", password=PASSWORD), metadata=c.auth)
        ),
        is_open=True,
    ),
    "hubbub.auth.v1.AuthService/RefreshToken": Row(
        lambda s, c, i: _unary(
            c.accounts.RefreshToken(auth.RefreshTokenRequest(refresh_token=s.refresh_token), metadata=c.auth)
        ),
        is_open=True,
    ),
    "hubbub.user.v1.UserService/LookupUser": Row(
        lambda s, c, i: _unary(c.users.LookupUser(users.LookupUserRequest(login_name="owner"), metadata=c.auth))
    ),
    "hubbub.user.v1.UserService/BatchGetUsers": Row(
        lambda s, c, i: _unary(
            c.users.BatchGetUsers(users.BatchGetUsersRequest(user_ids=[s.owner.user_id]), metadata=c.auth)
        )
    ),
    "hubbub.conversation.v1.ConversationService/CreateConversation": Row(
        lambda s, c, i: _unary(
            c.conversations.CreateConversation(
                conversation.CreateConversationRequest(direct=conversation.DirectSpec(user_id=s.owner.user_id)),
                metadata=c.auth,
            )
        )
    ),
    "hubbub.conversation.v1.ConversationService/GetConversation": _members_only(
        lambda s, c, i: _unary(
            c.conversations.GetConversation(conversation.GetConversationRequest(conversation_id=i), metadata=c.auth)
        )
    ),
    "hubbub.conversation.v1.ConversationService/ListConversations": Row(
        lambda s, c, i: _unary(
            c.conversations.ListConversations(conversation.ListConversationsRequest(), metadata=c.auth)
        )
    ),
    "hubbub.conversation.v1.ConversationService/ListMembers": _members_only(
        lambda s, c, i: _unary(
            c.conversations.ListMembers(conversation.ListMembersRequest(conversation_id=i), metadata=c.auth)
        )
    ),
    "hubbub.conversation.v1.ConversationService/UpdateConversation": _members_only(
        lambda s, c, i: _unary(
            c.conversations.UpdateConversation(
                conversation.UpdateConversationRequest(conversation_id=i, update_mask=FieldMask(paths=["*"])),
                metadata=c.auth,
            )
        ),
        member="NOT_PERMITTED",
    ),
    "hubbub.conversation.v1.ConversationService/AddMembers": _members_only(
        lambda s, c, i: _unary(
            c.conversations.AddMembers(
                conversation.AddMembersRequest(conversation_id=i, user_ids=[s.owner.user_id]), metadata=c.auth
            )
        ),
        member="NOT_PERMITTED",
    ),
    "hubbub.conversation.v1.ConversationService/RemoveMember": _members_only(
        lambda s, c, i: _unary(
            c.conversations.RemoveMember(
                conversation.RemoveMemberRequest(conversation_id=i, user_id=s.owner.user_id), metadata=c.auth
            )
        ),
        member="NOT_PERMITTED",
    ),
    "hubbub.chat.v1.ChatService/Connect": Row(_connect),
    "hubbub.chat.v1.ChatService/Subscribe": Row(
        lambda s, c, i: _first(c.chat.Subscribe(chat.SubscribeRequest(hello=_hello()), metadata=c.auth))
    ),
    "hubbub.chat.v1.ChatService/SendMessage": _members_only(
        lambda s, c, i: _unary(c.chat.SendMessage(text_message(i), metadata=c.auth))
    ),
    "hubbub.chat.v1.ChatService/SetTyping": _members_only(
        lambda s, c, i: _unary(c.chat.SetTyping(_typing(i), metadata=c.auth))
    ),
    "hubbub.history.v1.HistoryService/Sync": Row(
        _sync, non_member="CONVERSATION_NOT_FOUND", ex_member="1 2 3 4 5 TopicEnded", member="1 2 3 4 5 6"
    ),
    "hubbub.history.v1.HistoryService/SyncOnce": Row(
        lambda s, c, i: _synced(c.history.SyncOnce(history.SyncOnceRequest(request=_sync_request(i)), metadata=c.auth)),
        non_member="CONVERSATION_NOT_FOUND",
        ex_member="1 2 3 4 5 TopicEnded",
        member="1 2 3 4 5 6",
    ),
    "hubbub.history.v1.HistoryService/ListMessages": _members_only(
        lambda s, c, i: _unary(c.history.ListMessages(history.ListMessagesRequest(conversation_id=i), metadata=c.auth))
    ),
    "hubbub.history.v1.HistoryService/GetMessage": _members_only(
        lambda s, c, i: _unary(
            c.history.GetMessage(history.GetMessageRequest(conversation_id=i, message_number=1), metadata=c.auth)
        )
    ),
    "hubbub.chat.v1.MarkerService/MarkDelivered": _members_only(
        lambda s, c, i: _unary(
            c.markers.MarkDelivered(
                frame_pb2.MarkDeliveredRequest(conversation_id=i, message_number=1), metadata=c.auth
            )
        ),
    ),
    "hubbub.chat.v1.MarkerService/MarkRead": _members_only(
        lambda s, c, i: _unary(
            c.markers.MarkRead(frame_pb2.MarkReadRequest(conversation_id=i, message_number=1), metadata=c.auth)
        )
    ),
    "hubbub.chat.v1.MarkerService/MarkUnread": _members_only(
        lambda s, c, i: _unary(c.markers.MarkUnread(marker.MarkUnreadRequest(conversation_id=i), metadata=c.auth))
    ),
    "hubbub.chat.v1.MarkerService/ListMarkers": _members_only(
        lambda s, c, i: _unary(c.markers.ListMarkers(marker.ListMarkersRequest(conversation_id=i), metadata=c.auth))
    ),
    "hubbub.chat.v1.MarkerService/ListReaders": _members_only(
        lambda s, c, i: _unary(
            c.markers.ListReaders(marker.ListReadersRequest(conversation_id=i, message_number=1), metadata=c.auth)
        )
    ),
    "hubbub.chat.v1.MarkerService/GetCounters": Row(
        lambda s, c, i: _unary(c.markers.GetCounters(marker.GetCountersRequest(), metadata=c.auth))
    ),
    "hubbub.chat.v1.MarkerService/ListMyMentions": Row(
        lambda s, c, i: _unary(c.markers.ListMyMentions(marker.ListMyMentionsRequest(), metadata=c.auth))
    ),
    "hubbub.chat.v1.MarkerService/ListMentions": _members_only(
        lambda s, c, i: _unary(c.markers.ListMentions(marker.ListMentionsRequest(conversation_id=i), metadata=c.auth))
    ),
    "hubbub.user.v1.SettingsService/GetPreferences": Row(
        lambda s, c, i: _unary(c.settings.GetPreferences(settings.GetPreferencesRequest(), metadata=c.auth))
    ),
    "hubbub.user.v1.SettingsService/UpdatePreferences": Row(
        lambda s, c, i: _unary(
            c.settings.UpdatePreferences(
                settings.UpdatePreferencesRequest(update_mask=FieldMask(paths=["*"])), metadata=c.auth
            )
        )
    ),
    "hubbub.user.v1.SettingsService/UpdateConversationPreferences": _members_only(
        lambda s, c, i: _unary(
            c.settings.UpdateConversationPreferences(
                settings.UpdateConversationPreferencesRequest(
                    conversation_id=i, update_mask=FieldMask(paths=["pinned"])
                ),
                metadata=c.auth,
            )
        )
    ),
    "hubbub.user.v1.SettingsService/SetDraft": _members_only(
        lambda s, c, i: _unary(
            c.settings.SetDraft(settings.SetDraftRequest(conversation_id=i, text="I th"), metadata=c.auth)
        )
    ),
    "hubbub.user.v1.SettingsService/ListDrafts": Row(
        lambda s, c, i: _unary(c.settings.ListDrafts(settings.ListDraftsRequest(), metadata=c.auth))
    ),
    "hubbub.user.v1.SettingsService/BlockUser": Row(
        lambda s, c, i: _unary(
            c.settings.BlockUser(settings.BlockUserRequest(user_id=s.owner.user_id), metadata=c.auth)
        )
    ),
    "hubbub.user.v1.SettingsService/UnblockUser": Row(
        lambda s, c, i: _unary(
            c.settings.UnblockUser(settings.UnblockUserRequest(user_id=s.owner.user_id), metadata=c.auth)
        )
    ),
    "hubbub.user.v1.SettingsService/ListBlockedUsers": Row(
        lambda s, c, i: _unary(c.settings.ListBlockedUsers(settings.ListBlockedUsersRequest(), metadata=c.auth))
    ),
    "hubbub.presence.v1.PresenceService/Watch": Row(_watch),
    "hubbub.presence.v1.PresenceService/Subscribe": Row(
        lambda s, c, i: _told(
            c.presence.Subscribe(presence.SubscribeRequest(user_ids=[s.owner.user_id]), metadata=c.auth)
        )
    ),
    "hubbub.presence.v1.PresenceService/SetPresence": Row(
        lambda s, c, i: _unary(
            c.presence.SetPresence(
                presence.SetPresenceRequest(presence=presence.ManualPresence(text="busy")), metadata=c.auth
            )
        )
    ),
    "hubbub.presence.v1.PresenceService/GetPresence": Row(
        lambda s, c, i: _unary(
            c.presence.GetPresence(presence.GetPresenceRequest(user_id=s.owner.user_id), metadata=c.auth)
        )
    ),
    "hubbub.presence.v1.PresenceService/ListPresence": Row(
        lambda s, c, i: _unary(
            c.presence.ListPresence(presence.ListPresenceRequest(user_ids=[s.owner.user_id]), metadata=c.auth)
        )
    ),
    "hubbub.presence.v1.PresenceService/GetPresenceSummary": _members_only(
        lambda s, c, i: _unary(
            c.presence.GetPresenceSummary(presence.GetPresenceSummaryRequest(conversation_id=i), metadata=c.auth)
        )
    ),
}
# What is asked for on a stream, beside what opens it.
COMMANDS: dict[str, Row] = {
    "Connect: send_message": _members_only(_send_in_band),
    "Connect: set_typing": _members_only(_type_in_band),
    "Connect: mark_read": _members_only(_read_in_band),
    "Connect: mark_delivered": _members_only(_received_in_band),
}


@pytest_asyncio.fixture
async def scene(cluster: NodeCluster, node: Node) -> Scene:
    """Makes the group: created 1, owner 2, the two users 3, a message 4, the removal 5, a message 6."""
    people = {name: await cluster.sign_up(name) for name in ("owner", "member", "former", "stranger", "gone")}
    owner = node.client(people["owner"].access_token)
    spec = conversation.GroupSpec(title="group", user_ids=[people["member"].user_id, people["former"].user_id])
    created = await owner.conversations.CreateConversation(
        conversation.CreateConversationRequest(request_id=str(uuid.uuid4()), group=spec), metadata=owner.auth
    )
    group_id = created.view.conversation.conversation_id
    await owner.chat.SendMessage(text_message(group_id), metadata=owner.auth)
    await owner.conversations.RemoveMember(
        conversation.RemoveMemberRequest(conversation_id=group_id, user_id=people["former"].user_id),
        metadata=owner.auth,
    )
    await owner.chat.SendMessage(text_message(group_id), metadata=owner.auth)
    good = people["member"].access_token
    return Scene(
        node=node,
        group_id=group_id,
        owner=people["owner"],
        refresh_token=people["gone"].refresh_token,
        tokens={
            "anonymous": None,
            "expired": cluster.token(people["member"].user_id, expires_in_s=-1),
            "forged": f"{good[:-4]}AAAA" if not good.endswith("AAAA") else f"{good[:-4]}BBBB",
            "non-member": people["stranger"].access_token,
            "ex-member": people["former"].access_token,
            "member": good,
        },
    )


async def test_every_rpc_of_the_contract_has_a_row() -> None:
    contract = FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    methods = {
        f"{file.package}.{service.name}/{method.name}"
        for file in contract.file
        if file.package.startswith("hubbub.")
        for service in file.service
        for method in service.method
    }

    assert set(ROWS) == methods


@pytest.mark.parametrize("caller", CALLERS)
@pytest.mark.parametrize("name", [*ROWS, *COMMANDS])
async def test_who_may_call(name: str, caller: str, scene: Scene) -> None:
    """C45, C46."""
    row = (ROWS | COMMANDS)[name]
    if name in COMMANDS and caller in ("anonymous", "expired", "forged"):
        return  # cannot open the stream: the row of Connect

    assert await row.ask(scene, scene.client(caller), scene.group_id) == row.expected(caller)


# ---- absent and foreign are one


BY_ID = [name for name, row in ROWS.items() if row.non_member == "CONVERSATION_NOT_FOUND" and "Sync" not in name]


@pytest.mark.parametrize("name", BY_ID)
async def test_what_is_absent_and_what_is_foreign_answer_alike_byte_for_byte(name: str, scene: Scene) -> None:
    """Code, message, details and all trailing metadata; of strangers and of ex-members."""
    seen: set[object] = set()
    for caller in ("non-member", "ex-member"):
        for conversation_id in (scene.group_id, ABSENT, "not an id"):
            client = scene.client(caller)
            recorded = _Recorder(client)
            await ROWS[name].ask(scene, recorded, conversation_id)
            seen.add(recorded.answer)

    assert len(seen) == 1
    assert seen != {None}


class _Recorder(RpcClient):
    """Stubs whose failed answers are kept whole."""

    def __init__(self, client: RpcClient) -> None:
        super().__init__(client.channel, None)
        self.auth = client.auth
        self.answer: object = None
        for stub in (self.conversations, self.chat, self.history, self.markers, self.settings, self.presence):
            for method in list(vars(stub)):
                setattr(stub, method, self._recording(getattr(stub, method)))

    def _recording(self, method: Callable[..., Awaitable[object]]) -> Callable[..., Awaitable[object]]:
        async def call(*args: Any, **kwargs: Any) -> object:
            try:
                return await method(*args, **kwargs)
            except grpc.aio.AioRpcError as error:
                self.answer = (error.code(), error.details(), tuple(error.trailing_metadata() or ()))
                raise

        return call


async def test_in_band_absent_and_foreign_answer_alike_byte_for_byte(scene: Scene) -> None:
    seen = set()
    for caller in ("non-member", "ex-member"):
        for conversation_id in (scene.group_id, ABSENT, "not an id"):
            client = scene.client(caller)
            for command in (
                frame_pb2.Command(request_id="1", send_message=text_message(conversation_id)),
                frame_pb2.Command(request_id="1", set_typing=_typing(conversation_id)),
                frame_pb2.Command(
                    request_id="1",
                    mark_read=frame_pb2.MarkReadRequest(conversation_id=conversation_id, message_number=1),
                ),
                frame_pb2.Command(
                    request_id="1",
                    mark_delivered=frame_pb2.MarkDeliveredRequest(conversation_id=conversation_id, message_number=1),
                ),
            ):
                call = client.chat.Connect(metadata=client.auth)
                seen.add((await _command(call, command)).SerializeToString(deterministic=True))
                call.cancel()

    assert len(seen) == 1


async def test_sync_of_absent_and_foreign_topics_answers_alike(scene: Scene) -> None:
    """Of a stranger; who was a member gets the events up to the removal (C43)."""
    client = scene.client("non-member")
    seen = set()
    for topic_id in (scene.group_id, ABSENT, scene.owner.user_id):
        request = history.SyncOnceRequest(request=_sync_request(topic_id))
        frames = [r.frame async for r in client.history.SyncOnce(request, metadata=client.auth)]
        for frame in frames:
            frame.rejected.topic_id = ""  # the client's own words
        seen.add(tuple(frame.SerializeToString(deterministic=True) for frame in frames))

    assert len(seen) == 1
