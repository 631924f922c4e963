"""G10 on devices: whatever happens, and however late a device hears of it, it ends with the numbers that the log says.

The steps and the recount are those of the server's test. Between them devices hear events one by one, lose their
stream, make requests and reads whose answers come later or never; in the end each one, and a fresh login, has the
same numbers.
"""

from contextlib import AsyncExitStack
from unittest.mock import patch

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubbub_client.kept import Counters
from hubbub_server.app import sync
from hubbub_server.domain.ids import UserId
from tests.support.app_node import BOB, AppCluster, AppNode
from tests.support.counting_device import CountingDevice
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_counters_machine import ROOMS, Machine, Numbers, Step, recount, step_of_all

SYNC_EVENTS = 5  # more missing events than this become a Gap

Move = tuple[str, int, int]
"""What a device does, which one, and a number for the rest."""

moves = st.lists(
    st.tuples(
        st.sampled_from(
            [
                *("hear", "hear", "hear", "hear", "ask", "ask", "answer", "answer", "lose"),
                *("cut", "open", "sync", "part", "settle", "renew"),
            ]
        ),
        st.integers(0, 2),
        st.integers(0, 2),
    ),
    min_size=1,
    max_size=4,
)
# What the server's test does, and more of what changes the numbers of the user whose devices these are.
own_steps = st.tuples(
    st.sampled_from(["send", "mention all", "mention all", "read", "read", "unread", "block", "mute"]),
    st.integers(0, 1),
    st.sampled_from([0, 1, 1, 2]),
    st.just(0),
    st.integers(0, 7),
)
turns = st.lists(st.tuples(st.one_of(own_steps, own_steps, step_of_all), moves), min_size=12, max_size=30)


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


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(turns)
def test_counters_of_every_device_are_what_the_log_says(todo: list[tuple[Step, list[Move]]]) -> None:
    async def run() -> None:
        cluster = AppCluster()
        async with AsyncExitStack() as stack:
            nodes = [await stack.enter_async_context(cluster.node()) for _ in range(2)]
            machine = Machine(cluster, nodes)
            await machine.start()
            for room in ROOMS:
                await machine.tell(nodes[0], room)
            devices = Devices(cluster, nodes, BOB)
            await devices.check_all()
            for step, following in todo:
                await machine.do(step)
                for move in following:
                    await devices.do(move)
            await devices.check_all()

    with patch.object(sync, "SYNC_MAX_EVENTS", SYNC_EVENTS):
        run_in_virtual_time(run())
