"""Topics in memory: exact reads, the law of head 0, and what happens when a log is recreated."""

import asyncio
from collections.abc import Collection, Mapping, Sequence

import pytest

from hubbub_server.app.active_topic import ActiveTopic
from hubbub_server.domain.commands import CreateGroup
from hubbub_server.domain.conversation import ConversationState
from hubbub_server.domain.errors import ConversationNotFound, LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import ConversationId, TopicId, shard_of
from hubbub_server.ports.record_codec import DecodedEvent
from hubbub_server.ports.topic_log import LogRecord, NewRecord, RecordHead
from hubbub_server.wire.record_codec import ProtoRecordCodec
from tests.support.app_node import ALICE, BOB, GROUP, AppCluster, Listener, add, create_group, remove, send, until
from tests.support.fakes.topic_log import FakeTopicLog, LiveFault

pytestmark = pytest.mark.asyncio


class ResetListener(Listener):
    """A listener that counts resets."""

    def __init__(self) -> None:
        super().__init__()
        self.resets: list[tuple[int, int]] = []

    def on_reset(self, topic: ActiveTopic) -> None:
        cursor = topic.head.cursor
        self.resets.append((cursor.epoch, cursor.position))


class SlowTail(FakeTopicLog):
    """A log whose ranges arrive late."""

    gate: asyncio.Event

    async def read_range(
        self, topic_id: TopicId, *, after_sequence: int, up_to_sequence: int, max_bytes: int
    ) -> Sequence[LogRecord]:
        found = await super().read_range(
            topic_id, after_sequence=after_sequence, up_to_sequence=up_to_sequence, max_bytes=max_bytes
        )
        await self.gate.wait()
        return found


class Counting(ProtoRecordCodec):
    """Keeps what it decodes."""

    def __init__(self, decoded: list[bytes]) -> None:
        self._decoded = decoded

    def decode(self, body: bytes) -> Sequence[DecodedEvent]:
        self._decoded.append(body)
        return super().decode(body)


async def test_a_read_that_meets_an_older_load_still_has_what_was_acknowledged_before_it() -> None:
    """G1: the load read the head before the send, the read began after its acknowledgement."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        two.log.__class__ = SlowTail
        assert isinstance(two.log, SlowTail)
        two.log.gate = asyncio.Event()
        loading = asyncio.create_task(two.hub.at_head(GROUP))
        await until(two.hub.topic(GROUP)._loading.locked)
        answer = await one.send(send(ALICE, 1))
        reading = asyncio.create_task(two.hub.at_head(GROUP))
        await asyncio.sleep(0)
        two.log.gate.set()
        topic = await reading
        assert topic.head.cursor.position == answer.cursor.position
        await loading


async def test_an_empty_log_and_no_store_prove_nothing_while_states_are_not_complete() -> None:
    """The law of head 0: "trimmed or never made" is UNAVAILABLE while the store cannot tell which."""
    cluster = AppCluster()
    cluster.server.complete_epochs = [0, 0]
    cluster.store.is_unavailable = True
    async with cluster.node() as node:
        with pytest.raises(StoreUnavailable):
            await create_group(node, BOB)
        with pytest.raises(StoreUnavailable):
            await node.send(send(ALICE, 1))
        cluster.store.is_unavailable = False
        with pytest.raises(ConversationNotFound):
            await node.send(send(ALICE, 1))
        await create_group(node, BOB)
    assert len(cluster.events()) == 3


async def test_listeners_are_told_of_a_recreated_log_also_when_the_first_reload_fails() -> None:
    """G4: C19; a reset is never forgotten, and the head check goes on with a topic that could not be loaded."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node(head_check_interval_s=0.01) as two:
        await create_group(one, BOB)
        await one.send(send(ALICE, 1))
        await cluster.project()
        listener = ResetListener()
        await two.hub.subscribe(GROUP, listener)
        shard = two.hub.topic(GROUP).shard
        cluster.store.is_unavailable = True
        cluster.server.recreate(shard)
        await until(lambda: not two.hub.topic(GROUP).is_loaded)
        assert listener.resets == []
        cluster.store.is_unavailable = False
        await until(lambda: listener.resets != [])
        assert listener.resets == [(2, 4)]


