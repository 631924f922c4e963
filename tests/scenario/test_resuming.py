"""Readers who were away get everything once, in order, and reading changes nothing."""

import asyncio

import pytest
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.history.v1 import history_service_pb2 as history_pb

from hubbub_client import (
    CaughtUp,
    Connected,
    Disconnected,
    GapSkipped,
    MessageReceived,
    TopicEnded,
    TopicReset,
    live_stream,
)
from hubbub_client.live_stream import ACK_WINDOW_EVENTS, SILENT_HEARTBEATS
from hubbub_client.sync_engine import SyncEngine
from hubbub_server.app.send_queue import BUFFER_MAX_EVENTS
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S
from hubbub_server.domain.ids import TopicId, shard_of
from tests.support.fault_proxy import Cut
from tests.support.waiting import until
from tests.support.world import Person, World, history


async def say(person: Person, conversation_id: str, first: int, last: int) -> None:
    """Sends numbered lines, `last` included."""
    async with asyncio.TaskGroup() as tasks:
        for number in range(first, last + 1):
            tasks.create_task(person.client.send(conversation_id, f"text {number}"))


async def talk(alice: Person, bob: Person, messages: int) -> str:
    """Opens a conversation in which bob has said something and alice has read it."""
    conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
    await say(bob, conversation_id, 1, messages)
    await alice.until_heard(conversation_id, messages)
    return conversation_id


@pytest.mark.asyncio
async def test_what_was_missed_in_a_short_outage_comes_without_asking_for_a_conversation(world: World) -> None:
    """C23."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 1)
        alice.proxy.refuse()
        alice.proxy.cut(Cut.RST)
        await alice.until_count(Disconnected, 1)
        await bob.client.send(conversation_id, "text 2")
        alice.proxy.flow()

        await alice.until_heard(conversation_id, 2)
        assert alice.numbers(conversation_id) == [1, 2]


@pytest.mark.asyncio
async def test_a_client_that_was_closed_goes_on_where_it_stopped(world: World) -> None:
    """C14: 40 messages later, all of 11 to 50, not the newest page."""
    alice = await world.person("alice", keeps_cursors=True)
    async with await world.person("bob") as bob:
        async with alice:
            conversation_id = await talk(alice, bob, 10)
        await say(bob, conversation_id, 11, 50)
        async with alice:
            await alice.until_heard(conversation_id, 50)

        numbers = alice.numbers(conversation_id)
        # The last item before the end may come once more: it was yielded, but the next one was never asked for.
        assert numbers in ([*range(1, 51)], [*range(1, 11), *range(10, 51)])
        assert alice.of(GapSkipped) == []


@pytest.mark.asyncio
async def test_after_a_very_long_absence_the_hole_is_told_and_can_be_filled_exactly(world: World) -> None:
    """C14: more than 1,000 events are missing."""
    alice = await world.person("alice", keeps_cursors=True)
    async with await world.person("bob") as bob:
        async with alice:
            conversation_id = await talk(alice, bob, 10)
        await say(bob, conversation_id, 11, 1_100)
        async with alice:
            await alice.until_count(GapSkipped, 1)
            await say(bob, conversation_id, 1_101, 1_101)
            await alice.until_heard(conversation_id, 1_101)
            [gap] = [gap for gap in alice.of(GapSkipped) if gap.head.cursor.topic_id == conversation_id]
            page = await alice.client.list_messages(
                conversation_id, anchor_number=gap.newest_messages[0].message_number, page_size=200
            )

        assert gap.head.last_message_number == 1_100
        assert [message.message_number for message in gap.newest_messages] == [*range(1_051, 1_101)]
        assert [message.message_number for message in page.messages] == [*range(851, 1_051)]
        assert page.older_available
        assert len(await history(bob.client, conversation_id)) == 1_101


@pytest.mark.asyncio
@pytest.mark.parametrize("is_live_first", [True, False])
async def test_live_messages_during_the_catch_up_are_spliced(world: World, is_live_first: bool) -> None:
    """C15: in both interleavings all of 41 to 60 come once."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 40)
        alice.proxy.refuse()
        alice.proxy.cut(Cut.RST)
        await alice.until_count(Disconnected, 1)
        await say(bob, conversation_id, 41, 50)
        async with asyncio.TaskGroup() as tasks:
            if is_live_first:
                tasks.create_task(say(bob, conversation_id, 51, 60))
                alice.proxy.flow()
            else:
                alice.proxy.flow()
                await alice.until_count(Connected, 2)
                tasks.create_task(say(bob, conversation_id, 51, 60))

        await alice.until_heard(conversation_id, 60)
        assert alice.numbers(conversation_id) == [*range(1, 61)]


