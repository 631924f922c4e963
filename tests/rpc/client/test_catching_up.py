"""What the live stream did not bring is fetched, once, in pieces that the contract allows."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from hubbub.chat.v1 import event_pb2, frame_pb2
from hubbub.conversation.v1 import conversation_pb2
from hubbub.conversation.v1 import conversation_service_pb2 as conversations_pb
from hubbub.history.v1 import history_service_pb2 as history_pb

from hubbub_client import (
    CaughtUp,
    Connected,
    ConversationJoined,
    GapSkipped,
    HubbubClient,
    JsonCursorStore,
    MessageReceived,
    TopicEnded,
    TopicReset,
)
from tests.support.client_events import LOGIN, connected, next_of, take
from tests.support.scripted_server import ME, ScriptedServer, head, messages, scripted_server, status
from tests.support.waiting import until

Answer = AsyncIterator[frame_pb2.ServerFrame]


def caught_up(*heads: conversation_pb2.TopicHead) -> frame_pb2.ServerFrame:
    return frame_pb2.ServerFrame(caught_up=frame_pb2.CaughtUp(heads=heads))


def positions(received: list[MessageReceived]) -> list[int]:
    return [event.cursor.position for event in received]


def serve_up_to(server: ScriptedServer, last: int) -> None:
    """Answers Sync with all messages of each topic up to this position."""

    async def answer(request: history_pb.SyncRequest) -> Answer:
        for cursor in request.cursors:
            yield messages(cursor.topic_id, cursor.position + 1, last)
        yield caught_up(*(head(cursor.topic_id, last) for cursor in request.cursors))

    server.sync = answer


@pytest.mark.asyncio
async def test_a_hole_in_the_live_stream_is_filled() -> None:
    async with connected() as (server, client):
        serve_up_to(server, 3)
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        stream.say(messages("c1", 1, 1), messages("c1", 3, 4))

        assert positions(await take(client, MessageReceived, 4)) == [1, 2, 3, 4]
        assert server.sync_requests == [[("c1", 1)]]


@pytest.mark.asyncio
async def test_a_lost_last_message_shows_in_the_next_heartbeat() -> None:
    """G4."""
    async with connected() as (server, client):
        serve_up_to(server, 2)
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        stream.say(messages("c1", 1, 1))
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(heads=[head("c1", 2)], live=True)))

        assert positions(await take(client, MessageReceived, 2)) == [1, 2]


@pytest.mark.asyncio
async def test_more_topics_than_one_request_may_carry_are_asked_for_one_request_after_the_other() -> None:
    topic_ids = [f"c{number}" for number in range(1_200)]
    open_requests = 0

    async def answer(request: history_pb.SyncRequest) -> Answer:
        nonlocal open_requests
        open_requests += 1
        assert open_requests == 1
        for cursor in request.cursors:
            yield messages(cursor.topic_id, 2, 2)
        open_requests -= 1
        yield caught_up(*(head(cursor.topic_id, 2) for cursor in request.cursors))

    async with connected() as (server, client):
        server.sync = answer
        first = await server.next_stream()
        await first.welcome(*(head(topic_id, 1) for topic_id in topic_ids))
        await next_of(client, Connected)
        first.end()
        second = await server.next_stream()
        await second.welcome(*(head(topic_id, 2) for topic_id in topic_ids))

        received = await take(client, MessageReceived, len(topic_ids))

        assert {event.cursor.topic_id for event in received} == set(topic_ids)
        assert [len(request) for request in server.sync_requests] == [500, 500, 200]


@pytest.mark.asyncio
async def test_a_sync_that_is_cut_goes_on_from_where_it_came() -> None:
    async with connected() as (server, client):
        tries = 0

        async def answer(request: history_pb.SyncRequest) -> Answer:
            nonlocal tries
            tries += 1
            [cursor] = request.cursors
            yield messages("c1", cursor.position + 1, cursor.position + 2)
            if tries == 3:
                yield caught_up(head("c1", 6))

        server.sync = answer
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(heads=[head("c1", 6)], live=True)))

        assert positions(await take(client, MessageReceived, 6)) == [1, 2, 3, 4, 5, 6]
        assert server.sync_requests == [[("c1", 0)], [("c1", 2)], [("c1", 4)]]


@pytest.mark.asyncio
async def test_a_topic_that_cannot_be_served_now_is_asked_for_again_and_the_others_go_on() -> None:
    """C18: with pauses, not in a loop."""
    async with connected() as (server, client):

        async def answer(request: history_pb.SyncRequest) -> Answer:
            is_first = len(server.sync_requests) == 1
            for cursor in request.cursors:
                if cursor.topic_id == "c1" and is_first:
                    busy = status(grpc.StatusCode.UNAVAILABLE, "BACKEND_UNAVAILABLE")
                    yield frame_pb2.ServerFrame(rejected=frame_pb2.Rejected(topic_id="c1", status=busy))
                else:
                    yield messages(cursor.topic_id, 1, 1)
            yield caught_up(*(head(cursor.topic_id, 1) for cursor in request.cursors))

        server.sync = answer
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0), head("c2", 0))
        news = frame_pb2.Heartbeat(heads=[head("c1", 1), head("c2", 1)], live=True)
        stream.say(frame_pb2.ServerFrame(heartbeat=news))

        received = await take(client, MessageReceived, 2)

        assert [event.cursor.topic_id for event in received] == ["c2", "c1"]
        assert server.sync_requests[-1] == [("c1", 0)]


@pytest.mark.asyncio
async def test_a_wrong_head_costs_one_request() -> None:
    """C18, C22: a head that the log does not confirm is forgotten."""
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome(head("c1", 1))
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(heads=[head("c1", 9)], live=True)))
        await until(lambda: server.sync_requests)
        stream.say(messages("c1", 2, 2))
        await next_of(client, MessageReceived)

        assert server.sync_requests == [[("c1", 1)]]


@pytest.mark.asyncio
async def test_a_gap_is_told_with_its_newest_messages_and_live_goes_on_after_it() -> None:
    """C14: never the newest page with the cursor jumped silently."""
    async with connected() as (server, client):

        async def answer(request: history_pb.SyncRequest) -> Answer:
            gap = frame_pb2.Gap(
                head=head("c1", 5_000), newest_messages=[messages("c1", 5_000, 5_000).events[0].message_sent.message]
            )
            getattr(gap, "from").CopyFrom(request.cursors[0])
            yield frame_pb2.ServerFrame(gap=gap)
            yield caught_up(head("c1", 5_000))

        server.sync = answer
        stream = await server.next_stream()
        await stream.welcome(head("c1", 1))
        stream.say(messages("c1", 5_001, 5_001))

        gap = await next_of(client, GapSkipped)
        assert (gap.start.position, gap.head.cursor.position, gap.newest_messages[0].text) == (1, 5_000, "c1 5000")
        assert (await next_of(client, MessageReceived)).cursor.position == 5_001


@pytest.mark.asyncio
async def test_another_epoch_is_never_applied_but_asked_for_and_told_as_a_reset() -> None:
    """C19."""
    async with connected() as (server, client):

        async def answer(request: history_pb.SyncRequest) -> Answer:
            if request.cursors[0].epoch == 1:
                yield frame_pb2.ServerFrame(reset=frame_pb2.Reset(head=head("c1", 20, epoch=2)))
            yield caught_up(head("c1", 20, epoch=2))

        server.sync = answer
        stream = await server.next_stream()
        await stream.welcome(head("c1", 9))
        frame = messages("c1", 10, 10)
        frame.events[0].epoch = 2
        stream.say(frame)

        assert (await next_of(client, TopicReset)).head.cursor.position == 20
        frame = messages("c1", 21, 21)
        frame.events[0].epoch = 2
        stream.say(frame)
        assert (await next_of(client, MessageReceived)).cursor.position == 21


@pytest.mark.asyncio
async def test_a_join_missed_in_a_gap_of_the_own_topic_is_found_in_the_list() -> None:
    async with connected() as (server, client):
        view = conversations_pb.ConversationView(head=head("c7", 3))
        view.conversation.conversation_id = "c7"
        view.membership.join_position = 3
        server.views = [view]

        async def answer(request: history_pb.SyncRequest) -> Answer:
            for cursor in request.cursors:
                if cursor.topic_id == ME:
                    yield frame_pb2.ServerFrame(gap=frame_pb2.Gap(head=head(ME, 2_000)))
                else:
                    yield messages(cursor.topic_id, cursor.position + 1, 3)
            yield caught_up(head(ME, 2_000))

        server.sync = answer
        stream = await server.next_stream()
        await stream.welcome(head(ME, 1))
        stream.say(frame_pb2.ServerFrame(heartbeat=frame_pb2.Heartbeat(heads=[head(ME, 2_000)], live=True)))

        assert (await next_of(client, MessageReceived)).cursor.topic_id == "c7"


@pytest.mark.asyncio
async def test_a_new_conversation_begins_with_the_join_and_ends_with_the_removal() -> None:
    async with connected() as (server, client):
        stream = await server.next_stream()
        await stream.welcome(head(ME, 1))
        joined = event_pb2.ConversationJoined(conversation_id="c7", join_position=4, epoch=1)
        stream.say(frame_pb2.ServerFrame(heads=frame_pb2.Heads(heads=[head("c7", 3)])))
        stream.say(messages("c7", 4, 4))
        stream.say(
            frame_pb2.ServerFrame(
                events=[event_pb2.Event(topic_id=ME, epoch=1, position=2, conversation_joined=joined)]
            )
        )
        serve_up_to(server, 4)
        assert (await next_of(client, ConversationJoined)).conversation_id == "c7"
        assert (await next_of(client, MessageReceived)).cursor.position == 4

        removed = event_pb2.MemberRemoved(user_id=ME)
        stream.say(
            frame_pb2.ServerFrame(events=[event_pb2.Event(topic_id="c7", epoch=1, position=5, member_removed=removed)])
        )
        assert (await next_of(client, TopicEnded)).topic_id == "c7"


@pytest.mark.asyncio
async def test_an_application_that_does_not_read_gets_everything_later_and_its_sends_are_answered() -> None:
    """C86 on the client's side: memory is bounded, nothing is lost."""
    async with connected() as (server, client):
        serve_up_to(server, 5_000)
        stream = await server.next_stream()
        await stream.welcome(head("c1", 0))
        for first in range(1, 5_000, 100):
            stream.say(messages("c1", first, first + 99))
        sending = asyncio.ensure_future(client.send("c2", "text"))
        stream.reply((await stream.next_frame()).command, 1)
        await sending

        received = await take(client, MessageReceived, 5_000)

        assert positions(received) == list(range(1, 5_001))


@pytest.mark.asyncio
async def test_a_restarted_client_goes_on_by_its_cursors(tmp_path: Path) -> None:
    store = JsonCursorStore(tmp_path / "cursors.json")
    async with scripted_server() as server:
        async with HubbubClient(server.address, LOGIN, cursor_store=store) as client:
            stream = await server.next_stream()
            await stream.welcome(head("c1", 5), head(ME, 1))
            stream.say(messages("c1", 6, 7))
            await take(client, MessageReceived, 2)

        serve_up_to(server, 8)
        async with HubbubClient(server.address, LOGIN, cursor_store=store) as client:
            stream = await server.next_stream()
            await stream.welcome(head("c1", 8), head(ME, 1))

            # The last item of the first run was not followed by another: it may come again, and does.
            assert positions(await take(client, MessageReceived, 2)) == [7, 8]
            await next_of(client, CaughtUp)
