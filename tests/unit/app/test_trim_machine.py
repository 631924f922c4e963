"""Several nodes keep G1 to G5 while the log is trimmed under them, in part and wholly, with hours in between.

The script and the judge are those of the committer machine; here days pass, snapshots are taken at any time, and the
real trimmer prepares and removes what it may. The judge alone remembers what was removed.
"""

import asyncio

from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub_server.app.take_snapshots import TakeSnapshots
from hubbub_server.domain.commands import CreateGroup
from hubbub_server.domain.errors import IdReused, LogUnavailable, StoreUnavailable
from hubbub_server.domain.ids import shard_of
from hubbub_server.workers.handled_records import HandledRecords
from hubbub_server.workers.roles import ROLES
from hubbub_server.workers.trimmer import Prepared, Trimmer
from tests.support.app_node import ALICE, BOB, GROUP
from tests.support.fakes.dead_letters import FakeDeadLetters
from tests.support.fakes.log_shards import FakeLogShards
from tests.support.fakes.record_consumers import FakeRecordConsumers
from tests.support.fakes.topic_states import FakeTopicStates
from tests.support.loaders import fake_loader
from tests.support.virtual_time import run_in_virtual_time
from tests.unit.app.test_committer_machine import NODES, Cluster, Step, numbers, play

KEPT_S = 4_000.0  # longer than an outcome may be unknown
commands = ("send", "burst", "retry", "change", "read", "create")
faults = ("append", "live", "cut", "store", "project", "late", "cancel", "restart", "listen")
trims = ("hours", "prepare", "prepare", "trim", "snapshot", "lapse", "lapse")
steps = st.tuples(st.sampled_from((*commands, *trims)) | st.sampled_from((*faults, *trims)), NODES, numbers, numbers)
scripts = st.lists(steps, min_size=30, max_size=70)


class TrimmedCluster(Cluster):
    """A cluster whose log is trimmed. `removed` counts records."""

    def __init__(self, seed: int, window_capacity: int, offsets_ms: list[int]) -> None:
        super().__init__(seed, window_capacity, offsets_ms)
        server = self.parts.server
        server.clock_s = lambda: asyncio.get_running_loop().time()
        log = server.connect()
        self.shard = shard_of(GROUP, server.shards)
        self.snapshots = TakeSnapshots(
            loader=fake_loader(server, log, self.parts.store), states=FakeTopicStates(server, log)
        )
        self.trimmer = Trimmer(
            self.shard,
            log_shards=FakeLogShards(server, log),
            handled=HandledRecords(
                roles=ROLES,
                consumers=FakeRecordConsumers(server),
                letters=FakeDeadLetters(),
                projection=self.parts.store,
            ),
            snapshots=self.snapshots,
            is_held=lambda: True,
            kept_s=KEPT_S,
            interval_s=60.0,
        )
        self.prepared: Prepared | None = None

    async def do(self, step: Step) -> None:
        what, number, a, _ = step
        server = self.parts.server
        match what:
            case "hours":
                await self.pass_hours((0.2, 0.5, 1.1)[a % 3] * KEPT_S)
            case "snapshot":
                await self.try_to("snapshot")
            case "prepare":
                for role in ("projector", "relay", "state"):
                    server.ack_floors[role, self.shard] = max(server.last_sequences[self.shard] - a % 3, 0)
                await self.try_to("prepare")
            case "trim":
                await self.try_to("trim")
            case "lapse":
                await self.lapse()
            case "create":
                await self.create_again(number)
            case _:
                await super().do(step)

    async def try_to(self, what: str) -> None:
        try:
            match what:
                case "snapshot":
                    await self.snapshots.take(GROUP)
                case "prepare":
                    self.prepared = await self.trimmer.prepare()
                case "trim" if self.prepared is not None:
                    await self.trimmer.trim(self.prepared)
        except (LogUnavailable, StoreUnavailable):
            pass

    async def pass_hours(self, seconds: float) -> None:
        """Lets time pass; no append is on its way for hours."""
        await asyncio.sleep(1.0)
        self.parts.server.release_late()
        await asyncio.sleep(seconds)

    async def lapse(self) -> None:
        """Nobody speaks for hours, and everything is trimmed."""
        await self.pass_hours(1.1 * KEPT_S)
        if not self.parts.store.is_unavailable:
            await self.parts.project()
        for role in ("projector", "relay", "state"):
            self.parts.server.ack_floors[role, self.shard] = self.parts.server.last_sequences[self.shard]
        await self.try_to("prepare")
        await self.try_to("trim")

    async def create_again(self, number: int) -> None:
        """Whoever repeats the creation hears of the same conversation; with another title, that it is taken."""
        hub = self.nodes[number].hub
        before = len(self.parts.history())
        try:
            await hub.submit(GROUP, CreateGroup(creator_id=ALICE, title="group", user_ids=(BOB,)), timeout_s=8.0)
            await hub.submit(GROUP, CreateGroup(creator_id=ALICE, title="other", user_ids=()), timeout_s=8.0)
        except (IdReused, LogUnavailable, StoreUnavailable):
            pass
        else:
            raise AssertionError("the conversation was made again")
        created = [e for e in self.parts.history()[before:] if type(e.kind).__name__ == "ConversationCreated"]
        assert created == []


@given(
    script=scripts,
    seed=st.integers(0, 2**16),
    window_capacity=st.sampled_from([1, 3, 64]),
    offsets_ms=st.lists(st.sampled_from([0, 0, 5, -2_000, 30_000, -30_000]), min_size=3, max_size=3),
)
@settings(max_examples=30)
def test_nodes_keep_every_promise_while_the_log_is_trimmed(
    script: list[Step], seed: int, window_capacity: int, offsets_ms: list[int]
) -> None:
    """G1, G2, G3, G4, G5, and the law on head 0."""
    run_in_virtual_time(play(script, TrimmedCluster(seed, window_capacity, offsets_ms)))
