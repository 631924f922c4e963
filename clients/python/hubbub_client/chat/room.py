"""One conversation as a chat shows it: what was said before, then what is said, every message once and in order.

Beside the lines: who of the others is there, types, has received and read; what is unread elsewhere.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from hubbub_client import events
from hubbub_client.client import HubbubClient
from hubbub_client.echoes import Echo
from hubbub_client.errors import CallFailed, Unavailable
from hubbub_client.kept import Counters
from hubbub_client.model import Message, MessagePage, PageSide, TypingKind
from hubbub_client.presences import Presence

_WATCHED_MAX: Final = 50  # in larger conversations nobody looks at each one
_PAGE_SIZE: Final = 200
_PAUSE_S: Final = 1.0
_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A message to show, unless `is_blocked`: the user blocks its sender. `is_history`: it was there before."""

    message: Message
    sender: str
    is_history: bool
    is_blocked: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """The history was shown; what follows is new."""

    last_message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Typing:
    """Another member makes a message, or (None) stopped."""

    user_id: str
    sender: str
    kind: TypingKind | None


@dataclass(frozen=True, slots=True, kw_only=True)
class There:
    """Another member is there, or is not."""

    sender: str
    presence: Presence


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """Another member has received and read up to these messages."""

    user_id: str
    sender: str
    delivered_number: int
    read_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadByAll:
    """All members have read up to this message, where nobody is named."""

    message_number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Echoed:
    """A line that was posted here is pending, sent or failed."""

    echo: Echo


@dataclass(frozen=True, slots=True, kw_only=True)
class Unread:
    """What is unread, here and elsewhere."""

    counters: Counters


State = events.Connected | events.Disconnected | events.CaughtUp | events.TopicEnded
Item = Line | Ready | Typing | There | Receipt | ReadByAll | Echoed | Unread | State


