"""G10 on devices: whatever happens, and however late a device hears of it, it ends with the numbers that the log says.

The steps and the recount are those of the server's test. Between them devices hear events one by one, lose their
stream, make requests and reads whose answers come later or never; in the end each one, and a fresh login, has the
same numbers.
"""

from contextlib import AsyncExitStack
from random import Random
from unittest.mock import patch

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hubbub_client.kept import Counters
from hubbub_server.app import sync
from hubbub_server.domain.ids import UserId
from tests.support.app_node import BOB, AppCluster, AppNode
from tests.support.counting_device import CountingDevice
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_counters_machine import ROOMS, Machine, Numbers, Step, recount

SYNC_EVENTS = 5  # more missing events than this become a Gap

TURNS = 40

Move = tuple[str, int, int]
"""What a device does, which one, and a number for the rest."""

MOVES = (
    *("hear", "hear", "hear", "hear", "ask", "ask", "answer", "answer", "lose"),
    *("cut", "open", "sync", "part", "settle", "renew"),
)
# What the server's test does, and more of what changes the numbers of the user whose devices these are.
STEPS = (
    *("send", "mention all", "mention all", "read", "read", "unread", "block", "mute"),
    *("send", "mention", "project", "add", "remove", "forget", "snapshot"),
)


def moves(chance: Random) -> list[Move]:
    """Draws what devices do between two steps."""
    return [(chance.choice(MOVES), chance.randrange(3), chance.randrange(3)) for _ in range(chance.randint(1, 4))]


def step(chance: Random) -> Step:
    """Draws a step; the user of the devices and the first room come more often."""
    user, room = chance.choice((0, 1, 1, 2)), chance.choice((0, 0, 1))
    return chance.choice(STEPS), chance.randrange(2), user, room, chance.randrange(8)


def numbers_of(counters: Counters) -> Numbers:
    return {
        room: (counters.of(room).unread_count, counters.of(room).mention_count, counters.of(room).is_marked_unread)
        for room in ROOMS
        if room in counters.of_conversations
    }


class Devices:
    """Three devices of one user, who is not the owner of the rooms, so also leaves and joins."""

    def __init__(self, cluster: AppCluster, nodes: list[AppNode], user_id: UserId) -> None:
        self.cluster, self.nodes, self.user_id = cluster, nodes, user_id
        self.all = [self.new(asks_for_all=number == 1) for number in range(3)]

    def new(self, *, asks_for_all: bool) -> CountingDevice:
        return CountingDevice(self.cluster, self.user_id, ROOMS, asks_for_all=asks_for_all)

    async def do(self, move: Move) -> None:
        what, number, rest = move
        device, node = self.all[number], self.nodes[rest % 2]
        match what:
            case "hear":
                device.hear([*ROOMS, self.user_id][rest])
            case "ask":
                await device.ask(node)
            case "answer":
                await device.take_answer()
            case "lose":
                await device.take_answer(is_lost=True)
            case "cut":
                device.cut()
            case "open":
                await device.open(node)
            case "renew":
                self.all[number] = self.new(asks_for_all=number == 1)
                await self.check(self.all[number])
            case "settle":
                await self.check(device)
            case _:
                await device.sync(node, is_whole=what == "sync")

    async def check_all(self) -> None:
        for device in [*self.all, self.new(asks_for_all=False)]:
            await self.check(device)

    async def check(self, device: CountingDevice) -> None:
        counters = await device.settle(self.nodes[0])
        assert counters.is_exact
        assert (numbers_of(counters), counters.badge_count) == recount(self.cluster, self.user_id)


@settings(
    max_examples=100, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate]
)  # a seed has no smaller form
@given(st.integers(0, 2**32))
def test_counters_of_every_device_are_what_the_log_says(seed: int) -> None:
    """Draws by a seed of its own: lists of so many turns are too long for Hypothesis to make, and seldom are."""

    async def run() -> None:
        chance, cluster = Random(seed), AppCluster()
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(cluster.node()) for _ in range(2)]
            machine = Machine(cluster, nodes)
            await machine.start()
            for room in ROOMS:
                await machine.tell(nodes[0], room)
            devices = Devices(cluster, nodes, BOB)
            await devices.check_all()
            for _ in range(TURNS):
                await machine.do(step(chance))
                for move in moves(chance):
                    await devices.do(move)
            await devices.check_all()

    with patch.object(sync, "SYNC_MAX_EVENTS", SYNC_EVENTS):
        run_in_virtual_time(run())
