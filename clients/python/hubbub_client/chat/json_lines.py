"""`hubbub chat --json`: one JSON object a line, for scripts. README.md describes them."""

import asyncio
import json
import threading
from collections.abc import Iterable
from typing import Any, Final, TextIO

import uuid_utils

from hubbub_client import events
from hubbub_client.chat.commands import Commands
from hubbub_client.chat.room import Echoed, Item, Line, ReadByAll, Ready, Receipt, Room, There, Typing, Unread
from hubbub_client.client import HubbubClient
from hubbub_client.entities import mentions_of
from hubbub_client.errors import CallFailed, HubbubError
from hubbub_client.kept import Counters

_UNANSWERED_MAX: Final = 500  # lines of input beyond this wait in the pipe


class JsonLines:
    """Sends what it reads from `source`, writes what happens to `sink`, until the source ends and all is answered."""

    def __init__(self, client: HubbubClient, room: Room, source: Iterable[str], sink: TextIO) -> None:
        self._client, self._room, self._source, self._sink = client, room, source, sink
        self._commands = Commands(client, room)
        self._ready = asyncio.Event()
        self._room_to_send = asyncio.Semaphore(_UNANSWERED_MAX)

    async def run(self) -> None:
        """Runs until the source ends. What cannot be mended is raised, in a group: see `stopped_line`."""
        async with asyncio.TaskGroup() as tasks:
            reader = tasks.create_task(self._show())
            await self._ready.wait()
            await self._send_all()
            reader.cancel()

    async def _show(self) -> None:
        async for item in self._room.read():
            self._show_item(item)

    def _show_item(self, item: Item) -> None:  # noqa: C901  # one case a kind
        match item:
            case Line(message=message, sender=sender, is_history=is_history, is_blocked=is_blocked):
                self._write(
                    type="received",
                    conversation_id=message.conversation_id,
                    message_number=message.message_number,
                    sender_id=message.sender_id,
                    sender=sender,
                    client_message_id=message.client_message_id,
                    text=message.text,
                    commit_time=message.commit_time.isoformat(),
                    history=is_history,
                    **({"blocked": True} if is_blocked else {}),
                )
            case Ready(last_message_number=last):
                self._write(
                    type="ready",
                    user_id=self._client.user_id,
                    conversation_id=self._room.conversation_id,
                    last_message_number=last,
                )
                self._ready.set()
            case Typing(user_id=user_id, sender=sender, kind=kind):
                self._write(type="typing", sender_id=user_id, sender=sender, kind=kind.value if kind else None)
            case There(sender=sender, presence=presence):
                self._write(
                    type="presence",
                    sender_id=presence.user_id,
                    sender=sender,
                    state=presence.state.value,
                    text=presence.status_text,
                    emoji=presence.status_emoji,
                    last_seen_time=presence.last_seen_time.isoformat() if presence.last_seen_time else None,
                )
            case Receipt(user_id=user_id, sender=sender):
                self._write(
                    type="receipt",
                    sender_id=user_id,
                    sender=sender,
                    delivered_number=item.delivered_number,
                    read_number=item.read_number,
                )
            case ReadByAll(message_number=number):
                self._write(type="read_by_all", message_number=number)
            case Unread(counters=counters):
                self._write(type="counters", **_counters_fields(counters))
            case Echoed():
                pass  # lines of the input are answered one by one, as `acked` or `failed`
            case events.Connected():
                self._write(type="state", state="connected")
            case events.CaughtUp():
                self._write(type="state", state="caught_up")
            case events.Disconnected(reason=reason, retry_in_s=retry_in_s):
                self._write(type="state", state="disconnected", reason=reason, retry_in_s=round(retry_in_s, 3))
            case events.TopicEnded():
                self._write(type="state", state="ended")

    async def _send_all(self) -> None:
        lines: asyncio.Queue[str | None] = asyncio.Queue(maxsize=1)
        loop = asyncio.get_running_loop()
        # A thread because a file cannot be awaited; a daemon because it may wait for its next line for ever.
        threading.Thread(target=_pump, args=(self._source, lines, loop), daemon=True).start()
        async with asyncio.TaskGroup() as tasks:
            while (line := await lines.get()) is not None:
                if line.strip():
                    await self._room_to_send.acquire()
                    handling = tasks.create_task(self._handle(line))
                    if '"command"' in line:
                        await handling  # so commands are done in their order

    async def _handle(self, line: str) -> None:
        client_message_id = ""
        try:
            command = _read_line(line)
            if "typing" in command:
                self._type(active=bool(command["typing"]))
                return
            if "command" in command:
                done = await self._commands.run(str(command["command"]))
                self._write(type="done", command=command["command"], lines=list(done))
                return
            client_message_id = command.get("client_message_id") or str(uuid_utils.uuid7())
            text = command["text"]
            self._write(type="pending", client_message_id=client_message_id, text=text)
            sent = await self._client.send(
                self._room.conversation_id,
                text,
                entities=mentions_of(text, {name: user_id for user_id, name in self._room.names.items()}),
                client_message_id=client_message_id,
                timeout_s=None,
            )
        except ValueError as error:
            self._fail(client_message_id, "BAD_LINE", str(error))
        except CallFailed as error:
            self._fail(client_message_id, error.reason or error.code.name, str(error))
        else:
            self._write(
                type="acked",
                client_message_id=client_message_id,
                message_number=sent.message_number,
                commit_time=sent.commit_time.isoformat(),
            )
        finally:
            self._room_to_send.release()

    def _type(self, *, active: bool) -> None:
        if active:
            self._client.start_typing(self._room.conversation_id)
        else:
            self._client.stop_typing(self._room.conversation_id)

    def _fail(self, client_message_id: str, reason: str, message: str) -> None:
        self._write(type="failed", client_message_id=client_message_id, reason=reason, message=message)

    def _write(self, **fields: object) -> None:
        self._sink.write(json.dumps(fields, ensure_ascii=False) + "\n")
        self._sink.flush()


def stopped_line(error: HubbubError) -> str:
    """Returns the last line of a chat that cannot go on."""
    return json.dumps({"type": "stopped", "error": type(error).__name__, "message": str(error)}, ensure_ascii=False)


def _read_line(line: str) -> dict[str, Any]:
    """Reads a line of the input.

    Raises:
        ValueError: it is none of those that README.md describes.
    """
    try:
        command = json.loads(line)
    except ValueError as error:
        raise ValueError(f"no JSON: {error}") from error
    if not isinstance(command, dict) or not {"text", "command", "typing"} & command.keys():
        raise ValueError("a line is an object with text, command or typing")
    for name in ("text", "command", "client_message_id"):
        if not isinstance(command.get(name, ""), str):
            raise ValueError(f"{name} is a string")
    return command


def _counters_fields(counters: Counters) -> dict[str, object]:
    return {
        "badge_count": counters.badge_count,
        "mention_count": counters.mention_count,
        "exact": counters.is_exact,
        "conversations": {
            conversation_id: {
                "unread_count": one.unread_count,
                "mention_count": one.mention_count,
                "marked_unread": one.is_marked_unread,
                "muted": one.is_muted,
            }
            for conversation_id, one in counters.of_conversations.items()
        },
    }


def _pump(source: Iterable[str], lines: asyncio.Queue[str | None], loop: asyncio.AbstractEventLoop) -> None:
    try:
        for line in source:
            asyncio.run_coroutine_threadsafe(lines.put(line), loop).result()
        asyncio.run_coroutine_threadsafe(lines.put(None), loop).result()
    except RuntimeError:
        return  # the loop is closed: nobody reads any more
