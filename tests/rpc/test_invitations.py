"""Blocks and invitations over the wire: the status, what it names, and what it does not tell."""

import uuid
from collections.abc import Awaitable

import grpc.aio
import pytest
from google.rpc import error_details_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversation
from hubbub.user.v1 import settings_service_pb2 as settings

from tests.support.live_client import status_of_error
from tests.support.node import Node, NodeCluster

pytestmark = pytest.mark.asyncio


async def _error_info(call: Awaitable[object]) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert status_of_error(refused.value).details[0].Unpack(info)
    return info


async def test_refused_invitation_names_who_refuses(cluster: NodeCluster, node: Node) -> None:
    names = ("alice", "bob", "carol")
    ids = {}
    clients = {}
    for name in names:
        person = await cluster.sign_up(name)
        ids[name], clients[name] = person.user_id, node.client(person.access_token)
    alice, bob = clients["alice"], clients["bob"]
    await bob.settings.BlockUser(settings.BlockUserRequest(user_id=ids["alice"]), metadata=bob.auth)
    spec = conversation.GroupSpec(title="tea", user_ids=[ids["carol"], ids["bob"]])
    request = conversation.CreateConversationRequest(request_id=str(uuid.uuid4()), group=spec)

    info = await _error_info(alice.conversations.CreateConversation(request, metadata=alice.auth))
    assert (info.reason, dict(info.metadata)) == ("ERROR_REASON_NOT_PERMITTED", {"user_ids": ids["bob"]})
    del request.group.user_ids[1]
    made = await alice.conversations.CreateConversation(request, metadata=alice.auth)
    group_id = made.view.conversation.conversation_id
    addition = conversation.AddMembersRequest(conversation_id=group_id, user_ids=[ids["bob"]])
    info = await _error_info(alice.conversations.AddMembers(addition, metadata=alice.auth))
    assert dict(info.metadata) == {"user_ids": ids["bob"]}
    carol = clients["carol"]
    info = await _error_info(carol.conversations.AddMembers(addition, metadata=carol.auth))
    assert dict(info.metadata) == {}
