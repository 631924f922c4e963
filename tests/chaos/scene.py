"""What a run may break, and how: parts that are killed, held down or frozen, disks, links, clocks.

Everything that a fault does here is taken back when its `with` ends, also when the run breaks off.
"""

import asyncio
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from redis.asyncio import Redis

from hubbub_server.domain.ids import TopicId, shard_of
from tests.chaos.catalogue import Hit
from tests.chaos.disk import Disk
from tests.chaos.plan import PlannedFault
from tests.soak.cast import Cast
from tests.soak.counters import Counters
from tests.soak.records import Journal
from tests.support.cluster import Cluster, Process

BURST = 24
SETTLE_S = 3.0
FOUND_S = 30.0
_ANSWER_S = 2.0
_SHARDS = 8
_SERVER_NAME = "hubbub-{}"
T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """One run's cluster and cast."""

    cluster: Cluster
    cast: Cast
    counters: Counters
    journal: Journal
    disks: Mapping[str, Disk]
    """By name of the NATS server."""
    clock_shifts: Path
    """Folder of the files that make clocks wrong."""

    def running(self, role: str) -> list[Process]:
        """The parts of a role that run."""
        return self.cluster.processes(role)

    def kill(self, *processes: Process) -> None:
        """Kills without a warning."""
        for process in processes:
            self.cluster.kill(process)

    @contextmanager
    def held(self, *processes: Process) -> Iterator[None]:
        """Keeps parts down that die meanwhile."""
        for process in processes:
            self.cluster.hold(process.name)
        try:
            yield
        finally:
            for process in processes:
                self.cluster.release(process.name)

    @contextmanager
    def frozen(self, *processes: Process) -> Iterator[None]:
        """Freezes parts: their connections stay open, nothing answers."""
        try:
            for process in processes:
                os.kill(process.pid, signal.SIGSTOP)
            yield
        finally:
            for process in processes:
                with suppress(ProcessLookupError):  # killed meanwhile
                    os.kill(process.pid, signal.SIGCONT)

    @contextmanager
    def wrong_clock(self, process: Process, shift_s: int) -> Iterator[None]:
        """Sets the wall clock of a part."""
        file = self.clock_shifts / process.name
        draft = file.with_suffix(".new")
        try:
            draft.write_text(str(shift_s))
            draft.rename(file)
            yield
        finally:
            file.unlink(missing_ok=True)

    async def nats_leader(self, choice: float) -> Process:
        """The leader of a shard that has a conversation of this run."""
        topics = [TopicId(conversation.topic) for conversation in self.cast.conversations]
        shard = shard_of(topics[int(choice * len(topics))], _SHARDS)
        deadline_s = time.monotonic() + FOUND_S
        while time.monotonic() < deadline_s:
            for server in self.running("nats"):
                with suppress(OSError, ValueError, KeyError):
                    leader = _leader_of(f"LOG_{shard}", await self._read_streams(server))
                    for process in self.running("nats"):
                        if _SERVER_NAME.format(process.name) == leader:
                            return process
            await asyncio.sleep(0.1)
        raise RuntimeError(f"shard {shard} has no leader")

    async def count_leases(self) -> int:
        """How many keys the registry of nodes has."""
        async with self._redis() as client, asyncio.timeout(_ANSWER_S):
            return int(await client.dbsize())

    async def forget_leases(self) -> None:
        """Removes everything from Redis."""
        async with self._redis() as client, asyncio.timeout(_ANSWER_S):
            await client.flushall()

    def _redis(self) -> Redis:
        (server,) = self.running("valkey")
        password = (self.cluster.data / "secrets" / "valkey_password").read_text().strip()
        return Redis(host="127.0.0.1", port=server.ports["redis"], password=password)

    async def _read_streams(self, server: Process) -> Any:
        async with asyncio.timeout(_ANSWER_S):
            return json.loads(await self.cluster.read_page(server, "http", "/jsz?accounts=true&streams=true"))


def _leader_of(stream: str, page: Any) -> str:
    details = [detail for account in page["account_details"] for detail in account["stream_detail"]]
    (leader,) = [detail["cluster"]["leader"] for detail in details if detail["name"] == stream]
    return str(leader)


@dataclass
class Strike:
    """One fault as it happens: writes down its begin, what it did, and its end."""

    number: int
    planned: PlannedFault
    scene: Scene
    effects: dict[Hit, int] = field(default_factory=dict)

    @property
    def for_s(self) -> float:
        """How long the fault lasts."""
        return self.planned.for_s

    def pick(self, options: Sequence[T]) -> T:
        """Chooses whom it hits."""
        return options[int(self.planned.choice * len(options))]

    async def begin(self, target: str) -> None:
        """Sends a burst, so that there is something to hit, and notes the begin: what comes next breaks something."""
        await self.scene.cast.burst(BURST)
        self.scene.journal.write(
            "fault_begin",
            n=self.number,
            fault=self.planned.kind.name,
            target=target,
            totals=self.scene.counters.totals(),
        )

    async def end(self) -> None:
        """Notes the end some time after the repair, when what the fault did has been counted."""
        repaired = time.monotonic()
        await asyncio.sleep(SETTLE_S)
        await self.scene.counters.scrape_all()
        self.scene.journal.write(
            "fault_end",
            n=self.number,
            repaired=repaired,
            totals=self.scene.counters.totals(),
            effects={str(name): value for name, value in self.effects.items()},
        )
