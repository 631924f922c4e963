"""A large group where everybody who is online reads everything: what a member costs, with 5,000 of them and with 500.

One member sends steadily to the group; each of those online has a stream, and marks every message as read there, some
time before the next one. Counted over all streams: bytes and events a second; CPU of node and worker. What a member
costs at 5,000 (500 online) is compared with 500, of whom as large a part is online (50), and of whom as many are (500):
the second says what the number of members adds to the cost of each reader. The limit of a group is raised for this.
`--seconds`, `--rounds`, `--scale` of members and streams for a trial.
"""

import argparse
import asyncio
import os
import random
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Final

import grpc.aio
from hubbub.chat.v1 import chat_service_pb2 as chat
from hubbub.chat.v1 import frame_pb2
from hubbub.chat.v1.chat_service_pb2_grpc import ChatServiceStub
from hubbub.conversation.v1 import conversation_service_pb2
from hubbub.conversation.v1.conversation_service_pb2_grpc import ConversationServiceStub

from bench.crowd import User, create_group, message
from bench.figure import write_figure
from bench.presence_clients import Callers, user
from bench.process import cpu_s, machine_cpu_s
from hubbub_server.adapters.nats.accounts import NatsAccountStore
from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.domain.limits import MEMBERS_PER_CHANGE
from hubbub_server.ports.accounts import Account
from tests.soak.api import open_channel
from tests.support.cluster import Cluster

APART_MAX: Final = 1.25
SENT_EVERY_S: Final = 2.5
"""More than the window in which marks of one reader are merged: each message costs each reader an event."""
_ADD_WITHIN_S: Final = 120.0
_CALL_S: Final = 10.0
_AT_ONCE: Final = 64
_CHANGE: Final = MEMBERS_PER_CHANGE - 1
_STREAMS_A_CHANNEL: Final = 50
_PREFIX_BYTES: Final = 5


@dataclass(frozen=True)
class Point:
    """A group of so many, of whom so many are online."""

    members: int
    online: int


LARGE: Final = Point(5_000, 500)
SAME_PART: Final = Point(500, 50)
SAME_ONLINE: Final = Point(500, 500)


@dataclass
class Heard:
    """What all streams got since it was made."""

    bytes: int = 0
    events: int = 0
    signals: int = 0
    replies: int = 0
    refused: int = 0


class Stream:
    """A stream of ChatService; grpcio takes one write at a time."""

    def __init__(self, channel: grpc.aio.Channel, reader: User) -> None:
        """Opens it."""
        self.call: Any = channel.stream_stream("/hubbub.chat.v1.ChatService/Connect")(metadata=reader.metadata)
        self._writing = asyncio.Lock()

    async def write(self, request: chat.ConnectRequest) -> None:
        """Writes a frame."""
        async with self._writing:
            await self.call.write(request.SerializeToString())


@dataclass
class Readers:
    """The streams of those online. `heard` may be exchanged at any time."""

    topic: str
    heard: Heard = field(default_factory=Heard)
    _live: int = 0
    _marking: set[asyncio.Task[None]] = field(default_factory=set)

    async def read(self, stream: Stream) -> None:
        """Reads one stream, and marks each message of the group as read."""
        await stream.write(chat.ConnectRequest(hello=chat.Hello(instance_id=str(uuid.uuid4()))))
        events = 0
        while (received := await stream.call.read()) is not grpc.aio.EOF:
            frame = chat.ConnectResponse.FromString(received).frame
            self._count(frame, received)
            events += len(frame.events)
            self._live += frame.heads.complete
            if frame.HasField("heartbeat"):
                await stream.write(chat.ConnectRequest(ack=chat.Ack(processed_events=events)))
            for event in frame.events:
                if event.topic_id == self.topic and event.message_number:
                    task = asyncio.get_running_loop().create_task(self._mark(stream, event.message_number))
                    self._marking.add(task)
                    task.add_done_callback(self._marking.discard)

    def _count(self, frame: frame_pb2.ServerFrame, received: bytes) -> None:
        heard = self.heard
        heard.bytes += _PREFIX_BYTES + len(received)
        heard.events += len(frame.events)
        heard.signals += len(frame.signals)
        heard.replies += frame.HasField("reply")
        heard.refused += frame.HasField("rejected") or frame.HasField("goodbye")

    async def _mark(self, stream: Stream, number: int) -> None:
        await asyncio.sleep(random.uniform(0.0, SENT_EVERY_S))
        read = frame_pb2.MarkReadRequest(conversation_id=self.topic, message_number=number)
        command = frame_pb2.Command(request_id=str(number), mark_read=read)
        await stream.write(chat.ConnectRequest(command=command))

    def stop(self) -> None:
        """Marks nothing more."""
        for task in self._marking:
            task.cancel()

    async def until_live(self, count: int) -> None:
        """Waits until so many streams cover everything."""
        async with asyncio.timeout(_ADD_WITHIN_S):
            while self._live < count:  # noqa: ASYNC110  # many conditions
                await asyncio.sleep(0.05)


