"""Streams on a node: what they cover, how they end, and that one stream's trouble is never another's."""

import asyncio

import pytest

from hubbub_server.app.frames import (
    Events,
    Goodbye,
    GoodbyeReason,
    Heads,
    Outgoing,
    Rejected,
    Reply,
    Send,
    StreamCommand,
    TopicEnded,
    Welcome,
)
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.session import LOG_LOST_FOR_S, RESET_AFTER_S
from hubbub_server.domain.commands import CreateGroup, RecordMembership, Sent
from hubbub_server.domain.errors import ConversationNotFound, LogUnavailable, NodeDraining, ProtocolBreach
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.ports.topic_log import NewRecord, RecordFacts
from tests.support.app_node import (
    ALICE,
    BOB,
    CAROL,
    CODEC,
    GROUP,
    AppCluster,
    AppNode,
    add,
    create_group,
    remove,
    send,
    until,
)
from tests.support.fakes.topic_log import AppendFault, FakeLogServer, LiveFault
from tests.support.marker_steps import group_with
from tests.support.open_streams import HELLO, caller, open_stream, streams_of

pytestmark = pytest.mark.asyncio
OTHER = ConversationId(TopicId("cother"))


async def tell(node: AppNode, user_id: UserId, position: int, *, joined: bool = True) -> None:
    """Writes a user's standing in the group on the user's own topic."""
    await node.submit(
        RecordMembership(conversation_id=GROUP, epoch=1, position=position, joined=joined), topic_id=user_id
    )


async def frames_until(stream: LiveStream, kind: type[Outgoing]) -> list[Outgoing]:
    """Takes frames until one of a kind came."""
    frames: list[Outgoing] = []
    async with asyncio.timeout(5):
        while not any(isinstance(frame, kind) for frame in frames):
            taken = await stream.next_frames()
            assert taken, "the stream ended"
            frames += taken
    return frames


async def rest_of(stream: LiveStream) -> list[Outgoing]:
    """Takes frames up to the end."""
    frames: list[Outgoing] = []
    async with asyncio.timeout(5):
        while taken := await stream.next_frames():
            frames += taken
    return frames


def goodbye_of(frames: list[Outgoing]) -> Goodbye:
    assert isinstance(frames[-1], Goodbye)
    return frames[-1]


def poison(server: FakeLogServer, topic_id: TopicId, *, after_sequence: int, position: int) -> None:
    """Appends a record that nobody can read."""
    facts = RecordFacts(
        record_id="rpoison",
        topic_id=topic_id,
        epoch=1,
        first_position=position,
        last_position=position,
        commit_time_ms=0,
        last_message_number=0,
        last_counted_number=0,
        kinds=frozenset({"MessageSent"}),
    )
    server.append(NewRecord(facts=facts, body=b"\xff\xff no record"), after_sequence)


def command(request_id: str, sender_id: UserId, serial: int, conversation_id: ConversationId = GROUP) -> StreamCommand:
    return StreamCommand(
        request_id=request_id, payload=Send(conversation_id=conversation_id, command=send(sender_id, serial))
    )


# ---- what a stream covers


async def test_stream_names_every_head_before_it_is_complete() -> None:
    """G4: Welcome, then the heads of the user's own topic and of each conversation, then `complete`."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = streams.open(caller(BOB), takes_commands=True)
        stream.receive(HELLO)
        frames = await frames_until(stream, Heads)
        assert isinstance(frames[0], Welcome)
        heads = [head.cursor for frame in frames if isinstance(frame, Heads) for head in frame.heads]
        assert {(cursor.topic_id, cursor.position) for cursor in heads} == {(BOB, 1), (GROUP, 3)}


async def test_conversation_joined_while_live_is_covered_from_its_head_on() -> None:
    """C15: the new topic's head comes before its first event, and no event after it is missing."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await create_group(one)
        stream = await open_stream(streams, BOB)
        await one.submit(add(BOB))
        await tell(one, BOB, 3)
        frames = await frames_until(stream, Heads)
        await one.send(send(ALICE, 1))
        frames += await frames_until(stream, Events)
        heads = [h.cursor for frame in frames if isinstance(frame, Heads) for h in frame.heads]
        assert [(cursor.topic_id, cursor.position) for cursor in heads] == [(GROUP, 3)]
        assert isinstance(frames[-1], Events)
        assert [d.event.position for d in CODEC.decode(frames[-1].body)] == [4]


