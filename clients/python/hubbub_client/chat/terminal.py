"""`hubbub chat`: type a line to send it; lines of everybody appear when they are durable."""

import asyncio
from contextlib import suppress
from typing import Final

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.patch_stdout import patch_stdout

from hubbub_client import events
from hubbub_client.chat.commands import BadCommand, Commands, describe, describe_unread
from hubbub_client.chat.room import Echoed, Item, Line, ReadByAll, Ready, Receipt, Room, There, Typing, Unread
from hubbub_client.client import HubbubClient
from hubbub_client.echoes import EchoState
from hubbub_client.entities import mentions_of
from hubbub_client.errors import CallFailed, OutboxFull
from hubbub_client.kept import ConversationCounters, Counters
from hubbub_client.model import TypingKind
from hubbub_client.presences import Activity

_DOES: Final = {
    TypingKind.TEXT: "is typing",
    TypingKind.RECORDING: "is recording",
    TypingKind.UPLOADING: "is uploading",
}
_IDLE_S: Final = 300.0
_SHOWN_MAX: Final = 3  # people in the bottom line
_ECHOES_MAX: Final = 10  # lines above the prompt


class Terminal:
    """Shows a room and sends what is typed, until end of file or Ctrl-C.

    What was typed stands above the prompt, marked as pending, until it comes as a numbered line because it is durable;
    a line that was refused stays there. The bottom line tells who is there, types and has read, and what is unread
    elsewhere. Lines that are shown are marked read. A slash begins a command, two a line with one.
    """

    def __init__(self, client: HubbubClient, room: Room, *, me: str, title: str) -> None:
        self._client, self._room, self._me, self._title = client, room, me, title
        self._commands = Commands(client, room)
        self._asked: asyncio.Queue[str] = asyncio.Queue()  # by hand: it needs no bound
        self._state = "connecting"
        self._typing: dict[str, str] = {}
        self._there: dict[str, str] = {}
        self._receipts: dict[str, Receipt] = {}
        self._read_by_all = 0  # the number up to which everybody has read
        self._counters = Counters()
        self._own_number = 0  # of the newest line that is the user's own
        self._seen = asyncio.Event()  # something new was shown
        self._touched = asyncio.Event()  # a key was hit
        self._session: PromptSession[str] = PromptSession(erase_when_done=True, bottom_toolbar=self._toolbar)
        self._session.default_buffer.on_text_changed += self._tell_typing

    async def run(self) -> None:
        """Runs until the user leaves; lines that are not acknowledged yet are given up then."""
        with patch_stdout():
            async with asyncio.TaskGroup() as tasks:
                working = (
                    tasks.create_task(self._show()),
                    tasks.create_task(self._mark_read()),
                    tasks.create_task(self._run_commands()),
                    tasks.create_task(self._state_activity()),
                )
                try:
                    while True:
                        text = await self._session.prompt_async(self._prompt)
                        if text.startswith("/") and not text.startswith("//"):
                            self._asked.put_nowait(text[1:])
                        elif text.strip():
                            self._post(text.removeprefix("/"))
                except (EOFError, KeyboardInterrupt):
                    for task in working:
                        task.cancel()

    def _tell_typing(self, buffer: Buffer) -> None:
        self._touched.set()
        if buffer.text.strip() and not buffer.text.startswith("/"):
            self._client.start_typing(self._room.conversation_id)
        else:
            self._client.stop_typing(self._room.conversation_id)

    async def _state_activity(self) -> None:
        """Others see the user away when no key was hit for 5 minutes, if no other device is in use."""
        while True:
            self._client.presence.set_activity(Activity.ACTIVE)
            self._touched.clear()
            try:
                async with asyncio.timeout(_IDLE_S):
                    await self._touched.wait()
            except TimeoutError:
                self._client.presence.set_activity(Activity.INACTIVE)
                await self._touched.wait()

    def _post(self, text: str) -> None:
        names = {name: user_id for user_id, name in self._room.names.items()}
        try:
            self._client.post(self._room.conversation_id, text, entities=mentions_of(text, names))
        except OutboxFull as error:
            _print("fg:ansired", f"not sent: {text!r}: {error}")

    async def _run_commands(self) -> None:
        while True:
            await self._run_command(await self._asked.get())

    async def _run_command(self, line: str) -> None:
        try:
            for shown in await self._commands.run(line):
                _print("fg:ansigray", shown)
        except (BadCommand, CallFailed) as error:
            _print("fg:ansired", f"/{line}: {error}")
        self._session.app.invalidate()

    async def _mark_read(self) -> None:
        """Marks what was shown as read, one call at a time; each says how far it is by then."""
        while True:
            await self._seen.wait()
            self._seen.clear()
            with suppress(CallFailed):  # the next line tries again
                await self._client.markers.mark_read(self._room.conversation_id, self._room.last_number)

    async def _show(self) -> None:
        async for item in self._room.read():
            self._show_item(item)
            self._session.app.invalidate()

    def _show_item(self, item: Item) -> None:  # noqa: C901, PLR0912  # one case a kind
        match item:
            case Line():
                self._show_line(item)
            case Ready():
                _print("fg:ansigray", f"-- {self._title}; /help tells more, Ctrl-D leaves --")
            case Typing(user_id=user_id, sender=sender, kind=kind):
                self._typing.pop(user_id, None)
                if kind:
                    self._typing[user_id] = f"{sender} {_DOES[kind]}"
            case There(sender=sender, presence=presence):
                self._there[presence.user_id] = f"{sender} {describe(presence)}"
            case Receipt(user_id=user_id):
                self._receipts[user_id] = item
            case ReadByAll(message_number=number):
                self._read_by_all = max(self._read_by_all, number)
            case Unread(counters=counters):
                self._counters = counters
            case Echoed(echo=echo):
                if echo.state is EchoState.SENT:
                    self._own_number = max(self._own_number, echo.message_number)
            case events.Connected():
                self._state = "connected"
            case events.Disconnected(reason=reason, retry_in_s=retry_in_s):
                self._state = f"not connected ({reason}), trying again in {retry_in_s:.1f} s"
            case events.TopicEnded():
                _print("fg:ansired", "-- you are no member of this conversation any more --")
            case events.CaughtUp():
                pass

    def _show_line(self, line: Line) -> None:
        message = line.message
        time = message.commit_time.astimezone().strftime("%H:%M:%S")
        is_own = message.sender_id == self._client.user_id
        if is_own:
            self._own_number = max(self._own_number, message.message_number)
        else:
            self._seen.set()
        text = "(blocked)" if line.is_blocked else "(deleted)" if message.deleted else message.text
        style = "fg:ansigreen" if is_own else "fg:ansicyan"
        _print(style, f"{time} #{message.message_number} {line.sender}:", f" {text}")

    def _prompt(self) -> FormattedText:
        lines: list[tuple[str, str]] = []
        for echo in self._client.echoes(self._room.conversation_id)[:_ECHOES_MAX]:
            if echo.state is EchoState.FAILED:
                lines.append(("fg:ansired", f"✗ {echo.text}  ({echo.error}; /retry or /discard)\n"))
            else:
                lines.append(("fg:ansigray", f"… {echo.text}\n"))
        return FormattedText([*lines, ("", f"{self._me}> ")])

    def _toolbar(self) -> str:
        parts = [self._state, *list(self._there.values())[:_SHOWN_MAX], self._receipt_mark(), self._elsewhere()]
        return " " + " · ".join(part for part in (*parts, *list(self._typing.values())[:_SHOWN_MAX]) if part)

    def _receipt_mark(self) -> str:
        """Tells what became of the newest own line: durable, or who has received it and who of them has read it."""
        number = self._own_number
        if not number:
            return ""
        if self._read_by_all >= number:
            return f"✓✓ #{number} read by all"
        receipts = self._receipts.values()
        readers = [receipt.sender for receipt in receipts if receipt.read_number >= number]
        others = [receipt.sender for receipt in receipts if receipt.delivered_number >= number > receipt.read_number]
        parts = [f"{done} by {_few(names)}" for done, names in (("read", readers), ("received", others)) if names]
        return f"✓✓ #{number} {', '.join(parts)}" if parts else f"✓ #{number}"

    def _elsewhere(self) -> str:
        """Tells what is unread in other conversations."""
        others = [
            each
            for conversation_id, each in self._counters.of_conversations.items()
            if conversation_id != self._room.conversation_id and not each.is_muted
        ]
        if not others:
            return ""
        total = ConversationCounters(
            unread_count=sum(each.badge_count for each in others),
            mention_count=sum(each.mention_count for each in others),
            is_marked_unread=False,
            is_muted=False,
        )
        return f"{describe_unread(total)} unread elsewhere"


def _few(names: list[str]) -> str:
    return ", ".join(names[:_SHOWN_MAX]) + ("…" if names[_SHOWN_MAX:] else "")


def _print(style: str, label: str, text: str = "") -> None:
    print_formatted_text(FormattedText([(style, label), ("", text)]))
