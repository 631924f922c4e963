"""A node that leaves, or has lost the log, sends its clients away a few at a time; a crowd that comes is let in so."""

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

import pytest

from hubbub_server.app.frames import Goodbye, GoodbyeReason, Hello, Outgoing
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.session import LOG_LOST_FOR_S
from hubbub_server.app.streams import Streams
from hubbub_server.domain.errors import LogUnavailable, NodeDraining, Unavailable
from tests.support.app_node import ALICE, BOB, AppCluster, message_id
from tests.support.open_streams import HELLO, caller, streams_of
from tests.support.virtual_time import run_in_virtual_time

_instances = count(1)
Scene = Callable[[AppCluster, Streams], Coroutine[Any, Any, None]]


def play(scene: Scene, **settings: Any) -> None:
    """Runs a scene on a node, on virtual time; the cluster's clock stands still until it is moved."""

    async def run() -> None:
        cluster = AppCluster()
        async with cluster.node() as node, streams_of(node, cluster, **settings) as streams:
            await scene(cluster, streams)

    run_in_virtual_time(run())


class Crowd:
    """Clients that do as they are told: each notes when its stream ended, and when it would come again."""

    def __init__(self, streams: Streams, size: int) -> None:
        self.ended_s: list[float] = []
        self.returns_s: list[float] = []
        self.errors: list[Exception | None] = []
        self.tasks: list[asyncio.Task[None]] = []
        for _ in range(size):
            stream = streams.open(caller(BOB), takes_commands=True)
            stream.receive(Hello(instance_id=message_id(next(_instances))))
            self.tasks.append(asyncio.create_task(self._follow(stream)))

    async def _follow(self, stream: LiveStream) -> None:
        frames: list[Outgoing] = []
        while taken := await stream.next_frames():
            frames += taken
        await stream.aclose()
        goodbye = frames[-1]
        assert isinstance(goodbye, Goodbye)
        assert (goodbye.reason, goodbye.reconnect) == (GoodbyeReason.DRAINING, True)
        now_s = asyncio.get_running_loop().time()
        self.ended_s.append(now_s)
        self.returns_s.append(now_s + goodbye.retry_delay_s)
        self.errors.append(stream.end_error)


def most_in_a_second(times_s: list[float]) -> int:
    """Returns the largest number of times within any second."""
    return max(sum(start_s <= other_s < start_s + 1.0 for other_s in times_s) for start_s in times_s)


@pytest.mark.parametrize("size", [10, 19, 333, 1_000])
def test_a_leaving_node_ends_at_most_a_tenth_of_its_streams_at_once(size: int) -> None:
    """C81: and no second has more of its clients coming back than a storm would be worth."""

    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        crowd = Crowd(streams, size)
        await asyncio.sleep(0.1)
        began_s = asyncio.get_running_loop().time()
        await streams.drain()
        await asyncio.gather(*crowd.tasks)
        assert len(crowd.ended_s) == size
        assert max(Counter(crowd.ended_s).values()) <= size / 10
        assert max(crowd.ended_s) - began_s <= 15.0
        assert most_in_a_second(crowd.ended_s) <= max(size / 10, 50) + size / 10
        assert len(set(crowd.returns_s)) == size
        assert max(b - a for a, b in zip(crowd.ended_s, crowd.returns_s, strict=True)) <= 1.0
        assert {type(error) for error in crowd.errors} == {NodeDraining}

    play(scene)


def test_a_node_with_few_streams_is_gone_in_a_moment() -> None:
    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        crowd = Crowd(streams, 3)
        await asyncio.sleep(0.1)
        began_s = asyncio.get_running_loop().time()
        await streams.drain()
        await asyncio.gather(*crowd.tasks)
        assert asyncio.get_running_loop().time() - began_s < 0.2

    play(scene)


def test_a_node_without_streams_does_not_wait_to_be_noticed() -> None:
    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        began_s = asyncio.get_running_loop().time()
        await streams.drain(announced_for_s=3.0)
        assert asyncio.get_running_loop().time() == began_s
        with pytest.raises(NodeDraining):
            streams.open(caller(BOB), takes_commands=True)

    play(scene)


