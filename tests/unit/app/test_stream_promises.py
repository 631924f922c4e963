"""What a stream promises: G4 (heads tell the last event), G5 (nothing after the removal), G6 (bounded)."""

import asyncio
from collections.abc import Iterator

import pytest

from hubbub_server.app.active_topic import Delivery
from hubbub_server.app.frames import (
    Events,
    Goodbye,
    GoodbyeReason,
    Heads,
    Heartbeat,
    Hello,
    Lagging,
    Outgoing,
    TopicEnded,
    Welcome,
)
from hubbub_server.app.send_queue import BUFFER_MAX_BYTES, BUFFER_MAX_EVENTS
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S, RESET_AFTER_S, Session
from hubbub_server.domain.cursor import Cursor, TopicHead
from hubbub_server.domain.errors import RateLimited
from tests.support.app_node import (
    ALICE,
    BOB,
    CODEC,
    GROUP,
    AppCluster,
    message_id,
    remove,
    send,
    until,
)
from tests.support.marker_steps import group_with
from tests.support.open_streams import HELLO, caller, open_stream, streams_of


def session(takes_commands: bool = True) -> Session:
    """A session that is past Hello, its Welcome taken."""
    made = Session(session_id="s1", caller=caller(BOB), takes_commands=takes_commands, now_s=0.0, now_ms=0)
    made.receive(HELLO, 0.0)
    made.opened()
    made.take(1 << 30)
    return made


def head(position: int) -> TopicHead:
    return TopicHead(cursor=Cursor(topic_id=GROUP, epoch=1, position=position), last_message_number=position)


def delivery(position: int, body: bytes = b"x", count: int = 1) -> Delivery:
    return Delivery(topic_id=GROUP, head=head(position), frame=Events(body=body, count=count), turns=())


def take_all(made: Session) -> list[Outgoing]:
    return list(made.take(1 << 30))


def test_a_heartbeat_names_the_head_of_every_topic_that_moved() -> None:
    """G4: the client sees from the head alone that the last event is missing."""
    made = session()
    for position in (1, 2, 3):
        made.deliver(delivery(position))
    take_all(made)
    made.tick(HEARTBEAT_INTERVAL_S, is_live=True)
    (heartbeat,) = take_all(made)
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.heads == (head(3),)
    made.tick(2 * HEARTBEAT_INTERVAL_S, is_live=True)
    (heartbeat,) = take_all(made)
    assert isinstance(heartbeat, Heartbeat)
    assert heartbeat.heads == ()


def test_a_heartbeat_says_when_the_node_cannot_hear_the_log() -> None:
    """G4: `live` is False while news may come late."""
    made = session()
    made.tick(HEARTBEAT_INTERVAL_S, is_live=False)
    (heartbeat,) = take_all(made)
    assert isinstance(heartbeat, Heartbeat)
    assert not heartbeat.live


def test_the_head_of_a_topic_comes_before_its_first_event() -> None:
    """G4: also while other topics are still being opened."""
    made = Session(session_id="s1", caller=caller(BOB), takes_commands=True, now_s=0.0, now_ms=0)
    made.receive(HELLO, 0.0)
    made.topic_opened(head(5))
    made.deliver(delivery(6))
    made.opened()
    assert [type(frame) for frame in take_all(made)] == [Welcome, Heads, Events, Heads]


