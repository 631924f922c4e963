"""`hubbub chat`: type a line to send it; lines of everybody appear when they are durable."""

import asyncio
from typing import Final

from prompt_toolkit import PromptSession, print_formatted_text
from prompt_toolkit.buffer import Buffer
from prompt_toolkit.formatted_text import FormattedText
from prompt_toolkit.patch_stdout import patch_stdout

from hubbub_client import events
from hubbub_client.chat.room import Line, Ready, Room, State, Typing
from hubbub_client.client import HubbubClient
from hubbub_client.errors import CallFailed
from hubbub_client.model import TypingKind

_DOES: Final = {
    TypingKind.TEXT: "is typing",
    TypingKind.RECORDING: "is recording",
    TypingKind.UPLOADING: "is uploading",
}
_TYPING_SHOWN: Final = 3


class Terminal:
    """Shows a room and sends what is typed, until end of file or Ctrl-C.

    What was typed disappears and comes back as a numbered line once it is durable; the bottom line tells what is on
    its way and who types.
    """

    def __init__(self, client: HubbubClient, room: Room, *, me: str, title: str) -> None:
        self._client, self._room, self._me, self._title = client, room, me, title
        self._state = "connecting"
        self._sending = 0
        self._typing: dict[str, str] = {}
        self._session: PromptSession[str] = PromptSession(erase_when_done=True, bottom_toolbar=self._toolbar)
        self._session.default_buffer.on_text_changed += self._tell_typing

    async def run(self) -> None:
        """Runs until the user leaves; lines that are not acknowledged yet are given up then."""
        with patch_stdout():
            async with asyncio.TaskGroup() as tasks:
                showing = tasks.create_task(self._show())
                sending: set[asyncio.Task[None]] = set()
                try:
                    while True:
                        text = await self._session.prompt_async(f"{self._me}> ")
                        if text.strip():
                            task = tasks.create_task(self._send(text))
                            sending.add(task)
                            task.add_done_callback(sending.discard)
                except (EOFError, KeyboardInterrupt):
                    for task in (showing, *sending):
                        task.cancel()

    def _tell_typing(self, buffer: Buffer) -> None:
        if buffer.text.strip():
            self._client.start_typing(self._room.conversation_id)
        else:
            self._client.stop_typing(self._room.conversation_id)

    async def _send(self, text: str) -> None:
        self._count(1)
        try:
            await self._client.send(self._room.conversation_id, text, timeout_s=None)
        except CallFailed as error:
            _print("fg:ansired", f"not sent: {text!r}: {error}")
        finally:
            self._count(-1)

    async def _show(self) -> None:
        async for item in self._room.read():
            self._show_item(item)

    def _show_item(self, item: Line | Ready | Typing | State) -> None:
        match item:
            case Line(message=message, sender=sender):
                time = message.commit_time.astimezone().strftime("%H:%M:%S")
                style = "fg:ansigreen" if sender == self._me else "fg:ansicyan"
                text = "(deleted)" if message.deleted else message.text
                _print(style, f"{time} #{message.message_number} {sender}:", f" {text}")
            case Ready():
                _print("fg:ansigray", f"-- {self._title}; Ctrl-D leaves --")
            case Typing(user_id=user_id, sender=sender, kind=kind):
                self._show_typing(user_id, f"{sender} {_DOES[kind]}" if kind else "")
            case events.Connected():
                self._tell("connected")
            case events.Disconnected(reason=reason, retry_in_s=retry_in_s):
                self._tell(f"not connected ({reason}), trying again in {retry_in_s:.1f} s")
            case events.TopicEnded():
                _print("fg:ansired", "-- you are no member of this conversation any more --")
            case events.CaughtUp():
                pass

    def _show_typing(self, user_id: str, text: str) -> None:
        self._typing.pop(user_id, None)
        if text:
            self._typing[user_id] = text
        self._session.app.invalidate()

    def _tell(self, state: str) -> None:
        self._state = state
        self._session.app.invalidate()

    def _count(self, change: int) -> None:
        self._sending += change
        self._session.app.invalidate()

    def _toolbar(self) -> str:
        parts = [self._state]
        if self._sending:
            parts.append(f"{self._sending} on the way")
        return " " + " · ".join([*parts, *list(self._typing.values())[:_TYPING_SHOWN]])


def _print(style: str, label: str, text: str = "") -> None:
    print_formatted_text(FormattedText([(style, label), ("", text)]))
