"""A device of a user as the SDK keeps it, sans-IO, on nodes without transports: streams and reads that come late.

The live stream gives events of each topic in order, of several topics in any order; Sync is the server's own.
"""

from collections.abc import Callable
from datetime import UTC, datetime

from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hubbub.chat.v1 import marker_service_pb2 as markers_pb
from hubbub.conversation.v1 import conversation_pb2

from hubbub_client import model
from hubbub_client.boards import Boards
from hubbub_client.counter_board import CounterBoard, Read
from hubbub_client.kept import Counters
from hubbub_client.sync_engine import SyncEngine
from hubbub_server.app.conversations import Conversations
from hubbub_server.app.effects import MembershipEffects
from hubbub_server.app.markers import Counters as ServerCounters
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import ConversationNotFound
from hubbub_server.domain.events import Event, MemberRemoved, MembersAdded, MessageSent
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.wire.frames import encode_messages
from hubbub_server.wire.values import cursor_to_pb, head_to_pb, read_state_to_pb, view_to_pb
from tests.support.app_node import CODEC, AppCluster, AppNode
from tests.support.fakes.accounts import FakeAccountStore

_ROUNDS_MAX = 200

Answer = Callable[[CounterBoard], None]
"""Gives a board what was read."""


class CountingDevice:
    """The engine and the counters of one device."""

    def __init__(
        self, cluster: AppCluster, user_id: UserId, rooms: list[ConversationId], *, asks_for_all: bool
    ) -> None:
        """`asks_for_all`: reads by COUNTERS or ALL what else it would read alone or take from events."""
        self._cluster, self._user_id, self._rooms = cluster, user_id, rooms
        limit = 0 if asks_for_all else 100
        boards = Boards(user_id)
        boards.counters = self.board = CounterBoard(user_id, behind_max=limit, alone_max=limit)
        self._engine = SyncEngine(user_id, boards=boards)
        self._is_open = False
        self._sent: dict[TopicId, int] = {}
        self._answer: Answer | None = None

    # ---- the stream

    async def open(self, node: AppNode) -> None:
        """Opens the stream, if it is closed."""
        if self._is_open:
            return
        self._is_open = True
        self._engine.receive_live(frame_pb2.ServerFrame(welcome=frame_pb2.Welcome()))
        heads = [(await node.hub.at_head(self._user_id)).state.head]
        for room in self._rooms:
            state = (await node.hub.at_head(room)).state
            assert isinstance(state, ConversationState)
            if self._user_id in state.members:
                heads.append(state.head)
        topics = [self._user_id, *self._rooms]
        self._sent = {topic_id: len(self._cluster.events(topic_id)) for topic_id in topics}
        named = [head_to_pb(head) for head in heads if head.cursor.position]
        self._engine.receive_live(frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=named, complete=True)))

    def cut(self) -> None:
        """Ends the stream."""
        if self._is_open:
            self._is_open = False
            self._engine.close_stream()

    def hear(self, topic_id: TopicId) -> bool:
        """Gets the next event of a topic, if there is one on the stream."""
        log = self._cluster.events(topic_id)
        while self._is_open and self._sent[topic_id] < len(log):
            event = log[self._sent[topic_id]]
            self._sent[topic_id] = event.position
            if topic_id == self._user_id or self._is_visible(log, event.position):
                if _joins(event, self._user_id):
                    heads = frame_pb2.Heads(heads=[_head_at(log, event)])
                    self._engine.receive_live(frame_pb2.ServerFrame(heads=heads))
                self._engine.receive_live(frame_pb2.ServerFrame.FromString(CODEC.encode(event)))
                if _leaves(event, self._user_id):
                    ended = frame_pb2.TopicEnded(topic_id=topic_id)
                    self._engine.receive_live(frame_pb2.ServerFrame(topic_ended=ended))
                return True
        return False

    def _is_visible(self, log: list[Event], position: int) -> bool:
        """Tells whether the user is a member at an event, its own removal included."""
        is_member = False
        for event in log[:position]:
            if _joins(event, self._user_id):
                is_member = True
            elif event.position < position and _leaves(event, self._user_id):
                is_member = False
        return is_member

    async def sync(self, node: AppNode, *, is_whole: bool = True) -> bool:
        """Makes a request, if there is one to make, and gets its answer, or only a part."""
        request = self._engine.next_request()
        if request is None:
            return False
        cursors = [
            Cursor(topic_id=TopicId(each.topic_id), epoch=each.epoch, position=each.position) for each in request
        ]
        frames = [frame async for frame in node.sync.serve(self._user_id, cursors)]
        messages = [chat_service_pb2.ConnectResponse.FromString(each) for each in encode_messages(frames)]
        for message in messages if is_whole else messages[:1]:
            self._engine.receive_sync(message.frame)
        self._engine.finish_request()
        return True

    # ---- reads

    async def ask(self, node: AppNode) -> bool:
        """Makes the read that is wanted; its answer is of now, and comes with `take_answer`."""
        wanted = self.board.next_read()
        if wanted is None:
            return False
        self._answer = await read(wanted, self._user_id, node)
        return True

    async def take_answer(self, *, is_lost: bool = False) -> bool:
        """Gets the answer to the open read, or none."""
        if self._answer is None:
            return False
        answer, self._answer = self._answer, None
        if is_lost:
            self.board.give_up()
        else:
            answer(self.board)
        return True

    # ---- what it shows

    async def settle(self, node: AppNode) -> Counters:
        """Gets everything that there is to get; returns the counters."""
        await self.open(node)
        for _ in range(_ROUNDS_MAX):
            for topic_id in (*self._rooms, self._user_id):
                while self.hear(topic_id):
                    pass
            self._engine.retry_stalled()
            if self._engine.relist_needed:
                await self._relist(node)
            while self._engine.take():
                pass
            moves = [await self.sync(node), await self.take_answer(), await self.ask(node)]
            if not any(moves):
                return self.board.counters(datetime.now(UTC))
        raise AssertionError("it never comes to rest")

    async def _relist(self, node: AppNode) -> None:
        joined = (await node.read_states.own(self._user_id)).joined()
        self._engine.relist(model.Cursor(m.conversation_id, m.epoch, m.position - 1) for m in joined)


