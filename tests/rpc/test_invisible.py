"""Who is invisible and who signed out are one for everybody else: byte for byte, in all that the contract answers."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import count, cycle
from pathlib import Path
from typing import Any, Final

import grpc.aio
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message
from hubbub.chat.v1 import chat_service_pb2 as chat
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as marker
from hubbub.conversation.v1 import conversation_pb2, read_state_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.presence.v1 import presence_service_pb2 as pb
from hubbub.user.v1 import settings_service_pb2 as settings
from hubbub.user.v1 import user_service_pb2 as users

from hubbub_server.app.authenticate import Credentials
from hubbub_server.domain.ids import TopicId, UserId
from tests.support.invisible_user import ACTIONS, UnseenUser
from tests.support.live_client import LiveClient, status_of_error, text_message
from tests.support.node import Node, NodeCluster, RpcClient, until
from tests.support.transcript import Transcript
from tests.support.watching import presence_of

pytestmark = pytest.mark.asyncio

_DESCRIPTORS = Path(__file__).resolve().parents[2] / "proto" / "gen" / "hubbub.pb"
STEP_S: Final = 3.0
TOLD_EVERY: Final = 6
"""So often streams are waited for: they tell of presence once a second."""
OFFLINE, ONLINE = pb.PRESENCE_STATE_OFFLINE, pb.PRESENCE_STATE_ONLINE
OF_ONESELF: Final = {
    "hubbub.auth.v1.AuthService": {"Register", "Login", "RefreshToken"},
    "hubbub.chat.v1.MarkerService": {"MarkUnread"},
    "hubbub.conversation.v1.ConversationService": {"RemoveMember", "UpdateConversation"},
    "hubbub.presence.v1.PresenceService": {"SetPresence"},
    "hubbub.user.v1.SettingsService": {
        *("UpdatePreferences", "UpdateConversationPreferences", "SetDraft", "BlockUser", "UnblockUser"),
    },
}
"""What answers to nothing but what the caller said. Everything else is asked."""


@dataclass
class Stage:
    """Two nodes; Alice asks and hears on the first, Carol is there, Bob is invisible or has signed out."""

    cluster: NodeCluster
    nodes: tuple[Node, Node]
    people: dict[str, Credentials]
    direct_id: str
    group_id: str
    newest: dict[str, int]
    transcript: Transcript = field(default_factory=Transcript)
    _ids: "count[int]" = field(default_factory=lambda: count(1))

    def clients(self, name: str) -> list[RpcClient]:
        return [node.client(self.people[name].access_token) for node in self.nodes]

    def id_of(self, name: str) -> str:
        return self.people[name].user_id

    async def send(self, name: str, conversation_id: str) -> frame_pb2.SendMessageResponse:
        client = self.clients(name)[0]
        number = next(self._ids)
        request = text_message(
            conversation_id, f"@bob {number}", client_message_id=str(uuid.UUID(int=number, version=4))
        )
        request.content.text.entities.add(length=4).user_mention.user_id = self.id_of("bob")
        answer: frame_pb2.SendMessageResponse = await client.chat.SendMessage(request, metadata=client.auth)
        self.newest[conversation_id] = answer.message_number
        return answer


@asynccontextmanager
async def stage(
    transport: str, group_receipts: read_state_pb2.ReceiptsMode.ValueType = read_state_pb2.RECEIPTS_MODE_FULL
) -> AsyncIterator[Stage]:
    cluster = NodeCluster(transport=transport)
    async with cluster.node() as first, cluster.node() as second:
        people = {name: await cluster.sign_up(name) for name in ("alice", "bob", "carol")}
        alice = first.client(people["alice"].access_token)
        specs = (
            conversation.CreateConversationRequest(direct=conversation.DirectSpec(user_id=people["bob"].user_id)),
            conversation.CreateConversationRequest(
                request_id=str(uuid.UUID(int=0, version=4)),
                group=conversation.GroupSpec(title="group", user_ids=[people[n].user_id for n in ("bob", "carol")]),
            ),
        )
        direct_id, group_id = [
            (await alice.conversations.CreateConversation(spec, metadata=alice.auth)).view.conversation.conversation_id
            for spec in specs
        ]
        await alice.conversations.UpdateConversation(
            conversation.UpdateConversationRequest(
                conversation_id=group_id,
                settings=conversation_pb2.ConversationSettings(receipts_limit=group_receipts),
                update_mask=FieldMask(paths=["receipts_limit"]),
            ),
            metadata=alice.auth,
        )
        made = Stage(cluster, (first, second), people, direct_id, group_id, {})
        for conversation_id in (direct_id, group_id):
            await made.send("alice", conversation_id)
        yield made
    assert cluster.breaches == []


# ---- what Alice asks

Question = Callable[[Stage, RpcClient], Awaitable[Message]]


def _of(name: str, request: Message) -> Question:
    """Asks a unary method with the same words each time."""
    service, _, method = name.rpartition("/")
    stub = {
        "ConversationService": "conversations",
        "HistoryService": "history",
        "MarkerService": "markers",
        "PresenceService": "presence",
        "SettingsService": "settings",
        "UserService": "users",
        "ChatService": "chat",
    }[service.rpartition(".")[2]]

    async def ask(_: Stage, client: RpcClient) -> Message:
        try:
            answer: Message = await getattr(getattr(client, stub), method)(request, metadata=client.auth)
        except grpc.aio.AioRpcError as error:
            return status_of_error(error)
        return answer

    return ask


def questions(stage: Stage) -> dict[str, list[Question]]:
    """Returns the unary questions, by method: about Bob, and about both conversations."""
    bob, both = stage.id_of("bob"), (stage.direct_id, stage.group_id)
    two = [bob, stage.id_of("carol")]
    requests: dict[str, list[Message]] = {
        "hubbub.conversation.v1.ConversationService/CreateConversation": [
            conversation.CreateConversationRequest(direct=conversation.DirectSpec(user_id=bob))
        ],
        "hubbub.conversation.v1.ConversationService/GetConversation": [
            conversation.GetConversationRequest(conversation_id=each) for each in both
        ],
        "hubbub.conversation.v1.ConversationService/ListConversations": [conversation.ListConversationsRequest()],
        "hubbub.conversation.v1.ConversationService/ListMembers": [
            conversation.ListMembersRequest(conversation_id=each) for each in both
        ],
        "hubbub.conversation.v1.ConversationService/AddMembers": [
            conversation.AddMembersRequest(conversation_id=stage.group_id, user_ids=two)
        ],
        "hubbub.history.v1.HistoryService/ListMessages": [
            history.ListMessagesRequest(conversation_id=each) for each in both
        ],
        "hubbub.history.v1.HistoryService/GetMessage": [
            history.GetMessageRequest(conversation_id=each, message_number=1) for each in both
        ],
        "hubbub.chat.v1.MarkerService/MarkRead": [
            frame_pb2.MarkReadRequest(conversation_id=each, message_number=stage.newest[each]) for each in both
        ],
        "hubbub.chat.v1.MarkerService/MarkDelivered": [
            frame_pb2.MarkDeliveredRequest(conversation_id=each, message_number=stage.newest[each]) for each in both
        ],
        "hubbub.chat.v1.MarkerService/ListMyMentions": [marker.ListMyMentionsRequest()],
        "hubbub.chat.v1.MarkerService/ListMarkers": [marker.ListMarkersRequest(conversation_id=each) for each in both],
        "hubbub.chat.v1.MarkerService/ListReaders": [
            marker.ListReadersRequest(conversation_id=each, message_number=number)
            for each in both
            for number in (1, stage.newest[each])
        ],
        "hubbub.chat.v1.MarkerService/GetCounters": [marker.GetCountersRequest()],
        "hubbub.chat.v1.MarkerService/ListMentions": [
            marker.ListMentionsRequest(conversation_id=each) for each in both
        ],
        "hubbub.presence.v1.PresenceService/GetPresence": [pb.GetPresenceRequest(user_id=bob)],
        "hubbub.presence.v1.PresenceService/ListPresence": [pb.ListPresenceRequest(user_ids=two)],
        "hubbub.presence.v1.PresenceService/GetPresenceSummary": [
            pb.GetPresenceSummaryRequest(conversation_id=each) for each in both
        ],
        "hubbub.user.v1.UserService/LookupUser": [users.LookupUserRequest(login_name="bob")],
        "hubbub.user.v1.UserService/BatchGetUsers": [users.BatchGetUsersRequest(user_ids=two)],
        "hubbub.user.v1.SettingsService/GetPreferences": [settings.GetPreferencesRequest()],
        "hubbub.user.v1.SettingsService/ListDrafts": [settings.ListDraftsRequest()],
        "hubbub.user.v1.SettingsService/ListBlockedUsers": [settings.ListBlockedUsersRequest()],
    }
    return {name: [_of(name, each) for each in asked] for name, asked in requests.items()} | {
        "hubbub.chat.v1.ChatService/SendMessage": [lambda s, _: s.send("alice", s.direct_id)],
        "hubbub.chat.v1.ChatService/SetTyping": [
            _of(
                "hubbub.chat.v1.ChatService/SetTyping",
                frame_pb2.SetTypingRequest(conversation_id=stage.direct_id, active=True),
            )
        ],
    }


STREAMS: Final = {
    "hubbub.chat.v1.ChatService/Connect",
    "hubbub.chat.v1.ChatService/Subscribe",
    "hubbub.history.v1.HistoryService/Sync",
    "hubbub.history.v1.HistoryService/SyncOnce",
    "hubbub.presence.v1.PresenceService/Watch",
    "hubbub.presence.v1.PresenceService/Subscribe",
}


async def ask_everything(stage: Stage, client: RpcClient) -> None:
    """Asks all that can be asked once, and notes the answers."""
    await stage.cluster.project()
    for name, asked in questions(stage).items():
        for number, question in enumerate(asked):
            stage.transcript.note(f"{name} {number}", await question(stage, client))
    cursors = [conversation_pb2.Cursor(topic_id=each, epoch=1) for each in (stage.direct_id, stage.group_id)]
    request = history.SyncRequest(cursors=cursors)
    once = client.history.SyncOnce(history.SyncOnceRequest(request=request), metadata=client.auth)
    both = client.history.Sync(metadata=client.auth)
    await both.write(request)
    await both.done_writing()
    for name, call in (("SyncOnce", once), ("Sync", both)):
        async for response in call:
            stage.transcript.note(f"hubbub.history.v1.HistoryService/{name}", response)


# ---- what Alice hears


class Ears:
    """The streams of Alice, read at once. Signs of life are left out: they come by the clock alone."""

    def __init__(self, stage: Stage, client: RpcClient, watched: list[str]) -> None:
        self.told: dict[str, dict[str, int]] = {"Watch": {}, "presence Subscribe": {}}
        self.events = {"Connect": 0, "chat Subscribe": 0}
        self.typing = {"Connect": 0, "chat Subscribe": 0}
        self.is_over = False
        """Bob is back and reads: how far all have read is told every 5 s, of what the store has by then."""
        self._stage, self._client, self._watched = stage, client, watched

    async def open(self, group: asyncio.TaskGroup) -> list[Any]:
        """Opens all streams and reads them in the group, until they are cancelled."""
        client = self._client
        live = LiveClient.silent(client)
        await live.hello()
        hello = chat.SubscribeRequest(hello=chat.Hello(instance_id=str(uuid.uuid4())))
        watch = client.presence.Watch(metadata=client.auth)
        active = pb.ACTIVITY_ACTIVE
        await watch.write(pb.WatchRequest(added_user_ids=self._watched, own_activity=active))
        request = pb.SubscribeRequest(user_ids=self._watched, own_activity=active)
        calls = {
            "Connect": live.call,
            "chat Subscribe": client.chat.Subscribe(hello, metadata=client.auth),
            "Watch": watch,
            "presence Subscribe": client.presence.Subscribe(request, metadata=client.auth),
        }
        for where, call in calls.items():
            group.create_task(self._hear(where, call))
        await until(lambda: all(self.told.values()))
        return [*calls.values()]

    async def _hear(self, where: str, call: Any) -> None:
        try:
            async for response in call:
                if where in self.told:
                    self._take_update(where, response.update)
                else:
                    await self._take_frame(where, call, response.frame)
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass  # the end of the scene

    def _take_update(self, where: str, update: pb.PresenceUpdate) -> None:
        for each in update.presences:
            self.told[where][each.user_id] = each.state
            if not each.user_id.startswith("ucanary"):
                self._stage.transcript.note(f"{where} of {each.user_id}", each)

    async def _take_frame(self, where: str, call: Any, frame: frame_pb2.ServerFrame) -> None:
        note = self._stage.transcript.note
        for event in frame.events:
            note(f"{where} event", event)
        for signal in frame.signals:
            if not (self.is_over and signal.HasField("read_floor")):
                note(f"{where} signal", signal)
            self.typing[where] += signal.user_id == self._stage.id_of("carol") and signal.HasField("typing")
        self.events[where] += len(frame.events)
        if frame.WhichOneof("control") not in (None, "heartbeat"):
            note(f"{where} control", frame)
        if where == "Connect" and frame.events:
            await call.write(chat.ConnectRequest(ack=chat.Ack(processed_events=self.events[where])))

    async def until_told(self, user_id: str, state: int) -> None:
        """Waits until both streams of presence have told so."""
        await until(lambda: all(told.get(user_id) == state for told in self.told.values()))


# ---- the play


class Play:
    """What happens in both runs; only what Bob does differs."""

    def __init__(self, stage: Stage, ears: Ears) -> None:
        self.stage, self.ears = stage, ears
        self.alice = stage.clients("alice")[0]
        self._steps = 0

    def canary(self, step: int) -> str:
        return f"ucanary{step}"

    async def settle(self, node: int) -> None:
        """Waits until all that was done on a node so far would have been told: what is done after it is."""
        stage, step = self.stage, self._steps
        carol = stage.clients("carol")[node]
        typing = frame_pb2.SetTypingRequest(conversation_id=stage.group_id, active=True)
        await carol.chat.SetTyping(typing, metadata=carol.auth)
        await stage.send("carol", stage.group_id)
        token = stage.cluster.token(UserId(TopicId(self.canary(step))))
        session = LiveClient.silent(stage.nodes[node].client(token))
        await session.hello()
        while (await presence_of(self.alice, self.canary(step))).state != ONLINE:  # noqa: ASYNC110  # asked, not told
            await asyncio.sleep(0.02)
        if step % TOLD_EVERY == 0:
            await self.ears.until_told(self.canary(step), ONLINE)
        await until(lambda: min(self.ears.typing.values()) == step + 1)
        session.call.cancel()
        self._steps += 1

    async def step(self, node: int) -> None:
        """Time passes; Alice asks everything and writes to Bob."""
        await self.settle(node)
        await ask_everything(self.stage, self.alice)
        self.stage.cluster.clock.advance(STEP_S)


async def transcript(
    transport: str, group_receipts: read_state_pb2.ReceiptsMode.ValueType, seed: int, *, is_invisible: bool
) -> Transcript:
    """Returns what Alice is told while Bob is there, then is invisible and busy, or signed out, and then comes back."""
    async with stage(transport, group_receipts) as made, asyncio.TaskGroup() as group, AsyncExitStack() as leaving:
        bob_id = made.id_of("bob")
        ears = Ears(made, made.clients("alice")[0], [bob_id, made.id_of("carol"), *(f"ucanary{n}" for n in range(99))])
        for call in await ears.open(group):
            leaving.callback(call.cancel)
        play = Play(made, ears)
        bob = UnseenUser(made.clients("bob"), "bob", made.id_of("alice"), made.newest)
        leaving.callback(bob.leave)
        for carol in made.clients("carol"):
            watching = carol.presence.Watch(metadata=carol.auth)
            await watching.write(pb.WatchRequest(own_activity=pb.ACTIVITY_ACTIVE))
            leaving.callback(watching.cancel)
        await set_presence(made, pb.ManualPresence(text="here"))
        await bob.act("open chat")
        await bob.act("read")
        await ears.until_told(bob_id, ONLINE)
        await play.step(0)

        await bob.type_in_chat()
        if is_invisible:
            await set_presence(made, pb.ManualPresence(state=pb.MANUAL_STATE_INVISIBLE, text="away"))
        else:
            bob.leave()
        await ears.until_told(bob_id, OFFLINE)
        for node, action in zip(cycle((0, 1)), bob.script(seed), strict=False):
            if is_invisible:
                await bob.act(action, node=node)
            await play.step(node)
        await come_back(made, bob, ears, is_invisible=is_invisible)
        await play.step(0)
        return made.transcript


async def set_presence(made: Stage, manual: pb.ManualPresence) -> None:
    bob = made.clients("bob")[0]
    await bob.presence.SetPresence(pb.SetPresenceRequest(presence=manual), metadata=bob.auth)


async def come_back(made: Stage, bob: UnseenUser, ears: Ears, *, is_invisible: bool) -> None:
    """Bob is there again, and reads what came meanwhile."""
    ears.is_over = True
    if is_invisible:
        await bob.act("open chat")
        await set_presence(made, pb.ManualPresence(text="back"))
    else:
        await set_presence(made, pb.ManualPresence(text="back"))
        await bob.act("open chat")
    await ears.until_told(made.id_of("bob"), ONLINE)
    await made.send("alice", made.direct_id)
    await made.send("carol", made.group_id)
    client = made.clients("bob")[0]
    for conversation_id, number in made.newest.items():
        read = frame_pb2.MarkReadRequest(conversation_id=conversation_id, message_number=number)
        await client.markers.MarkRead(read, metadata=client.auth)


async def test_everything_of_the_contract_is_asked_or_is_of_oneself() -> None:
    contract = FileDescriptorSet.FromString(_DESCRIPTORS.read_bytes())
    methods = {
        f"{file.package}.{service.name}/{method.name}"
        for file in contract.file
        if file.package.startswith("hubbub.")
        for service in file.service
        for method in service.method
    }
    async with stage("aio") as made:
        asked = {*questions(made), *STREAMS}

    own = {f"{service}/{method}" for service, names in OF_ONESELF.items() for method in names}
    assert not asked & own
    assert asked | own == methods


@pytest.mark.parametrize(
    ("transport", "group_receipts", "seed"),
    [
        pytest.param("aio", read_state_pb2.RECEIPTS_MODE_COUNT_ONLY, 1, id="aio-1"),
        pytest.param("edge", read_state_pb2.RECEIPTS_MODE_FULL, 2, id="edge-2"),
    ],
)
async def test_who_is_invisible_is_as_who_signed_out_byte_for_byte_in_all_answers_and_streams(
    transport: str, group_receipts: read_state_pb2.ReceiptsMode.ValueType, seed: int
) -> None:
    """30 actions on two nodes; Alice hears on all kinds of streams, and asks everything after each of them."""
    invisible, signed_out = await asyncio.gather(
        transcript(transport, group_receipts, seed, is_invisible=True),
        transcript(transport, group_receipts, seed, is_invisible=False),
    )

    places = {where for each in (invisible, signed_out) for where, _ in each.entries}
    assert {where: invisible.of(where) for where in places} == {where: signed_out.of(where) for where in places}
    assert len(places) > len(STREAMS) + 20
    assert len(signed_out.of("hubbub.presence.v1.PresenceService/GetPresence 0")) == ACTIONS + 2
