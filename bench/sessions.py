"""A process with many clients made of the SDK, as applications use it: `python -m bench.sessions PLAN`.

Each client is a user of its own with a connection of its own; every `group_size` of them share a conversation. Commands
on stdin, one JSON object a line, each answered by one on stdout: `send` (begin to send at the plan's rate), `quiet`
(send no more, wait until everything is answered and was heard), `report` (what happened since the last report). All
times are CLOCK_MONOTONIC, which the processes of a machine share.
"""

import asyncio
import random
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from bench.plans import read_plan
from hubbub_client import events
from hubbub_client.client import HubbubClient
from hubbub_client.errors import HubbubError
from hubbub_client.model import Registration
from tests.soak.plan import read_commands, say

_CALL_TIMEOUT_S = 60.0
_OPEN_WITHIN_S = 60.0
_HEAR_WITHIN_S = 60.0
_TEXT = "x" * 100


@dataclass(frozen=True)
class SessionsPlan:
    """What one process does."""

    port: int
    sessions: int
    group_size: int
    sends_per_s: float
    """Of the whole process, at a steady rate whatever the answers do."""


@dataclass
class Report:
    """What happened since the last report."""

    sends: list[tuple[float, float, str]] = field(default_factory=list)
    """Begin, end, and the error if it failed."""
    deliveries: list[tuple[float, float]] = field(default_factory=list)
    """When a message was heard, and the begin of its send."""
    ends: list[tuple[int, float, str]] = field(default_factory=list)
    """Session, when its stream ended, and why."""
    lives: list[tuple[int, float]] = field(default_factory=list)
    """Session, and when its stream covered everything again."""


class Group:
    """A conversation and what was acknowledged in it."""

    def __init__(self, conversation_id: str, sessions: list["ClientSession"]) -> None:
        """Made when all its clients know each other."""
        self.conversation_id = conversation_id
        self.sessions = sessions
        self.acknowledged: set[int] = set()

    @property
    def missed(self) -> int:
        """Counts what was acknowledged and not heard, over all sessions."""
        return sum(len(self.acknowledged - session.heard) for session in self.sessions)


class ClientSession:
    """One client: hears everything and writes down when it was not connected."""

    def __init__(self, index: int, port: int, all_sessions: "Sessions") -> None:
        """`port` is Envoy's."""
        name = secrets.token_hex(8)
        self.client = HubbubClient(
            f"127.0.0.1:{port}", Registration(f"s{name}", name, "bench"), call_timeout_s=_CALL_TIMEOUT_S
        )
        self.heard: set[int] = set()
        self.repeated = 0
        self.is_live = asyncio.Event()
        self._index = index
        self._all = all_sessions

    async def hear(self) -> None:
        """Hears until cancelled."""
        async for item in self.client.events():
            now, report = time.monotonic(), self._all.report
            match item:
                case events.MessageReceived(message=message):
                    self.repeated += message.message_number in self.heard
                    self.heard.add(message.message_number)
                    report.deliveries.append((now, float(message.text.partition(" ")[0])))
                case events.Connected():
                    report.lives.append((self._index, now))
                    self.is_live.set()
                case events.Disconnected(reason=reason):
                    report.ends.append((self._index, now, reason))
                    self.is_live.clear()
                case _:
                    pass


class Sessions:
    """All clients of this process."""

    def __init__(self, plan: SessionsPlan) -> None:
        """Follows the plan."""
        self.report = Report()
        self._plan = plan
        self._all = [ClientSession(index, plan.port, self) for index in range(plan.sessions)]
        self._groups: list[Group] = []
        self._is_quiet = asyncio.Event()
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Opens all sessions, one after the other since hashing a password takes a core, then obeys."""
        async with AsyncExitStack() as stack:
            for session in self._all:
                await stack.enter_async_context(session.client)
            async with asyncio.TaskGroup() as tasks:
                hearing = [tasks.create_task(session.hear()) for session in self._all]
                async with asyncio.timeout(_OPEN_WITHIN_S):
                    for session in self._all:
                        await session.is_live.wait()
                await self._make_groups()
                say(ready=True)
                await self._obey(tasks)
                self._is_quiet.set()
                for task in hearing:
                    task.cancel()

    async def _make_groups(self) -> None:
        for start in range(0, len(self._all), self._plan.group_size):
            members = self._all[start : start + self._plan.group_size]
            others = [session.client.user_id for session in members[1:]]
            conversation = await members[0].client.create_group("bench", others)
            self._groups.append(Group(conversation.conversation_id, members))

    async def _obey(self, tasks: asyncio.TaskGroup) -> None:
        async for command in read_commands():
            match command["op"]:
                case "send":
                    self._is_quiet.clear()
                    tasks.create_task(self._send_steadily(tasks))
                    say()
                case "quiet":
                    self._is_quiet.set()
                    await self._settle()
                    say(
                        missed=sum(group.missed for group in self._groups),
                        repeated=sum(session.repeated for session in self._all),
                        dead=sum(not session.is_live.is_set() for session in self._all),
                    )
                case "report":
                    report, self.report = self.report, Report()
                    say(**vars(report))

    async def _send_steadily(self, tasks: asyncio.TaskGroup) -> None:
        due = time.monotonic()
        while not self._is_quiet.is_set():
            group = random.choice(self._groups)
            task = tasks.create_task(self._send(group, random.choice(group.sessions)))
            self._sending.add(task)
            task.add_done_callback(self._sending.discard)
            due += 1 / self._plan.sends_per_s
            await asyncio.sleep(max(0.0, due - time.monotonic()))

    async def _send(self, group: Group, session: ClientSession) -> None:
        begin = time.monotonic()
        try:
            sent = await session.client.send(group.conversation_id, f"{begin} {_TEXT}")
        except HubbubError as error:
            self.report.sends.append((begin, time.monotonic(), f"{type(error).__name__}: {error}"))
        else:
            group.acknowledged.add(sent.message_number)
            self.report.sends.append((begin, time.monotonic(), ""))

    async def _settle(self) -> None:
        """Waits until every send has an answer and everything acknowledged was heard, or for long enough."""
        if self._sending:
            await asyncio.wait(self._sending)
        end = time.monotonic() + _HEAR_WITHIN_S
        while any(group.missed for group in self._groups) and time.monotonic() < end:  # noqa: ASYNC110  # once a run
            await asyncio.sleep(0.1)


async def main() -> None:
    """Reads the plan; channels belong to the loop in which they are made."""
    await Sessions(SessionsPlan(**read_plan())).run()


if __name__ == "__main__":
    asyncio.run(main())