@pytest.mark.asyncio
async def test_resuming_again_and_again_writes_nothing(world: World) -> None:
    """C10."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 5)
        rows = world.rows()
        for count in range(1, 11):
            alice.move(world.nodes[count % 2])
            await alice.until_count(Disconnected, count)
            await alice.until_count(Connected, count + 1)

        assert world.rows() == rows
        assert alice.numbers(conversation_id) == [1, 2, 3, 4, 5]


@pytest.mark.asyncio
async def test_an_unchanged_cursor_is_answered_by_caught_up_and_nothing_twice(world: World) -> None:
    """C18."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 3)
        head = (await alice.client.get_conversation(conversation_id)).head.cursor
        stubs = world.nodes[1].client(alice.credentials.access_token)
        cursor = conversation_pb2.Cursor(topic_id=head.topic_id, epoch=head.epoch, position=head.position)
        request = history_pb.SyncOnceRequest(request=history_pb.SyncRequest(cursors=[cursor]))
        for _ in range(2):
            answer = [
                response.frame async for response in stubs.history.SyncOnce(request, metadata=stubs.auth, timeout=10)
            ]
            assert [frame.WhichOneof("control") for frame in answer] == ["caught_up"]
            assert not answer[0].events
            assert answer[0].caught_up.heads[0].cursor == cursor


@pytest.mark.asyncio
async def test_a_log_that_was_made_anew_is_told_as_a_reset_and_the_conversation_goes_on(world: World) -> None:
    """C19: positions of two lives are never mixed."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 3)
        await world.cluster.project()
        shard = shard_of(TopicId(conversation_id), world.cluster.log_server.shards)
        world.cluster.log_server.recreate(shard)
        for person in (alice, bob):
            person.move(world.nodes[1])
        await alice.until_count(TopicReset, 1)
        await say(bob, conversation_id, 4, 4)

        await alice.until_heard(conversation_id, 4)
        assert [one.head.cursor.topic_id for one in alice.of(TopicReset)].count(conversation_id) == 1
        assert alice.numbers(conversation_id) == [1, 2, 3, 4]
        assert [message.text for message in await history(alice.client, conversation_id)] == [
            f"text {number}" for number in range(1, 5)
        ]


@pytest.mark.asyncio
async def test_after_a_restart_of_the_node_everybody_settles_with_one_reconnect(world: World) -> None:
    """C22: the other node knows nothing of these streams."""
    async with await world.person("bob") as bob, await world.person("alice") as alice:
        conversation_id = await talk(alice, bob, 3)
        for person in (alice, bob):
            person.move(world.nodes[1])
        for person in (alice, bob):
            await person.until_count(Connected, 2)
            await person.until_count(CaughtUp, 2)
        await say(bob, conversation_id, 4, 4)
        await alice.until_heard(conversation_id, 4)

        for person in (alice, bob):
            assert len(person.of(Connected)) == 2
            assert len(person.of(Disconnected)) == 1


@pytest.mark.asyncio
async def test_whoever_comes_back_with_a_token_hears_only_of_what_moved_and_misses_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C23: twenty conversations, one of which has news, on the other node."""
    heads: list[list[int]] = []
    receive_live = SyncEngine.receive_live

    def count_heads(engine: SyncEngine, frame: frame_pb2.ServerFrame) -> None:
        if frame.HasField("welcome"):
            heads.append([frame.welcome.resumed, 0])
        heads[-1][1] += len(frame.heads.heads)
        receive_live(engine, frame)

    async with await world.person("bob") as bob:
        groups = [(await bob.client.create_group(f"group {number}")).conversation_id for number in range(20)]
        async with await world.person("alice") as alice:
            monkeypatch.setattr(SyncEngine, "receive_live", count_heads)
            heads.append([False, 0])
            for group in groups:
                await bob.client.add_members(group, [alice.user_id])
                await say(bob, group, 1, 1)
                await alice.until_heard(group, 1)
            await until_covered(world, alice.user_id, *groups)
            world.cluster.clock.advance(HEARTBEAT_INTERVAL_S)
            world.nodes[0].streams.tick()
            await until(lambda: alice.client._run.engine.resume_token != "")  # nothing public tells
            alice.proxy.refuse()
            alice.proxy.cut(Cut.RST)
            await alice.until_count(Disconnected, 1)
            await say(bob, groups[7], 2, 2)
            heads.clear()
            alice.move(world.nodes[1])
            await alice.until_heard(groups[7], 2)
            await say(bob, groups[3], 2, 2)
            await alice.until_heard(groups[3], 2)

            assert heads[-1:] == [[True, 2]]  # her own topic, and the one conversation
            assert [alice.numbers(group) for group in groups] == [
                [1, 2] if group in (groups[3], groups[7]) else [1] for group in groups
            ]


async def until_covered(world: World, *topic_ids: str) -> None:
    """Lets the first node compare heads, as it does every 30 s."""
    node = world.nodes[0]
    topics = [node.hub.topic(TopicId(topic_id)) for topic_id in topic_ids]
    ends = [await node.log.read_last_sequence(topic.shard) for topic in topics]
    node.log.disturb()
    await until(lambda: all(topic.covered >= end for topic, end in zip(topics, ends, strict=True)))


