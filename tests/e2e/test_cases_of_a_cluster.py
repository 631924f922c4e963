"""What others' chat systems got wrong, on a cluster as it is run: 3 nodes, 2 workers, 3 NATS servers, CQL, Valkey.

People use the SDK, each through a proxy of their own, so that a test decides which node they meet.
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Self, TypeVar

import grpc.aio
import pytest
import pytest_asyncio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2 as history_pb

from hubbub_client import Connected, Event, HubbubClient, IdReused, Message, MessageReceived, Registration, TopicReset
from tests.support.cluster import Cluster, Process
from tests.support.fault_proxy import Cut, Direction, FaultProxy
from tests.support.live_client import text_message
from tests.support.node import RpcClient
from tests.support.services import require_cassandra
from tests.support.waiting import until
from tests.support.world import history

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PATIENCE_S = 60.0
SYNC_S = 10.0
T = TypeVar("T")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    """One cluster for the module; each test leaves all of its parts running."""
    require_cassandra()
    folder: Path = tmp_path_factory.mktemp("cases")
    async with Cluster(folder, nodes=3, workers=2, nats=3, store="cql", with_valkey=True, with_links=True) as running:
        yield running


class Person:
    """Somebody new, with the SDK on one node; hears everything."""

    def __init__(self, node: Process) -> None:
        self.events: list[Event] = []
        self._node = node

    async def __aenter__(self) -> Self:
        """Registers and connects."""
        async with AsyncExitStack() as stack:
            self.proxy = await stack.enter_async_context(FaultProxy(self._node.grpc_port))
            sign_in = Registration(f"p{uuid.uuid4().hex[:12]}", "correct horse", "Somebody")
            self.client = await stack.enter_async_context(
                HubbubClient(f"127.0.0.1:{self.proxy.port}", sign_in, call_timeout_s=PATIENCE_S)
            )
            tasks = await stack.enter_async_context(asyncio.TaskGroup())
            reading = tasks.create_task(self._read())
            stack.callback(reading.cancel)
            await self.until_connected(1)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Leaves."""
        await self._stack.aclose()

    async def _read(self) -> None:
        async for event in self.client.events():
            self.events.append(event)

    def move(self, node: Process) -> None:
        """Cuts the connection; the next one goes to this node."""
        self.proxy.retarget(node.grpc_port)
        self.proxy.flow()
        self.proxy.cut(Cut.RST)

    def heard(self, room: str) -> list[Message]:
        """The messages that came of one conversation."""
        messages = [event.message for event in self.events if isinstance(event, MessageReceived)]
        return [message for message in messages if message.conversation_id == room]

    def texts(self, room: str) -> list[str]:
        """Their texts."""
        return [message.text for message in self.heard(room)]

    async def until_heard(self, room: str, count: int) -> None:
        """Waits for so many messages."""
        await until(lambda: len(self.heard(room)) >= count, timeout_s=PATIENCE_S)

    async def until_connected(self, times: int) -> None:
        """Waits until it has connected so many times."""
        await until(lambda: sum(isinstance(event, Connected) for event in self.events) >= times, timeout_s=PATIENCE_S)


@asynccontextmanager
async def calls(node: Process, person: Person) -> AsyncIterator[RpcClient]:
    """The plain calls of a person on a node, without the SDK's repeats."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{node.grpc_port}") as channel:
        yield RpcClient(channel, person.client.credentials.access_token)


async def persist(call: Callable[[], Awaitable[T]]) -> T:
    """Repeats a call while it is UNAVAILABLE."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                return await call()
            except grpc.aio.AioRpcError as error:
                if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                    raise
                await asyncio.sleep(0.05)


async def room_of(*people: Person) -> str:
    """Makes the conversation of two."""
    one, other = people
    return (await one.client.create_direct(other.client.user_id)).conversation_id


async def say(person: Person, room: str, first: int, last: int) -> dict[int, int]:
    """Sends numbered lines without waiting between them; returns the numbers they were acknowledged with."""
    async with asyncio.TaskGroup() as tasks:
        sent = {n: tasks.create_task(person.client.send(room, f"text {n}")) for n in range(first, last + 1)}
    return {number: task.result().message_number for number, task in sent.items()}


async def crash(cluster: Cluster, *names: str) -> None:
    """Kills parts at once and waits until others serve in their place."""
    pids = {each.pid for each in cluster.processes() if each.name in names}
    for each in cluster.processes():
        if each.name in names:
            assert cluster.kill(each)

    async def serves(name: str) -> bool:
        found = [each for each in cluster.processes() if each.name == name and each.pid not in pids]
        return bool(found) and await is_ready(cluster, found[0])

    async with asyncio.timeout(PATIENCE_S):
        for name in names:
            while not await serves(name):  # noqa: ASYNC110  # processes tell nobody
                await asyncio.sleep(0.05)


