"""Who takes part in a run: the users, the conversations, the client processes, each behind a proxy of its own."""

import asyncio
import contextlib
import json
import os
import random
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from tests.soak.api import CALL_TIMEOUT_S, Login, open_channel, persist
from tests.soak.plan import Plan
from tests.soak.records import Journal
from tests.support.fault_proxy import FaultProxy

PASSWORD = "soak-and-soak-again"
MAX_OUT = 3
BURST_S = 0.1
IDLE_S, FINISH_S = 120.0, 180.0


@dataclass
class Actor:
    """A client process."""

    plan: Plan
    proxy: FaultProxy
    process: asyncio.subprocess.Process
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    flying: asyncio.Event = field(default_factory=asyncio.Event)
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    def tell(self, **command: Any) -> None:
        """Sends it a command."""
        if self.process.stdin is not None and self.process.returncode is None:
            self.process.stdin.write(json.dumps(command).encode() + b"\n")

    async def listen(self) -> None:
        """Hears what it says until it ends."""
        assert self.process.stdout is not None
        while line := await self.process.stdout.readline():
            said = json.loads(line)
            if said.get("ready"):
                self.ready.set()
            if said.get("flying"):
                self.flying.set()
            if said.get("idle"):
                self.idle.set()
        self.ready.set()


@dataclass(frozen=True)
class Conversation:
    """One conversation of the run. `floaters` come and go."""

    topic: str
    members: tuple[int, ...]
    floaters: tuple[int, ...]