def test_streams_live_on_and_are_taken_until_the_leaving_has_been_noticed() -> None:
    """Balancers still send new streams here; they would be sent away only to come back here."""

    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        crowd = Crowd(streams, 20)
        draining = asyncio.create_task(streams.drain(announced_for_s=3.0))
        await asyncio.sleep(2.9)
        assert not crowd.ended_s
        late = Crowd(streams, 1)
        await asyncio.sleep(0.2)
        with pytest.raises(NodeDraining) as refused:
            streams.open(caller(BOB), takes_commands=True)
        await draining
        await asyncio.gather(*crowd.tasks, *late.tasks)
        assert refused.value.retry_after_s > 0
        assert min(crowd.ended_s) >= 3.0

    play(scene)


def test_a_stream_that_does_not_end_holds_a_leaving_node_up_for_its_time_only() -> None:
    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        stuck = streams.open(caller(BOB), takes_commands=True)
        crowd = Crowd(streams, 100)
        await asyncio.sleep(0.1)
        began_s = asyncio.get_running_loop().time()
        await streams.drain()
        assert asyncio.get_running_loop().time() - began_s == pytest.approx(15.0)
        await asyncio.gather(*crowd.tasks)
        await stuck.aclose()

    play(scene)


def test_a_node_that_lost_the_log_for_long_ends_a_tenth_a_second_and_takes_nobody() -> None:
    """DESIGN 3.4: the back-stop for revocation, and nobody is thrown out twice."""

    async def scene(cluster: AppCluster, streams: Streams) -> None:
        crowd = Crowd(streams, 200)
        await asyncio.sleep(0.1)
        cluster.server.nodes[0].cut()
        with pytest.raises(LogUnavailable) as refused:
            streams.open(caller(ALICE), takes_commands=True)
        assert refused.value.retry_after_s > 0
        streams.tick()
        # A second a tick, as the streams count it: the clock of the loop goes on by itself.
        cluster.clock.advance(LOG_LOST_FOR_S + 1)
        left = 200
        while left:
            streams.tick()
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert left - len(streams) <= 20
            assert len(streams) < left
            left = len(streams)
            cluster.clock.advance(1.0)
        await asyncio.gather(*crowd.tasks)
        assert {type(error) for error in crowd.errors} == {LogUnavailable}

    play(scene)


def test_a_node_that_hears_the_log_again_keeps_who_is_left() -> None:
    async def scene(cluster: AppCluster, streams: Streams) -> None:
        crowd = Crowd(streams, 100)
        await asyncio.sleep(0.1)
        log = cluster.server.nodes[0]
        log.cut()
        cluster.clock.advance(5)
        streams.tick()
        cluster.clock.advance(LOG_LOST_FOR_S + 1)
        streams.tick()
        await asyncio.sleep(0.1)
        log.heal()
        for _ in range(5):
            streams.tick()
            cluster.clock.advance(1.0)
        await asyncio.sleep(0.1)
        assert len(crowd.ended_s) <= 20
        assert len(streams) >= 80
        streams.open(caller(ALICE), takes_commands=True)
        await streams.drain()
        await asyncio.gather(*crowd.tasks)

    play(scene)


def test_only_so_many_streams_are_opened_at_once_and_the_others_are_told_when_to_come() -> None:
    """C81: a storm after a proxy's restart. What is live does not count."""

    async def scene(_cluster: AppCluster, streams: Streams) -> None:
        opening = [streams.open(caller(BOB), takes_commands=True) for _ in range(5)]
        delays_s = set()
        for _ in range(10):
            with pytest.raises(Unavailable) as refused:
                streams.open(caller(BOB), takes_commands=True)
            delays_s.add(refused.value.retry_after_s)
        assert len(delays_s) == 10
        assert all(0 < delay_s <= 5 for delay_s in delays_s)

        opening[0].receive(HELLO)
        await asyncio.sleep(1.0)
        await opening[1].aclose()
        for _ in range(2):
            opening.append(streams.open(caller(BOB), takes_commands=True))
        with pytest.raises(Unavailable):
            streams.open(caller(BOB), takes_commands=True)

    play(scene, max_opening=5)
