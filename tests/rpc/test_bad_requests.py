"""What may be wrong with requests other than messages, at each bound and one above."""

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc.aio
import pytest
import pytest_asyncio
from google.rpc import error_details_pb2, status_pb2
from hubbub.auth.v1 import auth_service_pb2 as auth
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1.conversation_service_pb2 import (
    AddMembersRequest,
    CreateConversationRequest,
    DirectSpec,
    GetConversationRequest,
    GroupSpec,
    ListConversationsRequest,
    ListMembersRequest,
    RemoveMemberRequest,
)
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.presence.v1 import presence_service_pb2 as presence
from hubbub.user.v1 import user_service_pb2 as users

from hubbub_server.app.authenticate import Credentials
from hubbub_server.domain.limits import GROUP_MAX_MEMBERS, MEMBERS_PER_CHANGE, SYNC_MAX_CURSORS, USERS_PER_GET
from hubbub_server.domain.presence import WATCHED_MAX
from tests.support.live_client import end_of, reason_of, status_of, status_of_error, text_message
from tests.support.node import PASSWORD, Node, NodeCluster, RpcClient

pytestmark = pytest.mark.asyncio

_UUID = "01890000-0000-7000-8000-000000000001"


async def _outcome(call: Any) -> tuple[str, str]:
    """Returns the reason and the field of a failed call, ("", "") of one that succeeds."""
    try:
        await call
    except grpc.aio.AioRpcError as error:
        status = status_of_error(error)
        return reason_of(status), _field_of(status)
    return "", ""


def _field_of(status: status_pb2.Status) -> str:
    bad = error_details_pb2.BadRequest()
    fields = [v.field for detail in status.details if detail.Unpack(bad) for v in bad.field_violations]
    return fields[0] if fields else ""


def _invalid(field: str) -> tuple[str, str]:
    return "INVALID_FIELD", field


# ---- accounts


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({"login_name": "abc"}, ("", "")),
        ({"login_name": "a" * 32}, ("", "")),
        ({"login_name": "ab"}, _invalid("login_name")),
        ({"login_name": "a" * 33}, _invalid("login_name")),
        ({"login_name": ""}, _invalid("login_name")),
        ({"login_name": "näme"}, _invalid("login_name")),
        ({"login_name": "ALICE"}, ("NAME_TAKEN", "")),
        ({"password": "x" * 8}, ("", "")),
        ({"password": "x" * 256}, ("", "")),
        ({"password": "x" * 7}, _invalid("password")),
        ({"password": "x" * 257}, _invalid("password")),
        ({"display_name": "x" * 100}, ("", "")),
        ({"display_name": "x" * 101}, _invalid("display_name")),
        ({"display_name": " \u200b "}, _invalid("display_name")),
        ({"display_name": "a\u202eb"}, _invalid("display_name")),
        ({"display_name": "a\nb"}, _invalid("display_name")),
    ],
    ids=str,
)
async def test_register(changes: dict[str, str], outcome: tuple[str, str], client: RpcClient) -> None:
    fields = {"login_name": "carol", "password": PASSWORD, "display_name": "Carol"} | changes

    assert await _outcome(client.accounts.Register(auth.RegisterRequest(**fields))) == outcome


async def test_login_and_refresh_answer_alike_whatever_is_wrong(client: RpcClient) -> None:
    logins = [
        ("alice", "wrong password"),
        ("nobody", PASSWORD),
        ("", ""),
        ("alice", "x" * 257),
        ("a" * 1_000, PASSWORD),
    ]
    tokens = ["", "x", "x" * 513, "ä"]

    answers = [await _outcome(client.accounts.Login(auth.LoginRequest(login_name=n, password=p))) for n, p in logins]
    answers += [await _outcome(client.accounts.RefreshToken(auth.RefreshTokenRequest(refresh_token=t))) for t in tokens]

    assert set(answers) == {("INVALID_CREDENTIALS", "")}


