"""What every SignalBus promises: heard by who listens now, once, in order; lost without harm."""

import asyncio
import itertools
import random
from dataclasses import dataclass, field

import pytest

from hubbub_server.domain.errors import LogUnavailable
from hubbub_server.domain.ids import TopicId
from hubbub_server.ports.signal_bus import SIGNAL_MAX_BYTES, SignalBus
from tests.support.signal_buses import NARROW_MAX_KEYS, SignalBuses
from tests.support.waiting import until, until_it_answers

pytestmark = pytest.mark.asyncio

KIND, OTHER_KIND = "typing", "presence"
_numbers = itertools.count(1)


def new_key() -> TopicId:
    return TopicId(f"c{next(_numbers)}signal")


@dataclass(eq=False)
class Ear:
    """A listener."""

    heard: list[tuple[TopicId, bytes]] = field(default_factory=list)

    def hear(self, key: TopicId, body: bytes) -> None:
        self.heard.append((key, body))

    @property
    def bodies(self) -> list[bytes]:
        return [body for _, body in self.heard]


async def listen(bus: SignalBus, *keys: TopicId, kind: str = KIND) -> Ear:
    """Returns a listener that hears the keys from now on, whoever publishes at whatever server."""
    ear = Ear()
    for key in keys:
        bus.subscribe(kind, key, ear.hear)
    await bus.registered()
    return ear


async def until_heard(ear: Ear, bus: SignalBus, key: TopicId, body: bytes, *, kind: str = KIND) -> None:
    """Publishes until the listener hears it: interest takes a moment to get from server to server."""
    async with asyncio.timeout(10.0):
        while (key, body) not in ear.heard:
            bus.publish(kind, key, body)
            await asyncio.sleep(0.01)


async def test_a_signal_is_heard_on_every_node_the_publishers_own_too(signal_buses: SignalBuses) -> None:
    key = new_key()
    here, there = await listen(signal_buses.mine, key), await listen(signal_buses.theirs, key)
    await until_heard(there, signal_buses.mine, key, b"warm")

    signal_buses.mine.publish(KIND, key, b"\x00hello")
    is_called_from_within = b"\x00hello" in here.bodies + there.bodies

    await until(lambda: b"\x00hello" in here.bodies and b"\x00hello" in there.bodies)
    assert not is_called_from_within
    assert (here.heard[-1], there.heard[-1]) == ((key, b"\x00hello"), (key, b"\x00hello"))


async def test_other_keys_and_other_kinds_are_not_heard(signal_buses: SignalBuses) -> None:
    key, other_key = new_key(), new_key()
    ear, other = await listen(signal_buses.mine, key), await listen(signal_buses.mine, key, kind=OTHER_KIND)

    signal_buses.mine.publish(KIND, other_key, b"1")
    signal_buses.mine.publish(KIND, key, b"2")
    signal_buses.mine.publish(OTHER_KIND, key, b"3")

    await until(lambda: ear.heard and other.heard)
    assert (ear.bodies, other.bodies) == ([b"2"], [b"3"])


async def test_signals_of_one_publisher_and_key_come_once_and_in_order(signal_buses: SignalBuses) -> None:
    key = new_key()
    ear = await listen(signal_buses.theirs, key)
    await until_heard(ear, signal_buses.mine, key, b"warm")
    bodies = [b"%d" % number for number in range(200)]

    for body in bodies:
        signal_buses.mine.publish(KIND, key, body)

    await until(lambda: bodies[-1] in ear.bodies)
    assert [body for body in ear.bodies if body != b"warm"] == bodies


async def test_a_key_is_heard_as_long_as_it_has_a_listener(signal_buses: SignalBuses) -> None:
    key, mine = new_key(), signal_buses.mine
    first, second = await listen(mine, key), await listen(mine, key)
    mine.subscribe(KIND, key, first.hear)  # twice counts once

    mine.publish(KIND, key, b"both")
    await until(lambda: first.heard and second.heard)
    mine.unsubscribe(KIND, key, first.hear)
    mine.unsubscribe(KIND, key, first.hear)
    mine.publish(KIND, key, b"second")
    await until(lambda: b"second" in second.bodies)
    mine.unsubscribe(KIND, key, second.hear)
    mine.publish(KIND, key, b"nobody")
    await mine.registered()
    await mine.registered()

    assert (first.bodies, second.bodies) == ([b"both"], [b"both", b"second"])


