"""A client made of the Python SDK, as an application would use it: `python -m tests.soak.sdk_client PLAN`.

It writes down what the SDK hands over, which must be every event once and in order, and what `send` returns.
"""

import asyncio
import sys
import time
from collections import deque
from collections.abc import Iterable
from typing import Any

from hubbub_client import events
from hubbub_client.client import HubbubClient
from hubbub_client.errors import CallFailed
from hubbub_client.model import Cursor, Login, Message
from tests.soak import api
from tests.soak.outbox import uuid7
from tests.soak.plan import Plan, Talk, read_commands, read_plan, say
from tests.soak.records import Journal, digest

CATCH_UP_S = 90.0
MAX_PENDING = 300
_REPEATABLE = 50


class FixedStart:
    """Cursor store: starts all topics of the plan before their first event, keeps nothing."""

    def __init__(self, topics: Iterable[str], epoch: int) -> None:
        """Takes the topics and the epoch of the log's first life."""
        self._cursors = [Cursor(topic, epoch, 0) for topic in topics]

    async def load(self, user_id: str) -> list[Cursor]:
        """Returns the start."""
        return self._cursors

    async def save(self, user_id: str, cursors: Iterable[Cursor]) -> None:
        """Keeps nothing: the process ends with the run."""


class Follower:
    """Writes down what the SDK hands over. After an end a topic begins again where the user's own topic says."""

    def __init__(self, journal: Journal, topics: Iterable[str]) -> None:
        """Follows the topics from their beginning."""
        self._journal = journal
        self.cursors: dict[str, int] = {}
        self.mine: set[str] = set()
        self._joins: dict[str, list[int]] = {}
        for topic in topics:
            self._start(topic, 0)

    def _start(self, topic: str, position: int) -> None:
        self.cursors[topic] = position
        if topic.startswith("c"):
            self.mine.add(topic)
        self._journal.write("start", topic=topic, position=position)

    def take(self, item: events.Event) -> None:
        """Takes the next item."""
        match item:
            case events.GapSkipped(head=head):
                self._jump("gap", head.cursor)
            case events.TopicReset(head=head):
                self._jump("reset", head.cursor)
            case events.TopicEnded(topic_id=topic):
                self._journal.write("ended", topic=topic)
                self.mine.discard(topic)
                self.cursors.pop(topic, None)
            case _ if isinstance(item, events.TopicEvent):
                self._take_event(item)
            case _:
                pass  # of the connection, or a passing signal

    def _take_event(self, event: events.TopicEvent) -> None:
        topic, position = event.cursor.topic_id, event.cursor.position
        if topic not in self.cursors:
            joins = self._joins.get(topic, [])
            self._start(topic, max((j for j in joins if j <= position), default=0) - 1)
        self.cursors[topic] = position
        self._journal.write(
            "event", via="live", stream=0, topic=topic, epoch=event.cursor.epoch, position=position, **_fields(event)
        )
        if isinstance(event, events.ConversationJoined):
            self._joins.setdefault(event.conversation_id, []).append(event.join_position)

    def _jump(self, kind: str, cursor: Cursor) -> None:
        start = self.cursors.get(cursor.topic_id, 0)
        self._journal.write(kind, topic=cursor.topic_id, position=cursor.position, **{"from": start})
        self.cursors[cursor.topic_id] = cursor.position


def _fields(event: events.TopicEvent) -> dict[str, Any]:
    fields: dict[str, Any] = {"number": 0, "id": "", "sender": "", "content": "", "bytes": "", "commit_ms": None}
    match event:
        case events.MessageReceived(message=message):
            return {**fields, **_message_fields(message), "what": "message_sent", "users": []}
        case events.MembersAdded(members=members):
            return {**fields, "what": "members_added", "users": [m.user_id for m in members]}
        case events.MemberRemoved(user_id=user_id):
            return {**fields, "what": "member_removed", "users": [user_id]}
        case events.ConversationCreated():
            return {**fields, "what": "conversation_created", "users": []}
        case events.ConversationJoined():
            return {**fields, "what": "conversation_joined", "users": []}
        case events.ConversationLeft():
            return {**fields, "what": "conversation_left", "users": []}
        case _:
            return {**fields, "what": "unknown", "users": []}


def _message_fields(message: Message) -> dict[str, Any]:
    return {
        "number": message.message_number,
        "id": message.client_message_id,
        "sender": message.sender_id,
        "content": digest(message.text),
        "commit_ms": round(message.commit_time.timestamp() * 1000),
    }