async def test_users(client: RpcClient, alice: Credentials) -> None:
    async def look_up(name: str) -> tuple[str, str]:
        return await _outcome(client.users.LookupUser(users.LookupUserRequest(login_name=name), metadata=client.auth))

    async def get(user_ids: Sequence[str]) -> tuple[str, str]:
        request = users.BatchGetUsersRequest(user_ids=user_ids)
        return await _outcome(client.users.BatchGetUsers(request, metadata=client.auth))

    assert [await look_up(name) for name in ("Alice", "nobody", "", "*")] == [
        ("", ""),
        ("USER_NOT_FOUND", ""),
        _invalid("login_name"),
        _invalid("login_name"),
    ]
    assert [await get(["u1"] * count) for count in (0, 1, USERS_PER_GET, USERS_PER_GET + 1)] == [
        _invalid("user_ids"),
        ("", ""),
        ("", ""),
        _invalid("user_ids"),
    ]


# ---- conversations


@pytest_asyncio.fixture
async def crowd(cluster: NodeCluster, alice: Credentials) -> AsyncIterator[list[str]]:
    """Users enough to fill a group and one more; Alice is not among them."""
    yield [(await cluster.sign_up(f"user{number}")).user_id for number in range(2 * MEMBERS_PER_CHANGE)]


def _group(*user_ids: str, title: str = "group", request_id: str = "") -> CreateConversationRequest:
    return CreateConversationRequest(
        request_id=request_id or str(uuid.uuid4()), group=GroupSpec(title=title, user_ids=user_ids)
    )


async def test_creating_conversations(client: RpcClient, alice: Credentials, bob: Credentials) -> None:
    async def create(request: CreateConversationRequest) -> tuple[str, str]:
        return await _outcome(client.conversations.CreateConversation(request, metadata=client.auth))

    cases = [
        (CreateConversationRequest(), _invalid("spec")),
        (CreateConversationRequest(direct=DirectSpec()), _invalid("direct.user_id")),
        (CreateConversationRequest(direct=DirectSpec(user_id=alice.user_id)), _invalid("direct.user_id")),
        (CreateConversationRequest(direct=DirectSpec(user_id="unobody")), ("USER_NOT_FOUND", "")),
        (CreateConversationRequest(direct=DirectSpec(user_id="*")), ("USER_NOT_FOUND", "")),
        (CreateConversationRequest(direct=DirectSpec(user_id=bob.user_id)), ("", "")),
        (_group(request_id="1"), _invalid("request_id")),
        (CreateConversationRequest(group=GroupSpec(title="group")), _invalid("request_id")),
        (_group(title="x" * 100), ("", "")),
        (_group(title="x" * 101), _invalid("group.title")),
        (_group(title=""), _invalid("group.title")),
        (_group(title="\u3164"), _invalid("group.title")),
        (_group(title="a\u2066b"), _invalid("group.title")),
        (_group(alice.user_id, bob.user_id), ("", "")),
        (_group(bob.user_id, bob.user_id), _invalid("group.user_ids")),
        (_group(""), _invalid("group.user_ids")),
        (_group(bob.user_id, "unobody"), ("USER_NOT_FOUND", "")),
    ]

    assert [await create(request) for request, _ in cases] == [outcome for _, outcome in cases]


async def test_a_groups_request_id_with_other_content_is_refused(client: RpcClient, bob: Credentials) -> None:
    async def create(request: CreateConversationRequest) -> Any:
        return await client.conversations.CreateConversation(request, metadata=client.auth)

    first = await create(_group(bob.user_id, request_id=_UUID))
    again = await create(_group(bob.user_id, request_id=_UUID.upper()))
    answers = [
        await _outcome(create(_group(bob.user_id, request_id=_UUID, title="another"))),
        await _outcome(create(_group(request_id=_UUID))),
    ]

    assert again.view.conversation == first.view.conversation
    assert answers == [("ID_REUSED", "")] * 2


