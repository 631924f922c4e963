"""Who takes part in a soak run: the users, the conversations, the client processes, each behind a proxy of its own."""

import asyncio
import json
import os
import random
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio
from hubbub.auth.v1 import auth_service_pb2, auth_service_pb2_grpc
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc

from tests.soak.api import CALL_TIMEOUT_S, Login, open_channel, persist
from tests.soak.plan import Plan
from tests.soak.records import Journal
from tests.support.fault_proxy import FaultProxy

PASSWORD = "soak-and-soak-again"
MEMBERS = 8


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
        self, port: int, folder: Path, journal: Journal, *, seed: int, clients: int, conversations: int
    ) -> None:
        """Takes the port of Envoy."""
        self._port = port
        self._folder = folder
        self._journal = journal
        self._seed = seed
        self._random = random.Random(seed)
        self._clients = clients
        self._offsets = self._random.sample(range(clients // 2), MEMBERS // 2)
        self._conversations = conversations
        self.owner = Login("auditor", PASSWORD)
        self.user_ids: list[str] = []
        self.conversations: list[Conversation] = []
        self.actors: list[Actor] = []
        self._stack = AsyncExitStack()
        self._epoch = 1

    async def register(self) -> None:
        """Makes the accounts and the conversations."""
        async with open_channel(self._port) as channel:
            auth = auth_service_pb2_grpc.AuthServiceStub(channel)
            for index in range(self._clients):
                request = auth_service_pb2.RegisterRequest(
                    login_name=f"client{index}", password=PASSWORD, display_name=f"Client {index}"
                )
                answer = await auth.Register(request, timeout=CALL_TIMEOUT_S)
                self.user_ids.append(answer.credentials.user_id)
            owner = auth_service_pb2.RegisterRequest(login_name="auditor", password=PASSWORD, display_name="Auditor")
            await auth.Register(owner, timeout=CALL_TIMEOUT_S)
            await self.owner.renew(channel)
            for index in range(self._conversations):
                self.conversations.append(await self._create(channel, index))

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
        answer = await stub.CreateConversation(request, metadata=self.owner.metadata, timeout=CALL_TIMEOUT_S)
        self._epoch = answer.view.head.cursor.epoch
        return Conversation(answer.view.conversation.conversation_id, (*raw, *sdk), (raw[-1], sdk[-1]))

    async def start(self, sends_per_s: float) -> None:
        """Starts the client processes: the first half raw, the second half with the SDK, and the auditor."""
        topics = [c.topic for c in self.conversations]
        await self._start_one("auditor", "auditor", self.owner.user_id, topics, 0.0, "tests.soak.raw_client")
        for index, user_id in enumerate(self.user_ids):
            is_raw = index < self._clients // 2
            mine = [c.topic for c in self.conversations if index in c.members]
            await self._start_one(
                f"client{index}",
                "raw" if is_raw else "sdk",
                user_id,
                mine,
                sends_per_s / self._clients if mine else 0.0,
                "tests.soak.raw_client" if is_raw else "tests.soak.sdk_client",
            )

    async def _start_one(
        self, name: str, flavor: str, user_id: str, topics: list[str], sends_per_s: float, module: str
    ) -> None:
        proxy = await self._stack.enter_async_context(FaultProxy(self._port))
        plan = Plan(
            who=name,
            flavor=flavor,
            login_name=name,
            password=PASSWORD,
            user_id=user_id,
            port=proxy.port,
            topics=tuple(topics),
            epoch=self._epoch,
            sends_per_s=sends_per_s,
            seed=self._random.randrange(2**31),
            journal=str(self._folder / f"{name}.jsonl"),
        )
        log = (self._folder / f"{name}.log").open("wb")
        self._stack.callback(log.close)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, plan.to_argument()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
            env=os.environ,
        )
        self.actors.append(Actor(plan, proxy, process))

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
