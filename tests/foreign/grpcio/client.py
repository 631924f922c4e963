"""grpcio (Python, asyncio): plays tests/foreign/steps.py."""

import asyncio
import hashlib
import json
import sys
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hubbub.chat.v1 import chat_service_pb2 as chat
from hubbub.chat.v1 import chat_service_pb2_grpc as chat_grpc
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2, message_pb2
from hubbub.history.v1 import history_service_pb2 as history
from hubbub.history.v1 import history_service_pb2_grpc as history_grpc

UNARY_TIMEOUT_S = 10.0
# Channels to one address share a connection unless they are told not to.
OWN_CONNECTION = [("grpc.use_local_subchannel_pool", 1)]

Outcome = dict[str, Any]


class Session:
    """A stream of Connect on a channel of its own, or on that of another session."""

    def __init__(self, script: Any, beside: "Session | None" = None, *, token: str = "", **options: Any) -> None:
        self.channel: grpc.aio.Channel = (
            beside.channel if beside else grpc.aio.insecure_channel(script["streams"], OWN_CONNECTION)
        )
        metadata = [("authorization", f"Bearer {token}")] if token else []
        self.call: Any = chat_grpc.ChatServiceStub(self.channel).Connect(metadata=metadata, **options)
        self.events: list[event_pb2.Event] = []

    async def hello(self, instance: str) -> None:
        await self.call.write(chat.ConnectRequest(hello=chat.Hello(instance_id=instance)))

    async def expect(self, is_wanted: Callable[[frame_pb2.ServerFrame], object]) -> frame_pb2.ServerFrame:
        """Reads until a frame is wanted; keeps all events."""
        while (response := await self.call.read()) is not grpc.aio.EOF:
            self.events += response.frame.events
            frame: frame_pb2.ServerFrame = response.frame
            if is_wanted(frame):
                return frame
        raise EOFError(f"the stream ended: {await self.call.code()}")

    async def heads(self) -> dict[str, conversation_pb2.TopicHead]:
        """Reads the heads up to the complete ones."""
        heads = {}
        while True:
            frame = await self.expect(lambda frame: frame.HasField("heads"))
            heads.update({head.cursor.topic_id: head for head in frame.heads.heads})
            if frame.heads.complete:
                return heads

    async def end(self) -> int:
        """Reads to the end; returns the status."""
        try:
            while await self.call.read() is not grpc.aio.EOF:
                pass
        except (grpc.aio.AioRpcError, asyncio.CancelledError):
            pass
        code: int = (await self.call.code()).value[0]
        return code


def message_of(conversation: str, message_id: str, text: str) -> frame_pb2.SendMessageRequest:
    content = message_pb2.Content(text=message_pb2.TextContent(text=text))
    return frame_pb2.SendMessageRequest(conversation_id=conversation, client_message_id=message_id, content=content)


def text_of(event: event_pb2.Event) -> str:
    return event.message_sent.message.content.text.text


def explain(status: status_pb2.Status) -> Outcome:
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    for detail in status.details:
        detail.Unpack(info)
        detail.Unpack(bad)
    field = bad.field_violations[0].field if bad.field_violations else ""
    return {"code": status.code, "message": status.message, "reason": info.reason, "field": field}


