"""Devices of the SDK while shards of the log are lost and made anew, shorter than what devices have of them.

The nodes, streams and Sync are real, on a fake log and virtual time. A device has what an application has: the engine,
the counters, the delivered marks, the messages. It reads again what a Gap or a Reset left out. The store and the
snapshots lag behind, so what a lost log had, and devices have got, may be gone for ever. When all is quiet each device
has what the server has: the messages, the counters, nothing left to fetch.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random

import pytest
from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.conversation.v1 import message_pb2

from hubbub_client import events, model, wire
from hubbub_client.boards import Boards
from hubbub_client.counter_board import CounterBoard
from hubbub_client.delivered_board import DeliveredBoard, Mark
from hubbub_client.sync_engine import SyncEngine
from hubbub_server.app.frames import Ack, Hello, Outgoing, ReceivedUpTo
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.read_history import PageSide
from hubbub_server.app.resume import ResumeTokens
from hubbub_server.app.streams import Streams
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import ConversationNotFound, HubbubError
from hubbub_server.domain.ids import ConversationId, TopicId, UserId, shard_of
from hubbub_server.ports.message_store import StoredMessage
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.values import view_to_pb
from tests.support.app_node import ALICE, BOB, CAROL, AppCluster, AppNode, message_id
from tests.support.counting_device import conversations_of, read
from tests.support.open_streams import caller
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_committer_machine import LATENCIES_S, LoopClock
from tests.unit.app.test_counters_machine import ROOMS, Machine

SEEDS = 26
TURNS = 60
PAGE_SIZE = 200
QUIET_S = 120.0
WHATS = (
    *("send", "send", "send", "mention all", "mention", "read", "unread", "block", "mute", "add", "remove"),
    *("lose", "lose", "project", "project", "snapshot", "move", "start again", "wait", "wait"),
)


class Device:
    """An application on the SDK. `texts` are the messages that it would show."""

    def __init__(self, user_id: UserId, serial: int, stage: "Stage") -> None:
        self.user_id, self.serial, self.stage = user_id, serial, stage
        self.node = serial % len(stage.nodes)
        self.stream: LiveStream | None = None
        self.texts: dict[str, dict[int, str]] = {}
        self.is_new = True
        self._begin(())

    def _begin(self, cursors: Sequence[model.Cursor]) -> None:
        boards = Boards(self.user_id)
        limit = 0 if self.serial % 2 else 100
        boards.counters = self.counters = CounterBoard(self.user_id, behind_max=limit, alone_max=limit)
        self.engine = SyncEngine(self.user_id, cursors, boards=boards)
        self.delivered = DeliveredBoard(self.user_id)

    def start_again(self) -> None:
        """The application dies; it keeps its messages and the cursors of what it processed."""
        self._begin(self.engine.processed_cursors())
        self.move(self.node)

    def move(self, number: int) -> None:
        self.node = number
        if self.stream is not None:
            self.stream.drain(0.0)

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self._count())
            group.create_task(self._mark())
            while True:
                engine = self.engine
                with suppress(HubbubError):
                    await self._listen(self.stage.nodes[self.node], self.stage.streams[self.node], engine)
                engine.close_stream()
                await asyncio.sleep(0.5)

    async def _listen(self, node: AppNode, streams: Streams, engine: SyncEngine) -> None:
        stream = self.stream = streams.open(caller(self.user_id), takes_commands=True)
        stream.receive(Hello(instance_id=message_id(self.serial), resume_token=engine.resume_token))
        try:
            while engine is self.engine and (frames := await stream.next_frames()):
                for frame in parsed(frames):
                    if frame.HasField("heartbeat"):
                        stream.receive(Ack(processed_events=0))
                        engine.retry_stalled()
                    engine.receive_live(frame)
                await self._catch_up(node, engine)
        finally:
            await stream.aclose()

    async def _catch_up(self, node: AppNode, engine: SyncEngine) -> None:
        while True:
            if engine.relist_needed:
                joined = (await node.read_states.own(self.user_id)).joined()
                engine.relist(model.Cursor(m.conversation_id, m.epoch, m.position - 1) for m in joined)
            await self._process(node, engine)
            if (request := engine.next_request()) is None:
                return
            cursors = [Cursor(topic_id=TopicId(c.topic_id), epoch=c.epoch, position=c.position) for c in request]
            try:
                async for outgoing in node.sync.serve(self.user_id, cursors):
                    for frame in parsed([outgoing]):
                        engine.receive_sync(frame)
            finally:
                engine.finish_request()

    async def _process(self, node: AppNode, engine: SyncEngine) -> None:
        while engine is self.engine and (delivery := engine.take()) is not None:
            await self._show(node, delivery.item)
            if engine is self.engine:
                engine.mark_processed(delivery)
                self.delivered.receive(delivery.item, asyncio.get_running_loop().time())

    async def _show(self, node: AppNode, item: events.Event) -> None:
        match item:
            case events.Connected() if self.is_new:
                for room in ROOMS:
                    await self._read(node, room)
                self.is_new = False
            case events.MessageReceived(message=message):
                self.texts.setdefault(message.conversation_id, {})[message.message_number] = message.client_message_id
            case events.MembersAdded(cursor=cursor, members=members) if any(m.user_id == self.user_id for m in members):
                await self._read(node, cursor.topic_id)
            case events.GapSkipped(head=head) | events.TopicReset(head=head) if head.cursor.topic_id != self.user_id:
                await self._read(node, head.cursor.topic_id)
            case events.TopicEnded(topic_id=topic_id):
                self.texts.pop(topic_id, None)
            case _:
                pass

    async def _read(self, node: AppNode, room: str) -> None:
        """Reads all messages of a conversation, as an application does page by page."""
        while True:
            with suppress(HubbubError):
                if (texts := await texts_of(node, self.user_id, room)) is None:
                    self.texts.pop(room, None)
                else:
                    self.texts[room] = texts
                return
            await asyncio.sleep(0.2)

    # ---- beside it

    async def _count(self) -> None:
        while True:
            board = self.counters
            if (wanted := board.next_read()) is None:
                await asyncio.sleep(0.1)
                continue
            node = self.stage.nodes[self.node]
            try:
                answer = await read(wanted, self.user_id, node)
            except HubbubError:
                board.give_up()
                await asyncio.sleep(0.2)
            else:
                answer(board)

    async def _mark(self) -> None:
        while True:
            board = self.delivered
            for mark in board.take_due(asyncio.get_running_loop().time(), 1):
                await self._deliver(board, mark)
            await asyncio.sleep(0.1)

    async def _deliver(self, board: DeliveredBoard, mark: Mark) -> None:
        node, retry_s = self.stage.nodes[self.node], None
        room = ConversationId(TopicId(mark.conversation_id))
        try:
            if mark.needs_mode:
                view = await conversations_of(node).get(self.user_id, room)
                board.learn(wire.read_conversation(view_to_pb(view)))
            if board.needs_mode(mark):
                retry_s = 0.0
            elif board.is_wanted(mark):
                received = ReceivedUpTo(conversation_id=room, message_number=mark.number)
                await node.markers.mark_delivered(self.user_id, received)
        except ConversationNotFound:
            pass
        except HubbubError:
            retry_s = asyncio.get_running_loop().time() + 1.0
        board.finish(mark, retry_s=retry_s)

    # ---- the judge

    def shown(self) -> "Shown":
        counters = self.counters.counters(datetime.now(UTC))
        return Shown(
            texts={room: texts for room, texts in self.texts.items() if texts},
            numbers={
                room: (each.unread_count, each.mention_count, each.is_marked_unread)
                for room, each in counters.of_conversations.items()
            },
            badge_count=counters.badge_count,
            is_at_rest=(self.engine.is_caught_up, counters.is_exact, self.delivered.is_idle),
        )


@dataclass(frozen=True, slots=True)
class Shown:
    """What a device shows in the end: messages, what is unread, and whether nothing is left to do."""

    texts: dict[str, dict[int, str]]
    numbers: dict[str, tuple[int, int, bool]]
    badge_count: int
    is_at_rest: tuple[bool, bool, bool] = (True, True, True)


async def shown_by_server(node: AppNode, user_id: UserId) -> Shown:
    rooms = [membership.conversation_id for membership in (await node.read_states.own(user_id)).joined()]
    counters = await node.markers.counters(user_id)
    return Shown(
        texts={room: texts for room in rooms if (texts := await texts_of(node, user_id, room))},
        numbers={
            each.conversation_id: (
                each.read_state.unread_count,
                each.read_state.mention_count,
                each.read_state.unread_mark_position > 0,
            )
            for each in counters.conversations
        },
        badge_count=counters.badge_count,
    )


def parsed(outgoing: Sequence[Outgoing]) -> list[frame_pb2.ServerFrame]:
    """Returns frames as a client reads them: through the bytes of the stream."""
    return [chat_service_pb2.ConnectResponse.FromString(message).frame for message in encode_messages(outgoing)]


async def texts_of(node: AppNode, user_id: UserId, room: str) -> dict[int, str] | None:
    """Returns all messages of a conversation, by number; None: it is not there for this user."""
    try:
        page = await node.history.list_messages(
            user_id, room, anchor_number=0, side=PageSide.BEFORE, page_size=PAGE_SIZE
        )
    except ConversationNotFound:
        return None
    assert not page.older_available
    return {message.message_number: decoded(message) for message in page.messages}


def decoded(message: StoredMessage) -> str:
    return message_pb2.Message.FromString(message.body).client_message_id


class Stage(Machine):
    """The nodes and the script: steps of the counters' machine, and logs that are lost."""

    def __init__(self, cluster: AppCluster, nodes: list[AppNode], streams: list[Streams], seed: int) -> None:
        super().__init__(cluster, nodes)
        self.streams, self.chance = streams, Random(seed)
        self.devices = [Device(user_id, serial, self) for serial, user_id in enumerate((ALICE, BOB, BOB, CAROL))]

    async def turn(self) -> None:
        what, chance = self.chance.choice(WHATS), self.chance
        shard = chance.randrange(self.cluster.server.shards)
        match what:
            case "lose":
                self._lose(shard)
            case "move":
                chance.choice(self.devices).move(chance.randrange(2))
            case "start again":
                chance.choice(self.devices).start_again()
            case "wait":
                await asyncio.sleep(chance.choice((0.01, 0.3, 3.0, 25.0)))
            case _:
                user, room = chance.randrange(3), chance.randrange(2)
                await self.do((what, chance.randrange(2), user, room, chance.randrange(8)))
        await asyncio.sleep(chance.choice((0.0, 0.0005, 0.02)))

    def _lose(self, shard: int) -> None:
        """Loses a log and its snapshots: what the store does not have is gone."""
        server = self.cluster.server
        server.states = {t: state for t, state in server.states.items() if shard_of(t, server.shards) != shard}
        server.recreate(shard)

    async def relay(self) -> None:
        """Does what the relay workers do, who start over in a new epoch."""
        for room in ROOMS:
            await self.tell(self.nodes[0], room)