async def is_ready(cluster: Cluster, process: Process) -> bool:
    """Asks a node or a NATS server."""
    try:
        if process.role == "nats":
            await cluster.read_page(process, "http", "/healthz")
            return True
        async with grpc.aio.insecure_channel(f"127.0.0.1:{process.grpc_port}") as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)
            answer = await stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)
    except (OSError, ValueError, grpc.aio.AioRpcError):
        return False


async def sync(stubs: RpcClient, cursor: conversation_pb2.Cursor) -> list[frame_pb2.ServerFrame]:
    """Asks once for what a cursor lacks."""
    request = history_pb.SyncOnceRequest(request=history_pb.SyncRequest(cursors=[cursor]))
    answers = stubs.history.SyncOnce(request, metadata=stubs.auth, timeout=SYNC_S)
    return [answer.frame async for answer in answers]


async def test_500_sends_without_a_pause_over_two_nodes_are_500_messages_in_the_order_of_their_writing(
    cluster: Cluster,
) -> None:
    """C06, G1, G2, G3: the first node is killed after half of the acks, the SDK goes on at another one."""
    first, second, third = cluster.processes("node")
    async with Person(first) as alice, Person(third) as bob:
        room = await room_of(alice, bob)
        acked: dict[int, int] = {}

        async def send(number: int) -> None:
            acked[number] = (await alice.client.send(room, f"text {number}")).message_number

        async with asyncio.TaskGroup() as tasks:
            for number in range(1, 501):
                tasks.create_task(send(number))
            await until(lambda: len(acked) >= 250, timeout_s=PATIENCE_S)
            before = dict(acked)
            alice.proxy.stall(Direction.FROM_TARGET)  # what the node answers from here on nobody hears
            await crash(cluster, first.name)
            alice.move(second)
        await bob.until_heard(room, 500)

        texts = [f"text {number}" for number in range(1, 501)]
        assert [message.text for message in await history(bob.client, room)] == bob.texts(room) == texts
        assert acked == {number: number for number in range(1, 501)}
        assert len(before) < 500


async def test_send_whose_answer_was_lost_is_the_same_message_on_each_node_also_on_one_that_starts_anew(
    cluster: Cluster,
) -> None:
    """C07, G3: no second row, no second delivery; other content under the id is refused everywhere."""
    first, second, third = cluster.processes("node")
    async with Person(first) as alice, Person(third) as bob:
        room = await room_of(alice, bob)
        await say(alice, room, 1, 1)
        alice.proxy.stall(Direction.FROM_TARGET)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(alice.client.send(room, "once"))
            await bob.until_heard(room, 2)
            assert not sending.done()
            alice.move(second)
        sent = sending.result()
        await crash(cluster, third.name)
        for node in (first, second, third):
            alice.move(node)
            assert await alice.client.send(room, "once", client_message_id=sent.client_message_id) == sent
            with pytest.raises(IdReused) as reused:
                await alice.client.send(room, "other", client_message_id=sent.client_message_id)
            assert reused.value.first_number == sent.message_number == 2
        await say(alice, room, 3, 3)
        await bob.until_heard(room, 3)

        assert bob.texts(room) == ["text 1", "once", "text 3"]
        assert [message.message_number for message in await history(bob.client, room)] == [1, 2, 3]


async def test_cursor_from_the_future_is_told_so_at_once_by_every_node(cluster: Cluster) -> None:
    """C17: Reset with the real head, not a wait for what will never come; the client goes on from there."""
    first, _, third = cluster.processes("node")
    async with Person(first) as alice, Person(third) as bob:
        room = await room_of(alice, bob)
        await say(bob, room, 1, 3)
        head = (await alice.client.get_conversation(room)).head.cursor
        future = conversation_pb2.Cursor(topic_id=room, epoch=head.epoch, position=head.position + 1_000)
        for node in cluster.processes("node"):
            async with calls(node, alice) as stubs:
                reset, caught_up = await sync(stubs, future)
                assert reset.reset.head.cursor.position == caught_up.caught_up.heads[0].cursor.position == head.position
                [done] = await sync(stubs, reset.reset.head.cursor)
                assert done.WhichOneof("control") == "caught_up"


async def test_node_that_lags_does_not_call_a_good_cursor_one_from_the_future(cluster: Cluster) -> None:
    """C17: the log goes on while a node hears nothing of it: it waits a bounded time, or says that it cannot."""
    first, second, _ = cluster.processes("node")
    link = cluster.links[1]
    async with Person(first) as alice, Person(second) as bob, calls(second, alice) as stubs:
        room = await room_of(alice, bob)
        await say(alice, room, 1, 1)
        await bob.until_heard(room, 1)
        link.stall(Direction.FROM_TARGET)
        try:
            await say(alice, room, 2, 4)
            head = (await alice.client.get_conversation(room)).head.cursor
            cursor = conversation_pb2.Cursor(topic_id=room, epoch=head.epoch, position=head.position)
            frames = await sync(stubs, cursor)
        finally:
            link.flow()

        controls = [frame.WhichOneof("control") for frame in frames]
        assert controls == ["rejected", "caught_up"]
        assert frames[0].rejected.status.code == grpc.StatusCode.UNAVAILABLE.value[0]
        await bob.until_heard(room, 4)
        assert bob.texts(room) == ["text 1", "text 2", "text 3", "text 4"]
        [done] = await persist(lambda: sync(stubs, cursor))
        assert done.WhichOneof("control") == "caught_up"
        assert not [event for event in bob.events if isinstance(event, TopicReset)]


