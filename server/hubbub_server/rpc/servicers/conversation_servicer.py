"""Serves hubbub.conversation.v1.ConversationService."""

from hubbub.conversation.v1 import conversation_service_pb2 as pb
from hubbub.conversation.v1 import conversation_service_pb2_grpc

from hubbub_server.app.conversations import Conversations
from hubbub_server.domain.errors import InvalidField
from hubbub_server.rpc.call import current_call
from hubbub_server.wire.record_codec import member_to_pb, settings_to_pb
from hubbub_server.wire.requests import required
from hubbub_server.wire.settings import read_conversation_settings
from hubbub_server.wire.values import cursor_to_pb, view_to_pb


class ConversationServicer(conversation_service_pb2_grpc.ConversationServiceServicer):
    """Creates conversations and changes who belongs to them."""

    def __init__(self, conversations: Conversations) -> None:
        """Takes the use cases."""
        self._conversations = conversations

    async def CreateConversation(
        self, request: pb.CreateConversationRequest, context: object
    ) -> pb.CreateConversationResponse:
        """Creates a direct conversation or a group, or returns the one that exists."""
        caller_id = current_call().authenticated.user_id
        match request.WhichOneof("spec"):
            case "direct":
                view = await self._conversations.create_direct(caller_id, request.direct.user_id)
            case "group":
                view = await self._conversations.create_group(
                    caller_id,
                    request_id=request.request_id,
                    title=request.group.title,
                    user_ids=request.group.user_ids,
                )
            case _:
                raise InvalidField("spec", "direct or group")
        current_call().conversation_id = view.conversation_id
        return pb.CreateConversationResponse(view=view_to_pb(view))

    async def GetConversation(self, request: pb.GetConversationRequest, context: object) -> pb.GetConversationResponse:
        """Gets one conversation as the caller sees it."""
        view = await self._conversations.get(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id)
        )
        return pb.GetConversationResponse(view=view_to_pb(view))

    async def UpdateConversation(
        self, request: pb.UpdateConversationRequest, context: object
    ) -> pb.UpdateConversationResponse:
        """Changes the settings of a group."""
        conversation_id = _conversation_id(request.conversation_id)
        limit = read_conversation_settings(request.settings, request.update_mask)
        cursor = await self._conversations.limit_receipts(current_call().authenticated.user_id, conversation_id, limit)
        return pb.UpdateConversationResponse(settings=settings_to_pb(limit), cursor=cursor_to_pb(cursor))

    async def ListConversations(
        self, request: pb.ListConversationsRequest, context: object
    ) -> pb.ListConversationsResponse:
        """Lists the caller's conversations."""
        views, next_page_token = await self._conversations.list(
            current_call().authenticated.user_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListConversationsResponse(views=map(view_to_pb, views), next_page_token=next_page_token)

    async def ListMembers(self, request: pb.ListMembersRequest, context: object) -> pb.ListMembersResponse:
        """Lists the members of a conversation."""
        members, next_page_token = await self._conversations.list_members(
            current_call().authenticated.user_id,
            _conversation_id(request.conversation_id),
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return pb.ListMembersResponse(members=map(member_to_pb, members), next_page_token=next_page_token)

    async def AddMembers(self, request: pb.AddMembersRequest, context: object) -> pb.AddMembersResponse:
        """Adds users to a group."""
        cursor = await self._conversations.add_members(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id), request.user_ids
        )
        return pb.AddMembersResponse(cursor=cursor_to_pb(cursor))

    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: object) -> pb.RemoveMemberResponse:
        """Removes a user from a group, or the caller."""
        cursor = await self._conversations.remove_member(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id), request.user_id
        )
        return pb.RemoveMemberResponse(cursor=cursor_to_pb(cursor))


def _conversation_id(text: str) -> str:
    current_call().conversation_id = text[:32]  # for the log: what a client sends may be anything
    return required("conversation_id", text)
