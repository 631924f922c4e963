"""How each kind of fault is done. One function a kind: begin, break, wait, repair."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from tests.chaos.catalogue import KINDS, Hit
from tests.chaos.scene import Scene, Strike
from tests.support.cluster import Process
from tests.support.fault_proxy import Cut, FaultProxy, ProxyGroup

CLOCK_SHIFT_S: Final = 180
NODE_DELAY_S, CLIENT_DELAY_S = 0.25, 0.6
_DISK_ERRORS: Final = ("no space left", "file too large", "insufficient storage", "out of resources", "input/output")

DoFault = Callable[[Scene, Strike], Awaitable[None]]
FAULTS: Final[dict[str, DoFault]] = {}


def _does(name: str) -> Callable[[DoFault], DoFault]:
    def register(do: DoFault) -> DoFault:
        FAULTS[KINDS[name].name] = do
        return do

    return register


async def _kill(scene: Scene, strike: Strike, *victims: Process) -> None:
    await strike.begin(_names(victims))
    with scene.held(*victims):
        scene.kill(*victims)
        await asyncio.sleep(strike.for_s)


async def _freeze(scene: Scene, strike: Strike, *victims: Process) -> None:
    await strike.begin(_names(victims))
    with scene.frozen(*victims):
        await asyncio.sleep(strike.for_s)


def _names(victims: tuple[Process, ...]) -> str:
    return ", ".join(victim.name for victim in victims)


# ---- nodes and their links


@_does("node killed")
async def _kill_node(scene: Scene, strike: Strike) -> None:
    await _kill(scene, strike, strike.pick(scene.running("node")))


@_does("node frozen")
async def _freeze_node(scene: Scene, strike: Strike) -> None:
    await _freeze(scene, strike, strike.pick(scene.running("node")))


@_does("node link cut")
async def _cut_node_link(scene: Scene, strike: Strike) -> None:
    link = strike.pick(scene.cluster.links)
    await strike.begin(f"node-{scene.cluster.links.index(link) + 1}")
    await _cut(link, strike)


@_does("node link half-open")
async def _half_open_node_link(scene: Scene, strike: Strike) -> None:
    link = strike.pick(scene.cluster.links)
    await strike.begin(f"node-{scene.cluster.links.index(link) + 1}")
    await _half_open(link, strike)


@_does("node link slow")
async def _slow_node_link(scene: Scene, strike: Strike) -> None:
    link = strike.pick(scene.cluster.links)
    await strike.begin(f"node-{scene.cluster.links.index(link) + 1}")
    await _slow(link, strike, NODE_DELAY_S)


@_does("client link cut")
async def _cut_client_link(scene: Scene, strike: Strike) -> None:
    actor = strike.pick(scene.cast.senders())
    await strike.begin(actor.plan.who)
    await _cut(actor.proxy, strike)


@_does("client link half-open")
async def _half_open_client_link(scene: Scene, strike: Strike) -> None:
    actor = strike.pick(scene.cast.senders())
    await strike.begin(actor.plan.who)
    await _half_open(actor.proxy, strike)


@_does("client link slow")
async def _slow_client_link(scene: Scene, strike: Strike) -> None:
    actor = strike.pick(scene.cast.senders())
    await strike.begin(actor.plan.who)
    await _slow(actor.proxy, strike, CLIENT_DELAY_S)


async def _cut(link: FaultProxy | ProxyGroup, strike: Strike) -> None:
    try:
        link.refuse()
        link.cut(Cut.RST)
        await asyncio.sleep(strike.for_s)
    finally:
        link.flow()


async def _half_open(link: FaultProxy | ProxyGroup, strike: Strike) -> None:
    """Both ends think that they are connected, and nothing passes; at the end both hear that it is over."""
    try:
        link.silence()
        await asyncio.sleep(strike.for_s)
    finally:
        link.cut(Cut.RST)
        link.flow()


async def _slow(link: FaultProxy | ProxyGroup, strike: Strike, delay_s: float) -> None:
    try:
        link.delay(delay_s)
        await asyncio.sleep(strike.for_s)
    finally:
        link.flow()


async def _wrong_clock(scene: Scene, strike: Strike, shift_s: int) -> None:
    node = strike.pick(scene.running("node"))
    await scene.counters.scrape(node)
    before = scene.counters.commits(node.pid)
    with scene.wrong_clock(node, shift_s):
        await strike.begin(node.name)
        await asyncio.sleep(strike.for_s)
        await scene.counters.scrape(node)
    strike.effects[Hit.WRONG_COMMITS] = round(scene.counters.commits(node.pid) - before)


@_does("clock three minutes ahead")
async def _clock_ahead(scene: Scene, strike: Strike) -> None:
    await _wrong_clock(scene, strike, CLOCK_SHIFT_S)


@_does("clock three minutes behind")
async def _clock_behind(scene: Scene, strike: Strike) -> None:
    await _wrong_clock(scene, strike, -CLOCK_SHIFT_S)


# ---- workers


@_does("worker killed")
async def _kill_worker(scene: Scene, strike: Strike) -> None:
    await _lose_worker(scene, strike, _kill)


@_does("worker frozen")
async def _freeze_worker(scene: Scene, strike: Strike) -> None:
    await _lose_worker(scene, strike, _freeze)


async def _lose_worker(scene: Scene, strike: Strike, lose: Callable[[Scene, Strike, Process], Awaitable[None]]) -> None:
    worker = strike.pick(scene.running("worker"))
    await scene.counters.scrape_all()
    units, before = scene.counters.units(worker.pid), scene.counters.totals().get("commits", 0)
    await lose(scene, strike, worker)
    await scene.counters.scrape_all()
    if scene.counters.totals().get("commits", 0) > before:
        strike.effects[Hit.SHARDS_LEFT] = round(units)


# ---- the log


@_does("nats leader killed")
async def _kill_leader(scene: Scene, strike: Strike) -> None:
    await _kill(scene, strike, await scene.nats_leader(strike.planned.choice))


@_does("nats leader frozen")
async def _freeze_leader(scene: Scene, strike: Strike) -> None:
    await _freeze(scene, strike, await scene.nats_leader(strike.planned.choice))


async def _follower(scene: Scene, strike: Strike) -> Process:
    leader = await scene.nats_leader(strike.planned.choice)
    return strike.pick([server for server in scene.running("nats") if server.name != leader.name])


@_does("nats follower killed")
async def _kill_follower(scene: Scene, strike: Strike) -> None:
    await _kill(scene, strike, await _follower(scene, strike))


@_does("nats follower frozen")
async def _freeze_follower(scene: Scene, strike: Strike) -> None:
    await _freeze(scene, strike, await _follower(scene, strike))


@_does("nats two of three killed")
async def _kill_two(scene: Scene, strike: Strike) -> None:
    lucky = strike.pick(scene.running("nats"))
    await _kill(scene, strike, *(server for server in scene.running("nats") if server.name != lucky.name))


@_does("nats all killed")
async def _kill_all_nats(scene: Scene, strike: Strike) -> None:
    await _kill(scene, strike, *scene.running("nats"))


@_does("nats power cut of one")
async def _cut_power_of_one(scene: Scene, strike: Strike) -> None:
    await _cut_power(scene, strike, await scene.nats_leader(strike.planned.choice))


@_does("nats power cut of all")
async def _cut_power_of_all(scene: Scene, strike: Strike) -> None:
    await _cut_power(scene, strike, *scene.running("nats"))


async def _cut_power(scene: Scene, strike: Strike, *victims: Process) -> None:
    disks = [scene.disks[victim.name] for victim in victims]
    await strike.begin(_names(victims))
    with scene.held(*victims), scene.frozen(*victims):
        # Whatever was acknowledged until here must be there again.
        for disk in disks:
            disk.cut_power()
        scene.kill(*victims)
        for disk in disks:
            await asyncio.to_thread(disk.restore)
        await asyncio.sleep(strike.for_s)


@_does("nats disk full")
async def _fill_disk(scene: Scene, strike: Strike) -> None:
    """A server that met a full disk serves no more of JetStream; it is started again when there is room."""
    server = strike.pick(scene.running("nats"))
    disk, log = scene.disks[server.name], scene.cluster.data / "log" / f"{server.name}.log"
    size_bytes = log.stat().st_size
    await strike.begin(server.name)
    try:
        disk.fill(server.pid)
        await asyncio.sleep(strike.for_s)
    finally:
        disk.free(server.pid)
    with log.open("rb") as lines:
        lines.seek(size_bytes)
        said = lines.read().decode(errors="replace").lower()
    strike.effects[Hit.DISK_ERRORS] = sum(any(error in line for error in _DISK_ERRORS) for line in said.splitlines())
    scene.kill(server)


# ---- store, registry, edge, all


@_does("cql killed")
async def _kill_cql(scene: Scene, strike: Strike) -> None:
    await _lose_store(scene, strike, _kill)


@_does("cql frozen")
async def _freeze_cql(scene: Scene, strike: Strike) -> None:
    await _lose_store(scene, strike, _freeze)


async def _lose_store(scene: Scene, strike: Strike, lose: Callable[[Scene, Strike, Process], Awaitable[None]]) -> None:
    (store,) = scene.running("cassandra")
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(_watch_store(scene, strike))
        await lose(scene, strike, store)
        watching.cancel()


async def _watch_store(scene: Scene, strike: Strike) -> None:
    """Counts by how many records more the log grew than the store."""
    start = _not_stored(scene)
    while True:
        waiting = round(_not_stored(scene) - start)
        strike.effects[Hit.RECORDS_WAITED] = max(waiting, strike.effects.get(Hit.RECORDS_WAITED, 0))
        await asyncio.sleep(0.5)


def _not_stored(scene: Scene) -> float:
    totals = scene.counters.totals()
    return totals.get("commits", 0) - totals.get("worker_applied_projector", 0)


@_does("redis killed")
async def _kill_redis(scene: Scene, strike: Strike) -> None:
    (server,) = scene.running("valkey")
    before = scene.counters.totals().get("registry_failures", 0)
    strike.effects[Hit.LEASES_LOST] = await scene.count_leases()
    await _kill(scene, strike, server)
    await scene.counters.scrape_all()
    strike.effects[Hit.REGISTRY_FAILURES] = round(scene.counters.totals().get("registry_failures", 0) - before)


@_does("redis flushed")
async def _flush_redis(scene: Scene, strike: Strike) -> None:
    (server,) = scene.running("valkey")
    await strike.begin(server.name)
    strike.effects[Hit.LEASES_LOST] = await scene.count_leases()
    await scene.forget_leases()


@_does("envoy killed")
async def _kill_envoy(scene: Scene, strike: Strike) -> None:
    await _kill(scene, strike, *scene.running("envoy"))


@_does("everything killed")
async def _kill_everything(scene: Scene, strike: Strike) -> None:
    await strike.begin("everything")
    await scene.cluster.kill_all()
    await asyncio.sleep(strike.for_s)
    await scene.cluster.start()