def conversations_of(node: AppNode) -> Conversations:
    """Returns the use cases of ConversationService, to read by."""
    return Conversations(
        hub=node.hub,
        reader=node.reader,
        read_states=node.read_states,
        effects=MembershipEffects(node.hub),
        accounts=FakeAccountStore(),
        id_key=b"k" * 32,
    )


async def read(wanted: Read | str, user_id: UserId, node: AppNode) -> Answer:
    """Reads what a board wants, as of now; raises as the server does."""
    conversations = conversations_of(node)
    match wanted:
        case Read.ALL:
            views, _ = await conversations.list(user_id, page_size=200, page_token="")
            blocked = (await node.read_states.own(user_id)).blocked
            pbs = list(map(view_to_pb, views))
            return lambda board: board.receive_all(pbs, blocked)
        case Read.COUNTERS:
            counters = _counters_to_pb(await node.markers.counters(user_id))
            return lambda board: board.receive_counters(counters)
        case conversation_id:
            try:
                view = view_to_pb(await conversations.get(user_id, conversation_id))
            except ConversationNotFound:
                view = None
            return lambda board: board.receive_view(conversation_id, view)


def _head_at(log: list[Event], event: Event) -> conversation_pb2.TopicHead:
    cursor = Cursor(topic_id=event.topic_id, epoch=event.epoch, position=event.position)
    messages = sum(isinstance(each.kind, MessageSent) for each in log[: event.position])
    return head_to_pb(TopicHead(cursor=cursor, last_message_number=messages, last_counted_number=messages))


def _joins(event: Event, user_id: UserId) -> bool:
    kind = event.kind
    return isinstance(kind, MembersAdded) and any(member.user_id == user_id for member in kind.members)


def _leaves(event: Event, user_id: UserId) -> bool:
    return isinstance(event.kind, MemberRemoved) and event.kind.user_id == user_id


def _counters_to_pb(counters: ServerCounters) -> markers_pb.GetCountersResponse:
    return markers_pb.GetCountersResponse(
        counters=[
            markers_pb.ConversationCounters(
                conversation_id=each.conversation_id,
                read_state=read_state_to_pb(each.read_state),
                position=each.position,
            )
            for each in counters.conversations
        ],
        cursor=cursor_to_pb(counters.cursor),
    )
