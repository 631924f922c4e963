"""Reading a client's events in tests."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeVar

from hubbub_client import HubbubClient, HubbubError, Login
from tests.support.scripted_server import WITHIN_S, ScriptedServer, scripted_server

LOGIN = Login("alice", "secret")
_Kind = TypeVar("_Kind")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[ScriptedServer, HubbubClient]]:
    """Runs a scripted server and a client of it."""
    async with scripted_server() as server, HubbubClient(server.address, LOGIN) as client:
        yield server, client


async def next_of(client: HubbubClient, kind: type[_Kind]) -> _Kind:
    """Reads events up to the first of this kind."""
    return (await take(client, kind, 1))[0]


async def take(client: HubbubClient, kind: type[_Kind], count: int) -> list[_Kind]:
    """Reads events until so many are of this kind; returns those."""
    taken: list[_Kind] = []
    async with asyncio.timeout(WITHIN_S):
        async for event in client.events():
            if isinstance(event, kind):
                taken.append(event)
            if len(taken) == count:
                return taken
    raise AssertionError("the events ended")


async def error_of(client: HubbubClient) -> HubbubError:
    """Reads events until they end with an error."""
    try:
        async with asyncio.timeout(WITHIN_S):
            async for _ in client.events():
                pass
    except HubbubError as error:
        return error
    raise AssertionError("the events ended without an error")
