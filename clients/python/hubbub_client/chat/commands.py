"""What a chat is told besides lines to send: `/mute 10` at the terminal, {"command": "mute 10"} in JSON lines."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Final

from hubbub_client.chat.room import Room
from hubbub_client.client import HubbubClient
from hubbub_client.echoes import EchoState
from hubbub_client.kept import ConversationCounters
from hubbub_client.model import Conversation, ConversationKind
from hubbub_client.presences import ManualPresence, ManualState, Presence, PresenceState
from hubbub_client.settings import FOR_EVER

HELP: Final = (
    ("list", "your conversations, with what is unread and mentions you"),
    ("who", "who is here, and how"),
    ("status WORD [TEXT]", "online, away, dnd, invisible or auto, with a text for others to see"),
    ("mute [MINUTES]", "this conversation; without minutes for good; also: unmute"),
    ("block NAME", "refuse what they write to you alone, and hide it elsewhere; also: unblock NAME"),
    ("read, unread", "mark this conversation"),
    ("retry, discard", "lines that were refused"),
    ("help", "this"),
)
_LISTED_MAX: Final = 30
_STATES: Final = {
    "online": ManualState.ONLINE,
    "away": ManualState.AWAY,
    "dnd": ManualState.DO_NOT_DISTURB,
    "invisible": ManualState.INVISIBLE,
    "auto": ManualState.AUTOMATIC,
}
MARKS: Final = {
    PresenceState.ONLINE: "● online",
    PresenceState.AWAY: "◐ away",
    PresenceState.DO_NOT_DISTURB: "⊖ do not disturb",
    PresenceState.OFFLINE: "○ offline",
    PresenceState.UNKNOWN: "? unknown",
}


class BadCommand(ValueError):
    """There is no such command, or not with such words."""


class Commands:
    """Carries out commands on a client and the room that is shown."""

    def __init__(self, client: HubbubClient, room: Room) -> None:
        self._client, self._room = client, room
        self._by_name: dict[str, Callable[[str], Awaitable[Sequence[str]]]] = {
            "list": self._list,
            "who": self._who,
            "status": self._set_status,
            "mute": self._mute,
            "unmute": self._unmute,
            "block": self._block,
            "unblock": self._unblock,
            "read": self._mark_read,
            "unread": self._mark_unread,
            "retry": self._retry,
            "discard": self._discard,
            "help": self._help,
        }

    async def run(self, line: str) -> Sequence[str]:
        """Carries out one command, without its slash; returns lines to show.

        Raises:
            BadCommand: it is none.
            CallFailed: the server refused.
        """
        name, _, rest = line.strip().partition(" ")
        command = self._by_name.get(name)
        if command is None:
            raise BadCommand(f"there is no command {name!r}, see help")
        return await command(rest.strip())

    async def _help(self, _: str) -> Sequence[str]:
        return [f"/{command:<20} {text}" for command, text in HELP]

    async def _list(self, _: str) -> Sequence[str]:
        counters, now = self._client.counters, datetime.now(UTC)

        def unread(conversation: Conversation) -> ConversationCounters:
            end = conversation.preferences.mute_end_time  # also of those with nothing unread
            return replace(counters.of(conversation.conversation_id), is_muted=end is not None and end > now)

        found = await self._client.list_conversations()
        found.sort(key=lambda each: (unread(each).mention_count, unread(each).badge_count), reverse=True)
        listed = found[:_LISTED_MAX]
        titles = await self._titles(listed)
        lines = [f"{describe_unread(unread(each)):>12}  {title}" for each, title in zip(listed, titles, strict=True)]
        more = [f"and {len(found) - len(listed)} more"] if len(found) > len(listed) else []
        return [f"{counters.badge_count} unread, {counters.mention_count} mention you", *lines, *more]

    async def _titles(self, conversations: Sequence[Conversation]) -> Sequence[str]:
        titles = []
        for each in conversations:
            title = each.title
            if each.kind is ConversationKind.DIRECT:
                members = await self._client.list_members(each.conversation_id)
                users = await self._client.get_users([member.user_id for member in members])
                title = next((user.login_name for user in users if user.user_id != self._client.user_id), "")
            is_here = each.conversation_id == self._room.conversation_id
            titles.append(f"{title}{' (here)' if is_here else ''}")
        return titles

    async def _who(self, _: str) -> Sequence[str]:
        others = [user_id for user_id in self._room.names if user_id != self._client.user_id]
        lines = [f"{self._room.names[user_id]}: {describe(self._client.presence.of(user_id))}" for user_id in others]
        own = await self._client.presence.get_own()
        return [*lines, f"you: {own.state.value.replace('_', ' ')} {own.emoji} {own.text}".rstrip()]

    async def _set_status(self, rest: str) -> Sequence[str]:
        word, _, text = rest.partition(" ")
        if word not in _STATES:
            raise BadCommand(f"status is one of {', '.join(_STATES)}")
        await self._client.presence.set_own(ManualPresence(state=_STATES[word], text=text.strip()))
        return [f"you are {word}"]

    async def _mute(self, rest: str) -> Sequence[str]:
        if rest and not rest.isdecimal():
            raise BadCommand("mute for how many minutes?")
        until = datetime.now(UTC) + timedelta(minutes=int(rest)) if rest else FOR_EVER
        await self._client.settings.mute(self._room.conversation_id, until)
        return [f"muted for {rest} minutes" if rest else "muted"]

    async def _unmute(self, _: str) -> Sequence[str]:
        await self._client.settings.unmute(self._room.conversation_id)
        return ["not muted"]

    async def _block(self, name: str) -> Sequence[str]:
        await self._client.settings.block_user(await self._user_id(name))
        return [f"{name} is blocked"]

    async def _unblock(self, name: str) -> Sequence[str]:
        await self._client.settings.unblock_user(await self._user_id(name))
        return [f"{name} is not blocked"]

    async def _user_id(self, name: str) -> str:
        if not name:
            raise BadCommand("whom?")
        return (await self._client.lookup_user(name.lower())).user_id

    async def _mark_read(self, _: str) -> Sequence[str]:
        if self._room.last_number:
            await self._client.markers.mark_read(self._room.conversation_id, self._room.last_number)
        return ["read"]

    async def _mark_unread(self, _: str) -> Sequence[str]:
        await self._client.markers.mark_unread(self._room.conversation_id)
        return ["unread"]

    async def _retry(self, _: str) -> Sequence[str]:
        for client_message_id in self._failed():
            self._client.retry(client_message_id)
        return []

    async def _discard(self, _: str) -> Sequence[str]:
        for client_message_id in self._failed():
            self._client.discard(client_message_id)
        return []

    def _failed(self) -> list[str]:
        echoes = self._client.echoes(self._room.conversation_id)
        return [echo.client_message_id for echo in echoes if echo.state is EchoState.FAILED]


def describe_unread(counters: ConversationCounters) -> str:
    """Returns what is unread in a few characters: "3", "12 @1", "•" when only marked so, "-" when nothing is."""
    parts = [str(counters.unread_count)] if counters.unread_count else ["•"] if counters.is_marked_unread else ["-"]
    if counters.mention_count:
        parts.append(f"@{counters.mention_count}")
    if counters.is_muted:
        parts.append("muted")
    return " ".join(parts)


def describe(presence: Presence) -> str:
    """Returns how a user is there, in a few words."""
    parts = [MARKS[presence.state], presence.status_emoji, presence.status_text]
    if presence.last_seen_time is not None:
        parts.append(f"since {presence.last_seen_time.astimezone():%H:%M}")
    return " ".join(part for part in parts if part)