@pytest.mark.parametrize(
    ("body", "fits"), [(b"x", BUFFER_MAX_EVENTS), (b"x" * 4096, BUFFER_MAX_BYTES // 4096)], ids=["events", "bytes"]
)
def test_a_reader_that_stops_loses_its_queue_and_gets_goodbye(body: bytes, fits: int) -> None:
    """G6: half full is told, full ends the stream; what waits is bounded at every moment."""
    made = session()
    for position in range(1, fits + 1):
        made.deliver(delivery(position, body))
        assert made.buffered_bytes <= BUFFER_MAX_BYTES
    assert made.goodbye_reason is None
    made.deliver(delivery(fits + 1, body))
    assert made.buffered_bytes == 0
    (goodbye,) = take_all(made)
    assert isinstance(goodbye, Goodbye)
    assert goodbye.reason is GoodbyeReason.SLOW_READER
    assert goodbye.reconnect
    assert isinstance(made.end_error, RateLimited)
    made.deliver(delivery(fits + 2, body))
    assert take_all(made) == []


def test_lagging_is_told_once_when_the_queue_is_half_full() -> None:
    """G6."""
    made = session()
    for position in range(1, BUFFER_MAX_EVENTS):
        made.deliver(delivery(position))
    assert [type(frame) for frame in take_all(made)].count(Lagging) == 1


def test_a_reader_that_does_not_even_take_goodbye_is_reset() -> None:
    """G6: ten seconds after the end the transport must go."""
    made = session()
    for position in range(1, BUFFER_MAX_EVENTS + 2):
        made.deliver(delivery(position))
    made.tick(1.0, is_live=True)
    made.tick(1.0 + RESET_AFTER_S, is_live=True)
    assert not made.must_reset
    made.tick(1.1 + RESET_AFTER_S, is_live=True)
    assert made.must_reset


# ---- streams on a node


def positions(frames: list[Outgoing]) -> Iterator[int]:
    for frame in frames:
        if isinstance(frame, Events):
            yield from (d.event.position for d in CODEC.decode(frame.body) if d.event.topic_id == GROUP)


@pytest.mark.asyncio
async def test_the_last_event_of_a_removed_user_is_the_removal() -> None:
    """G5, C43: a hundred sends and one removal at once; then TopicEnded, and nothing after it."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two, streams_of(two, cluster) as streams:
        await group_with(one, BOB)
        bobs, alices = await open_stream(streams, BOB), await open_stream(streams, ALICE)
        pending = [one.hub.enqueue(GROUP, send(ALICE, serial)) for serial in range(1, 51)]
        pending.append(one.hub.enqueue(GROUP, remove(BOB)))
        pending += [one.hub.enqueue(GROUP, send(ALICE, serial)) for serial in range(51, 101)]
        await until(lambda: all(p.future.done() for p in pending))
        removal = 3 + 50 + 1
        seen: list[Outgoing] = []
        while max(positions(seen), default=0) < 3 + 101:
            seen += await alices.next_frames()
        assert list(positions(seen)) == list(range(4, 105))
        got = list(await bobs.next_frames())
        assert list(positions(got)) == list(range(4, removal + 1))
        assert [type(frame) for frame in got[-1:]] == [TopicEnded]
        await one.send(send(ALICE, 999))
        await until(lambda: two.hub.topic(GROUP).head.cursor.position == 105)
        bobs.drain(0.0)
        assert [type(frame) for frame in await bobs.next_frames()] == [Goodbye]


@pytest.mark.asyncio
async def test_streams_that_come_at_once_get_live_one_after_the_other_and_a_lost_one_keeps_no_turn() -> None:
    """G6, C81: a storm costs a node the loading of a few streams at a time; nobody is refused for it."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        streams.turns = asyncio.Semaphore(1)
        await group_with(node, BOB)
        gone = streams.open(caller(BOB), takes_commands=True)
        gone.receive(HELLO)
        waiting = [streams.open(caller(user_id), takes_commands=True) for user_id in (ALICE, BOB, ALICE)]
        for number, stream in enumerate(waiting):
            stream.receive(Hello(instance_id=message_id(10 + number)))
        await gone.aclose()
        for stream in waiting:
            frames: list[Outgoing] = []
            while not any(isinstance(frame, Heads) and frame.complete for frame in frames):
                frames += await stream.next_frames()


@pytest.mark.asyncio
async def test_a_stream_whose_topics_are_heard_already_reads_nothing() -> None:
    """A storm of streams asks the log for each topic once: here it cannot be asked at all."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        await open_stream(streams, ALICE)
        later = streams.open(caller(ALICE), takes_commands=True)
        node.log.cut()
        later.receive(Hello(instance_id=message_id(2)))
        frames: list[Outgoing] = []
        while not any(isinstance(frame, Heads) and frame.complete for frame in frames):
            frames += await later.next_frames()
        heads = [head.cursor.topic_id for frame in frames if isinstance(frame, Heads) for head in frame.heads]
        node.log.heal()
        await node.send(send(BOB, 1))
        while not any(isinstance(frame, Events) for frame in frames):
            frames += await later.next_frames()
    assert sorted(heads) == sorted([ALICE, GROUP])


@pytest.mark.asyncio
async def test_a_reader_that_stops_costs_the_others_nothing() -> None:
    """G6: both streams hear 3,000 events; one reads them all, the other is ended with what it can hold."""
    cluster = AppCluster()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await group_with(node, BOB)
        stopped, reading = await open_stream(streams, BOB), await open_stream(streams, ALICE)
        seen: list[Outgoing] = []
        for serial in range(1, 3001, 100):
            pending = [node.hub.enqueue(GROUP, send(ALICE, number)) for number in range(serial, serial + 100)]
            await until(lambda sent=pending: all(p.future.done() for p in sent))  # type: ignore[misc]
            while max(positions(seen), default=3) < 3 + serial + 99:
                seen += await reading.next_frames()
        assert list(positions(seen)) == list(range(4, 3004))
        assert isinstance(stopped.end_error, RateLimited)
        assert [type(frame) for frame in await stopped.next_frames()] == [Goodbye]
