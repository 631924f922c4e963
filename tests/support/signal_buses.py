"""Every implementation of the signal bus, for the contract suite. A new one joins by one entry."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Final

from hubbub_server.adapters.nats.connection import NatsConnection
from hubbub_server.adapters.nats.signal_bus import NatsSignalBus
from hubbub_server.ports.signal_bus import SignalBus
from tests.support.fakes.signal_bus import FakeSignalServer
from tests.support.fault_proxy import Cut, FaultProxy
from tests.support.services import Services
from tests.support.waiting import RECOVERY_TIMEOUT_S

NARROW_MAX_KEYS: Final = 8
"""A real bus hears a kind with more keys as a whole: small, so that the suite sees both ways."""


@dataclass(frozen=True, kw_only=True)
class SignalBuses:
    """The bus as two nodes see it; `cut` takes the first one's link away, `recover` gives it back."""

    mine: SignalBus
    theirs: SignalBus
    cut: Callable[[], None]
    recover: Callable[[], None]


@asynccontextmanager
async def open_fake_buses(_services: Services) -> AsyncIterator[SignalBuses]:
    """Opens buses in memory."""
    server = FakeSignalServer()
    mine, theirs = server.connect(), server.connect()

    def cut() -> None:
        mine.is_lost = True

    yield SignalBuses(mine=mine, theirs=theirs, cut=cut, recover=mine.come_back)


@asynccontextmanager
async def open_nats_buses(size: int, services: Services) -> AsyncIterator[SignalBuses]:
    """Opens buses on servers that all tests share, at different ones where there are several."""
    cluster = services.nats(size)
    await cluster.wait_ready()
    async with (
        FaultProxy(cluster.servers[0].port) as proxy,
        _connection(f"nats://127.0.0.1:{proxy.port}") as one,
        _connection(cluster.urls[-1]) as two,
        NatsSignalBus(one, narrow_max_keys=NARROW_MAX_KEYS) as mine,
        NatsSignalBus(two, narrow_max_keys=NARROW_MAX_KEYS) as theirs,
    ):

        def cut() -> None:
            proxy.refuse()
            proxy.cut(Cut.RST)

        yield SignalBuses(mine=mine, theirs=theirs, cut=cut, recover=proxy.flow)


def _connection(url: str) -> NatsConnection:
    return NatsConnection([url], name="test", on_closed=_must_not_close, open_timeout_s=RECOVERY_TIMEOUT_S)


def _must_not_close() -> None:
    raise AssertionError("nats-py gave the connection up")


SIGNAL_BUSES: dict[str, Callable[[Services], AbstractAsyncContextManager[SignalBuses]]] = {
    "fake": open_fake_buses,
    "nats-r1": partial(open_nats_buses, 1),
    "nats-r3": partial(open_nats_buses, 3),
}
