"""Who is there: `client.presence`."""

from collections.abc import Callable, Iterable, Sequence

from hubbub.presence.v1 import presence_service_pb2 as presence_pb

from hubbub_client import presences
from hubbub_client.presence_board import PresenceBoard
from hubbub_client.unary import Unary
from hubbub_client.wire_presence import read_manual, read_presence, write_manual


class Presence:
    """Watches users, and says how the signed-in user is there. The client makes it.

    Without watching anybody and without `set_activity` a connected client counts as active.
    """

    def __init__(self, unary: Unary, board: PresenceBoard, wake: Callable[[], None]) -> None:
        self._unary, self._board, self._wake = unary, board, wake

    def watch(self, user_ids: Iterable[str]) -> None:
        """Watches users, besides those who are watched: PresenceChanged tells how they are there. At once, no call.

        Raises:
            ValueError: that would be more than 500, or one of them is empty.
        """
        self._board.watch(user_ids)
        self._wake()

    def unwatch(self, user_ids: Iterable[str]) -> None:
        """Watches users no longer."""
        self._board.unwatch(user_ids)
        self._wake()

    def of(self, user_id: str) -> presences.Presence:
        """Returns what is known of a watched user now: UNKNOWN at first, and 15 s after the server is out of reach."""
        return self._board.of(user_id)

    def set_activity(self, activity: presences.Activity) -> None:
        """States whether somebody uses this client: INACTIVE after 5 minutes without a touch, say."""
        self._board.activity = activity
        self._wake()

    async def set_own(self, own: presences.ManualPresence) -> presences.ManualPresence:
        """Sets what others see, on all devices; an empty one goes back to automatic. Returns it as it is stored.

        Raises:
            InvalidField: the text or the emoji is too long.
        """
        request = presence_pb.SetPresenceRequest(presence=write_manual(own))
        answer = await self._unary.call(lambda stubs: stubs.presence.SetPresence, request)
        return read_manual(answer.presence)

    async def get_own(self) -> presences.ManualPresence:
        """Gets what is set by hand, and has not expired."""
        request = presence_pb.GetPresenceRequest(user_id="me")
        return read_manual((await self._unary.call(lambda stubs: stubs.presence.GetPresence, request)).own)

    async def list_presence(self, user_ids: Sequence[str]) -> list[presences.Presence]:
        """Asks once for the presence of up to 200 users, in the order asked."""
        request = presence_pb.ListPresenceRequest(user_ids=user_ids)
        answer = await self._unary.call(lambda stubs: stubs.presence.ListPresence, request)
        return [read_presence(presence) for presence in answer.presences]

    async def get_summary(self, conversation_id: str) -> presences.PresenceSummary:
        """Counts who is there in a conversation, however large; once in 30 s at most.

        Raises:
            ConversationNotFound: the caller is not a member.
        """
        request = presence_pb.GetPresenceSummaryRequest(conversation_id=conversation_id)
        answer = await self._unary.call(lambda stubs: stubs.presence.GetPresenceSummary, request)
        return presences.PresenceSummary(
            member_count=answer.member_count, present_count=answer.present_count, is_unknown=answer.unknown
        )
