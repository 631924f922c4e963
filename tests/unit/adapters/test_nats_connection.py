"""What the connection makes of nats-py's habits."""

import asyncio

import pytest
from nats.aio.msg import Msg

from hubbub_server.adapters.nats.client import LastingClient
from hubbub_server.adapters.nats.connection import NatsConnection

pytestmark = pytest.mark.asyncio


class SilentClient:
    """A client that is connected, and whose server takes its time."""

    is_connected = True

    async def publish(self, _subject: str, _body: bytes, *, reply: str, headers: None) -> None:
        self.reply = reply


async def test_cancellation_that_comes_with_the_answer_is_not_swallowed() -> None:
    """A worker that was told to end would go on for ever."""
    connection = NatsConnection(["nats://127.0.0.1:1"], name="test", on_closed=lambda: None)
    client = SilentClient()
    connection.client = client  # type: ignore[assignment]  # all that is needed of it
    asking = asyncio.create_task(connection.request("subject", b""))
    await asyncio.sleep(0)
    connection._take_answer(Msg(client, subject=client.reply, data=b"answer"))  # type: ignore[arg-type]
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


class SentClient(LastingClient):
    """Keeps what would be sent."""

    async def _send_command(self, cmd: bytes, priority: bool = False) -> None:
        self.sent = cmd


@pytest.mark.parametrize(
    "headers",
    [{"Name": "value", "Other": "a:b, ä"}, {"Name": "two\r\nlines"}, {"Name": ""}, {}],
    ids=["clean", "two lines", "empty value", "none"],
)
async def test_headers_are_sent_as_nats_py_sends_them_and_read_back(headers: dict[str, str]) -> None:
    """A header cannot make another one."""
    ours, theirs = SentClient(), SentClient()
    await ours._send_publish("subject", "reply", b"payload", 7, headers)
    await super(LastingClient, theirs)._send_publish("subject", "reply", b"payload", 7, headers)
    assert ours.sent == theirs.sent

    block = ours.sent.partition(b"NATS/1.0\r\n")[2].partition(b"payload")[0]
    assert ours._parse_header_lines(block) == super(LastingClient, theirs)._parse_header_lines(block)
