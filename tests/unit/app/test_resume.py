"""Resume tokens: what a stream need not say again, and everything that makes it say all (G4)."""

import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubbub_server.app.authenticate import Caller
from hubbub_server.app.frames import Goodbye, Heads, Heartbeat, Hello, Outgoing, TopicEnded, Welcome
from hubbub_server.app.live_stream import LiveStream
from hubbub_server.app.resume import TOKEN_MAX_AGE_S, Reached, ResumeTokens
from hubbub_server.app.session import HEARTBEAT_INTERVAL_S
from hubbub_server.app.streams import Streams
from hubbub_server.domain.commands import CreateGroup, RecordMembership
from hubbub_server.domain.ids import ConversationId, DeviceSessionId, TopicId, UserId
from hubbub_server.domain.limits import RESUME_TOKEN_MAX_BYTES
from tests.support.app_node import ALICE, BOB, CAROL, GROUP, AppCluster, AppNode, add, message_id, remove, send, until
from tests.support.fakes.clock import FakeClock
from tests.support.fakes.topic_log import FakeLogServer, LiveFault
from tests.support.group_cluster import GroupCluster
from tests.support.open_streams import caller, streams_of

OTHER = ConversationId(TopicId("cother"))
REACHED = Reached(own_position=7, shards=((1, 12), (3, 0)))
KEY = b"k" * 16


def device(user_id: UserId, name: str) -> Caller:
    return Caller(user_id=user_id, device_session_id=DeviceSessionId(name), token_expire_time_ms=10**15)


# ---- tokens


def test_a_token_says_what_it_was_made_of() -> None:
    tokens = ResumeTokens(KEY, FakeClock())
    assert tokens.read(caller(BOB), tokens.make(caller(BOB), REACHED)) == REACHED


@pytest.mark.parametrize("reader", [caller(ALICE), device(BOB, "d2")], ids=["user", "sign-in"])
def test_the_token_of_another_user_or_sign_in_says_nothing(reader: Caller) -> None:
    tokens = ResumeTokens(KEY, FakeClock())
    assert tokens.read(reader, tokens.make(caller(BOB), REACHED)) is None


def test_a_token_of_another_key_says_nothing() -> None:
    clock = FakeClock()
    assert ResumeTokens(KEY, clock).read(caller(BOB), ResumeTokens(b"x" * 16, clock).make(caller(BOB), REACHED)) is None


def test_a_token_ends_after_a_week() -> None:
    clock = FakeClock()
    tokens = ResumeTokens(KEY, clock)
    token = tokens.make(caller(BOB), REACHED)
    clock.advance(TOKEN_MAX_AGE_S)
    assert tokens.read(caller(BOB), token) == REACHED
    clock.advance(1.0)
    assert tokens.read(caller(BOB), token) is None


def test_a_token_of_as_many_shards_as_there_may_be_fits_into_hello() -> None:
    tokens = ResumeTokens(KEY, FakeClock())
    reached = Reached(own_position=2**40, shards=((2**16, 2**50),) * 64)
    assert len(tokens.make(caller(BOB), reached)) <= RESUME_TOKEN_MAX_BYTES


@given(place=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_damaged_token_says_nothing(place: int, change: int) -> None:
    tokens = ResumeTokens(KEY, FakeClock())
    raw = bytearray(base64.urlsafe_b64decode(tokens.make(caller(BOB), REACHED) + "=="))
    raw[place % len(raw)] ^= change
    assert tokens.read(caller(BOB), base64.urlsafe_b64encode(raw).decode()) is None


@given(
    st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: base64.urlsafe_b64encode(b"\x01" + raw).decode())
)
def test_a_made_up_token_says_nothing(token: str) -> None:
    assert ResumeTokens(KEY, FakeClock()).read(caller(BOB), token) is None


# ---- streams


@dataclass
class Opened:
    """A stream whose first Heads are complete."""

    stream: LiveStream
    resumed: bool
    named: set[TopicId]
    ended: set[TopicId]


async def open_with(streams: Streams, user_id: UserId, token: str = "", *, who: Caller | None = None) -> Opened:
    stream = streams.open(who or caller(user_id), takes_commands=True)
    stream.receive(Hello(instance_id=message_id(1), resume_token=token))
    frames: list[Outgoing] = []
    while not any(isinstance(frame, Heads) and frame.complete for frame in frames):
        frames += await stream.next_frames()
    (welcome,) = [frame for frame in frames if isinstance(frame, Welcome)]
    heads = [head for frame in frames if isinstance(frame, Heads) for head in frame.heads]
    ended = {frame.topic_id for frame in frames if isinstance(frame, TopicEnded)}
    return Opened(stream, welcome.resumed, {head.cursor.topic_id for head in heads}, ended)