async def test_a_refusal_is_answered_while_the_head_keeps_moving() -> None:
    """A conversation in which others commit all the time must not starve who is refused."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await two.listen()
        stop = asyncio.Event()

        async def keep_moving() -> None:
            serial = 0
            while not stop.is_set():
                serial += 1
                await one.send(send(ALICE, serial))

        async with asyncio.TaskGroup() as group:
            group.create_task(keep_moving())
            try:
                async with asyncio.timeout(2):
                    with pytest.raises(ConversationNotFound):
                        await two.send(send(TopicId("ustranger"), 1))  # type: ignore[arg-type]
            finally:
                stop.set()


async def test_a_refusal_on_the_refreshed_state_knows_all_that_was_acknowledged() -> None:
    """G5: a removal that does nothing on a stale state must happen when the member is there at the head."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one)
        await two.listen()
        two.log.live_faults.append(LiveFault.LOST)

        await one.submit(add(BOB))
        await two.submit(remove(BOB))
        state = (await one.hub.at_head(GROUP)).state
        assert BOB not in state.members  # type: ignore[union-attr]


async def test_head_checks_go_on_after_an_unexpected_fault() -> None:
    """G4: the check is the last net; nothing may end it."""
    cluster = AppCluster()

    class FaultyOnce(FakeTopicLog):
        faults = 3

        async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
            if self.faults:
                self.faults -= 1
                raise RuntimeError("unexpected")
            return await super().read_heads(topic_ids)

    async with cluster.node() as one, cluster.node(head_check_interval_s=0.01) as two:
        await create_group(one, BOB)
        listener = await two.listen()
        two.log.__class__ = FaultyOnce
        two.log.live_faults.append(LiveFault.LOST)
        await one.send(send(ALICE, 1))
        await until(lambda: listener.positions == [4])


async def test_a_shard_that_does_not_answer_costs_the_others_nothing_and_is_asked_again_soon() -> None:
    """G4: the bound of 30 s holds for the other shards, and for this one from when it is back."""
    cluster = AppCluster()
    other = ConversationId(TopicId("cother"))
    assert shard_of(other, 2) != shard_of(GROUP, 2)

    class HalfDeaf(FakeTopicLog):
        is_deaf = True

        async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
            if self.is_deaf and any(shard_of(topic_id, 2) == shard_of(GROUP, 2) for topic_id in topic_ids):
                raise LogUnavailable("no leader")
            return await super().read_heads(topic_ids)

    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await one.submit(CreateGroup(creator_id=ALICE, title="x", user_ids=()), topic_id=other)
        here, there = await two.listen(), await two.listen(other)
        await until(lambda: not two.hub._is_rechecking)
        two.log.__class__ = HalfDeaf
        log = two.log
        assert isinstance(log, HalfDeaf)
        two.log.live_faults.extend([LiveFault.LOST, LiveFault.LOST])
        await one.send(send(ALICE, 1))
        await one.submit(send(ALICE, 2), topic_id=other)
        two.log.disturb()
        await until(lambda: there.positions == [3])
        assert here.positions == []
        log.is_deaf = False
        await until(lambda: here.positions == [4])


async def test_a_topic_is_kept_until_the_node_has_stopped_hearing_it() -> None:
    """G4: a new listener's feed must not be ended by the late end of an old one."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        two.hub._max_idle_topics = 1
        listener = await two.listen()
        topic = two.hub.topic(GROUP)
        topic.unsubscribe(listener)
        other = ConversationId(TopicId("cother"))
        two.hub.topic(other)
        assert two.hub.topic(GROUP) is topic


async def test_topics_that_nobody_uses_are_forgotten_even_behind_those_in_use() -> None:
    """G6: memory of a node is bounded by what is used."""
    cluster = AppCluster()
    async with cluster.node() as node:
        node.hub._max_idle_topics = 4
        for number in range(4):
            topic_id = ConversationId(TopicId(f"cused{number}"))
            await node.submit(CreateGroup(creator_id=ALICE, title="x", user_ids=()), topic_id=topic_id)
            await node.listen(topic_id)
        for number in range(50):
            node.hub.topic(ConversationId(TopicId(f"cidle{number}")))
        assert len(node.hub._topics) <= 6


async def test_a_listener_hears_no_hole_when_the_log_is_cut_while_subscribing() -> None:
    """G4: a subscription that fails leaves nothing behind; the next one is whole."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await two.hub.at_head(GROUP)
        two.log.cut()
        with pytest.raises(LogUnavailable):
            await two.listen()
        assert not two.hub.topic(GROUP).subscribers
        two.log.heal()
        listener = await two.listen()
        await one.send(send(ALICE, 1))
        await until(lambda: listener.positions == [4])