@asynccontextmanager
async def reading(port: int, topic: str, online: Sequence[User]) -> AsyncIterator[Readers]:
    """Keeps a stream open for each of these users."""
    readers = Readers(topic)
    options = [("grpc.use_local_subchannel_pool", 1)]
    channels = [
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options)
        for _ in range(0, len(online), _STREAMS_A_CHANNEL)
    ]
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(readers.read(Stream(channels[number // _STREAMS_A_CHANNEL], each)))
            for number, each in enumerate(online)
        ]
        await readers.until_live(len(online))
        yield readers
        readers.stop()
        for task in tasks:
            task.cancel()
    for channel in channels:
        await channel.close()


class Instance:
    """One node and a worker, with users whom nobody signed up: only their profiles are there."""

    def __init__(self, cluster: Cluster, users: Sequence[User]) -> None:
        """Takes what runs."""
        self._cluster = cluster
        self._users = users
        self._topics: dict[int, str] = {}

    async def group_of(self, members: int) -> str:
        """Returns the group of that many, made on first use."""
        if members not in self._topics:
            owner, *others = self._users[:members]
            topic = await create_group(self._cluster.port, owner, others[:_CHANGE])
            async with open_channel(self._cluster.processes("node")[0].grpc_port) as channel:
                stub = ConversationServiceStub(channel)
                for start in range(_CHANGE, len(others), _CHANGE):
                    request = conversation_service_pb2.AddMembersRequest(
                        conversation_id=topic, user_ids=[each.user_id for each in others[start : start + _CHANGE]]
                    )
                    await stub.AddMembers(request, metadata=owner.metadata, timeout=_ADD_WITHIN_S)
            self._topics[members] = topic
        return self._topics[members]

    async def measure(self, point: Point, seconds: float) -> dict[str, float]:
        """Sends for a while; returns what that cost a second."""
        topic = await self.group_of(point.members)
        node, worker = self._cluster.processes("node")[0], self._cluster.processes("worker")[0]
        async with (
            open_channel(node.grpc_port) as channel,
            reading(node.stream_port, topic, self._users[: point.online]) as readers,
        ):
            stub = ChatServiceStub(channel)
            await self._send(stub, topic, 3 * SENT_EVERY_S)
            readers.heard = heard = Heard()
            begun_s, node_s, worker_s = time.monotonic(), cpu_s(node.pid), cpu_s(worker.pid)
            await self._send(stub, topic, seconds)
            took_s = time.monotonic() - begun_s
            node_s, worker_s = cpu_s(node.pid) - node_s, cpu_s(worker.pid) - worker_s
        if heard.refused:
            raise RuntimeError(f"{heard.refused} marks were refused, or streams ended")
        return {
            "bytes_per_s": heard.bytes / took_s,
            "events_per_s": heard.events / took_s,
            "signals_per_s": heard.signals / took_s,
            "marks_per_s": heard.replies / took_s,
            "node_cpu_ms_per_s": node_s / took_s * 1000,
            "worker_cpu_ms_per_s": worker_s / took_s * 1000,
        }

    async def _send(self, stub: ChatServiceStub, topic: str, seconds: float) -> None:
        end_s = due_s = time.monotonic()
        end_s += seconds
        while due_s < end_s - SENT_EVERY_S / 2:
            await stub.SendMessage(message(topic, "x" * 200), metadata=self._users[0].metadata, timeout=_CALL_S)
            due_s += SENT_EVERY_S
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))


async def make_users(cluster: Cluster, count: int) -> list[User]:
    """Makes profiles without accounts that anybody could sign in to: hashing 5,000 passwords takes minutes."""
    callers = Callers(cluster.data)
    password = (cluster.data / "secrets" / "nats_password").read_text().strip()
    servers = [f"nats://hubbub:{password}@127.0.0.1:{cluster.nats_ports[0]}"]
    at_once = asyncio.Semaphore(_AT_ONCE)
    async with NatsConnection(servers, name="bench", on_closed=lambda: None) as connection:
        store = NatsAccountStore(connection)

        async def make(number: int) -> None:
            async with at_once:
                account = Account(
                    user_id=user(number),
                    login_name=f"bench{number}",
                    display_name="bench",
                    password_hash="",
                    create_time_ms=1,
                )
                await store.create(account)

        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(make(number))
    return [User(user(number), callers.token(user(number))) for number in range(count)]


def _scaled(point: Point, scale: float) -> Point:
    return Point(round(point.members * scale), round(point.online * scale))


async def measure(folder: Path, seconds: float, rounds: int, scale: float) -> None:
    """Measures and keeps the figure."""
    points = {
        name: _scaled(point, scale)
        for name, point in (("large", LARGE), ("same_part", SAME_PART), ("same_online", SAME_ONLINE))
    }
    largest = points["large"].members
    taken: dict[str, list[dict[str, float]]] = {name: [] for name in points}
    environment = {"HUBBUB_NODE__GROUP_MAX_MEMBERS": str(largest)}
    async with Cluster(folder, nodes=1, environment=environment) as cluster:
        instance = Instance(cluster, await make_users(cluster, largest))
        for point in points.values():
            await instance.group_of(point.members)
        print("the groups are made", flush=True)
        begun_s, begun_cpu_s = time.monotonic(), machine_cpu_s()
        for _ in range(rounds):
            for name, point in points.items():
                taken[name].append(await instance.measure(point, seconds))
                print(f"{point}: { ({key: round(each, 1) for key, each in taken[name][-1].items()}) }", flush=True)
        load = (machine_cpu_s() - begun_cpu_s) / (time.monotonic() - begun_s) / (os.cpu_count() or 1)
    costs = {name: {key: median(each[key] for each in runs) for key in runs[0]} for name, runs in taken.items()}
    _write(points, costs, load, seconds, rounds)


def _write(
    points: dict[str, Point], costs: dict[str, dict[str, float]], load: float, seconds: float, rounds: int
) -> None:
    judged = ("bytes_per_s", "events_per_s", "node_cpu_ms_per_s", "worker_cpu_ms_per_s")
    large = points["large"]
    a_member = {
        key: costs["large"][key] / large.members / (costs["same_part"][key] / points["same_part"].members)
        for key in judged
    }
    a_reader = {
        key: costs["large"][key] / large.online / (costs["same_online"][key] / points["same_online"].online)
        for key in judged
    }
    figures = {
        "what": f"a message of 200 bytes every {SENT_EVERY_S} s, read by everybody online",
        "seconds": seconds,
        "rounds": rounds,
        **{
            f"{point.members}_members_{point.online}_online": {key: round(each, 1) for key, each in costs[name].items()}
            for name, point in points.items()
        },
        "apart_max": APART_MAX,
        "cost_a_member_over_that_at_500": {key: round(each, 3) for key, each in a_member.items()},
        "cost_a_reader_over_that_at_500_all_online": {key: round(each, 3) for key, each in a_reader.items()},
        "machine_load_mean": round(load, 2),
    }
    holds = max(*a_member.values(), *a_reader.values()) <= APART_MAX
    write_figure("readers", "python -m bench.readers", figures, holds=holds)


def main() -> None:
    """Runs the measurement on an instance of its own."""
    parser = argparse.ArgumentParser(prog="bench.readers")
    parser.add_argument("--seconds", type=float, default=25.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-readers-") as folder:
        asyncio.run(measure(Path(folder), options.seconds, options.rounds, options.scale))


if __name__ == "__main__":
    main()