class SdkClient:
    """The client process."""

    def __init__(self, plan: Plan) -> None:
        """Follows the plan."""
        self._plan = plan
        self._journal = Journal(plan.journal_path, plan.who)
        self._journal.write("client", user=plan.user_id, flavor=plan.flavor)
        self._talk = Talk(plan)
        self._follower = Follower(self._journal, (plan.user_id, *plan.topics))
        self._pending: dict[str, list[str]] = {}
        self._sent: deque[tuple[str, str, str]] = deque(maxlen=_REPEATABLE)
        self._tries: dict[str, int] = {}
        self._streams = 0
        self._is_quiet = plan.sends_per_s <= 0
        self._wanted: dict[str, int] | None = None

    async def run(self) -> None:
        """Lives until the run says finish, or is gone."""
        plan = self._plan
        sign_in = Login(plan.login_name, plan.password)
        start = FixedStart((plan.user_id, *plan.topics), plan.epoch)
        target = f"127.0.0.1:{plan.port}"
        client = HubbubClient(target, sign_in, cursor_store=start, call_timeout_s=60.0)
        async with client as self._client, asyncio.TaskGroup() as tasks:
            background = [tasks.create_task(job()) for job in (self._events, self._reads)]
            background.append(tasks.create_task(self._traffic(tasks)))
            await self._obey(tasks)
            for task in background:
                task.cancel()
        login = api.Login(plan.login_name, plan.password)
        async with api.open_channel(plan.port) as channel:
            await login.renew(channel)
        for topic in plan.topics:
            await api.read_history(plan.port, login, topic, self._journal)
        self._journal.close()

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        async for command in read_commands():
            match command["op"]:
                case "burst":
                    for _ in range(command["count"]):
                        tasks.create_task(self._send(command["topic"], self._talk.text()))
                    say(flying=True)
                case "quiet":
                    self._is_quiet = True
                    tasks.create_task(self._tell_idle())
                case "finish":
                    self._wanted = command["heads"]
                    await self._catch_up(command["heads"])
                    return
        raise RuntimeError("the run is gone")

    async def _tell_idle(self) -> None:
        while any(self._pending.values()):  # noqa: ASYNC110  # once a run, at its end
            await asyncio.sleep(0.2)
        say(idle=True)

    async def _catch_up(self, heads: dict[str, int]) -> None:
        end = time.monotonic() + CATCH_UP_S
        while time.monotonic() < end:  # behind for longer: the checker will say so
            cursors = self._follower.cursors
            if all(cursors.get(t, 0) >= p for t, p in heads.items() if t in self._follower.mine):
                return
            await asyncio.sleep(0.2)

    async def _events(self) -> None:
        async for item in self._client.events():
            if isinstance(item, events.Connected):
                self._streams += 1
                self._journal.write("stream", n=self._streams)
                if self._streams == 1:
                    say(ready=True)
            self._follower.take(item)

    async def _traffic(self, tasks: asyncio.TaskGroup) -> None:
        while self._plan.sends_per_s > 0:
            await asyncio.sleep(self._talk.pause_s())
            if self._is_quiet:
                continue
            if self._sent and self._talk.happens(0.03):
                tasks.create_task(self._send(*self._sent.popleft()))
            elif self._follower.mine:
                topic = self._talk.topic(sorted(self._follower.mine))
                tasks.create_task(self._send(topic, self._talk.text()))

    async def _reads(self) -> None:
        while True:
            await asyncio.sleep(self._talk.between(1.0, 3.0))
            if not self._follower.mine or self._wanted is not None:
                continue
            topic = self._talk.topic(sorted(self._follower.mine))
            begin = time.monotonic()
            try:
                page = await self._client.list_messages(topic, page_size=1)
            except CallFailed:
                continue
            head = page.head
            self._journal.write(
                "page",
                begin=begin,
                topic=topic,
                position=head.cursor.position,
                number=head.last_message_number,
                confirmed=not page.head_unconfirmed,
            )

    async def _send(self, topic: str, text: str, message_id: str = "") -> None:
        waiting = self._pending.setdefault(topic, [])
        if len(waiting) >= MAX_PENDING:
            return
        is_repeat = bool(message_id)
        message_id = message_id or uuid7()
        number = self._tries[message_id] = self._tries.get(message_id, 0) + 1
        names = {"topic": topic, "id": message_id, "try": number}
        prev = waiting[-1] if waiting and not is_repeat else ""
        self._journal.write("attempt", **names, content=digest(text), prev=prev, repeat=is_repeat)
        waiting.append(message_id)
        try:
            sent = await self._client.send(topic, text, client_message_id=message_id, timeout_s=None)
        except CallFailed as error:
            self._journal.write("fail", **names, code=error.code.name, reason=error.reason, final=True)
        else:
            self._journal.write(
                "ack",
                **names,
                number=sent.message_number,
                epoch=sent.cursor.epoch,
                position=sent.cursor.position,
                commit_ms=round(sent.commit_time.timestamp() * 1000),
            )
            if not is_repeat:
                self._sent.append((topic, text, message_id))
        finally:
            waiting.remove(message_id)


if __name__ == "__main__":
    asyncio.run(SdkClient(read_plan()).run())
    sys.exit(0)