class Player:
    """Plays the steps in their order; `session` is the one that lasts."""

    def __init__(self, script: Any) -> None:
        self.script = script
        self.unary = grpc.aio.insecure_channel(script["unary"])

    async def open(self, **options: Any) -> Session:
        """Opens the session on a new connection."""
        session = Session(self.script, token=self.script["token"], **options)
        await session.hello(self.script["instance"])
        return session

    async def peer_sends(self, *which: int) -> None:
        for n in which:
            request = message_of(self.script["conversation"], self.script["message_ids"][n], self.script["texts"][n])
            metadata = (("authorization", f"Bearer {self.script['peer_token']}"),)
            stub = chat_grpc.ChatServiceStub(self.unary)
            await stub.SendMessage(request, metadata=metadata, timeout=UNARY_TIMEOUT_S)

    async def sync(self, cursor: conversation_pb2.Cursor) -> AsyncIterator[frame_pb2.ServerFrame]:
        """Yields the frames of one request, and ends the call."""
        metadata = (("authorization", f"Bearer {self.script['token']}"),)
        call: Any = history_grpc.HistoryServiceStub(self.session.channel).Sync(metadata=metadata)
        await call.write(history.SyncRequest(cursors=[cursor]))
        await call.done_writing()
        while (response := await call.read()) is not grpc.aio.EOF:
            yield response.frame

    async def hello(self) -> Outcome:
        self.session = await self.open()
        frame = await self.session.expect(lambda frame: frame.HasField("welcome"))
        heads = await self.session.heads()
        self.history, self.head = heads[self.script["history"]].cursor, heads[self.script["conversation"]].cursor
        return {"heartbeat_s": frame.welcome.heartbeat_interval.seconds, "heads": len(heads)}

    async def send(self) -> Outcome:
        numbers = []
        for request_id in ("first", "again"):
            sent = message_of(self.script["conversation"], self.script["message_ids"][0], self.script["texts"][0])
            command = frame_pb2.Command(request_id=request_id, send_message=sent)
            await self.session.call.write(chat.ConnectRequest(command=command))
            frame = await self.session.expect(lambda frame: frame.HasField("reply"))
            numbers.append(frame.reply.send_message.message_number)
        return {"number": numbers[0], "again": numbers[1]}

    async def receive(self) -> Outcome:
        await self.peer_sends(1, 2, 3)
        events = self.session.events
        while len(events) < 4:
            await self.session.expect(lambda frame: frame.events)
        positions = [event.position for event in events]
        dense = positions == [self.head.position + 1 + n for n in range(len(events))]
        self.head.position = positions[-1]
        return {"texts": [text_of(event) for event in events], "dense": dense}

    async def read_history(self) -> Outcome:
        start = conversation_pb2.Cursor(topic_id=self.script["history"], epoch=self.history.epoch)
        texts = []
        async for frame in self.sync(start):
            texts += [text_of(event).encode() for event in frame.events if event.HasField("message_sent")]
            if frame.HasField("caught_up") and frame.caught_up.heads[0].cursor != self.history:
                raise ValueError("caught up to another head")
        content = b"".join(texts)
        return {"messages": len(texts), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    async def deadline(self) -> Outcome:
        other = Session(
            self.script, self.session, token=self.script["token"], timeout=self.script["deadline_ms"] / 1_000
        )
        await other.hello(self.script["other_instance"])
        await other.expect(lambda frame: frame.HasField("welcome"))
        return {"code": await other.end()}

    async def cancel(self) -> Outcome:
        other = Session(self.script, self.session, token=self.script["token"])
        await other.hello(self.script["other_instance"])
        await other.expect(lambda frame: frame.HasField("welcome"))
        other.call.cancel()
        return {"code": await other.end()}

    async def reconnect(self) -> Outcome:
        second = await self.open()
        goodbye = await self.session.expect(lambda frame: frame.HasField("goodbye"))
        code = await self.session.end()
        await self.session.channel.close()
        await second.heads()
        await second.channel.close()
        await self.peer_sends(4, 5)
        self.session = await self.open()
        self.opened_s = time.monotonic()
        head = (await self.session.heads())[self.script["conversation"]].cursor
        missed = [text_of(event) async for frame in self.sync(self.head) for event in frame.events]
        behind = head.position - self.head.position
        return {"goodbye": goodbye.goodbye.reason, "code": code, "behind": behind, "missed": missed}

    async def errors(self) -> Outcome:
        no_token = Session(self.script, self.session)
        bad_hello = Session(self.script, self.session, token=self.script["token"])
        await bad_hello.hello("no UUID")
        statuses = {}
        for name, other in (("no_token", no_token), ("bad_hello", bad_hello)):
            await other.end()
            statuses[name] = await rpc_status.aio.from_call(other.call) or status_pb2.Status()
        epoch = self.head.epoch
        async for frame in self.sync(conversation_pb2.Cursor(topic_id=self.script["nobody"], epoch=epoch)):
            if frame.HasField("rejected"):
                statuses["rejected"] = frame.rejected.status
        return {name: explain(status) for name, status in statuses.items()}

    async def idle(self) -> Outcome:
        frame = await self.session.expect(lambda frame: frame.HasField("heartbeat"))
        ack = chat.Ack(processed_events=len(self.session.events))
        await self.session.call.write(chat.ConnectRequest(ack=ack))
        await asyncio.sleep(self.opened_s + self.script["idle_ms"] / 1_000 - time.monotonic())
        await self.peer_sends(6)
        await self.session.expect(lambda frame: frame.events)
        text = text_of(self.session.events[-1])
        await self.session.call.done_writing()
        return {"live": frame.heartbeat.live, "text": text}

    async def play(self) -> None:
        steps = (self.hello, self.send, self.receive, self.read_history, self.deadline, self.cancel)
        for step in (*steps, self.reconnect, self.errors, self.idle):
            name = step.__name__.removeprefix("read_")
            began_s = time.monotonic()
            try:
                line = {"step": name, "outcome": await step()}
            except Exception as error:
                print(json.dumps({"step": name, "error": repr(error)}), flush=True)
                raise
            print(json.dumps({**line, "seconds": round(time.monotonic() - began_s, 3)}), flush=True)
        await self.unary.close()
        await self.session.channel.close()


async def play(script: Any) -> None:
    """Inside of the loop that the channels are to use."""
    await Player(script).play()


if __name__ == "__main__":
    asyncio.run(play(json.load(sys.stdin)))
