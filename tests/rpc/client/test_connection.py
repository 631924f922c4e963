"""How the SDK keeps a stream open: silence, Goodbye, tokens, restarts."""

import asyncio

import grpc
import pytest
from hubbub.chat.v1 import event_pb2, frame_pb2

from hubbub_client import (
    CaughtUp,
    Connected,
    Disconnected,
    Displaced,
    HubbubClient,
    HubbubError,
    MessageReceived,
    SignedOut,
    UnknownEvent,
    tokens,
)
from hubbub_client.live_stream import ACK_WINDOW_EVENTS
from tests.support.client_events import LOGIN, connected, error_of, next_of
from tests.support.scripted_server import (
    ME,
    Context,
    goodbye,
    head,
    message,
    messages,
    refuse,
    scripted_server,
    status,
)
from tests.support.waiting import until


@pytest.mark.asyncio
async def test_a_silent_stream_is_replaced_by_one_on_a_new_connection() -> None:
    """C83: silence of 2.5 heartbeats."""
    async with connected() as (server, client):
        first = await server.next_stream()
        await first.welcome(heartbeat_interval_s=0.1)

        second = await server.next_stream()

        assert second.peer != first.peer
        assert second.opened_s - first.opened_s >= 0.25
        assert (await next_of(client, Disconnected)).reason == "SILENT"


@pytest.mark.asyncio
async def test_heartbeats_keep_a_stream_open() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome(heartbeat_interval_s=0.2)
        loop = asyncio.get_running_loop()
        end_s = loop.time() + 1.0

        def beat_to_the_end() -> bool:
            stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(live=True)))
            return loop.time() >= end_s

        await until(beat_to_the_end)
        sending = asyncio.ensure_future(client.send("c1", "text"))
        stream.reply((await stream.next_frame()).command, 1)
        await sending
        assert len(server.streams) == 1


@pytest.mark.asyncio
async def test_each_heartbeat_is_answered_by_an_ack() -> None:
    """A client that only reads says nothing else, and the server ends streams that are silent for 90 s.

    What the application has not processed is not acknowledged: it counts when the next item is asked for.
    """
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        beat = frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(live=True))
        stream.say(beat)
        await until(lambda: stream.acks == [0])
        stream.say(frame_pb2.ServerFrame(events=[message("c1", 1), message("c1", 2)]), beat)
        await until(lambda: stream.acks == [0, 0])
        items = client.events()
        while not isinstance(await anext(items), MessageReceived):
            pass
        assert isinstance(await anext(items), MessageReceived)
        stream.say(beat)
        await until(lambda: stream.acks == [0, 0, 1])


@pytest.mark.asyncio
async def test_what_the_application_processes_is_acknowledged_before_the_window_closes() -> None:
    """Without a heartbeat; what waits for the application is not acknowledged, what is left to Sync is."""
    async with connected() as (server, client):
        stream = await server.next_stream()
        hello = await stream.welcome(head("c1", 0))
        assert hello.ack_window_events == ACK_WINDOW_EVENTS
        stream.say(messages("c1", 1, 1_000))
        items = client.events()
        while not isinstance(await anext(items), MessageReceived):
            pass
        assert stream.acks == []
        for _ in range(511):
            await anext(items)
        assert stream.acks == []
        await anext(items)
        await until(lambda: stream.acks == [512])
        stream.say(messages("c1", 1_001, ACK_WINDOW_EVENTS + 512))
        await until(lambda: stream.acks[-1] >= 1_024)