async def test_join_that_was_undone_meanwhile_covers_nothing() -> None:
    """G5: the user's topic says "joined", the conversation's head says "removed"."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await create_group(node, BOB)
        await node.submit(remove(BOB))
        await tell(node, BOB, 3)
        stream = await open_stream(streams, BOB)
        await node.send(send(ALICE, 1))
        assert not node.hub.topic(GROUP).subscribers
        stream.drain(0.0)
        assert [type(frame) for frame in await rest_of(stream)] == [Goodbye]


async def test_member_who_returns_is_covered_again() -> None:
    """C43: TopicEnded, then Heads names the topic again."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = await open_stream(streams, BOB)
        await node.submit(remove(BOB))
        await frames_until(stream, TopicEnded)
        await node.send(send(ALICE, 1))
        await node.submit(add(BOB))
        await tell(node, BOB, 6)
        frames = await frames_until(stream, Heads)
        (heads,) = [frame.heads for frame in frames if isinstance(frame, Heads)]
        assert [(head.cursor.topic_id, head.cursor.position) for head in heads] == [(GROUP, 6)]
        bodies = [frame.body for frame in frames if isinstance(frame, Events)]
        assert [d.event.topic_id for body in bodies for d in CODEC.decode(body)] == [BOB]


# ---- commands


async def test_commands_are_answered_in_band() -> None:
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = await open_stream(streams, BOB)
        stream.receive(command("a", BOB, 1))
        (reply,) = [f for f in await frames_until(stream, Reply) if isinstance(f, Reply)]
        assert isinstance(reply.answer, Sent)
        assert (reply.request_id, reply.answer.message_number) == ("a", 1)
        stream.receive(command("b", BOB, 2, OTHER))
        (rejected,) = [f for f in await frames_until(stream, Rejected) if isinstance(f, Rejected)]
        assert rejected.request_id == "b"
        assert isinstance(rejected.error, ConversationNotFound)


async def test_fifty_commands_of_one_stream_keep_their_order() -> None:
    """C06: decided in the order in which they were written, also when an append fails in the middle."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = await open_stream(streams, BOB)
        node.log.append_faults.extend([None, AppendFault.NEVER, AppendFault.IN_FLIGHT, AppendFault.ACK_LOST])
        for serial in range(1, 51):
            stream.receive(command(str(serial), BOB, serial))
        numbers: dict[str, int] = {}
        while len(numbers) < 50:
            for frame in await frames_until(stream, Reply):
                if isinstance(frame, Reply):
                    assert isinstance(frame.answer, Sent)
                    numbers[frame.request_id] = frame.answer.message_number
        assert numbers == {str(serial): serial for serial in range(1, 51)}


async def test_command_without_an_answer_is_rejected_in_time() -> None:
    """G1: the log is silent; the sender hears "unavailable, retry", never nothing and never "failed"."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        streams.command_timeout_s = 0.02
        stream = await open_stream(streams, BOB)
        node.log.append_faults.extend([AppendFault.NEVER] * 1000)
        stream.receive(command("a", BOB, 1))
        (rejected,) = [f for f in await frames_until(stream, Rejected) if isinstance(f, Rejected)]
        assert isinstance(rejected.error, LogUnavailable)
        assert rejected.error.retry_after_s > 0


# ---- ends


async def test_second_stream_of_a_running_client_displaces_the_first_alone() -> None:
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        alices = await open_stream(streams, ALICE)
        first, second = await open_stream(streams, BOB), await open_stream(streams, BOB)
        goodbye = goodbye_of(await rest_of(first))
        assert (goodbye.reason, goodbye.reconnect, first.end_error) == (GoodbyeReason.DISPLACED, False, None)
        await first.aclose()
        await node.send(send(ALICE, 1))
        await frames_until(second, Events)
        await frames_until(alices, Events)
        await open_stream(streams, BOB)
        assert goodbye_of(await rest_of(second)).reason is GoodbyeReason.DISPLACED


@pytest.mark.parametrize("turns", range(12))
async def test_stream_that_is_closed_at_any_moment_leaves_nothing(turns: int) -> None:
    """G6: no subscription, no task, no entry; the node stops hearing the topic."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await group_with(one, BOB)
        stream = streams.open(caller(BOB), takes_commands=True)
        stream.receive(HELLO)
        for _ in range(turns):
            await asyncio.sleep(0)
        await stream.aclose()
        await until(lambda: not two.log._listeners)
        await until(lambda: not stream._tasks)
        assert len(streams) == 0
        assert not any(topic.subscribers for topic, _ in two.hub._topics.values())
        await stream.aclose()


async def test_draining_node_tells_each_stream_and_waits_for_their_ends() -> None:
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        opened = [await open_stream(streams, user_id) for user_id in (ALICE, BOB)]
        draining = asyncio.create_task(streams.drain())
        for stream in opened:
            goodbye = goodbye_of(await rest_of(stream))
            assert (goodbye.reason, goodbye.reconnect) == (GoodbyeReason.DRAINING, True)
            assert isinstance(stream.end_error, NodeDraining)
            assert not draining.done()
            await stream.aclose()
        async with asyncio.timeout(5):
            await draining
        with pytest.raises(NodeDraining):
            streams.open(caller(CAROL), takes_commands=True)


async def test_node_without_the_log_keeps_its_streams_for_a_minute_and_then_ends_them() -> None:
    """The back-stop for revocation: another node may have the log."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = await open_stream(streams, BOB)
        node.log.cut()
        streams.tick()
        cluster.clock.advance(LOG_LOST_FOR_S)
        streams.tick()
        assert stream.end_error is None
        cluster.clock.advance(1)
        streams.tick()
        frames = await rest_of(stream)
        assert goodbye_of(frames).reason is GoodbyeReason.DRAINING
        assert isinstance(stream.end_error, LogUnavailable)


