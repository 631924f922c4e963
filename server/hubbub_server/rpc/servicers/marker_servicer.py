"""Serves hubbub.chat.v1.MarkerService."""

from hubbub.chat.v1 import frame_pb2, marker_service_pb2_grpc
from hubbub.chat.v1 import marker_service_pb2 as pb

from hubbub_server.app.markers import ConversationCounters, Markers
from hubbub_server.app.own_mentions import OwnMentions
from hubbub_server.rpc.call import current_call
from hubbub_server.wire.commands import read_mark_delivered, read_mark_read
from hubbub_server.wire.record_codec import MODE_TO_PB
from hubbub_server.wire.requests import required
from hubbub_server.wire.values import (
    cursor_to_pb,
    delivered_to_pb,
    marked_to_pb,
    read_state_to_pb,
    stored_message_to_pb,
)


class MarkerServicer(marker_service_pb2_grpc.MarkerServiceServicer):
    """Moves the caller's markers and tells what follows from them."""

    def __init__(self, markers: Markers, mentions: OwnMentions) -> None:
        """Takes the use cases."""
        self._markers = markers
        self._mentions = mentions

    async def MarkRead(self, request: frame_pb2.MarkReadRequest, context: object) -> frame_pb2.MarkReadResponse:
        """Marks a conversation as read up to a message."""
        call = current_call()
        call.conversation_id = request.conversation_id[:32]
        return marked_to_pb(await self._markers.mark_read(call.authenticated.user_id, read_mark_read(request)))

    async def MarkDelivered(
        self, request: frame_pb2.MarkDeliveredRequest, context: object
    ) -> frame_pb2.MarkDeliveredResponse:
        """Tells that a device of the caller has received a conversation up to a message."""
        call = current_call()
        call.conversation_id = request.conversation_id[:32]
        received = read_mark_delivered(request)
        return delivered_to_pb(await self._markers.mark_delivered(call.authenticated.user_id, received))

    async def MarkUnread(self, request: pb.MarkUnreadRequest, context: object) -> pb.MarkUnreadResponse:
        """Marks a conversation as unread."""
        marked = await self._markers.mark_unread(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id)
        )
        return pb.MarkUnreadResponse(
            unread_mark_position=marked.unread_mark_position, cursor=cursor_to_pb(marked.cursor)
        )

    async def ListMarkers(self, request: pb.ListMarkersRequest, context: object) -> pb.ListMarkersResponse:
        """Lists how far the other members have read and received."""
        markers = await self._markers.list_markers(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id)
        )
        return pb.ListMarkersResponse(
            markers=[
                pb.MemberMarker(
                    user_id=each.user_id, message_number=each.read_number, delivered_number=each.delivered_number
                )
                for each in markers
            ]
        )

    async def ListReaders(self, request: pb.ListReadersRequest, context: object) -> pb.ListReadersResponse:
        """Tells who of the other members has read a message."""
        readers = await self._markers.list_readers(
            current_call().authenticated.user_id, _conversation_id(request.conversation_id), request.message_number
        )
        return pb.ListReadersResponse(
            user_ids=readers.user_ids,
            reader_count=readers.count,
            receipts_mode=MODE_TO_PB[readers.mode],
            read_floor_number=readers.floor_number,
        )

    async def GetCounters(self, request: pb.GetCountersRequest, context: object) -> pb.GetCountersResponse:
        """Gets the badge and what is unread."""
        counters = await self._markers.counters(current_call().authenticated.user_id)
        return pb.GetCountersResponse(
            counters=map(_counters_to_pb, counters.conversations),
            badge_count=counters.badge_count,
            mention_count=counters.mention_count,
            cursor=cursor_to_pb(counters.cursor),
        )

    async def ListMentions(self, request: pb.ListMentionsRequest, context: object) -> pb.ListMentionsResponse:
        """Lists messages that mention the caller."""
        messages, next_before_number = await self._markers.list_mentions(
            current_call().authenticated.user_id,
            _conversation_id(request.conversation_id),
            page_size=request.page_size,
            before_number=request.before_number,
        )
        return pb.ListMentionsResponse(
            messages=map(stored_message_to_pb, messages), next_before_number=next_before_number
        )

    async def ListMyMentions(self, request: pb.ListMyMentionsRequest, context: object) -> pb.ListMyMentionsResponse:
        """Lists messages that mention the caller in all conversations."""
        mentions, next_page_token = await self._mentions.list(
            current_call().authenticated.user_id, page_size=request.page_size, page_token=request.page_token
        )
        return pb.ListMyMentionsResponse(
            mentions=[
                pb.Mention(conversation_id=each.conversation_id, message=stored_message_to_pb(each.message))
                for each in mentions
            ],
            next_page_token=next_page_token,
        )


def _counters_to_pb(counters: ConversationCounters) -> pb.ConversationCounters:
    return pb.ConversationCounters(
        conversation_id=counters.conversation_id,
        read_state=read_state_to_pb(counters.read_state),
        position=counters.position,
    )


def _conversation_id(text: str) -> str:
    current_call().conversation_id = text[:32]
    return required("conversation_id", text)
