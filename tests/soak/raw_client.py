"""A client made of generated stubs alone, which writes down every frame: `python -m tests.soak.raw_client PLAN`.

It follows proto/README.md to the letter: Hello, Heads, live events by position, Sync where it is behind, repeats with
the same id. One task each for the stream, the writes, Sync, unary sends, traffic and reads; a `Connection` is one life
of the stream, and everything that was out on it is unknown when it ends.
"""

import asyncio
import contextlib
import random
import sys
import time
import uuid
from typing import Any

import grpc
import grpc.aio
from hubbub.chat.v1 import chat_service_pb2, chat_service_pb2_grpc, frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2

from tests.soak.api import Login, open_channel, read_history, read_page, reason_of, status_of
from tests.soak.frames import event_fields, milliseconds, read_frame
from tests.soak.outbox import Answer, Outbox, Send
from tests.soak.plan import Plan, Talk, read_commands, read_plan, say
from tests.soak.records import Journal

SILENCE_S = 50.0
ANSWER_S = 12.0
UNARY_S = 6.0
SYNC_S = 15.0
CATCH_UP_S = 90.0
_CONNECT = "/hubbub.chat.v1.ChatService/Connect"
_SYNC_ONCE = "/hubbub.history.v1.HistoryService/SyncOnce"


class Topics:
    """Cursors by the rules of the contract: position alone decides, whichever way an event came."""

    def __init__(self, journal: Journal, starts: dict[str, int]) -> None:
        """Follows some topics from given positions."""
        self._journal = journal
        self.cursors: dict[str, int] = {}
        self.epochs: dict[str, int] = {}
        self.heads: dict[str, int] = {}
        self.mine: set[str] = set()
        self.is_behind = asyncio.Event()
        for topic, position in starts.items():
            self.start(topic, position)

    def start(self, topic: str, position: int) -> None:
        """Follows a topic from a position on."""
        self.cursors[topic] = position
        self._journal.write("start", topic=topic, position=position)

    def saw_head(self, head: conversation_pb2.TopicHead, via: str, stream: int) -> None:
        """A head was named: behind it, something is missing."""
        cursor = head.cursor
        topic = cursor.topic_id
        self._journal.write(
            "head",
            stream=stream,
            topic=topic,
            epoch=cursor.epoch,
            position=cursor.position,
            number=head.last_message_number,
            via=via,
        )
        if topic not in self.cursors:
            self.start(topic, cursor.position if topic.startswith("u") else 0)
        self.epochs[topic] = cursor.epoch
        self.heads[topic] = max(self.heads.get(topic, 0), cursor.position)
        if via == "heads" and topic.startswith("c"):
            self.mine.add(topic)
        self._look(topic)

    def saw_event(self, topic: str, position: int) -> None:
        """An event came: apply, drop, or find that there is a hole before it."""
        if topic not in self.cursors:
            return
        if position == self.cursors[topic] + 1:
            self.cursors[topic] = position
        self.heads[topic] = max(self.heads.get(topic, 0), position)
        self._look(topic)

    def jump(self, kind: str, head: conversation_pb2.TopicHead) -> None:
        """Gap or Reset: the cursor is the head."""
        topic = head.cursor.topic_id
        start = self.cursors.get(topic, 0)
        self._journal.write(kind, topic=topic, position=head.cursor.position, **{"from": start})
        self.cursors[topic] = head.cursor.position
        self.epochs[topic] = head.cursor.epoch

    def ended(self, topic: str, stream: int) -> None:
        """The user is no member; told on a stream, or by Sync (0)."""
        self._journal.write("ended", stream=stream, topic=topic)
        self.mine.discard(topic)
        self.heads[topic] = self.cursors.get(topic, 0)

    def behind(self) -> list[str]:
        """The topics that need a Sync."""
        return [topic for topic, head in self.heads.items() if self.cursors[topic] < head and self.epochs.get(topic)]

    def _look(self, topic: str) -> None:
        if self.cursors[topic] < self.heads[topic]:
            self.is_behind.set()


class Connection:
    """One life of the stream."""

    def __init__(self, number: int, channel: grpc.aio.Channel, call: Any) -> None:
        """Takes an open call."""
        self.number = number
        self.channel = channel
        self.call = call
        self.last_frame = time.monotonic()
        self.is_welcome = False
        self.flying: dict[str, Send] = {}
        self.processed = 0
        self.is_ack_due = False


