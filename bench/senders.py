"""A process that sends at a rate or as fast as answers come, over few streams: `python -m bench.senders PLAN`.

Commands on stdin, one JSON object a line, each answered by one on stdout: `run` (seconds, and rate_per_s or window).
At a rate, each message has the time at which it was due: latencies count from there, so a server that stalls is not
given the time that it took away (coordinated omission). With a window, so many messages are unanswered at any time.
"""

import asyncio
import itertools
import os
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import uvloop
from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from bench.h2_client import CallFailed, GrpcCall, GrpcConnection, split
from bench.plans import read_plan
from bench.process import cpu_s
from tests.soak.outbox import uuid7
from tests.soak.plan import read_commands, say

_CONNECT: Final = "/hubbub.chat.v1.ChatService/Connect"
_SEND: Final = "/hubbub.chat.v1.ChatService/SendMessage"
_SETTLE_S: Final = 30.0
_TEXT_BYTES: Final = 200


@dataclass(frozen=True)
class SendersPlan:
    """What one process does. Senders take connections in turn."""

    port: int
    by: Literal["stream", "unary"]
    connections: int
    senders: tuple[tuple[str, tuple[str, ...]], ...]
    """Tokens, each with the conversations into which its sender sends in turn."""


@dataclass
class Round:
    """What one `run` counts."""

    sent: int = 0
    answered: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    ack_ms: list[float] = field(default_factory=list)
    delivered_ms: list[float] = field(default_factory=list)


class Sender:
    """One sender: a stream of its own, or unary calls."""

    def __init__(self, connection: GrpcConnection, plan: SendersPlan, token: str, topics: tuple[str, ...]) -> None:
        """Opens nothing yet."""
        self._connection = connection
        self._by = plan.by
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._topics = itertools.cycle(topics)
        self._call: GrpcCall | None = None
        self._due: dict[str, float] = {}
        self._events = 0
        self.round = Round()
        self.is_open = asyncio.Event()
        self.answered = asyncio.Event()

    @property
    def unanswered(self) -> int:
        """Counts what has no answer yet."""
        return len(self._due)

    def open(self) -> None:
        """Opens the stream; `is_open` says when it covers all topics."""
        if self._by == "unary":
            self.is_open.set()
            return
        self._call = self._connection.start(_CONNECT, self._metadata, self._take, self._note_end)
        hello = chat_service_pb2.Hello(instance_id=uuid7())
        self._write(chat_service_pb2.ConnectRequest(hello=hello))

    def _write(self, request: chat_service_pb2.ConnectRequest) -> None:
        assert self._call is not None
        self._connection.send(self._call, request.SerializeToString())

    def _note_end(self) -> None:
        assert self._call is not None
        raise CallFailed(self._call.end)

    def send(self, due_s: float) -> None:
        """Sends a message that was due at `due_s`, into the next topic."""
        message_id = uuid7()
        self._due[message_id] = due_s
        self.round.sent += 1
        text = f"{due_s} ".ljust(_TEXT_BYTES, "x")
        request = frame_pb2.SendMessageRequest(conversation_id=next(self._topics), client_message_id=message_id)
        request.content.text.text = text
        if self._by == "stream":
            command = frame_pb2.Command(request_id=message_id, send_message=request)
            self._write(chat_service_pb2.ConnectRequest(command=command))
            return
        call = self._connection.start(_SEND, self._metadata, _ignore, lambda: self._note(message_id, call.end))
        self._connection.send(call, request.SerializeToString(), is_last=True)

    def _note(self, message_id: str, end: str) -> None:
        due_s = self._due.pop(message_id)
        if end == "OK":
            self.round.answered += 1
            self.round.ack_ms.append((time.monotonic() - due_s) * 1000)
        else:
            self.round.failed[end] = self.round.failed.get(end, 0) + 1
        self.answered.set()

    def _take(self, data: bytes) -> None:
        for message in split(data):
            frame = chat_service_pb2.ConnectResponse.FromString(message).frame
            self._events += len(frame.events)
            for event in frame.events:
                stamp = event.message_sent.message.content.text.text.partition(" ")[0]
                if stamp:
                    self.round.delivered_ms.append((time.monotonic() - float(stamp)) * 1000)
            match frame.WhichOneof("control"):
                case "reply":
                    self._note(frame.reply.request_id, "OK")
                case "rejected":
                    self._note(frame.rejected.request_id, frame.rejected.status.message)
                case "heads" if frame.heads.complete:
                    self.is_open.set()
                case "heartbeat":
                    ack = chat_service_pb2.Ack(processed_events=self._events)
                    self._write(chat_service_pb2.ConnectRequest(ack=ack))
                case "goodbye":
                    raise CallFailed(str(frame.goodbye))