async def test_heads_of_new_topics_are_compared_once_more_and_together() -> None:
    """G4: interest may reach a server late; a thousand topics of one reconnect are not a thousand requests."""
    cluster = AppCluster()

    class Counting(FakeTopicLog):
        requests = 0

        async def read_heads(self, topic_ids: Collection[TopicId]) -> Mapping[TopicId, RecordHead]:
            self.requests += 1
            return await super().read_heads(topic_ids)

    topic_ids = [ConversationId(TopicId(f"c{number}")) for number in range(20)]
    async with cluster.node() as one, cluster.node() as two:
        two.log.__class__ = Counting
        log = two.log
        assert isinstance(log, Counting)
        two.hub._recheck_delay_s = 0.1
        two.log.live_faults.extend([LiveFault.LOST] * len(topic_ids))
        for topic_id in topic_ids:
            await two.hub.at_head(topic_id)
        listeners = await asyncio.gather(*(two.listen(topic_id) for topic_id in topic_ids))
        for topic_id in topic_ids:
            await one.submit(CreateGroup(creator_id=ALICE, title="x", user_ids=()), topic_id=topic_id)
        assert not any(listener.positions for listener in listeners)
        await until(lambda: all(listener.positions == [1, 2] for listener in listeners))
        assert log.requests < 5


async def test_what_topics_keep_is_bounded_and_nothing_is_forgotten_for_good() -> None:
    """G3, G6: records and ids of the topics that were not used for longest are read again when they are needed."""
    cluster = AppCluster()
    async with cluster.node() as node:
        answers = {}
        for number in range(5):
            topic_id = ConversationId(TopicId(f"c{number}"))
            await node.submit(CreateGroup(creator_id=ALICE, title="x", user_ids=()), topic_id=topic_id)
            answers[topic_id] = [await node.submit(send(ALICE, serial), topic_id=topic_id) for serial in range(100)]
        topics = [node.hub.topic(topic_id) for topic_id in answers]
        node.hub._max_kept_bytes = 0
        await node.hub._bound_memory()
        assert [len(topic.state.window) for topic in topics] == [100] * 5  # type: ignore[union-attr]  # all are needed
        await cluster.project()
        before = [topic.kept_bytes for topic in topics]
        node.hub._max_kept_bytes = sum(before) - 1
        await node.hub._bound_memory()
        kept = [topic.kept_bytes for topic in topics]
        assert kept[0] < before[0]
        assert kept[1:] == before[1:]
        for topic_id, expected in answers.items():
            again = [await node.submit(send(ALICE, serial), topic_id=topic_id) for serial in range(100)]
            assert again == expected


async def test_ids_stay_while_the_store_is_down() -> None:
    """G3: what nobody else can answer for is not forgotten, whatever it costs."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        answers = [await node.send(send(ALICE, serial)) for serial in range(100)]
        await cluster.project()
        cluster.store.is_unavailable = True
        node.hub._max_kept_bytes = 0
        await node.hub._bound_memory()
        assert [await node.send(send(ALICE, serial)) for serial in range(100)] == answers


async def test_a_record_of_this_node_is_not_decoded_when_ids_left_the_window_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A hot conversation lets ids leave all the time; what it lets go stays gone."""
    cluster = AppCluster()

    class Forgetting(FakeTopicLog):
        async def append(self, record: NewRecord, *, after_sequence: int) -> int:
            await node.hub.topic(GROUP).shrink()
            return await super().append(record, after_sequence=after_sequence)

    async with cluster.node() as node:
        await create_group(node, BOB)
        for serial in range(100):
            await node.send(send(ALICE, serial))
        await cluster.project()
        node.log.__class__ = Forgetting
        decoded: list[bytes] = []
        monkeypatch.setattr(node.hub.topic(GROUP), "_codec", Counting(decoded))
        answer = await node.send(send(ALICE, 100))

        state = node.hub.topic(GROUP).state
        assert isinstance(state, ConversationState)
        assert (decoded, state.position, len(state.window)) == ([], answer.cursor.position, 65)
