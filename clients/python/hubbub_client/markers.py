"""What is read and unread: `client.markers`."""

from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as markers_pb

from hubbub_client import kept, wire, wire_kept
from hubbub_client.boards import Boards
from hubbub_client.model import Message
from hubbub_client.unary import Unary


class Markers:
    """Moves the user's markers and tells how far others have read. The client makes it."""

    def __init__(self, unary: Unary, boards: Boards) -> None:
        self._unary, self._boards = unary, boards

    async def mark_read(
        self, conversation_id: str, message_number: int, *, unread_mark_position: int | None = None
    ) -> kept.ReadMarker:
        """Marks a conversation as read up to a message; returns how far it is read now, never behind what it was.

        Takes up to 2 s while the user reads on: call it as they read, and go on. Sending is reading, too.

        Args:
            conversation_id: which one.
            message_number: the newest message that was read.
            unread_mark_position: mark-as-unread to take away, though nothing new was read: the position of its event.
                None: the one that this client knows of, with `keeps_counters`.

        Raises:
            ConversationNotFound: the caller is not a member.
            MessageNotFound: there is none of that number.
        """
        counters = self._boards.counters
        if unread_mark_position is None:
            unread_mark_position = 0 if counters is None else counters.unread_mark_position(conversation_id)
        request = frame_pb2.MarkReadRequest(
            conversation_id=conversation_id, message_number=message_number, unread_mark_position=unread_mark_position
        )
        return wire_kept.read_marker((await self._unary.call(lambda stubs: stubs.markers.MarkRead, request)).marker)

    async def mark_delivered(self, conversation_id: str, message_number: int) -> int:
        """Tells that this device has received up to a message; returns how far the user's devices have.

        The client does it by itself for what comes with its events (`marks_delivered`). Call it for what came another
        way, with a push for example. Takes 2 s; less is returned where nothing is kept: see Preferences and
        receipts_mode.

        Raises:
            ConversationNotFound: the caller is not a member.
            MessageNotFound: there is none of that number.
        """
        request = frame_pb2.MarkDeliveredRequest(conversation_id=conversation_id, message_number=message_number)
        return (await self._unary.call(lambda stubs: stubs.markers.MarkDelivered, request)).message_number

    async def mark_unread(self, conversation_id: str) -> int:
        """Shows a conversation as unread, on all devices, until it is read again; returns the position of the mark.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = markers_pb.MarkUnreadRequest(conversation_id=conversation_id)
        return (await self._unary.call(lambda stubs: stubs.markers.MarkUnread, request)).unread_mark_position

    async def list_markers(self, conversation_id: str) -> list[kept.MemberMarker]:
        """Lists how far the others have received and read, as far as they show it; news come as ReceiptChanged, too.

        Raises:
            ConversationNotFound: the caller is not a member.
            ConversationState: its receipts_mode is not FULL.
        """
        request = markers_pb.ListMarkersRequest(conversation_id=conversation_id)
        answer = await self._unary.call(lambda stubs: stubs.markers.ListMarkers, request)
        for one in answer.markers:
            self._boards.receipts.learn(
                conversation_id, one.user_id, delivered_number=one.delivered_number, read_number=one.message_number
            )
        return [
            kept.MemberMarker(
                user_id=one.user_id, message_number=one.message_number, delivered_number=one.delivered_number
            )
            for one in answer.markers
        ]

    async def list_readers(self, conversation_id: str, message_number: int) -> kept.Readers:
        """Tells who of the others has read a message, its sender left out, and how far all have.

        Raises:
            ConversationNotFound: the caller is not a member.
            MessageNotFound: there is none of that number.
            ConversationState: its receipts_mode is OFF.
        """
        request = markers_pb.ListReadersRequest(conversation_id=conversation_id, message_number=message_number)
        answer = await self._unary.call(lambda stubs: stubs.markers.ListReaders, request)
        mode = wire_kept.read_mode(answer.receipts_mode)
        if mode is kept.ReceiptsMode.COUNT_ONLY:
            self._boards.receipts.learn_floor(conversation_id, answer.read_floor_number)
        return kept.Readers(
            user_ids=tuple(answer.user_ids),
            reader_count=answer.reader_count,
            receipts_mode=mode,
            read_floor_number=answer.read_floor_number,
        )

    async def list_mentions(
        self, conversation_id: str, *, before_number: int = 0, page_size: int = 0
    ) -> tuple[list[Message], int]:
        """Lists messages that mention the user, newest first, and `before_number` of the next page, 0: no more.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = markers_pb.ListMentionsRequest(
            conversation_id=conversation_id, before_number=before_number, page_size=page_size
        )
        answer = await self._unary.call(lambda stubs: stubs.markers.ListMentions, request)
        messages = [wire.read_message(conversation_id, message) for message in answer.messages]
        return messages, answer.next_before_number

    async def list_my_mentions(self, *, page_token: str = "", page_size: int = 0) -> tuple[list[Message], str]:
        """Lists messages of all the user's conversations that mention the user, newest first, a page at a time.

        Args:
            page_token: as returned with the page before; "" begins with the newest.
            page_size: 0 = 50, at most 200.

        Returns:
            The messages, maybe fewer than asked for or none, and `page_token` of the next page, "": there is none.

        Raises:
            InvalidField: the page_token was made up.
        """
        request = markers_pb.ListMyMentionsRequest(page_token=page_token, page_size=page_size)
        answer = await self._unary.call(lambda stubs: stubs.markers.ListMyMentions, request)
        messages = [wire.read_message(mention.conversation_id, mention.message) for mention in answer.mentions]
        return messages, answer.next_page_token

    async def get_counters(self) -> kept.Counters:
        """Asks the server what is unread, once, without which conversations are muted; `client.counters` follows it."""
        request = markers_pb.GetCountersRequest()
        return wire_kept.read_counters(await self._unary.call(lambda stubs: stubs.markers.GetCounters, request))