@pytest.mark.asyncio
async def test_an_application_that_does_not_read_is_not_sent_away_and_gets_everything(world: World) -> None:
    """G6: more than the ack window and than the client keeps; the client leaves to Sync what it has no room for."""
    total = ACK_WINDOW_EVENTS + BUFFER_MAX_EVENTS + 200
    async with await world.person("bob") as bob, await world.person("alice", reads=False) as alice:
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id
        items = alice.client.events()
        while not isinstance(await anext(items), CaughtUp):
            pass
        await say(bob, conversation_id, 1, total)
        numbers: list[int] = []
        while numbers[-1:] != [total]:
            item = await anext(items)
            assert not isinstance(item, Disconnected)
            if isinstance(item, MessageReceived):
                numbers.append(item.message.message_number)
            elif isinstance(item, GapSkipped):
                numbers += range(numbers[-1] + 1, item.head.last_message_number + 1)

    assert numbers == [*range(1, total + 1)]


@pytest.mark.asyncio
async def test_a_link_that_died_silently_is_noticed_within_two_and_a_half_heartbeats(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """C83: a proxy stops forwarding. Heartbeats of 20 s, silence of 50 s; here 1 s stands for 100 s."""
    assert SILENT_HEARTBEATS * HEARTBEAT_INTERVAL_S == 50.0
    monkeypatch.setattr(live_stream, "SILENT_HEARTBEATS", SILENT_HEARTBEATS / 100)
    async with await world.person("bob") as bob:
        conversation_id = (await bob.client.create_group("group")).conversation_id
        async with await world.person("alice") as alice, asyncio.TaskGroup() as tasks:
            beating = tasks.create_task(_beat(world))
            await bob.client.add_members(conversation_id, [alice.user_id])
            await say(bob, conversation_id, 1, 1)
            await alice.until_heard(conversation_id, 1)
            loop = asyncio.get_running_loop()
            reconnects = len(alice.of(Disconnected))
            alice.proxy.silence()
            started_s = loop.time()
            await alice.until_count(Disconnected, reconnects + 1)
            noticed_s = loop.time() - started_s
            alice.proxy.flow()
            await say(bob, conversation_id, 2, 2)
            await alice.until_heard(conversation_id, 2)
            beating.cancel()

        assert alice.of(Disconnected)[reconnects].reason == "SILENT"
        assert 0.2 < noticed_s < 1.0
        assert alice.numbers(conversation_id) == [1, 2]


async def _beat(world: World) -> None:
    """Lets 10 s pass on the nodes every 0.1 s."""
    while True:
        await asyncio.sleep(0.1)
        world.cluster.clock.advance(10.0)
        for node in world.nodes:
            node.streams.tick()


@pytest.mark.asyncio
async def test_who_is_removed_while_away_gets_everything_up_to_the_removal_and_nothing_after_it(world: World) -> None:
    """G5."""
    alice = await world.person("alice", keeps_cursors=True)
    async with await world.person("bob") as bob:
        conversation_id = (await bob.client.create_group("group", [alice.user_id])).conversation_id
        async with alice:
            await alice.until_count(Connected, 1)
            await say(bob, conversation_id, 1, 3)
            await alice.until_heard(conversation_id, 3)
        await say(bob, conversation_id, 4, 5)
        await bob.client.remove_member(conversation_id, alice.user_id)
        await say(bob, conversation_id, 6, 7)
        async with alice:
            await alice.until_count(TopicEnded, 1)
            await bob.client.add_members(conversation_id, [alice.user_id])
            await say(bob, conversation_id, 8, 8)
            await alice.until_heard(conversation_id, 8)

        numbers = alice.numbers(conversation_id)
        assert sorted(set(numbers)) == [1, 2, 3, 4, 5, 8]
        assert numbers == sorted(numbers)


@pytest.mark.asyncio
async def test_an_application_that_reads_late_gets_all_of_a_long_answer(world: World) -> None:
    """C86: reading the answer of a Sync stops while the queue is half full, and goes on when there is room again."""
    alice = await world.person("alice", keeps_cursors=True)
    async with await world.person("bob") as bob:
        async with alice:
            conversation_id = await talk(alice, bob, 1)
        await say(bob, conversation_id, 2, 900)
        alice.reads = False
        async with alice:
            await until(lambda: not alice.client._run.engine.has_room)
            async with asyncio.timeout(10):
                async for event in alice.client.events():
                    alice.events.append(event)
                    if isinstance(event, CaughtUp) and alice.numbers(conversation_id)[-1] == 900:
                        break

        assert sorted(set(alice.numbers(conversation_id))) == [*range(1, 901)]