async def test_a_listener_that_is_removed_hears_nothing_more_at_once(signal_buses: SignalBuses) -> None:
    key, mine = new_key(), signal_buses.mine
    gone, stays = await listen(mine, key), await listen(mine, key)

    mine.publish(KIND, key, b"1")
    mine.unsubscribe(KIND, key, gone.hear)

    await until(lambda: stays.heard)
    assert gone.heard == []


async def test_many_keys_are_heard_as_few_are(signal_buses: SignalBuses) -> None:
    """Up and down over the number from which on a kind is heard as a whole."""
    mine = signal_buses.mine
    keys = [new_key() for _ in range(3 * NARROW_MAX_KEYS)]
    stranger = new_key()
    ear = await listen(mine, *keys)
    for key in keys:
        mine.publish(KIND, key, b"many")
    mine.publish(KIND, stranger, b"many")
    await until(lambda: len(ear.heard) >= len(keys))
    assert ear.heard == [(key, b"many") for key in keys]

    for key in keys[1:]:
        mine.unsubscribe(KIND, key, ear.hear)
    await mine.registered()
    for key in keys:
        mine.publish(KIND, key, b"few")
    await until(lambda: (keys[0], b"few") in ear.heard)
    await mine.registered()

    assert ear.heard[len(keys) :] == [(keys[0], b"few")]


async def test_listeners_come_and_go_in_any_order(signal_buses: SignalBuses) -> None:
    """Compared with a table, after each of many random steps."""
    mine, chance = signal_buses.mine, random.Random(6)
    keys, ears = [new_key() for _ in range(2 * NARROW_MAX_KEYS)], [Ear(), Ear()]
    wanted: set[tuple[int, TopicId]] = set()
    for round_ in range(12):
        for _ in range(chance.randint(1, 3 * NARROW_MAX_KEYS)):
            place = chance.randrange(2), chance.choice(keys)
            if chance.random() < (0.7 if round_ % 2 else 0.3):
                mine.subscribe(KIND, place[1], ears[place[0]].hear)
                wanted.add(place)
            else:
                mine.unsubscribe(KIND, place[1], ears[place[0]].hear)
                wanted.discard(place)
        await mine.registered()
        for ear in ears:
            ear.heard.clear()
        for key in keys:
            mine.publish(KIND, key, b"%d" % round_)
        await until(lambda: sum(len(ear.heard) for ear in ears) >= len(wanted))
        await mine.registered()

        assert {(number, key) for number, ear in enumerate(ears) for key, _ in ear.heard} == wanted
        assert sum(len(ear.heard) for ear in ears) == len(wanted)


async def test_a_lost_node_drops_signals_and_hears_again_when_it_is_back(signal_buses: SignalBuses) -> None:
    """Also for what was subscribed meanwhile; and it says that something may have been missed."""
    mine, theirs = signal_buses.mine, signal_buses.theirs
    key, later_key = new_key(), new_key()
    here, there = await listen(mine, key), await listen(theirs, key)
    await until_heard(there, mine, key, b"warm")
    disturbances: list[None] = []
    mine.on_disturbance(lambda: disturbances.append(None))

    signal_buses.cut()
    await until_lost(mine)
    mine.publish(KIND, key, b"lost")
    theirs.publish(KIND, key, b"missed")
    mine.subscribe(KIND, later_key, here.hear)
    await until(lambda: b"missed" in there.bodies)
    signal_buses.recover()
    await until_it_answers(mine.registered)

    await until_heard(here, theirs, later_key, b"later")
    await until_heard(here, theirs, key, b"again")
    await until_heard(there, mine, key, b"back")
    await until(lambda: disturbances)
    assert b"lost" not in there.bodies
    assert b"missed" not in here.bodies


async def until_lost(bus: SignalBus) -> None:
    async with asyncio.timeout(10.0):
        while True:
            try:
                await bus.registered()
            except LogUnavailable:
                return


async def test_what_is_too_large_is_refused_and_the_largest_is_not(signal_buses: SignalBuses) -> None:
    key = new_key()
    ear = await listen(signal_buses.mine, key)

    signal_buses.mine.publish(KIND, key, bytes(SIGNAL_MAX_BYTES))
    with pytest.raises(ValueError, match="signal"):
        signal_buses.mine.publish(KIND, key, bytes(SIGNAL_MAX_BYTES + 1))

    await until(lambda: ear.heard)