class Cast:
    """Everybody, made from the seed."""

    def __init__(
        self, port: int, folder: Path, journal: Journal, *, seed: int, clients: int, conversations: int, members: int
    ) -> None:
        """Takes the port of Envoy. Of the clients and of the members of each conversation one half is raw."""
        self._port = port
        self._folder = folder
        self._journal = journal
        self._seed = seed
        self._random = random.Random(seed)
        self._clients = clients
        self._offsets = self._random.sample(range(clients // 2), members // 2)
        self._conversations = conversations
        # Another seed may have used the same instance.
        self._login_names = [f"client{index}-{seed}" for index in range(clients)]
        self.owner = Login(f"auditor-{seed}", PASSWORD)
        self.user_ids: list[str] = []
        self.conversations: list[Conversation] = []
        self.actors: list[Actor] = []
        self._stack = AsyncExitStack()
        self._epoch = 1
        self._out: list[tuple[str, int]] = []

    async def register(self) -> None:
        """Makes the accounts and the conversations."""
        async with open_channel(self._port) as channel:
            auth = auth_service_pb2_grpc.AuthServiceStub(channel)
            for name in self._login_names:
                self.user_ids.append(await self._register_one(auth, name))
            await self._register_one(auth, self.owner.login_name)
            await self.owner.renew(channel)
            for index in range(self._conversations):
                self.conversations.append(await self._create(channel, index))

    async def _register_one(self, auth: auth_service_pb2_grpc.AuthServiceStub, name: str) -> str:
        registration = auth_service_pb2.RegisterRequest(login_name=name, password=PASSWORD, display_name=name)
        try:
            answer = await persist(lambda: auth.Register(registration, timeout=CALL_TIMEOUT_S))
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.ALREADY_EXISTS:
                raise
            # A try whose answer was lost made the account.
            login = auth_service_pb2.LoginRequest(login_name=name, password=PASSWORD)
            return (await persist(lambda: auth.Login(login, timeout=CALL_TIMEOUT_S))).credentials.user_id
        return answer.credentials.user_id

    async def _create(self, channel: grpc.aio.Channel, index: int) -> Conversation:
        half = self._clients // 2
        chosen = [(index + offset) % half for offset in self._offsets]
        raw, sdk = chosen, [half + each for each in chosen]
        request = conversation_service_pb2.CreateConversationRequest(
            request_id=f"00000000-0000-4000-8000-{self._seed % 2**24:06x}{index:06x}"
        )
        request.group.title = f"conversation {index}"
        request.group.user_ids.extend(self.user_ids[i] for i in (*raw, *sdk))
        stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)

        async def create() -> conversation_service_pb2.CreateConversationResponse:
            return await stub.CreateConversation(request, metadata=self.owner.metadata, timeout=CALL_TIMEOUT_S)

        answer = await persist(create)
        self._epoch = answer.view.head.cursor.epoch
        return Conversation(answer.view.conversation.conversation_id, (*raw, *sdk), (raw[-1], sdk[-1]))

    async def start(self, sends_per_s: float) -> None:
        """Starts the client processes: the first half raw, the second half with the SDK, and the auditor."""
        topics = [c.topic for c in self.conversations]
        await self._start_one("auditor", "auditor", self.owner.login_name, self.owner.user_id, topics, 0.0)
        for index, (login_name, user_id) in enumerate(zip(self._login_names, self.user_ids, strict=True)):
            mine = [c.topic for c in self.conversations if index in c.members]
            await self._start_one(
                f"client{index}",
                "raw" if index < self._clients // 2 else "sdk",
                login_name,
                user_id,
                mine,
                sends_per_s / self._clients if mine else 0.0,
            )

    async def _start_one(
        self, who: str, flavor: str, login_name: str, user_id: str, topics: list[str], sends_per_s: float
    ) -> None:
        proxy = await self._stack.enter_async_context(FaultProxy(self._port))
        plan = Plan(
            who=who,
            flavor=flavor,
            login_name=login_name,
            password=PASSWORD,
            user_id=user_id,
            port=proxy.port,
            topics=tuple(topics),
            epoch=self._epoch,
            sends_per_s=sends_per_s,
            seed=self._random.randrange(2**31),
            journal=str(self._folder / f"{who}.jsonl"),
        )
        module = "tests.soak.sdk_client" if flavor == "sdk" else "tests.soak.raw_client"
        log = (self._folder / f"{who}.log").open("wb")
        self._stack.callback(log.close)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, plan.to_argument()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=os.environ,
        )
        self.actors.append(Actor(plan, proxy, process))

    async def burst(self, messages: int) -> None:
        """Lets everybody send at once, most of them into one conversation; returns when the first have written."""
        conversation = self._random.choice(self.conversations)
        senders = self.senders()
        for index, actor in enumerate(senders):
            actor.flying.clear()
            topics = actor.plan.topics
            topic = conversation.topic if conversation.topic in topics else self._random.choice(topics)
            actor.tell(op="burst", topic=topic, count=messages // len(senders) + (index < messages % len(senders)))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(BURST_S):
                for actor in self._random.sample(senders, len(senders) // 4):
                    await actor.flying.wait()

    def senders(self) -> list[Actor]:
        """The clients that send."""
        return [actor for actor in self.actors if actor.plan.sends_per_s > 0]

    async def calm_down(self) -> list[str]:
        """Waits until every send has its answer, then until every client has everything and has read it back.

        Returns what did not happen in time.
        """
        wrong: list[str] = []
        self._journal.write("quiet")
        for actor in self.actors:
            actor.tell(op="quiet")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(IDLE_S):
                for actor in self.senders():
                    await actor.idle.wait()
        wrong += [f"{actor.plan.who} still waits for answers" for actor in self.senders() if not actor.idle.is_set()]
        await self.renew_owner()
        heads = await self.heads()
        for actor in self.actors:
            actor.tell(op="finish", heads=heads)
        try:
            async with asyncio.timeout(FINISH_S):
                for actor in self.actors:
                    await actor.process.wait()
        except TimeoutError:
            wrong += [f"{a.plan.who} did not finish" for a in self.actors if a.process.returncode is None]
        return wrong

    async def stop(self) -> None:
        """Ends processes that still run, and the proxies."""
        running = [actor for actor in self.actors if actor.process.returncode is None]
        for actor in running:  # all at once: what comes after it may be cancelled
            actor.process.kill()
        for actor in running:
            await actor.process.wait()
        await self._stack.aclose()

    def failed(self) -> list[str]:
        """Names the client processes that ended with an error."""
        return [a.plan.who for a in self.actors if a.process.returncode not in (0, None)]

    # ---- what the owner does

    async def heads(self) -> dict[str, int]:
        """Reads the heads of all conversations."""
        found: dict[str, int] = {}
        async with open_channel(self._port) as channel:
            stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)
            for conversation in self.conversations:
                request = conversation_service_pb2.GetConversationRequest(conversation_id=conversation.topic)

                async def get(request: Any = request) -> Any:
                    return await stub.GetConversation(request, metadata=self.owner.metadata, timeout=CALL_TIMEOUT_S)

                answer = await persist(get)
                found[conversation.topic] = answer.view.head.cursor.position
        return found

    async def renew_owner(self) -> None:
        """Keeps the owner signed in."""
        if self.owner.needs_renewal():
            async with open_channel(self._port) as channel:
                await self.owner.renew(channel)

    async def change_someone(self) -> None:
        """Removes somebody; when three are out, lets the one in again who is out for longest."""
        await self.renew_owner()
        if len(self._out) >= MAX_OUT:
            topic, index = self._out.pop(0)
            await self.change("add", topic, index)
            return
        conversation = self._random.choice(self.conversations)
        index = self._random.choice(conversation.floaters)
        if (conversation.topic, index) not in self._out:
            await self.change("remove", conversation.topic, index)
            self._out.append((conversation.topic, index))

    async def change(self, op: str, topic: str, index: int) -> None:
        """Removes or adds a user, until it is done."""
        user_id = self.user_ids[index]
        self._journal.write("change", op=op, topic=topic, user=user_id, state="begin")
        async with open_channel(self._port) as channel:
            stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)

            async def call() -> Any:
                metadata = self.owner.metadata
                if op == "remove":
                    removal = conversation_service_pb2.RemoveMemberRequest(conversation_id=topic, user_id=user_id)
                    return await stub.RemoveMember(removal, metadata=metadata, timeout=CALL_TIMEOUT_S)
                addition = conversation_service_pb2.AddMembersRequest(conversation_id=topic, user_ids=[user_id])
                return await stub.AddMembers(addition, metadata=metadata, timeout=CALL_TIMEOUT_S)

            answer = await persist(call)
        position = answer.cursor.position
        self._journal.write("change", op=op, topic=topic, user=user_id, state="done", position=position)
