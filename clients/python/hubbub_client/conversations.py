"""Calls about conversations, their members and messages."""

from collections.abc import Iterable, Sequence
from typing import Final

import uuid_utils
from google.protobuf import field_mask_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb
from hubbub.history.v1 import history_service_pb2 as history_pb

from hubbub_client import kept, model, wire, wire_kept
from hubbub_client.unary import Unary

_PAGE_CONVERSATIONS: Final = 200
_PAGE_MEMBERS: Final = 500
_SIDES: Final = {
    model.PageSide.BEFORE: history_pb.PAGE_SIDE_BEFORE,
    model.PageSide.AFTER: history_pb.PAGE_SIDE_AFTER,
    model.PageSide.AROUND: history_pb.PAGE_SIDE_AROUND,
}


class Conversations:
    """Makes the calls. What its methods promise is said where the client offers them."""

    def __init__(self, unary: Unary) -> None:
        self._unary = unary

    # ---- conversations

    async def create_direct(self, user_id: str) -> model.Conversation:
        """Returns the conversation with one other user."""
        return await self._create(
            conversations_pb.CreateConversationRequest(direct=conversations_pb.DirectSpec(user_id=user_id))
        )

    async def create_group(self, title: str, user_ids: Iterable[str], request_id: str | None) -> model.Conversation:
        """Creates a group."""
        return await self._create(
            conversations_pb.CreateConversationRequest(
                request_id=request_id or str(uuid_utils.uuid7()),
                group=conversations_pb.GroupSpec(title=title, user_ids=user_ids),
            )
        )

    async def _create(self, request: conversations_pb.CreateConversationRequest) -> model.Conversation:
        answer = await self._unary.call(lambda stubs: stubs.conversations.CreateConversation, request)
        return wire.read_conversation(answer.view)

    async def get(self, conversation_id: str) -> model.Conversation:
        """Gets a conversation."""
        return wire.read_conversation(await self.get_view(conversation_id))

    async def get_view(self, conversation_id: str) -> conversations_pb.ConversationView:
        """Gets a conversation as the server sends it."""
        request = conversations_pb.GetConversationRequest(conversation_id=conversation_id)
        return (await self._unary.call(lambda stubs: stubs.conversations.GetConversation, request)).view

    async def list_all(self) -> list[model.Conversation]:
        """Lists all conversations."""
        return list(map(wire.read_conversation, await self.list_views()))

    async def list_views(self) -> Sequence[conversations_pb.ConversationView]:
        """Lists all conversations as the server sends them."""
        request = conversations_pb.ListConversationsRequest(page_size=_PAGE_CONVERSATIONS)
        pages = self._unary.pages(lambda stubs: stubs.conversations.ListConversations, request)
        return [view async for page in pages for view in page.views]

    async def list_starts(self) -> Sequence[model.Cursor]:
        """Lists the place before the joining of each conversation."""
        return [
            model.Cursor(each.conversation_id, each.head.cursor.epoch, each.membership.join_position - 1)
            for each in await self.list_all()
        ]

    async def set_receipts_limit(self, conversation_id: str, limit: kept.ReceiptsMode) -> kept.ConversationSettings:
        """Changes what members of a group learn of each other's reading at most."""
        request = conversations_pb.UpdateConversationRequest(
            conversation_id=conversation_id,
            settings=conversation_pb2.ConversationSettings(receipts_limit=wire_kept.write_mode(limit)),
            update_mask=field_mask_pb2.FieldMask(paths=["receipts_limit"]),
        )
        answer = await self._unary.call(lambda stubs: stubs.conversations.UpdateConversation, request)
        return wire_kept.read_conversation_settings(answer.settings)

    # ---- members

    async def list_members(self, conversation_id: str) -> list[model.Member]:
        """Lists all members."""
        request = conversations_pb.ListMembersRequest(conversation_id=conversation_id, page_size=_PAGE_MEMBERS)
        pages = self._unary.pages(lambda stubs: stubs.conversations.ListMembers, request)
        return [wire.read_member(member) async for page in pages for member in page.members]

    async def add_members(self, conversation_id: str, user_ids: Sequence[str]) -> model.Cursor:
        """Adds users; returns the place of the addition."""
        request = conversations_pb.AddMembersRequest(conversation_id=conversation_id, user_ids=user_ids)
        answer = await self._unary.call(lambda stubs: stubs.conversations.AddMembers, request)
        return wire.read_cursor(answer.cursor)

    async def remove_member(self, conversation_id: str, user_id: str) -> model.Cursor:
        """Removes a user; returns the place of the removal."""
        request = conversations_pb.RemoveMemberRequest(conversation_id=conversation_id, user_id=user_id)
        answer = await self._unary.call(lambda stubs: stubs.conversations.RemoveMember, request)
        return wire.read_cursor(answer.cursor)

    # ---- messages

    async def list_messages(
        self, conversation_id: str, anchor_number: int, side: model.PageSide, page_size: int
    ) -> model.MessagePage:
        """Lists messages around a number, or the newest."""
        request = history_pb.ListMessagesRequest(
            conversation_id=conversation_id, anchor_number=anchor_number, side=_SIDES[side], page_size=page_size
        )
        answer = await self._unary.call(lambda stubs: stubs.history.ListMessages, request)
        return wire.read_page(conversation_id, answer)

    async def get_message(self, conversation_id: str, message_number: int) -> model.Message:
        """Gets one message."""
        request = history_pb.GetMessageRequest(conversation_id=conversation_id, message_number=message_number)
        answer = await self._unary.call(lambda stubs: stubs.history.GetMessage, request)
        return wire.read_message(conversation_id, answer.message)