@pytest.mark.asyncio
async def test_the_token_of_the_last_heartbeat_or_goodbye_comes_with_the_next_hello() -> None:
    """G4: not while something is missing: it would hide that."""
    async with connected() as (server, _):
        stream = await server.next_stream()
        assert (await stream.welcome(head("c1", 0))).resume_token == ""
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(live=True, resume_token="first")))
        await until(lambda: stream.acks == [0])
        stream.end()
        stream = await server.next_stream()
        assert (await stream.welcome(resumed=True)).resume_token == "first"
        bye = goodbye(frame_pb2.GOODBYE_REASON_DRAINING, retry_delay_s=0.01)
        bye.goodbye.resume_token = "second"
        stream.say(bye)
        stream.end()
        stream = await server.next_stream()
        assert (await stream.welcome(resumed=True)).resume_token == "second"
        stream.say(frame_pb2.ServerFrame(events=[message("c1", 2)]))  # 1 is missing, and Sync is not answered
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(live=True, resume_token="third")))
        await until(lambda: stream.acks == [1])
        stream.end()
        assert (await (await server.next_stream()).hello()).resume_token == "second"


@pytest.mark.asyncio
async def test_the_delay_of_goodbye_is_waited_for() -> None:
    async with connected() as (server, client):
        first = await server.next_stream()
        await first.welcome()
        first.say(goodbye(frame_pb2.GOODBYE_REASON_DRAINING, retry_delay_s=0.3))
        first.end(status(grpc.StatusCode.UNAVAILABLE, "NODE_DRAINING"))

        second = await server.next_stream()

        assert second.opened_s - first.opened_s >= 0.3
        assert await next_of(client, Disconnected) == Disconnected(reason="DRAINING", retry_in_s=0.3)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("last", "kind"),
    [
        (goodbye(frame_pb2.GOODBYE_REASON_DISPLACED, reconnect=False), Displaced),
        (goodbye(frame_pb2.GOODBYE_REASON_DISPLACED), Displaced),
        (goodbye(frame_pb2.GOODBYE_REASON_REVOKED), SignedOut),
        (goodbye(frame_pb2.GOODBYE_REASON_PROTOCOL, reconnect=False), HubbubError),
    ],
)
async def test_a_client_that_may_not_come_back_stops_and_says_why(
    last: frame_pb2.ServerFrame, kind: type[HubbubError]
) -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome()
        sending = asyncio.ensure_future(client.send("c1", "text"))
        await stream.next_frame()
        stream.say(last)
        stream.end()

        assert isinstance(await error_of(client), kind)
        with pytest.raises(kind):
            await sending
        with pytest.raises(kind):
            await client.send("c1", "text")
        assert len(server.streams) == 1


