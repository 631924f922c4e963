"""What a client tells of what it received: after the application has it, beside everything else, in bounded time."""

import asyncio
from time import monotonic

import grpc
import pytest
from hubbub.conversation.v1 import read_state_pb2

from hubbub_client import HubbubClient, MessageReceived, delivering
from tests.support.client_events import LOGIN, take
from tests.support.scripted_server import (
    ME,
    WITHIN_S,
    Context,
    ScriptedServer,
    Stream,
    head,
    messages,
    refuse,
    scripted_server,
    status,
)

pytestmark = pytest.mark.asyncio


async def live(server: ScriptedServer) -> Stream:
    """A stream on which two conversations are followed, where everybody is told."""
    server.receipts_mode = read_state_pb2.RECEIPTS_MODE_FULL
    stream = await server.next_stream()
    await stream.welcome(head(ME, 0), head("c1", 0), head("c2", 0))
    return stream


async def next_delivered(server: ScriptedServer) -> tuple[str, int]:
    async with asyncio.timeout(WITHIN_S):
        return await server.delivered.get()


async def test_what_the_application_has_processed_is_told_and_nothing_else() -> None:
    async with scripted_server() as server, HubbubClient(server.address, LOGIN) as client:
        stream = await live(server)
        stream.say(messages("c1", 1, 3))
        await take(client, MessageReceived, 3)  # the third one may be lost with the application still

        assert await next_delivered(server) == ("c1", 2)
    assert server.delivered.empty()


async def test_a_call_that_is_refused_or_never_answered_holds_nothing_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivering, "OUT_MAX", 1)
    arrived = asyncio.Event()

    async def before_call(name: str, context: Context) -> None:
        if name == "MarkDelivered" and not arrived.is_set():
            arrived.set()
            await refuse(context, status(grpc.StatusCode.NOT_FOUND, "CONVERSATION_NOT_FOUND"))
        elif name == "MarkDelivered":
            await asyncio.Event().wait()

    async with scripted_server() as server, HubbubClient(server.address, LOGIN) as client:
        server.before_call = before_call
        stream = await live(server)
        stream.say(messages("c1", 1, 2))
        await take(client, MessageReceived, 2)
        assert await next_delivered(server) == ("c1", 1)
        stream.say(messages("c2", 1, 2))
        await take(client, MessageReceived, 2)
        assert (await next_delivered(server))[0] in ("c1", "c2")
        stream.say(messages("c1", 3, 4))

        assert [event.message.message_number for event in await take(client, MessageReceived, 2)] == [3, 4]
        closing_s = monotonic()
    assert monotonic() - closing_s < 2 * delivering.CLOSING_S + 1.0


async def test_what_waits_is_told_when_the_client_closes() -> None:
    async with scripted_server() as server:
        async with HubbubClient(server.address, LOGIN) as client:
            stream = await live(server)
            stream.say(messages("c1", 1, 3))
            await take(client, MessageReceived, 3)
        assert server.delivered.get_nowait() == ("c1", 2)


async def test_with_the_option_off_nothing_is_told() -> None:
    async with scripted_server() as server:
        async with HubbubClient(server.address, LOGIN, marks_delivered=False) as client:
            stream = await live(server)
            stream.say(messages("c1", 1, 3))
            await take(client, MessageReceived, 3)
            assert await client.markers.mark_delivered("c2", 7) == 7
        assert server.delivered.get_nowait() == ("c2", 7)
        assert server.delivered.empty()