async def compare_heads(node: AppNode, *topic_ids: TopicId) -> None:
    """Lets the node compare heads, as it does every 30 s, until it has proved that it has all of these topics."""
    node.log.disturb()

    async def reached(topic_id: TopicId) -> bool:
        topic = node.hub.topic(topic_id)
        return topic.covered >= await node.log.read_last_sequence(topic.shard)

    for topic_id in topic_ids:
        while not await reached(topic_id):
            pass


async def beat(cluster: AppCluster, streams: Streams, stream: LiveStream) -> str:
    """Returns the token of the next heartbeat."""
    cluster.clock.advance(HEARTBEAT_INTERVAL_S)
    streams.tick()
    frames: list[Outgoing] = []
    while not (beats := [frame for frame in frames if isinstance(frame, Heartbeat)]):
        frames += await stream.next_frames()
    return beats[-1].resume_token


async def make_groups(node: AppNode, *members: UserId) -> None:
    """Two groups of Alice's; the topics of their members tell it."""
    for group in (GROUP, OTHER):
        await node.submit(CreateGroup(creator_id=ALICE, title="group", user_ids=members), topic_id=group)
        for user_id in (ALICE, *members):
            await tell(node, user_id, group)


async def tell(node: AppNode, user_id: UserId, group: ConversationId, position: int = 2) -> None:
    joined = RecordMembership(conversation_id=group, epoch=1, position=position, joined=True)
    await node.submit(joined, topic_id=user_id)


def one_shard() -> AppCluster:
    """A cluster in which the sequence of one topic says something about all others."""
    return AppCluster(server=FakeLogServer(shards=1))


@asynccontextmanager
async def two_groups(cluster: AppCluster | None = None) -> AsyncIterator[tuple[AppCluster, AppNode, Streams]]:
    """A node with Bob in two groups."""
    cluster = cluster or one_shard()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await make_groups(node, BOB)
        yield cluster, node, streams


async def token_of_bob(cluster: AppCluster, node: AppNode, streams: Streams) -> str:
    """Returns the token of a stream that was told everything; the stream is closed."""
    bob = await open_with(streams, BOB)
    await compare_heads(node, BOB, GROUP, OTHER)
    token = await beat(cluster, streams, bob.stream)
    await bob.stream.aclose()
    assert token
    return token


@pytest.mark.asyncio
@pytest.mark.parametrize("shards", [1, 2, 8])
async def test_a_resumed_stream_names_only_what_moved(shards: int) -> None:
    """And carries all the rest, as before."""
    async with two_groups(AppCluster(server=FakeLogServer(shards=shards))) as (cluster, node, streams):
        assert (await open_with(streams, BOB)).named == {BOB, GROUP, OTHER}
        token = await token_of_bob(cluster, node, streams)
        nothing = await open_with(streams, BOB, token)
        assert (nothing.resumed, nothing.named) == (True, {BOB})
        await node.submit(send(ALICE, 1), topic_id=OTHER)
        moved = await open_with(streams, BOB, token)
        assert (moved.resumed, moved.named) == (True, {BOB, OTHER})
        assert not moved.stream.has_output
        await node.submit(send(ALICE, 2), topic_id=GROUP)
        assert await moved.stream.next_frames()


@pytest.mark.asyncio
async def test_goodbye_has_a_token_as_heartbeats_have() -> None:
    async with two_groups() as (_, node, streams):
        bob = await open_with(streams, BOB)
        await compare_heads(node, BOB, GROUP, OTHER)
        bob.stream.drain(1.0)
        *_, goodbye = await bob.stream.next_frames()
        assert isinstance(goodbye, Goodbye)
        assert (await open_with(streams, BOB, goodbye.resume_token)).named == {BOB}


@pytest.mark.asyncio
async def test_any_node_takes_the_token_of_any_other() -> None:
    async with two_groups() as (cluster, node, streams):
        token = await token_of_bob(cluster, node, streams)
        async with cluster.node() as second, streams_of(second, cluster) as others:
            await node.submit(send(ALICE, 1), topic_id=OTHER)
            assert (await open_with(others, BOB, token)).named == {BOB, OTHER}


@pytest.mark.asyncio
async def test_a_token_does_not_cover_what_the_node_has_not_heard() -> None:
    """G4: the live record was lost; only a comparison with the log proves anything, however far other topics are."""
    async with two_groups() as (cluster, node, streams), cluster.node() as second:
        bob = await open_with(streams, BOB)
        await compare_heads(node, BOB, GROUP, OTHER)
        node.log.live_faults.append(LiveFault.LOST)
        await second.submit(send(ALICE, 1), topic_id=OTHER)
        await node.submit(send(ALICE, 2), topic_id=GROUP)  # heard, and later than the lost one
        token = await beat(cluster, streams, bob.stream)
        async with streams_of(second, cluster) as others:
            assert OTHER in (await open_with(others, BOB, token)).named


