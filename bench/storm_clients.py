"""A process with many sessions that all come back at once: `python -m bench.storm_clients PLAN`.

Each session follows proto/README.md: it keeps a cursor for each topic, asks Sync for those where it is behind, and is
live when Heads are complete and nothing is behind. Commands on stdin, one JSON object a line, each answered by one on
stdout: `tokens` (how many sessions were given one since they were opened), `cut` (all connections, at once), `storm`
(all come back at once, with or without their tokens; answered when all are live), `finish`.
"""

import asyncio
import random
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2

from bench.plans import read_plan
from tests.soak.plan import read_commands, say

_CONNECT = "/hubbub.chat.v1.ChatService/Connect"
_SYNC_ONCE = "/hubbub.history.v1.HistoryService/SyncOnce"
_SESSIONS_A_CHANNEL = 50
_SYNC_CURSORS = 500
_PREFIX_BYTES = 5
_LIVE_WITHIN_S = 600.0
_OWN_CONNECTIONS = [("grpc.use_local_subchannel_pool", 1)]
"""Otherwise as grpc makes a channel: a client gives a handshake twenty seconds."""
_RETRY_MAX_S = 8.0


@dataclass(frozen=True)
class StormPlan:
    """What one process does. The sessions take the access tokens in turn."""

    port: int
    access_tokens: tuple[str, ...]
    sessions: int


class StormSession:
    """One session. Counts the bytes of gRPC messages, both ways."""

    def __init__(self, access_token: str) -> None:
        """Knows nothing yet."""
        self._metadata = (("authorization", f"Bearer {access_token}"),)
        self._instance_id = str(uuid.uuid4())
        self._cursors: dict[str, conversation_pb2.Cursor] = {}
        self._behind: dict[str, int] = {}
        self._events = 0
        self.resume_token = ""
        self.is_live = asyncio.Event()
        self.sent_bytes = self.received_bytes = self.heads = self.syncs = 0
        self.errors: Counter[str] = Counter()

    async def run(self, channel: grpc.aio.Channel, *, with_token: bool) -> None:
        """Stays in session; comes back with growing pauses."""
        self.sent_bytes = self.received_bytes = self.heads = self.syncs = 0
        self.errors.clear()
        pause_s = 0.5
        while True:
            try:
                await self._live(channel, self.resume_token if with_token else "")
                self.errors["ended"] += 1
            except grpc.aio.AioRpcError as error:
                self.errors[f"{error.code().name}: {error.details()}"] += 1
            await asyncio.sleep(random.uniform(0.0, pause_s))
            pause_s = min(2 * pause_s, _RETRY_MAX_S)

    async def _live(self, channel: grpc.aio.Channel, token: str) -> None:
        call: Any = channel.stream_stream(_CONNECT)(metadata=self._metadata)
        self._events = 0
        try:
            hello = chat_service_pb2.Hello(instance_id=self._instance_id, resume_token=token)
            await call.write(self._count_sent(chat_service_pb2.ConnectRequest(hello=hello)))
            while (response := await call.read()) is not grpc.aio.EOF:
                frame = chat_service_pb2.ConnectResponse.FromString(self._count_received(response)).frame
                self._take(frame)
                if frame.heads.complete:
                    await self._catch_up(channel)
                    self.is_live.set()
                elif frame.HasField("heartbeat"):
                    ack = chat_service_pb2.Ack(processed_events=self._events)
                    await call.write(self._count_sent(chat_service_pb2.ConnectRequest(ack=ack)))
                    self.resume_token = frame.heartbeat.resume_token or self.resume_token
        finally:
            call.cancel()

    def _take(self, frame: frame_pb2.ServerFrame) -> None:
        self._events += len(frame.events)
        for event in frame.events:
            cursor = self._cursors.get(event.topic_id)
            if cursor is not None and event.position == cursor.position + 1:
                cursor.position = event.position
        self.heads += len(frame.heads.heads)
        for head in frame.heads.heads:
            known = self._cursors.setdefault(head.cursor.topic_id, head.cursor)
            if known.position < head.cursor.position:
                self._behind[known.topic_id] = head.cursor.position

    async def _catch_up(self, channel: grpc.aio.Channel) -> None:
        while behind := list(self._behind)[:_SYNC_CURSORS]:
            cursors = [self._cursors[topic_id] for topic_id in behind]
            request = history_service_pb2.SyncOnceRequest(request=history_service_pb2.SyncRequest(cursors=cursors))
            sync_once: Any = channel.unary_stream(_SYNC_ONCE)
            call = sync_once(self._count_sent(request), metadata=self._metadata)
            self.syncs += 1
            async for response in call:
                frame = history_service_pb2.SyncOnceResponse.FromString(self._count_received(response)).frame
                self._take_answer(frame)

    def _take_answer(self, frame: frame_pb2.ServerFrame) -> None:
        events, self._events = self._events, 0
        self._take(frame)
        self._events = events
        for head in frame.caught_up.heads:
            if self._cursors[head.cursor.topic_id].position >= self._behind[head.cursor.topic_id]:
                del self._behind[head.cursor.topic_id]

    def _count_sent(self, message: Any) -> bytes:
        encoded: bytes = message.SerializeToString()
        self.sent_bytes += _PREFIX_BYTES + len(encoded)
        return encoded

    def _count_received(self, message: bytes) -> bytes:
        self.received_bytes += _PREFIX_BYTES + len(message)
        return message