async def test_the_most_users_that_a_group_takes(client: RpcClient, crowd: list[str]) -> None:
    async def add(conversation_id: str, user_ids: Sequence[str]) -> tuple[str, str]:
        request = AddMembersRequest(conversation_id=conversation_id, user_ids=user_ids)
        return await _outcome(client.conversations.AddMembers(request, metadata=client.auth))

    too_many = _group(*crowd[: MEMBERS_PER_CHANGE + 1])
    refused = await _outcome(client.conversations.CreateConversation(too_many, metadata=client.auth))
    created = await client.conversations.CreateConversation(_group(*crowd[:MEMBERS_PER_CHANGE]), metadata=client.auth)
    conversation_id = created.view.conversation.conversation_id
    rest = crowd[MEMBERS_PER_CHANGE:]

    assert refused == _invalid("group.user_ids")
    assert created.view.conversation.member_count == MEMBERS_PER_CHANGE + 1
    assert await add(conversation_id, [*rest, rest[0]]) == _invalid("user_ids")
    assert await add(conversation_id, rest) == ("CONVERSATION_STATE", "")  # with Alice one more than fit
    assert await add(conversation_id, rest[1:]) == ("", "")
    assert await add(conversation_id, rest[:1]) == ("CONVERSATION_STATE", "")
    view = await client.conversations.GetConversation(
        GetConversationRequest(conversation_id=conversation_id), metadata=client.auth
    )
    assert view.view.conversation.member_count == GROUP_MAX_MEMBERS


async def test_changing_members(client: RpcClient, bob: Credentials, direct: str) -> None:
    group = await client.conversations.CreateConversation(_group(bob.user_id), metadata=client.auth)
    group_id = group.view.conversation.conversation_id

    async def add(*user_ids: str, to: str = group_id) -> tuple[str, str]:
        request = AddMembersRequest(conversation_id=to, user_ids=user_ids)
        return await _outcome(client.conversations.AddMembers(request, metadata=client.auth))

    async def remove(user_id: str, *, of: str = group_id) -> tuple[str, str]:
        request = RemoveMemberRequest(conversation_id=of, user_id=user_id)
        return await _outcome(client.conversations.RemoveMember(request, metadata=client.auth))

    assert await add() == _invalid("user_ids")
    assert await add("") == _invalid("user_ids")
    assert await add(bob.user_id, bob.user_id) == _invalid("user_ids")
    assert await add("unobody") == ("USER_NOT_FOUND", "")
    assert await add(bob.user_id) == ("", "")
    assert await add(bob.user_id, to=direct) == ("CONVERSATION_STATE", "")
    assert await remove("") == _invalid("user_id")
    assert await remove("unobody") == ("", "")
    assert await remove("me") == ("CONVERSATION_STATE", "")  # the last owner
    assert await remove(bob.user_id, of=direct) == ("CONVERSATION_STATE", "")
    assert await remove(bob.user_id) == ("", "")


Ask = Callable[[RpcClient, str], Any]

WITH_CONVERSATION_ID: dict[str, Ask] = {
    "GetConversation": lambda c, i: c.conversations.GetConversation(
        GetConversationRequest(conversation_id=i), metadata=c.auth
    ),
    "ListMembers": lambda c, i: c.conversations.ListMembers(ListMembersRequest(conversation_id=i), metadata=c.auth),
    "AddMembers": lambda c, i: c.conversations.AddMembers(
        AddMembersRequest(conversation_id=i, user_ids=["u1"]), metadata=c.auth
    ),
    "RemoveMember": lambda c, i: c.conversations.RemoveMember(
        RemoveMemberRequest(conversation_id=i, user_id="me"), metadata=c.auth
    ),
    "GetPresenceSummary": lambda c, i: c.presence.GetPresenceSummary(
        presence.GetPresenceSummaryRequest(conversation_id=i), metadata=c.auth
    ),
    "SendMessage": lambda c, i: c.chat.SendMessage(text_message(i), metadata=c.auth),
    "ListMessages": lambda c, i: c.history.ListMessages(
        history.ListMessagesRequest(conversation_id=i), metadata=c.auth
    ),
    "GetMessage": lambda c, i: c.history.GetMessage(
        history.GetMessageRequest(conversation_id=i, message_number=1), metadata=c.auth
    ),
}