@pytest.mark.asyncio
async def test_a_comparison_under_way_proves_nothing_yet() -> None:
    """G4: the head was read, its record is not here."""
    async with two_groups() as (_, node, streams):
        await open_with(streams, BOB)
        await compare_heads(node, BOB, GROUP, OTHER)
        topic = node.hub.topic(OTHER)
        before = topic.covered
        topic.check_head(1, topic.state.position + 1, before + 100)
        assert topic.covered == before
        await node.submit(send(ALICE, 1), topic_id=OTHER)
        assert topic.covered == before + 100


@pytest.mark.asyncio
async def test_a_membership_that_is_newer_than_the_token_is_named() -> None:
    """G4: the conversation told of the joining before the token, the user's own topic after it."""
    cluster = one_shard()
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        await make_groups(node)
        await node.submit(add(BOB))
        await tell(node, BOB, GROUP, 3)
        await node.submit(add(BOB), topic_id=OTHER)
        await node.submit(send(ALICE, 1))
        bob = await open_with(streams, BOB)
        await compare_heads(node, BOB, GROUP)
        token = await beat(cluster, streams, bob.stream)
        await bob.stream.aclose()
        assert (await open_with(streams, BOB, token)).named == {BOB}
        await tell(node, BOB, OTHER, 3)
        assert (await open_with(streams, BOB, token)).named == {BOB, OTHER}


@pytest.mark.asyncio
async def test_a_stream_that_does_not_cover_a_conversation_of_its_user_gives_no_token() -> None:
    """G4: removed there, and the own topic does not say so yet; when the user is back, the token would hide it."""
    async with two_groups() as (cluster, node, streams):
        bob = await open_with(streams, BOB)
        await compare_heads(node, BOB, GROUP, OTHER)
        await node.submit(remove(BOB), topic_id=OTHER)
        await compare_heads(node, BOB, GROUP)
        assert await beat(cluster, streams, bob.stream) == ""


@pytest.mark.asyncio
async def test_a_resumed_stream_tells_that_a_conversation_is_over() -> None:
    """G5: Heads without it say nothing when they need not name everything."""
    async with two_groups() as (cluster, node, streams):
        token = await token_of_bob(cluster, node, streams)
        await node.submit(remove(BOB), topic_id=OTHER)
        resumed = await open_with(streams, BOB, token)
        assert (resumed.named, resumed.ended) == ({BOB}, {OTHER})


@pytest.mark.asyncio
@pytest.mark.parametrize("shard", [0, 1])
async def test_a_token_of_an_older_epoch_is_ignored(shard: int) -> None:
    """Also when only another shard has begun a new one."""
    async with two_groups(AppCluster()) as (cluster, node, streams):
        token = await token_of_bob(cluster, node, streams)
        await cluster.project()
        cluster.server.set_epoch(shard, 2)
        opened = await open_with(streams, BOB, token)
        assert (opened.resumed, opened.named) == (False, {BOB, GROUP, OTHER})


@pytest.mark.asyncio
@pytest.mark.parametrize("who", [caller(ALICE), device(BOB, "d2")], ids=["user", "sign-in"])
async def test_a_stream_ignores_the_token_of_somebody_else(who: Caller) -> None:
    async with two_groups() as (cluster, node, streams):
        token = await token_of_bob(cluster, node, streams)
        opened = await open_with(streams, BOB, token, who=who)
        assert (opened.resumed, opened.named) == (False, {who.user_id, GROUP, OTHER})


@pytest.mark.asyncio
async def test_what_moved_and_was_trimmed_since_is_named_and_what_did_not_move_is_not() -> None:
    """G4: a log without a record of a topic says nothing about when it moved; its snapshot does."""
    cluster = GroupCluster(server=FakeLogServer(shards=1))
    async with two_groups(cluster) as (_, node, streams):
        token = await token_of_bob(cluster, node, streams)
        await node.submit(send(ALICE, 1), topic_id=OTHER)
    await cluster.project()
    for topic_id in (ALICE, BOB, GROUP, OTHER):
        await cluster.snapshot(topic_id)
    cluster.server.trim(0, below_sequence=cluster.server.last_sequences[0] + 1)
    async with cluster.node() as node, streams_of(node, cluster) as streams:
        opened = await open_with(streams, BOB, token)
        assert node.hub.topic(GROUP).sequence == 0
        assert (opened.resumed, opened.named) == (True, {BOB, OTHER})


@pytest.mark.asyncio
async def test_a_stream_that_is_being_opened_gives_no_token() -> None:
    """G4: Heads are not complete, so there is something that was not told."""
    async with two_groups() as (cluster, node, streams):
        await open_with(streams, CAROL)  # somebody else covers nothing of this
        stream = streams.open(caller(BOB), takes_commands=True)
        stream.receive(Hello(instance_id=message_id(1)))
        await until(lambda: node.hub.topic(OTHER).is_loaded)
        assert await beat(cluster, streams, stream) == ""