class RawClient:
    """The client process."""

    def __init__(self, plan: Plan) -> None:
        """Follows the plan."""
        self._plan = plan
        self._journal = Journal(plan.journal_path, plan.who)
        self._journal.write("client", user=plan.user_id, flavor=plan.flavor)
        self._talk = Talk(plan)
        self._login = Login(plan.login_name, plan.password)
        self._topics = Topics(self._journal, dict.fromkeys(plan.topics, 0))
        self._outbox = Outbox(self._journal)
        self._instance_id = str(uuid.uuid4())
        self._connection: Connection | None = None
        self._streams = 0
        self._requests = 0
        self._is_quiet = plan.sends_per_s <= 0
        self._wanted: dict[str, int] | None = None
        self._kick = asyncio.Event()
        self._is_bursting = False

    async def run(self) -> None:
        """Lives until the run says finish, or is gone."""
        async with open_channel(self._plan.port) as channel:
            await self._login.renew(channel)
        with contextlib.suppress(_Finished):
            async with _flat(asyncio.TaskGroup()) as tasks:
                for job in (self._connect, self._write, self._sync, self._send_unary, self._traffic, self._reads):
                    tasks.create_task(job())
                tasks.create_task(self._renew())
                tasks.create_task(self._obey())
        await self._read_back()
        self._journal.close()

    # ---- what the run wants

    async def _obey(self) -> None:
        said_idle = False
        commands = read_commands()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._take(commands))
            while True:
                await asyncio.sleep(0.2)
                if self._is_quiet and not len(self._outbox) and not said_idle and self._plan.sends_per_s > 0:
                    said_idle = True
                    say(idle=True)
                if self._wanted is not None and self._has(self._wanted):
                    raise _Finished

    async def _take(self, commands: Any) -> None:
        async for command in commands:
            match command["op"]:
                case "burst":
                    if command["topic"] in self._topics.mine:
                        for _ in range(command["count"]):
                            self._outbox.add(command["topic"], self._talk.text(), on_stream=True)
                        self._is_bursting = True
                        self._kick.set()
                case "quiet":
                    self._is_quiet = True
                    self._outbox.hurry()
                case "finish":
                    self._wanted = command["heads"]
                    await asyncio.sleep(CATCH_UP_S)
                    raise _Finished  # behind for too long: the checker will say so
        raise _Finished

    def _has(self, heads: dict[str, int]) -> bool:
        return not self._topics.behind() and all(
            self._topics.cursors.get(topic, 0) >= position
            for topic, position in heads.items()
            if topic in self._topics.mine
        )

    async def _read_back(self) -> None:
        for topic in [t for t in self._topics.cursors if t.startswith("c")]:
            await read_history(self._plan.port, self._login, topic, self._journal)

    # ---- the stream

    async def _connect(self) -> None:
        failures = 0
        while True:
            begin = time.monotonic()
            await self._one_stream()
            self._outbox.cut(on_stream=True)
            failures = 0 if time.monotonic() - begin > 60 else failures + 1
            await asyncio.sleep(random.uniform(0, min(2.0, 0.25 * 2**failures)))

    async def _one_stream(self) -> None:
        async with open_channel(self._plan.port) as channel:
            call: Any = channel.stream_stream(
                _CONNECT,
                request_serializer=chat_service_pb2.ConnectRequest.SerializeToString,
                response_deserializer=None,
            )(metadata=self._login.metadata)
            connection = Connection(self._streams + 1, channel, call)
            try:
                async with asyncio.TaskGroup() as tasks:
                    watch = tasks.create_task(self._watch(connection))
                    await self._read(connection)
                    watch.cancel()
            finally:
                self._connection = None
                call.cancel()

    async def _watch(self, connection: Connection) -> None:
        """Ends a stream that is silent, or leaves a command without an answer, for too long."""
        while True:
            await asyncio.sleep(0.5)
            now = time.monotonic()
            oldest = self._outbox.oldest_flying()
            limit = SILENCE_S if connection.is_welcome else ANSWER_S
            if now - connection.last_frame > limit or (oldest is not None and now - oldest > ANSWER_S):
                connection.call.cancel()

    async def _read(self, connection: Connection) -> None:
        hello = chat_service_pb2.Hello(instance_id=self._instance_id)
        try:
            await connection.call.write(chat_service_pb2.ConnectRequest(hello=hello))
            while (response := await connection.call.read()) is not grpc.aio.EOF:
                connection.last_frame = time.monotonic()
                frame, raw_events = read_frame(response)
                self._take_frame(connection, frame, raw_events)
        except grpc.aio.AioRpcError:
            return
        except asyncio.InvalidStateError:
            return  # the call ended between two reads
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return  # the watch cancelled the call, nobody cancelled us

    def _take_frame(self, connection: Connection, frame: frame_pb2.ServerFrame, raw_events: list[bytes]) -> None:
        self._take_events(frame, raw_events, "live", connection.number)
        connection.processed += len(raw_events)
        match frame.WhichOneof("control"):
            case "welcome":
                connection.is_welcome = True
                self._streams = connection.number
                self._connection = connection
                self._topics.mine.clear()  # Heads name what is left
                self._journal.write("stream", n=connection.number)
                say(ready=True)
                self._kick.set()
            case "heads":
                for head in frame.heads.heads:
                    self._topics.saw_head(head, "heads", connection.number)
            case "lagging":
                self._journal.write("lagging")
            case "heartbeat":
                self._journal.write("heartbeat", live=frame.heartbeat.live)
                for head in frame.heartbeat.heads:
                    self._topics.saw_head(head, "heartbeat", connection.number)
                connection.is_ack_due = True
                self._kick.set()
            case "reply":
                self._take_reply(connection, frame.reply)
            case "rejected":
                self._take_rejected(connection, frame.rejected)
            case "reset":
                self._topics.jump("reset", frame.reset.head)
            case "topic_ended":
                self._topics.ended(frame.topic_ended.topic_id, connection.number)
            case "goodbye":
                self._journal.write("goodbye", reason=frame_pb2.GoodbyeReason.Name(frame.goodbye.reason))

    def _take_events(self, frame: frame_pb2.ServerFrame, raw_events: list[bytes], via: str, stream: int) -> None:
        for event, raw in zip(frame.events, raw_events, strict=True):
            self._journal.write("event", via=via, stream=stream, **event_fields(event, raw))
            self._topics.saw_event(event.topic_id, event.position)

    def _take_reply(self, connection: Connection, reply: frame_pb2.Reply) -> None:
        send = connection.flying.pop(reply.request_id, None)
        if send is not None:
            self._answered(send, reply.send_message)

    def _take_rejected(self, connection: Connection, rejected: frame_pb2.Rejected) -> None:
        send = connection.flying.pop(rejected.request_id, None)
        if send is not None:
            code = _code_name(rejected.status.code)
            self._outbox.failed(send, code, reason_of(rejected.status), delay_s=self._talk.between(0.2, 1.0))

    def _answered(self, send: Send, response: frame_pb2.SendMessageResponse) -> None:
        cursor = response.cursor
        answer = Answer(response.message_number, cursor.epoch, cursor.position, milliseconds(response.commit_time))
        self._outbox.answered(send, answer)
        if not self._is_quiet and not send.is_repeat and self._talk.happens(0.03):
            self._outbox.repeat(send, due=time.monotonic() + self._talk.between(0.0, 60.0))

    # ---- sending

    async def _write(self) -> None:
        """The one writer of the stream."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    await self._kick.wait()
            self._kick.clear()
            connection = self._connection
            if connection is None:
                continue
            if connection.is_ack_due:
                connection.is_ack_due = False
                ack = chat_service_pb2.Ack(processed_events=connection.processed)
                await _write(connection.call, chat_service_pb2.ConnectRequest(ack=ack))
            for send in self._outbox.due(on_stream=True):
                if self._connection is not connection:
                    break
                self._requests += 1
                request_id = str(self._requests)
                connection.flying[request_id] = send
                self._outbox.left(send)
                command = frame_pb2.Command(request_id=request_id, send_message=_request(send))
                if not await _write(connection.call, chat_service_pb2.ConnectRequest(command=command)):
                    break
                if self._is_bursting:
                    self._is_bursting = False
                    say(flying=True)

    async def _send_unary(self) -> None:
        while True:
            await asyncio.sleep(0.05)
            connection = self._connection
            if connection is None:
                continue
            stub = chat_service_pb2_grpc.ChatServiceStub(connection.channel)
            for send in self._outbox.due(on_stream=False):
                self._outbox.left(send)
                try:
                    response = await stub.SendMessage(_request(send), metadata=self._login.metadata, timeout=UNARY_S)
                except grpc.aio.AioRpcError as error:
                    reason = reason_of(status_of(error))
                    self._outbox.failed(send, error.code().name, reason, delay_s=self._talk.between(0.1, 1.0))
                except (asyncio.CancelledError, grpc.aio.UsageError):
                    if _is_cancelled():
                        raise
                    self._outbox.failed(send, "CUT", delay_s=self._talk.between(0.1, 1.0))  # the channel was closed
                else:
                    self._answered(send, response)
                if self._connection is not connection:
                    break

    async def _traffic(self) -> None:
        while self._plan.sends_per_s > 0:
            await asyncio.sleep(self._talk.pause_s())
            if not self._is_quiet and self._topics.mine:
                topic = self._talk.topic(sorted(self._topics.mine))
                self._outbox.add(topic, self._talk.text(), on_stream=not self._talk.happens(0.2))
                self._kick.set()

    # ---- catching up, reading, staying signed in

    async def _sync(self) -> None:
        while True:
            await self._topics.is_behind.wait()
            self._topics.is_behind.clear()
            connection = self._connection
            behind = self._topics.behind()
            if connection is None or not behind:
                await asyncio.sleep(0.05)
                if behind:
                    self._topics.is_behind.set()
                continue
            if not await self._sync_once(connection, behind) or self._topics.behind():
                await asyncio.sleep(self._talk.between(0.05, 0.3))
                self._topics.is_behind.set()

    async def _sync_once(self, connection: Connection, behind: list[str]) -> bool:
        cursors = [
            conversation_pb2.Cursor(
                topic_id=topic, epoch=self._topics.epochs[topic], position=self._topics.cursors[topic]
            )
            for topic in behind[:500]
        ]
        request = history_service_pb2.SyncOnceRequest(request=history_service_pb2.SyncRequest(cursors=cursors))
        call: Any = connection.channel.unary_stream(
            _SYNC_ONCE,
            request_serializer=history_service_pb2.SyncOnceRequest.SerializeToString,
            response_deserializer=None,
        )(request, metadata=self._login.metadata, timeout=SYNC_S)
        try:
            async for response in call:
                self._take_sync_frame(*read_frame(response))
        except grpc.aio.AioRpcError:
            return False
        except (asyncio.CancelledError, asyncio.InvalidStateError, grpc.aio.UsageError):
            if _is_cancelled():
                raise
            return False  # the channel was closed under the call
        return True

    def _take_sync_frame(self, frame: frame_pb2.ServerFrame, raw_events: list[bytes]) -> None:
        self._take_events(frame, raw_events, "sync", 0)
        match frame.WhichOneof("control"):
            case "caught_up":
                for head in frame.caught_up.heads:
                    self._topics.saw_head(head, "caught_up", 0)
            case "gap":
                self._topics.jump("gap", frame.gap.head)
            case "reset":
                self._topics.jump("reset", frame.reset.head)
            case "topic_ended":
                self._topics.ended(frame.topic_ended.topic_id, 0)

    async def _reads(self) -> None:
        while True:
            await asyncio.sleep(self._talk.between(1.0, 3.0))
            if self._topics.mine and self._wanted is None:
                topic = self._talk.topic(sorted(self._topics.mine))
                await read_page(self._plan.port, self._login, topic, self._journal)

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(5)
            connection = self._connection
            if connection is None or not self._login.needs_renewal():
                continue
            async with open_channel(self._plan.port) as channel:
                await self._login.renew(channel)
            self._requests += 1
            token = frame_pb2.ReauthenticateRequest(access_token=self._login.token)
            command = frame_pb2.Command(request_id=f"token-{self._requests}", reauthenticate=token)
            await _write(connection.call, chat_service_pb2.ConnectRequest(command=command))


class _Finished(Exception):
    """The run wants no more."""


@contextlib.asynccontextmanager
async def _flat(tasks: asyncio.TaskGroup) -> Any:
    """Raises `_Finished` by itself when a task of the group raised it."""
    try:
        async with tasks:
            yield tasks
    except BaseExceptionGroup as group:
        if group.subgroup(_Finished) is not None and group.split(_Finished)[1] is None:
            raise _Finished from None
        raise


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


async def _write(call: Any, request: chat_service_pb2.ConnectRequest) -> bool:
    """Writes one frame; False when the stream is over."""
    try:
        await call.write(request)
    except (grpc.aio.AioRpcError, asyncio.InvalidStateError, grpc.aio.UsageError):
        return False
    except asyncio.CancelledError:
        if _is_cancelled():
            raise
        return False
    return True


def _request(send: Send) -> frame_pb2.SendMessageRequest:
    request = frame_pb2.SendMessageRequest(
        conversation_id=send.topic, client_message_id=send.message_id, previous_client_message_id=send.prev
    )
    request.content.text.text = send.text
    return request


def _code_name(code: int) -> str:
    return next((each.name for each in grpc.StatusCode if each.value[0] == code), str(code))


if __name__ == "__main__":
    asyncio.run(RawClient(read_plan()).run())
    sys.exit(0)