@asynccontextmanager
async def staged(seed: int) -> AsyncIterator[Stage]:
    """Two nodes with streams; both rooms are in the store."""
    chance, cluster = Random(seed), AppCluster()
    cluster.server.latency_s = lambda: chance.choice(LATENCIES_S)
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(cluster.node()) for _ in range(2)]
        streams = [await stack.enter_async_context(streams_of(node, cluster)) for node in nodes]
        stage = Stage(cluster, nodes, streams, seed)
        await stage.start()
        await stage.relay()
        await cluster.project()
        yield stage


def streams_of(node: AppNode, cluster: AppCluster) -> Streams:
    clock = LoopClock(0)
    return Streams(
        hub=node.hub,
        authenticate=None,  # type: ignore[arg-type]  # no token is checked here
        clock=clock,
        ids=cluster.ids,
        resume_tokens=ResumeTokens(b"k" * 16, clock),
        markers=node.markers,
        typing=node.typing,
    )


async def play(seed: int) -> None:
    async with staged(seed) as stage, asyncio.TaskGroup() as group:
        running = [group.create_task(device.run()) for device in stage.devices]
        await asyncio.sleep(5.0)
        for _ in range(TURNS):
            await stage.turn()
        await stage.relay()
        await asyncio.sleep(QUIET_S)
        for device in stage.devices:
            assert device.shown() == await shown_by_server(stage.nodes[0], device.user_id)
        for task in running:
            task.cancel()


@pytest.mark.parametrize("seed", range(SEEDS))
def test_devices_settle_on_what_the_server_has_after_logs_were_lost(seed: int) -> None:
    """G4, G10, C19."""
    run_in_virtual_time(play(seed))