def _ignore(_data: bytes) -> None:
    pass


class Senders:
    """All senders of this process."""

    def __init__(self, plan: SendersPlan) -> None:
        """Follows the plan."""
        self._plan = plan
        self._all: list[Sender] = []

    async def run(self) -> None:
        """Opens all, then obeys."""
        connections = [await GrpcConnection.open(self._plan.port) for _ in range(self._plan.connections)]
        for index, (token, topics) in enumerate(self._plan.senders):
            sender = Sender(connections[index % len(connections)], self._plan, token, topics)
            sender.open()
            self._all.append(sender)
            async with asyncio.timeout(_SETTLE_S):
                await sender.is_open.wait()
        say(ready=True)
        async for command in read_commands():
            say(**await self._measure(**{key: value for key, value in command.items() if key != "op"}))

    async def _measure(self, *, seconds: float, rate_per_s: float = 0.0, window: int = 0) -> dict[str, Any]:
        for sender in self._all:
            sender.round = Round()
        cpu_before_s, begin_s = cpu_s(os.getpid()), time.monotonic()
        if rate_per_s:
            await self._send_on_schedule(begin_s, round(seconds * rate_per_s), rate_per_s)
        else:
            await self._keep_window(begin_s + seconds, window)
        answered = sum(sender.round.answered for sender in self._all)
        took_s, used_s = time.monotonic() - begin_s, cpu_s(os.getpid()) - cpu_before_s
        await self._settle()
        rounds = [sender.round for sender in self._all]
        failed: dict[str, int] = {}
        for each in rounds:
            for text, count in each.failed.items():
                failed[text] = failed.get(text, 0) + count
        return {
            "seconds": took_s,
            "client_cpu": used_s / took_s,
            "sent": sum(each.sent for each in rounds),
            "answered_in_time": answered,
            "failed": failed,
            "ack_ms": [ms for each in rounds for ms in each.ack_ms],
            "delivered_ms": [ms for each in rounds for ms in each.delivered_ms],
        }

    async def _send_on_schedule(self, begin_s: float, count: int, rate_per_s: float) -> None:
        """Sends what is due, in time or late; the schedule does not wait for answers."""
        turn = itertools.cycle(self._all)
        for number in range(count):
            due_s = begin_s + number / rate_per_s
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            next(turn).send(due_s)

    async def _keep_window(self, end_s: float, window: int) -> None:
        """Keeps `window` messages of the process unanswered, as evenly over the senders as it can be."""
        ready = deque(sender for sender in self._all for _ in range(-(-window // len(self._all))))
        ready = deque(itertools.islice(ready, window))

        async def go_on(sender: Sender, share: int) -> None:
            while time.monotonic() < end_s:
                while sender.unanswered < share:
                    sender.send(time.monotonic())
                sender.answered.clear()
                await sender.answered.wait()

        async with asyncio.TaskGroup() as tasks:
            for sender in self._all:
                if share := ready.count(sender):
                    tasks.create_task(go_on(sender, share))

    async def _settle(self) -> None:
        async with asyncio.timeout(_SETTLE_S):
            while any(sender.unanswered for sender in self._all):  # noqa: ASYNC110  # once a round
                await asyncio.sleep(0.01)


def main() -> None:
    """Reads the plan."""
    fields = read_plan()
    senders = tuple((token, tuple(topics)) for token, topics in fields["senders"])
    uvloop.run(Senders(SendersPlan(**{**fields, "senders": senders})).run())


if __name__ == "__main__":
    main()
