"""What `send` promises, whatever becomes of the stream."""

import asyncio

import grpc
import pytest
from hubbub.chat.v1 import frame_pb2

from hubbub_client import HubbubClient, InvalidField, SendTimedOut, Unavailable
from tests.support.client_events import LOGIN, connected
from tests.support.scripted_server import Context, Stream, refuse, scripted_server, status


async def commands(stream: Stream, count: int) -> list[frame_pb2.Command]:
    """The next commands that the client writes."""
    return [(await stream.next_frame()).command for _ in range(count)]


@pytest.mark.asyncio
async def test_unanswered_messages_are_sent_again_on_the_next_stream_in_their_order() -> None:
    """C06: cut after half of the acks."""
    async with connected() as (server, client):
        first = await server.next_stream()
        await first.welcome()
        sending = asyncio.gather(*(client.send("c1", f"text {number}") for number in range(100)))
        written = await commands(first, 100)
        for number, command in enumerate(written[:50], start=1):
            first.reply(command, number)
        first.end(status(grpc.StatusCode.UNAVAILABLE, "NODE_DRAINING"))

        second = await server.next_stream()
        await second.welcome()
        again = await commands(second, 50)
        for number, command in enumerate(again, start=51):
            second.reply(command, number)

        assert [sent.message_number for sent in await sending] == list(range(1, 101))
        assert [command.send_message.client_message_id for command in again] == [
            command.send_message.client_message_id for command in written[50:]
        ]
        previous = [command.send_message.previous_client_message_id for command in again]
        assert previous == ["", *(command.send_message.client_message_id for command in again[:-1])]


@pytest.mark.asyncio
async def test_an_unavailable_server_is_tried_again_under_the_same_id() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome()
        sending = asyncio.ensure_future(client.send("c1", "text"))
        [first] = await commands(stream, 1)
        busy = status(grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE", retry_delay_s=0.05)
        stream.say(frame_pb2.ServerFrame(rejected=frame_pb2.Rejected(request_id=first.request_id, status=busy)))
        [second] = await commands(stream, 1)
        stream.reply(second, 3)

        assert (await sending).message_number == 3
        assert second.send_message.client_message_id == first.send_message.client_message_id


@pytest.mark.asyncio
async def test_a_definite_error_is_raised_by_its_send_and_the_next_one_goes_on() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome()
        bad = asyncio.ensure_future(client.send("c1", " "))
        good = asyncio.ensure_future(client.send("c1", "text"))
        first, second = await commands(stream, 2)
        for command, reason, code in (
            (first, "INVALID_FIELD", grpc.StatusCode.INVALID_ARGUMENT),
            (second, "SEND_ORDER", grpc.StatusCode.FAILED_PRECONDITION),
        ):
            rejected = frame_pb2.Rejected(request_id=command.request_id, status=status(code, reason))
            stream.say(frame_pb2.ServerFrame(rejected=rejected))
        [again] = await commands(stream, 1)
        stream.reply(again, 1)

        with pytest.raises(InvalidField):
            await bad
        assert (await good).message_number == 1
        assert again.send_message.previous_client_message_id == ""


@pytest.mark.asyncio
async def test_a_send_without_an_answer_in_time_says_that_its_outcome_is_unknown() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome()

        with pytest.raises(SendTimedOut) as caught:
            await client.send("c1", "text", client_message_id="id", timeout_s=0.05)

        assert caught.value.client_message_id == "id"


@pytest.mark.asyncio
async def test_a_cancelled_send_is_withdrawn() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        sending = asyncio.ensure_future(client.send("c1", "never"))
        await asyncio.sleep(0)
        sending.cancel()
        await asyncio.wait([sending])
        await stream.welcome()
        asking = asyncio.ensure_future(client.send("c1", "after it"))
        [command] = await commands(stream, 1)
        stream.reply(command, 1)
        await asking

        assert command.send_message.content.text.text == "after it"


@pytest.mark.asyncio
async def test_calls_are_repeated_while_the_server_is_unavailable() -> None:
    async with connected() as (server, client):
        tries = 0

        async def fail_twice(name: str, context: Context) -> None:
            nonlocal tries
            tries += name == "LookupUser"
            if name == "LookupUser" and tries < 3:
                await refuse(context, status(grpc.StatusCode.UNAVAILABLE, "NODE_DRAINING", retry_delay_s=0.01))

        server.before_call = fail_twice
        assert (await client.lookup_user("bob")).user_id == "u2"
        assert tries == 3


@pytest.mark.asyncio
async def test_a_call_gives_up_when_its_time_is_over() -> None:
    async def fail(name: str, context: Context) -> None:
        if name == "LookupUser":
            await refuse(context, status(grpc.StatusCode.UNAVAILABLE, "NODE_DRAINING", retry_delay_s=0.01))

    async with scripted_server() as server, HubbubClient(server.address, LOGIN, call_timeout_s=0.1) as client:
        server.before_call = fail
        with pytest.raises(Unavailable):
            await client.lookup_user("bob")


@pytest.mark.asyncio
async def test_a_call_renews_an_expired_token_once() -> None:
    async with connected() as (server, client):

        async def expire_the_first(name: str, context: Context) -> None:
            if name == "LookupUser" and ("authorization", "Bearer access 1") in (context.invocation_metadata() or ()):
                await refuse(context, status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"))

        server.before_call = expire_the_first
        await asyncio.gather(*(client.lookup_user("bob") for _ in range(5)))

        assert server.calls.count("refresh 1") == 1
        assert server.logins == 2
