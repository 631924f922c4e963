"""What the connection makes of nats-py's habits."""

import asyncio
from typing import Any

import pytest

from hubbub_server.adapters.nats.connection import NatsConnection

pytestmark = pytest.mark.asyncio


class SwallowingClient:
    """A client whose answer comes together with the cancellation: wait_for before Python 3.12 then returns it."""

    is_connected = True

    async def request(self, subject: str, body: bytes, **options: Any) -> str:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return "answer"
        raise AssertionError("unreachable")


async def test_cancellation_that_comes_with_the_answer_is_not_swallowed() -> None:
    """A worker that was told to end would go on for ever."""
    connection = NatsConnection(["nats://127.0.0.1:1"], name="test", on_closed=lambda: None)
    connection.client = SwallowingClient()  # type: ignore[assignment]  # all that is needed of it
    asking = asyncio.create_task(connection.request("subject", b""))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