class StormProcess:
    """All sessions of this process."""

    def __init__(self, plan: StormPlan) -> None:
        """Follows the plan."""
        self._port = plan.port
        tokens = plan.access_tokens
        self._sessions = [StormSession(tokens[index % len(tokens)]) for index in range(plan.sessions)]
        self._channels: list[grpc.aio.Channel] = []
        self._running: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Opens all sessions, then obeys."""
        async with asyncio.TaskGroup() as tasks:
            await self._storm(tasks, with_token=False)
            say(ready=True)
            async for command in read_commands():
                match command["op"]:
                    case "tokens":
                        say(tokens=sum(bool(session.resume_token) for session in self._sessions))
                    case "cut":
                        await self._cut()
                        say()
                    case "storm":
                        say(**await self._storm(tasks, with_token=command["with_token"]))
                    case _:
                        break
            await self._cut()

    async def _cut(self) -> None:
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for channel in self._channels:
            await channel.close()
        self._running, self._channels = [], []

    async def _storm(self, tasks: asyncio.TaskGroup, *, with_token: bool) -> dict[str, Any]:
        count = -(-len(self._sessions) // _SESSIONS_A_CHANNEL)
        self._channels = [
            grpc.aio.insecure_channel(f"127.0.0.1:{self._port}", options=_OWN_CONNECTIONS) for _ in range(count)
        ]
        begin = time.monotonic()
        live_s: list[float] = []
        for index, session in enumerate(self._sessions):
            session.is_live.clear()
            channel = self._channels[index // _SESSIONS_A_CHANNEL]
            self._running.append(tasks.create_task(session.run(channel, with_token=with_token)))
        async with asyncio.timeout(_LIVE_WITHIN_S):
            for session in self._sessions:
                await session.is_live.wait()
                live_s.append(time.monotonic() - begin)
        return {
            "live_s": max(live_s),
            "errors": dict(sum((session.errors for session in self._sessions), Counter())),
            **{name: sum(getattr(each, name) for each in self._sessions) for name in _COUNTED},
        }


_COUNTED = ("sent_bytes", "received_bytes", "heads", "syncs")


async def main() -> None:
    """Reads the plan; channels belong to the loop in which they are made."""
    fields = read_plan()
    await StormProcess(StormPlan(**{**fields, "access_tokens": tuple(fields["access_tokens"])})).run()


if __name__ == "__main__":
    asyncio.run(main())