async def test_numbers_go_on_when_redis_forgets_everything_and_dies(cluster: Cluster) -> None:
    """C21, G2: nothing is counted there. The next number after 10 is 11, on a node that starts anew too."""
    first, second, _ = cluster.processes("node")
    async with Person(first) as alice, Person(second) as bob:
        room = await room_of(alice, bob)
        await say(alice, room, 1, 10)
        cluster.hold("valkey")
        try:
            [valkey] = cluster.processes("valkey")
            cluster.kill(valkey)  # it keeps nothing on disk
            assert await say(alice, room, 11, 11) == {11: 11}
            await crash(cluster, second.name)
            assert await say(bob, room, 12, 12) == {12: 12}
        finally:
            cluster.release("valkey")
        assert await say(alice, room, 13, 13) == {13: 13}
        await bob.until_heard(room, 13)
        assert [message.message_number for message in bob.heard(room)] == list(range(1, 14))


async def test_events_that_a_node_had_not_sent_when_it_was_killed_come_from_another_one(cluster: Cluster) -> None:
    """C82: a stream's buffer is nobody's only copy. The cursor alone is the state of a resume."""
    first, second, third = cluster.processes("node")
    async with Person(first) as alice, Person(second) as bob:
        room = await room_of(alice, bob)
        await say(bob, room, 1, 1)
        await alice.until_heard(room, 1)
        alice.proxy.stall()
        await say(bob, room, 2, 21)
        await crash(cluster, first.name)
        assert alice.texts(room) == ["text 1"]
        alice.move(third)
        await alice.until_heard(room, 21)

        assert alice.texts(room) == [f"text {number}" for number in range(1, 22)]


async def test_all_nats_servers_start_again_and_everybody_goes_on_without_doing_anything(cluster: Cluster) -> None:
    """C85, C87, G1: with sends in flight. Nodes hear again what they follow, workers what they consume."""
    first, second, _ = cluster.processes("node")
    async with Person(first) as alice, Person(second) as bob:
        room, quiet = await room_of(alice, bob), (await alice.client.create_group("quiet", [bob.client.user_id]))
        await say(alice, room, 1, 20)
        async with asyncio.TaskGroup() as tasks:
            saying = tasks.create_task(say(alice, room, 21, 220))
            await until(lambda: len(bob.heard(room)) >= 40, timeout_s=PATIENCE_S)
            await crash(cluster, "nats-1", "nats-2", "nats-3")
        await say(alice, quiet.conversation_id, 1, 1)
        await bob.until_heard(quiet.conversation_id, 1)
        await bob.until_heard(room, 220)

        assert saying.result() == {number: number for number in range(21, 221)}
        texts = [f"text {number}" for number in range(1, 221)]
        assert bob.texts(room) == texts
        assert [message.text for message in await history(bob.client, room)] == texts
        await until_caught_up(cluster)


async def until_caught_up(cluster: Cluster) -> None:
    """Waits until the workers have applied all there is."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            pages = [await cluster.read_metrics(worker) for worker in cluster.processes("worker")]
            lags = [
                line for page in pages for line in page.splitlines() if line.startswith("hubbub_worker_lag_records{")
            ]
            if lags and all(line.endswith(" 0.0") for line in lags):
                return
            await asyncio.sleep(0.1)


async def test_plain_send_through_a_restart_of_nats_is_answered_definitely(cluster: Cluster) -> None:
    """C87: without the SDK: UNAVAILABLE with a time to come again, then the same message; never a silence."""
    first, _, third = cluster.processes("node")
    async with Person(first) as alice, Person(third) as bob, calls(first, alice) as stubs:
        room = await room_of(alice, bob)
        messages = [text_message(room, f"text {number}") for number in range(1, 21)]

        async def send(message: frame_pb2.SendMessageRequest) -> int:
            answer = await persist(lambda: stubs.chat.SendMessage(message, metadata=stubs.auth, timeout=20))
            return answer.message_number

        async with asyncio.TaskGroup() as tasks:
            crashing = tasks.create_task(crash(cluster, "nats-1", "nats-2", "nats-3"))
            numbers = [await send(message) for message in messages]
        assert crashing.done()
        await bob.until_heard(room, 20)

        assert numbers == list(range(1, 21))
        assert [await send(message) for message in messages] == numbers
        assert bob.texts(room) == [f"text {number}" for number in numbers]
