"""A process with many open streams that counts what it gets: `python -m bench.listeners PLAN`.

Commands on stdin, one JSON object a line, each answered by one on stdout: `count` (events so far, own CPU seconds,
latencies since the last count, streams that ended), `stop_reading` and `read_on` (of the first n streams), `finish`. A
text that starts with a number is taken as CLOCK_MONOTONIC at the send, and gives a latency.
"""

import asyncio
import os
import time
import uuid
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2

from bench.plans import read_plan
from bench.process import cpu_s
from tests.soak.api import open_channel
from tests.soak.plan import read_commands, say

_CONNECT = "/hubbub.chat.v1.ChatService/Connect"
_SYNC_ONCE = "/hubbub.history.v1.HistoryService/SyncOnce"
_STREAMS_A_CHANNEL = 50
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class ListenerPlan:
    """What one process does."""

    port: int
    topic: str
    tokens: tuple[str, ...]
    streams: int
    """They take the tokens in turn."""


class Listener:
    """One stream. `position` is the cursor of the topic."""

    def __init__(self, channel: grpc.aio.Channel, token: str, topic: str, latencies: list[float]) -> None:
        """Takes the channel, which may be shared."""
        self._channel = channel
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._topic = topic
        self._latencies = latencies
        self.events = 0
        self.position = 0
        self.epoch = 0
        self.head = 0
        self.goodbye = ""
        self.end = ""
        self.is_open = asyncio.Event()
        self.moved = asyncio.Event()
        self.may_read = asyncio.Event()
        self.may_read.set()

    async def run(self) -> None:
        """Reads until the stream ends."""
        call: Any = self._channel.stream_stream(
            _CONNECT,
            request_serializer=chat_service_pb2.ConnectRequest.SerializeToString,
            response_deserializer=chat_service_pb2.ConnectResponse.FromString,
        )(metadata=self._metadata)
        hello = chat_service_pb2.Hello(instance_id=str(uuid.uuid4()))
        try:
            await call.write(chat_service_pb2.ConnectRequest(hello=hello))
            while (response := await call.read()) is not grpc.aio.EOF:
                self._take(response.frame)
                if response.frame.HasField("heartbeat"):
                    ack = chat_service_pb2.Ack(processed_events=self.events)
                    await call.write(chat_service_pb2.ConnectRequest(ack=ack))
                await self.may_read.wait()
        except grpc.aio.AioRpcError as error:
            self.end = error.code().name
            self.is_open.set()
        else:
            self.end = "OK"
        finally:
            call.cancel()
            self.moved.set()

    def _take(self, frame: frame_pb2.ServerFrame) -> None:
        self.events += len(frame.events)
        for event in frame.events:
            if event.topic_id == self._topic and event.position == self.position + 1:
                self.position = event.position
                stamp, _, _ = event.message_sent.message.content.text.text.partition(" ")
                if stamp.replace(".", "").isdigit():
                    self._latencies.append(time.monotonic() - float(stamp))
        if frame.HasField("heads"):
            for head in frame.heads.heads:
                if head.cursor.topic_id == self._topic:
                    self.head, self.epoch = head.cursor.position, head.cursor.epoch
                    self.position = self.position or self.head
            if frame.heads.complete:
                self.is_open.set()
        elif frame.HasField("goodbye"):
            self.goodbye = frame_pb2.GoodbyeReason.Name(frame.goodbye.reason)
        self.moved.set()

    async def catch_up(self) -> str:
        """Resumes after an end: asks Sync from the own cursor. Returns how the topic was completed."""
        cursor = conversation_pb2.Cursor(topic_id=self._topic, epoch=self.epoch, position=self.position)
        request = history_service_pb2.SyncOnceRequest(request=history_service_pb2.SyncRequest(cursors=[cursor]))
        call: Any = self._channel.unary_stream(
            _SYNC_ONCE,
            request_serializer=history_service_pb2.SyncOnceRequest.SerializeToString,
            response_deserializer=history_service_pb2.SyncOnceResponse.FromString,
        )(request, metadata=self._metadata, timeout=_PATIENCE_S)
        how = "events"
        async for response in call:
            self._take(response.frame)
            if response.frame.HasField("gap"):
                how, self.position = "gap", response.frame.gap.head.cursor.position
            for head in response.frame.caught_up.heads:
                self.head = head.cursor.position
        return how if self.position == self.head else f"incomplete: {self.position} of {self.head}"


class Listeners:
    """All streams of this process."""

    def __init__(self, plan: ListenerPlan) -> None:
        """Follows the plan."""
        self._latencies: list[float] = []
        count = -(-plan.streams // _STREAMS_A_CHANNEL)
        self._channels = [open_channel(plan.port) for _ in range(count)]
        self._all = [
            Listener(
                self._channels[index // _STREAMS_A_CHANNEL],
                plan.tokens[index % len(plan.tokens)],
                plan.topic,
                self._latencies,
            )
            for index in range(plan.streams)
        ]

    async def run(self) -> None:
        """Opens all streams, then obeys."""
        async with asyncio.TaskGroup() as tasks:
            readers = []
            for listener in self._all:
                readers.append(tasks.create_task(listener.run()))
                async with asyncio.timeout(_PATIENCE_S):
                    await listener.is_open.wait()
                if listener.end:
                    raise RuntimeError(f"a stream did not open: {listener.end}")
            say(ready=True)
            async for command in read_commands():
                if command["op"] == "finish":
                    break
                say(**await self._obey(command))
            for reader in readers:
                reader.cancel()
        for channel in self._channels:
            await channel.close()

    async def _obey(self, command: dict[str, Any]) -> dict[str, Any]:
        chosen = self._all[: command.get("streams", len(self._all))]
        match command["op"]:
            case "count":
                latencies, self._latencies[:] = list(self._latencies), []
                events = sum(listener.events for listener in self._all)
                least = min(listener.position for listener in self._all)
                ended = [f"{each.goodbye} {each.end}" for each in self._all if each.end]
                cpu = cpu_s(os.getpid())
                return {"events": events, "cpu_s": cpu, "least": least, "latencies": latencies, "ended": ended}
            case "stop_reading":
                for listener in chosen:
                    listener.may_read.clear()
            case "read_on":
                return {"ends": [await self._read_on(listener, command["position"]) for listener in chosen]}
        return {}

    async def _read_on(self, listener: Listener, position: int) -> dict[str, str]:
        """Reads what is left of a stopped stream, to its end or to the position; resumes where it ended."""
        listener.may_read.set()
        try:
            async with asyncio.timeout(_PATIENCE_S):
                while not listener.end and listener.position < position:
                    listener.moved.clear()
                    await listener.moved.wait()
        except TimeoutError:
            listener.end = listener.end or "SILENT"
        resumed = "stream" if listener.position >= position else await listener.catch_up()
        return {"goodbye": listener.goodbye, "end": listener.end, "resumed": resumed}


async def main() -> None:
    """Reads the plan; channels belong to the loop in which they are made."""
    fields = read_plan()
    await Listeners(ListenerPlan(**{**fields, "tokens": tuple(fields["tokens"])})).run()


if __name__ == "__main__":
    asyncio.run(main())