class Room:
    """Reads one conversation.

    Args:
        client: an open client; the room takes its events.
        conversation_id: which conversation.
        history_messages: how many older messages to show first.
    """

    def __init__(self, client: HubbubClient, conversation_id: str, *, history_messages: int) -> None:
        self._client, self.conversation_id = client, conversation_id
        self._history_messages = history_messages
        self._names: dict[str, str] = {}
        self._blocked: set[str] = set()
        self._last_number: int | None = None  # None: the history was not read yet

    @property
    def names(self) -> Mapping[str, str]:
        """Login names by user id, of those who were met here."""
        return self._names

    @property
    def last_number(self) -> int:
        """Number of the newest message that was shown."""
        return self._last_number or 0

    async def read(  # noqa: C901, PLR0912  # one case a kind
        self,
    ) -> AsyncIterator[Item]:
        """Yields lines and changes of the connection until the client is closed.

        What the server leaves out of a catch-up (GapSkipped, TopicReset) is read page by page, so no line is missing.
        """
        async for event in self._client.events():
            match event:
                case events.Connected() if self._last_number is None:
                    # Live delivery covers everything after this moment, so nothing can fall between the two.
                    yield event
                    await self._meet()
                    async for line in self._read_history():
                        yield line
                    await self._learn_receipts()
                case events.Connected():
                    yield event
                    await self._learn_receipts()
                case events.MessageReceived(message=message) if message.conversation_id == self.conversation_id:
                    for line in await self._lines([message], is_history=False):
                        yield line
                case events.GapSkipped(head=head) | events.TopicReset(head=head) if (
                    head.cursor.topic_id == self.conversation_id
                ):
                    async for line in self._read_on():
                        yield line
                case events.TypingChanged(conversation_id=self.conversation_id, user_id=user_id, kind=kind):
                    yield Typing(user_id=user_id, sender=await self._name(user_id), kind=kind)
                case events.ReceiptChanged(conversation_id=self.conversation_id, user_id=user_id):
                    yield Receipt(
                        user_id=user_id,
                        sender=await self._name(user_id),
                        delivered_number=event.delivered_number,
                        read_number=event.read_number,
                    )
                case events.ReadFloorChanged(conversation_id=self.conversation_id, message_number=number):
                    yield ReadByAll(message_number=number)
                case events.PresenceChanged(presence=presence):
                    yield There(sender=await self._name(presence.user_id), presence=presence)
                case events.EchoChanged(echo=echo) if echo.conversation_id == self.conversation_id:
                    yield Echoed(echo=echo)
                case events.CountersChanged(counters=counters):
                    yield Unread(counters=counters)
                case events.UserBlocked(user_id=user_id):
                    self._blocked.add(user_id)
                case events.UserUnblocked(user_id=user_id):
                    self._blocked.discard(user_id)
                case events.MembersAdded(cursor=cursor) if cursor.topic_id == self.conversation_id:
                    await self._meet()
                case events.TopicEnded(topic_id=self.conversation_id):
                    yield event
                case events.Disconnected() | events.CaughtUp():
                    yield event
                case _:
                    pass

    async def _read_history(self) -> AsyncIterator[Line | Ready]:
        self._last_number = 0
        if self._history_messages:
            page = await _patiently(
                lambda: self._client.list_messages(self.conversation_id, page_size=self._history_messages)
            )
            for line in await self._lines(page.messages, is_history=True):
                yield line
            self._last_number = page.head.last_message_number
        else:
            conversation = await _patiently(lambda: self._client.get_conversation(self.conversation_id))
            self._last_number = conversation.head.last_message_number
        yield Ready(last_message_number=self._last_number)

    async def _read_on(self) -> AsyncIterator[Line]:
        newer_available = True
        while newer_available:
            page = await _patiently(self._next_page)
            for line in await self._lines(page.messages, is_history=False):
                yield line
            newer_available = page.newer_available and bool(page.messages)

    async def _next_page(self) -> MessagePage:
        return await self._client.list_messages(
            self.conversation_id, anchor_number=self._last_number or 0, side=PageSide.AFTER, page_size=_PAGE_SIZE
        )

    async def _lines(self, messages: Sequence[Message], *, is_history: bool) -> list[Line]:
        new = [message for message in messages if message.message_number > (self._last_number or 0)]
        if not new:
            return []
        self._last_number = new[-1].message_number
        await self._learn_names({message.sender_id for message in new})
        return [
            Line(
                message=message,
                sender=self._names.get(message.sender_id, message.sender_id),
                is_history=is_history,
                is_blocked=message.sender_id in self._blocked,
            )
            for message in new
        ]

    async def _meet(self) -> None:
        """Learns who the others are and whom the user blocks, and watches them where they are not too many."""
        members = await _patiently(lambda: self._client.list_members(self.conversation_id))
        self._blocked = set(await _patiently(self._client.settings.list_blocked_users))
        others = [member.user_id for member in members if member.user_id != self._client.user_id]
        if len(others) <= _WATCHED_MAX:
            await self._learn_names({*others, self._client.user_id})
            self._client.presence.watch(others)

    async def _learn_receipts(self) -> None:
        with suppress(CallFailed):  # a large conversation has none; what cannot be read now comes by signals
            await self._client.markers.list_markers(self.conversation_id)

    async def _name(self, user_id: str) -> str:
        await self._learn_names({user_id})
        return self._names.get(user_id, user_id)

    async def _learn_names(self, user_ids: set[str]) -> None:
        unknown = sorted(user_ids - set(self._names))
        if unknown:
            users = await _patiently(lambda: self._client.get_users(unknown))
            self._names.update((user.user_id, user.login_name) for user in users)


async def _patiently(ask: Callable[[], Awaitable[_Answer]]) -> _Answer:
    """Asks until it is answered: a chat outlives any outage."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(_PAUSE_S)


async def find_conversation(client: HubbubClient, peer: str) -> str:
    """Returns the conversation with the user of that login name.

    Raises:
        UserNotFound: nobody has it.
    """
    user = await client.lookup_user(peer)
    return (await client.create_direct(user.user_id)).conversation_id