@pytest.mark.parametrize("ask", WITH_CONVERSATION_ID.values(), ids=WITH_CONVERSATION_ID.keys())
async def test_only_an_empty_conversation_id_is_invalid_any_other_text_is_nobodys(ask: Ask, client: RpcClient) -> None:
    texts = ["c1", "c" + "a" * 31, "c" + "a" * 32, "C1", "c.*", "u1", "ä", "x" * 10_000]

    assert await _outcome(ask(client, "")) == _invalid("conversation_id")
    assert {await _outcome(ask(client, text)) for text in texts} == {("CONVERSATION_NOT_FOUND", "")}


# ---- presence


async def test_presence(client: RpcClient) -> None:
    async def get(user_id: str) -> tuple[str, str]:
        request = presence.GetPresenceRequest(user_id=user_id)
        return await _outcome(client.presence.GetPresence(request, metadata=client.auth))

    async def list_(user_ids: Sequence[str]) -> tuple[str, str]:
        request = presence.ListPresenceRequest(user_ids=user_ids)
        return await _outcome(client.presence.ListPresence(request, metadata=client.auth))

    async def subscribe(user_ids: Sequence[str]) -> tuple[str, str]:
        call = client.presence.Subscribe(presence.SubscribeRequest(user_ids=user_ids), metadata=client.auth)
        outcome = await _outcome(call.read())
        call.cancel()
        return outcome

    assert [await get(user_id) for user_id in ("", "me", "nobody")] == [_invalid("user_id"), ("", ""), ("", "")]
    for ask, most in ((list_, USERS_PER_GET), (subscribe, WATCHED_MAX)):
        many = [f"u{number}" for number in range(most)]
        assert [await ask(user_ids) for user_ids in ([], [""], many, [*many, "u"])] == [
            _invalid("user_ids"),
            _invalid("user_ids"),
            ("", ""),
            _invalid("user_ids"),
        ]


@pytest.mark.parametrize(
    ("frame", "reason"),
    [
        (presence.WatchRequest(added_user_ids=[f"u{number}" for number in range(WATCHED_MAX + 1)]), "INVALID_FIELD"),
        (presence.WatchRequest(added_user_ids=[""]), "INVALID_FIELD"),
        (presence.WatchRequest(removed_user_ids=[""]), "INVALID_FIELD"),
        (presence.WatchRequest(own_activity=9), "INVALID_FIELD"),  # type: ignore[arg-type]  # of a newer client
        (presence.WatchRequest(added_user_ids=["u" * 300_000]), "STREAM_PROTOCOL"),
    ],
    ids=["too many", "empty", "empty removed", "unknown activity", "too large"],
)
async def test_frames_of_watchers(client: RpcClient, frame: presence.WatchRequest, reason: str) -> None:
    call = client.presence.Watch(metadata=client.auth)
    await call.write(frame)

    assert reason_of(await end_of(call)) == reason


# ---- pages


async def test_pages(client: RpcClient, direct: str) -> None:
    async def conversations(**fields: Any) -> tuple[str, str]:
        request = ListConversationsRequest(**fields)
        return await _outcome(client.conversations.ListConversations(request, metadata=client.auth))

    async def members(**fields: Any) -> tuple[str, str]:
        request = ListMembersRequest(conversation_id=direct, **fields)
        return await _outcome(client.conversations.ListMembers(request, metadata=client.auth))

    async def messages(**fields: Any) -> tuple[str, str]:
        request = history.ListMessagesRequest(conversation_id=direct, **fields)
        return await _outcome(client.history.ListMessages(request, metadata=client.auth))

    async def message(number: int) -> tuple[str, str]:
        request = history.GetMessageRequest(conversation_id=direct, message_number=number)
        return await _outcome(client.history.GetMessage(request, metadata=client.auth))

    await client.chat.SendMessage(text_message(direct), metadata=client.auth)
    largest = 2**31 - 1
    for list_page in (conversations, members, messages):
        assert await list_page(page_size=largest) == ("", "")
        assert await list_page(page_size=-1) == _invalid("page_size")
    for token in ("x", "AAAA", "ä", "x" * 10_000):
        assert await conversations(page_token=token) == _invalid("page_token")
        assert await members(page_token=token) == _invalid("page_token")
    assert await messages(anchor_number=2**63 - 1) == ("", "")
    assert await messages(anchor_number=-1) == _invalid("anchor_number")
    assert await messages(side=history.PAGE_SIDE_AROUND) == _invalid("anchor_number")
    assert await messages(side=history.PAGE_SIDE_AROUND, anchor_number=1) == ("", "")
    assert await messages(side=99) == _invalid("side")
    assert [await message(number) for number in (-1, 0, 1, 2, 2**63 - 1)] == [
        _invalid("message_number"),
        _invalid("message_number"),
        ("", ""),
        ("MESSAGE_NOT_FOUND", ""),
        ("MESSAGE_NOT_FOUND", ""),
    ]


