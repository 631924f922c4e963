"""The SDK's engine against real hubs, streams and Sync: the application gets each event of its memberships once.

The cluster and the script are those of test_stream_machine.py. Here the client is the SDK's own SyncEngine, fed with
the bytes that a transport would carry; its application may start again from the cursors that it has processed.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from hubbub.chat.v1 import chat_service_pb2, frame_pb2
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hubbub_client.events import MemberRemoved as RemovedItem
from hubbub_client.events import TopicEnded as EndedItem
from hubbub_client.model import Cursor as ClientCursor
from hubbub_client.sync_engine import SyncEngine
from hubbub_server.app.frames import Ack, Hello, Outgoing
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.domain.cursor import Cursor
from hubbub_server.domain.errors import HubbubError
from hubbub_server.domain.ids import TopicId, UserId
from hubbub_server.wire.frames import encode_messages
from tests.support.app_node import GROUP, message_id
from tests.support.open_streams import caller
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_stream_machine import USERS, Cluster, Node, Step, Wallet, play, steps


class SdkClient:
    """An application on the SDK's engine. `heard` is what it processed, in order, as (topic, position)."""

    def __init__(self, user_id: UserId, cluster: Cluster, node: int) -> None:
        self.user_id = user_id
        self.cluster = cluster
        self.node = node
        self.stream: LiveStream | None = None
        self.engine = SyncEngine(user_id)
        self.wallet = Wallet(user_id, cluster)
        self.heard: list[tuple[str, int]] = []
        self.ends = 0

    def is_open(self) -> bool:
        return self.engine.is_caught_up

    def start_again(self) -> None:
        """The application dies: what it did not process is gone, what it did is in the cursors."""
        self.engine = SyncEngine(self.user_id, self.engine.processed_cursors())
        self.wallet.kept.clear()
        if self.stream is not None:
            self.stream.drain(0.0)

    async def run(self) -> None:
        while True:
            node = self.cluster.nodes[self.node]
            engine = self.engine
            with suppress(HubbubError):
                self.stream = node.streams.open(caller(self.user_id), takes_commands=True)
                if engine.resume_token not in ("", *self.wallet.kept[-1:]):
                    self.wallet.kept.append(engine.resume_token)
                hello = Hello(instance_id=message_id(USERS.index(self.user_id)), resume_token=self.wallet.next())
                self.stream.receive(hello)
                await self.listen(node, engine, self.stream)
            engine.close_stream()
            await asyncio.sleep(0.5)

    async def listen(self, node: Node, engine: SyncEngine, stream: LiveStream) -> None:
        try:
            while frames := await stream.next_frames():
                for frame in parsed(frames):
                    if frame.HasField("heartbeat"):
                        stream.receive(Ack(processed_events=0))
                        engine.retry_stalled()
                    engine.receive_live(frame)
                await self.catch_up(node, engine)
                self.process(engine)
        finally:
            await stream.aclose()

    async def catch_up(self, node: Node, engine: SyncEngine) -> None:
        while (request := engine.next_request()) is not None:
            cursors = [Cursor(topic_id=TopicId(c.topic_id), epoch=c.epoch, position=c.position) for c in request]
            async for outgoing in node.sync.serve(self.user_id, cursors):
                for frame in parsed([outgoing]):
                    engine.receive_sync(frame)
            engine.finish_request()
            self.process(engine)

    def process(self, engine: SyncEngine) -> None:
        while engine is self.engine and (delivery := engine.take()) is not None:
            engine.mark_processed(delivery)
            item = delivery.item
            cursor = getattr(item, "cursor", None)
            if isinstance(cursor, ClientCursor):
                self.heard.append((cursor.topic_id, cursor.position))
            elif isinstance(item, EndedItem):
                self.ends += 1
            assert not isinstance(item, RemovedItem) or cursor is not None

    def judge(self) -> None:
        """G4, G5: each position once and in order, none after the last removal, the current membership complete."""
        positions = [position for topic_id, position in self.heard if topic_id == GROUP]
        assert positions == sorted(set(positions)), "an event twice or out of order"
        removals = self.cluster.removals_of(self.user_id)
        head = len(self.cluster.parts.events())
        last_seen = max((p for p in range(1, head + 1) if self.user_id in self.cluster.members_at(p)), default=0)
        # A member who returned may read what was said meanwhile; after the last removal there is nothing.
        assert max(positions, default=0) <= max([last_seen, *removals])
        if self.user_id in self.cluster.members_at(head):
            joined = max((p for p in removals), default=0)
            expected = [p for p in range(joined + 1, head + 1) if self.user_id in self.cluster.members_at(p)]
            current = [p for p in positions if p in expected]
            start = 4 if not removals and USERS.index(self.user_id) < 2 else expected[0]
            assert current == [p for p in expected if p >= start], "a member misses an event"
        assert not self.engine.is_behind


def parsed(outgoing: Sequence[Outgoing]) -> list[frame_pb2.ServerFrame]:
    """Returns frames as a client reads them: through the bytes of the stream."""
    return [chat_service_pb2.ConnectResponse.FromString(message).frame for message in encode_messages(outgoing)]


RETURNED_WHILE_AWAY: list[Step] = [
    *[("send", 0, 0)] * 4,
    *[("lose", 1, 1), ("change", 0, 2)],
    *[("send", 0, 0)] * 2,
    *[("change", 0, 0), ("start again", 0, 1)],
]


@example(script=RETURNED_WHILE_AWAY, seed=0)
@given(script=st.lists(steps, min_size=10, max_size=50), seed=st.integers(0, 2**16))
@settings(max_examples=60)
def test_application_gets_each_event_of_its_memberships_once(script: list[Step], seed: int) -> None:
    """G4, G5, C15, C23: through the SDK's engine."""
    run_in_virtual_time(play(script, seed, SdkClient))