async def test_conversation_that_cannot_be_read_ends_the_stream_instead_of_leaving_it_half_open() -> None:
    """G4: without this topic the stream would be incomplete for ever and nobody would know."""
    cluster = AppCluster()
    async with cluster.node() as node, cluster.node() as other, streams_of(other, cluster) as streams:
        await group_with(node, BOB)
        poison(cluster.server, GROUP, after_sequence=cluster.server.by_topic[GROUP][-1].sequence, position=4)
        stream = streams.open(caller(BOB), takes_commands=True)
        stream.receive(HELLO)
        goodbye = goodbye_of(await rest_of(stream))
        assert goodbye.reconnect
        assert isinstance(stream.end_error, LogUnavailable)


async def test_fault_of_one_stream_ends_no_other() -> None:
    """G6: a transport whose reset fails costs itself."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stuck, good = await open_stream(streams, BOB), await open_stream(streams, ALICE)

        def fail() -> None:
            raise RuntimeError("the transport is broken")

        stuck.on_abort(fail)
        stuck.break_off(ProtocolBreach("x"))
        streams.tick()
        cluster.clock.advance(RESET_AFTER_S + 1)
        streams.tick()
        await node.send(send(ALICE, 1))
        await frames_until(good, Events)


async def test_poisoned_topic_of_a_user_is_that_users_alone() -> None:
    """One record that cannot be read: all other topics of the node go on."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stream = await open_stream(streams, ALICE)
        poison(cluster.server, BOB, after_sequence=cluster.server.by_topic[BOB][-1].sequence, position=2)
        with pytest.raises(ValueError, match="event"):
            await node.submit(RecordMembership(conversation_id=OTHER, epoch=1, position=2, joined=True), topic_id=BOB)
        await node.send(send(BOB, 1))
        await frames_until(stream, Events)


async def test_group_of_a_stranger_is_never_covered() -> None:
    """C46: a user's topic names it, the conversation does not know the user."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await node.submit(CreateGroup(creator_id=ALICE, title="x", user_ids=()), topic_id=GROUP)
        await tell(node, CAROL, 2)
        await open_stream(streams, CAROL)
        assert not node.hub.topic(GROUP).subscribers


@pytest.mark.parametrize("is_heard_there", [True, False])
async def test_new_member_is_covered_although_the_addition_was_not_heard(is_heard_there: bool) -> None:
    """G4: the user's topic says "joined", the conversation's record comes late or was lost."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await create_group(one)
        await tell(one, ALICE, 2)
        if is_heard_there:
            await open_stream(streams, ALICE)
        bobs = await open_stream(streams, BOB)
        two.log.live_faults.append(LiveFault.LOST)
        await one.submit(add(BOB))
        await tell(one, BOB, 3)
        frames = await frames_until(bobs, Heads)
        heads = [head.cursor for frame in frames if isinstance(frame, Heads) for head in frame.heads]
        assert [(cursor.topic_id, cursor.position) for cursor in heads] == [(GROUP, 3)]


async def test_member_who_was_removed_and_returned_unheard_is_covered_again() -> None:
    """G4, C43: TopicEnded for the first membership comes before the head of the second."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await group_with(one, BOB)
        await open_stream(streams, ALICE)
        bobs = await open_stream(streams, BOB)
        two.log.live_faults.extend([LiveFault.LOST, LiveFault.LOST])
        await one.submit(remove(BOB))
        await one.submit(add(BOB))
        await tell(one, BOB, 5)
        frames = await frames_until(bobs, Heads)
        await one.send(send(ALICE, 1))
        frames += await frames_until(bobs, Events)
        of_group = [
            frame
            for frame in frames
            if not isinstance(frame, Events) or CODEC.decode(frame.body)[0].event.topic_id == GROUP
        ]
        assert [type(frame) for frame in of_group] == [Events, TopicEnded, Heads, Events]


async def test_stream_that_opens_while_the_node_is_behind_covers_what_the_user_joined() -> None:
    """G4: the conversation is heard here for another member, and its newest record was lost."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await create_group(one)
        await tell(one, ALICE, 2)
        await open_stream(streams, ALICE)
        two.log.live_faults.append(LiveFault.LOST)
        await one.submit(add(BOB))
        await tell(one, BOB, 3)
        await open_stream(streams, BOB)
        assert len(two.hub.topic(GROUP).subscribers) == 2