# ---- sync


def _cursors(count: int) -> list[conversation_pb2.Cursor]:
    return [conversation_pb2.Cursor(topic_id=f"c{number}", epoch=1) for number in range(count)]


SYNCS: dict[str, tuple[list[conversation_pb2.Cursor], str]] = {
    "none": ([], "cursors"),
    "the most": (_cursors(SYNC_MAX_CURSORS), ""),
    "one more": (_cursors(SYNC_MAX_CURSORS + 1), "cursors"),
    "a topic twice": (_cursors(1) * 2, "cursors"),
    "a negative position": ([conversation_pb2.Cursor(topic_id="c1", epoch=1, position=-1)], "cursors.position"),
}


@pytest.mark.parametrize(("cursors", "field"), SYNCS.values(), ids=SYNCS.keys())
async def test_sync_and_sync_once(cursors: list[conversation_pb2.Cursor], field: str, client: RpcClient) -> None:
    request = history.SyncRequest(cursors=cursors)
    stream = client.history.Sync(metadata=client.auth)
    await stream.write(request)
    await stream.done_writing()
    once = client.history.SyncOnce(history.SyncOnceRequest(request=request), metadata=client.auth)

    statuses = [await end_of(stream), await end_of(once)]

    assert [_field_of(status) for status in statuses] == [field, field]
    assert {status.code == 0 for status in statuses} == {field == ""}


async def test_sync_once_without_a_request_and_too_large_a_request(client: RpcClient) -> None:
    cursor = conversation_pb2.Cursor(topic_id="c" * (256 * 1024))
    large = history.SyncOnceRequest(request=history.SyncRequest(cursors=[cursor]))
    for request in (history.SyncOnceRequest(), large):
        call = client.history.SyncOnce(request, metadata=client.auth)
        with pytest.raises(grpc.aio.AioRpcError):
            await call.read()

        assert _field_of(await status_of(call)) == "request"


async def test_a_topic_of_nobody_is_rejected_and_the_rest_of_a_sync_goes_on(client: RpcClient, direct: str) -> None:
    names = ["cnobody", "*", "", "ustranger", direct]
    cursors = [conversation_pb2.Cursor(topic_id=name, epoch=1) for name in names]
    request = history.SyncOnceRequest(request=history.SyncRequest(cursors=cursors))

    frames = [r.frame async for r in client.history.SyncOnce(request, metadata=client.auth)]

    rejected = [(f.rejected.topic_id, reason_of(f.rejected.status)) for f in frames if f.HasField("rejected")]
    assert rejected == [(name, "CONVERSATION_NOT_FOUND") for name in names[:-1]]
    assert [event.position for frame in frames for event in frame.events] == [1, 2]
    assert [head.cursor.topic_id for head in frames[-1].caught_up.heads] == [direct]


# ---- metadata


async def test_metadata_up_to_eight_kibibytes_are_read_and_more_are_refused(node: Node, client: RpcClient) -> None:
    request = users.LookupUserRequest(login_name="alice")
    assert await _outcome(client.users.LookupUser(request, metadata=(*client.auth, ("x-more", "x" * 7_000)))) == (
        "",
        "",
    )

    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await client.users.LookupUser(request, metadata=(*client.auth, ("x-more", "x" * 8_192)))

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