@pytest.mark.asyncio
async def test_an_expired_token_is_renewed_once_before_the_next_stream() -> None:
    async with connected() as (server, _):
        first = await server.next_stream()
        first.end(status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"))

        second = await server.next_stream()

        assert (first.token, second.token) == ("access 1", "access 2")
        assert server.calls == ["Login secret", "refresh 1"]


@pytest.mark.asyncio
async def test_a_refused_refresh_token_makes_the_client_log_in_again() -> None:
    async def refuse_refresh(name: str, context: Context) -> None:
        if name.startswith("refresh"):
            await refuse(context, status(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS"))

    async with connected() as (server, _):
        server.before_call = refuse_refresh
        first = await server.next_stream()
        first.end(status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"))

        assert (await server.next_stream()).token == "access 2"
        assert server.calls == ["Login secret", "refresh 1", "Login secret"]


@pytest.mark.asyncio
async def test_a_client_without_a_password_is_signed_out_when_its_refresh_token_is_refused() -> None:
    async def refuse_refresh(name: str, context: Context) -> None:
        if name.startswith("refresh"):
            await refuse(context, status(grpc.StatusCode.UNAUTHENTICATED, "INVALID_CREDENTIALS"))

    async with connected() as (server, first_client):
        server.before_call = refuse_refresh
        await server.next_stream()  # of the first client, whichever would be faster
        async with HubbubClient(server.address, first_client.credentials) as client:
            (await server.next_stream()).end(status(grpc.StatusCode.UNAUTHENTICATED, "TOKEN_EXPIRED"))
            assert isinstance(await error_of(client), SignedOut)


@pytest.mark.asyncio
async def test_a_stream_gets_the_new_token_before_the_old_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "_LIFE_MIN_S", 0.2)
    async with scripted_server() as server:
        server.token_life_s = 0.2
        async with HubbubClient(server.address, LOGIN):
            stream = await server.next_stream()
            await stream.welcome()
            command = (await stream.next_frame()).command
            assert command.reauthenticate.access_token == "access 2"
            answer = frame_pb2.ReauthenticateResponse()
            stream.say(
                frame_pb2.ServerFrame(reply=frame_pb2.Reply(request_id=command.request_id, reauthenticate=answer))
            )

            assert (await stream.next_frame()).command.reauthenticate.access_token == "access 3"
            assert len(server.streams) == 1


@pytest.mark.asyncio
async def test_a_node_that_forgot_everything_costs_one_reconnect_and_one_sync() -> None:
    """C22: the resume token is unknown to the restarted node; a client that does nothing special settles."""
    async with connected() as (server, client):
        first = await server.next_stream()
        assert (await first.welcome(head(ME, 1), head("c1", 10))).resume_token == ""
        first.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(live=True, resume_token="token")))
        first.say(frame_pb2.ServerFrame(events=[message("c1", 11)]))
        await next_of(client, MessageReceived)
        first.end(status(grpc.StatusCode.UNAVAILABLE, "NODE_DRAINING"))

        second = await server.next_stream()
        assert (await second.welcome(head(ME, 1), head("c1", 10))).resume_token == "token"
        await next_of(client, Connected)
        await next_of(client, CaughtUp)
        sending = asyncio.ensure_future(client.send("c1", "text"))
        second.reply((await second.next_frame()).command, 12)
        await sending

        assert len(server.streams) == 2
        assert server.sync_requests == []


@pytest.mark.asyncio
async def test_frames_and_events_newer_than_the_client_change_nothing() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        stream.say(frame_pb2.ServerFrame(), frame_pb2.ServerFrame(lagging=frame_pb2.Lagging()))
        stream.say(
            frame_pb2.ServerFrame(events=[event_pb2.Event(topic_id="c1", epoch=1, position=1, message_number=5)])
        )
        stream.say(frame_pb2.ServerFrame(events=[message("c1", 2)]))

        assert (await next_of(client, UnknownEvent)).message_number == 5
        assert (await next_of(client, MessageReceived)).cursor.position == 2


@pytest.mark.asyncio
async def test_a_client_whose_server_is_away_connects_when_it_comes_back() -> None:
    async with scripted_server() as server, HubbubClient(server.address, LOGIN) as client:
        first = await server.next_stream()
        for _ in range(3):
            first.end(status(grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE"))
            first = await server.next_stream()
        await first.welcome()
        await next_of(client, Connected)


@pytest.mark.asyncio
async def test_every_stream_of_a_client_has_the_same_instance_id_and_two_clients_have_two() -> None:
    async with connected() as (server, _), HubbubClient(server.address, LOGIN):
        first, other = await server.next_stream(), await server.next_stream()
        first_id, other_id = (await first.hello()).instance_id, (await other.hello()).instance_id
        first.end()
        again_id = (await (await server.next_stream()).hello()).instance_id

        assert first_id == again_id != other_id


@pytest.mark.asyncio
async def test_closing_ends_sends_and_events_at_once() -> None:
    async with scripted_server() as server:
        async with HubbubClient(server.address, LOGIN) as client:
            await server.next_stream()
            sending = asyncio.ensure_future(client.send("c1", "text"))
            reading = asyncio.ensure_future(next_of(client, MessageReceived))
            await asyncio.sleep(0)
        with pytest.raises(HubbubError):
            await sending
        with pytest.raises(AssertionError, match="the events ended"):
            await reading


@pytest.mark.asyncio
async def test_events_have_one_reader_at_a_time() -> None:
    async with connected() as (server, client):
        waiting = asyncio.ensure_future(anext(client.events()))
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="somebody else"):
            await anext(client.events())
        await (await server.next_stream()).welcome()
        await waiting
