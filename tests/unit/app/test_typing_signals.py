"""Typing: seldom enough, over in time, only from members and to members; on nodes that share nothing but the bus."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubbub_server.app.conversation_signals import HEARD_BURST, HEARD_PER_S
from hubbub_server.app.frames import Outgoing, Rejected, SetTyping, StreamCommand
from hubbub_server.app.typing_signals import TRIES_BURST, TypingSignals
from hubbub_server.domain.commands import ChangePreferences, CreateDirect, CreateGroup, RecordBlock, SetBlock
from hubbub_server.domain.errors import ConversationNotFound, LogUnavailable, RateLimited
from hubbub_server.domain.events import SourcePlace
from hubbub_server.domain.ids import ConversationId, TopicId, UserId
from hubbub_server.domain.limits import TYPING_EXPIRES_S, TYPING_INTERVAL_S, TYPING_MAX_MEMBERS
from hubbub_server.domain.preferences import Preferences, Status, StatusState
from hubbub_server.domain.signals import ReadMarker, Signal, Typing
from hubbub_server.domain.user_topic import UserTopicState
from tests.support.app_node import (
    ALICE,
    BOB,
    CAROL,
    GROUP,
    SIGNAL_CODEC,
    AppCluster,
    AppNode,
    Listener,
    create_group,
    remove,
    send,
    settle,
    until,
)
from tests.support.fakes.topic_log import LiveFault
from tests.support.open_streams import open_stream, streams_of

WRITING, RECORDING = 1, 2
DIRECT = ConversationId(TopicId("cdirect"))
ON = Typing(making=WRITING, active=True)
OFF = Typing(making=WRITING, active=False)


@dataclass
class Stage:
    """Alice's group with Bob; Alice types on `one`, Bob listens on `two`."""

    cluster: AppCluster
    one: AppNode
    two: AppNode
    bob: Listener

    async def types(self, typing: Typing = ON, *, user_id: UserId = ALICE, session_id: str = "s1") -> None:
        await self.one.typing.set(user_id, GROUP, typing, session_id=session_id)
        await settle()

    @property
    def heard(self) -> list[object]:
        """What Bob heard since the last look."""
        heard, self.bob.signals = self.bob.signals, []
        return [signal.kind for signal in heard]


@asynccontextmanager
async def stage(*, others: tuple[UserId, ...] = ()) -> AsyncIterator[Stage]:
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB, *others)
        yield Stage(cluster, one, two, await two.listen(user_id=BOB))


@pytest.mark.asyncio
async def test_a_member_hears_on_another_node_that_somebody_types() -> None:
    async with stage() as here:
        await here.types()

        (signal,) = here.bob.signals

    assert signal == Signal(conversation_id=GROUP, user_id=ALICE, kind=ON)


@pytest.mark.asyncio
async def test_nothing_of_it_is_stored() -> None:
    """C41: never in the log, so never in Sync."""
    async with stage() as here:
        before = here.cluster.server.last_sequences[:]
        await here.types()
        await here.types(OFF)

        assert here.cluster.server.last_sequences == before


@pytest.mark.asyncio
async def test_the_one_who_types_does_not_hear_it_on_any_device() -> None:
    async with stage() as here:
        same, other = await here.one.listen(user_id=ALICE), await here.two.listen(user_id=ALICE)

        await here.types()

        assert here.heard == [ON]
        assert (same.signals, other.signals) == ([], [])


@pytest.mark.asyncio
async def test_fifty_a_second_are_one_every_three_seconds() -> None:
    """C42: all are answered until they are too many to be looked at."""
    async with stage() as here:
        seconds, refused = 12, 0
        for _ in range(seconds * 50):
            try:
                await here.one.typing.set(ALICE, GROUP, ON)
            except RateLimited:
                refused += 1
            here.cluster.clock.advance(1 / 50)
        await settle()

        assert here.heard == [ON] * round(seconds / TYPING_INTERVAL_S)
        assert 0 < refused < seconds * 50


@pytest.mark.asyncio
async def test_who_repeats_it_is_shown_without_a_break() -> None:
    """Every 3 s, each some hundredths early or late: what is passed on never runs out between."""
    async with stage() as here:
        passed_s: list[float] = []
        for early_s in (0.0, 0.02, -0.02, 0.05, -0.05, 0.01, 0.3, -0.3) * 5:
            await here.types()
            passed_s += [here.cluster.clock.monotonic_s()] * len(here.heard)
            here.cluster.clock.advance(3.0 - early_s)

        pauses_s = [later - earlier for earlier, later in pairwise(passed_s)]
        assert min(pauses_s) >= TYPING_INTERVAL_S - 1e-6
        assert max(pauses_s) < TYPING_EXPIRES_S


@pytest.mark.asyncio
async def test_the_end_of_it_is_told_at_once_and_once() -> None:
    async with stage() as here:
        await here.types()
        await here.types(OFF)
        await here.types(OFF)

        assert here.heard == [ON, OFF]


@pytest.mark.asyncio
async def test_on_and_off_and_on_again_is_not_told_each_time() -> None:
    async with stage() as here:
        for _ in range(5):
            await here.types()
            await here.types(OFF)
        assert here.heard == [ON, OFF]

        here.cluster.clock.advance(TYPING_INTERVAL_S)
        await here.types(Typing(making=RECORDING, active=True))

        assert here.heard == [Typing(making=RECORDING, active=True)]


@pytest.mark.asyncio
async def test_a_stop_on_another_node_than_the_start_is_told() -> None:
    """Unary calls of one client go to any node."""
    async with stage() as here:
        await here.types()
        await here.two.typing.set(ALICE, GROUP, OFF)
        await settle()

        assert here.heard == [ON, OFF]


@pytest.mark.asyncio
async def test_a_message_ends_it_without_a_word_more() -> None:
    """C42: the receivers see the message; the client's own stop and the end of its stream add nothing."""
    async with stage() as here:
        await here.types()
        here.one.typing.message_submitted(ALICE, GROUP)
        await here.types(OFF)
        here.one.typing.session_ended("s1")
        await settle()

        assert here.heard == [ON]


@pytest.mark.asyncio
async def test_a_message_overtakes_typing_that_is_still_looked_at() -> None:
    """Else it would be shown for seconds beside the message that it led to."""
    async with stage() as here:
        typing = asyncio.create_task(here.one.typing.set(ALICE, GROUP, ON))
        await asyncio.sleep(0)
        here.one.typing.message_submitted(ALICE, GROUP)
        await typing
        await settle()

        assert here.heard == []


@pytest.mark.asyncio
async def test_the_end_of_a_stream_ends_what_it_told_and_nothing_else() -> None:
    """C41, C42."""
    async with stage() as here:
        await here.types(session_id="s1")
        here.one.typing.session_ended("s2")
        await settle()
        assert here.heard == [ON]

        here.one.typing.session_ended("s1")
        here.one.typing.session_ended("s1")
        await settle()

        assert here.heard == [OFF]


@pytest.mark.asyncio
async def test_of_two_streams_that_type_the_last_one_ends_it() -> None:
    async with stage() as here:
        await here.types(session_id="s1")
        await here.types(session_id="s2")

        here.one.typing.session_ended("s1")
        await settle()
        assert here.heard == [ON]
        here.one.typing.session_ended("s2")
        await settle()

        assert here.heard == [OFF]


@pytest.mark.asyncio
async def test_what_has_run_out_need_not_be_ended() -> None:
    async with stage() as here:
        await here.types()
        here.cluster.clock.advance(TYPING_EXPIRES_S)
        here.one.typing.session_ended("s1")
        await settle()

        assert here.heard == [ON]


@pytest.mark.asyncio
async def test_only_members_may_and_nobody_learns_more_than_that() -> None:
    """C42: absent and foreign are one; G5: at once after the removal, on every node."""
    async with stage(others=(CAROL,)) as here:
        for user_id, conversation_id in (
            (UserId(TopicId("udave")), GROUP),
            (ALICE, "cnothing"),
            (ALICE, "u1"),
            (ALICE, ""),
        ):
            with pytest.raises(ConversationNotFound):
                await here.one.typing.set(user_id, conversation_id, ON)
        await here.two.typing.set(CAROL, GROUP, ON)
        await here.one.submit(remove(CAROL))
        for node in (here.one, here.two):
            with pytest.raises(ConversationNotFound):
                await node.typing.set(CAROL, GROUP, ON)


@pytest.mark.asyncio
async def test_a_node_that_knows_of_a_removal_passes_nothing_of_that_user_or_to_them() -> None:
    """G5: whatever another node, which does not know yet, sends."""
    async with stage(others=(CAROL,)) as here:
        carol = await here.two.listen(user_id=CAROL)
        late = SIGNAL_CODEC.encode(Signal(conversation_id=GROUP, user_id=CAROL, kind=ON))
        await here.one.submit(remove(CAROL))
        await until(lambda: here.bob.positions[-1:] == [here.one.hub.topic(GROUP).head.cursor.position])

        here.one.bus.publish("conversation", GROUP, late)
        await here.types()

        assert here.heard == [ON]
        assert carol.signals == []


@pytest.mark.asyncio
async def test_a_signal_of_another_conversation_than_its_key_is_not_passed() -> None:
    async with stage() as here:
        other = Signal(conversation_id="cother", user_id=ALICE, kind=ON)  # type: ignore[arg-type]  # any id
        here.one.bus.publish("conversation", GROUP, SIGNAL_CODEC.encode(other))
        here.one.bus.publish("conversation", GROUP, b"\xff")
        await settle()

        assert here.heard == []


@pytest.mark.asyncio
async def test_who_does_not_share_it_is_heard_by_nobody() -> None:
    """And is told nothing of that. Whether this node hears the user's own topic or not."""
    async with stage() as here:
        silent = ChangePreferences(preferences=Preferences(sends_typing=False), names=["sends_typing"])
        await here.two.submit(silent, topic_id=ALICE)
        await here.types()
        await here.one.listen(ALICE)
        await here.types()
        assert here.heard == []

        await here.two.submit(replace(silent, preferences=Preferences()), topic_id=ALICE)
        await here.types()
        assert here.heard == [ON]


@pytest.mark.asyncio
async def test_who_is_invisible_is_heard_by_nobody() -> None:
    """Neither that they begin nor that they stop; until that expires."""
    async with stage() as here:
        until_ms = here.cluster.clock.now_ms() + 60_000
        invisible = Preferences(status=Status(state=StatusState.INVISIBLE, expire_time_ms=until_ms))
        await here.two.submit(ChangePreferences(preferences=invisible, names=["status"]), topic_id=ALICE)
        for typing in (ON, OFF):
            await here.types(typing)
        assert here.heard == []

        here.cluster.clock.advance(60.0)
        await here.types()
        assert here.heard == [ON]


INVISIBLE = ChangePreferences(
    preferences=Preferences(status=Status(state=StatusState.INVISIBLE)), names=frozenset({"status"})
)
SILENT = ChangePreferences(preferences=Preferences(sends_typing=False), names=frozenset({"sends_typing"}))


@pytest.mark.asyncio
@pytest.mark.parametrize("hiding", [INVISIBLE, SILENT])
@pytest.mark.parametrize("session_id", ["s1", ""])
async def test_who_begins_to_hide_is_shown_no_longer(hiding: ChangePreferences, session_id: str) -> None:
    """At once, as by the end of the stream, whatever node is told of it, whether a stream or a call said it."""
    async with stage() as here:
        await here.types(session_id=session_id)
        await here.two.submit(hiding, topic_id=ALICE)
        await until(lambda: len(here.bob.signals) == 2)
        here.one.typing.session_ended(session_id)
        await here.types(OFF, session_id=session_id)

        assert here.heard == [ON, OFF]


@pytest.mark.asyncio
async def test_each_device_of_who_begins_to_hide_is_shown_no_longer() -> None:
    """On two nodes, in two conversations: as many stops as by the ends of both streams."""
    async with stage() as here:
        other = ConversationId(TopicId("cother"))
        await here.one.submit(CreateGroup(creator_id=ALICE, title="other", user_ids=(BOB,)), topic_id=other)
        bob = await here.two.listen(other, user_id=BOB)
        await here.one.typing.set(ALICE, GROUP, ON, session_id="s1")
        await here.two.typing.set(ALICE, other, ON, session_id="s2")
        await here.one.submit(INVISIBLE, topic_id=ALICE)
        await until(lambda: len(bob.signals) == len(here.bob.signals) == 2)

        assert here.heard == [signal.kind for signal in bob.signals] == [ON, OFF]


@pytest.mark.asyncio
async def test_what_has_ended_is_not_ended_by_hiding() -> None:
    async with stage() as here:
        await here.types()
        await here.types(OFF)
        await here.two.submit(INVISIBLE, topic_id=ALICE)
        await until(lambda: not shows_typing(here.one))
        await settle()

        assert here.heard == [ON, OFF]


def shows_typing(node: AppNode) -> bool:
    """Tells what a node has heard of Alice's choice."""
    own = node.hub.topic(ALICE).state
    assert isinstance(own, UserTopicState)
    return own.preferences.shows_typing(0)


@pytest.mark.asyncio
async def test_who_hides_is_heard_by_nobody_though_their_node_did_not_hear_of_it() -> None:
    """The live record was lost, as it may be."""
    async with stage() as here:
        await here.one.listen(ALICE)
        here.one.log.live_faults.append(LiveFault.LOST)
        await here.two.submit(INVISIBLE, topic_id=ALICE)
        assert shows_typing(here.one)
        await here.types()

        assert here.heard == []


@pytest.mark.asyncio
async def test_who_is_blocked_is_not_heard_by_who_blocks_them() -> None:
    async with stage(others=(CAROL,)) as here:
        carol = await here.two.listen(user_id=CAROL)
        await here.two.listen(BOB, user_id=BOB)
        await here.one.submit(SetBlock(user_id=ALICE, conversation_id=DIRECT, blocked=True), topic_id=BOB)

        await here.types()

        assert (here.heard, len(carol.signals)) == ([], 1)


@pytest.mark.asyncio
async def test_with_a_block_the_two_of_a_direct_conversation_hear_nothing_of_each_other() -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        await node.submit(CreateDirect(creator_id=ALICE, other_id=BOB))
        alice, bob = await node.listen(user_id=ALICE), await node.listen(user_id=BOB)
        block = RecordBlock(blocker_id=BOB, user_id=ALICE, blocked=True, source=SourcePlace(1, 1))
        await node.submit(block)
        for user_id in (ALICE, BOB):
            await node.typing.set(user_id, GROUP, ON)
        await settle()
        assert (alice.signals, bob.signals) == ([], [])

        await node.submit(replace(block, blocked=False, source=SourcePlace(1, 2)))
        cluster.clock.advance(TYPING_INTERVAL_S)
        for user_id in (ALICE, BOB):
            await node.typing.set(user_id, GROUP, ON)
        await settle()
        assert (len(alice.signals), len(bob.signals)) == (1, 1)


@pytest.mark.asyncio
@pytest.mark.parametrize(("members", "told"), [(TYPING_MAX_MEMBERS, 1), (TYPING_MAX_MEMBERS + 1, 0)])
async def test_in_large_conversations_nobody_is_told(members: int, told: int) -> None:
    cluster = AppCluster()
    async with cluster.node() as node:
        others = [UserId(TopicId(f"u{number:04}")) for number in range(members - 1)]
        await node.submit(CreateGroup(creator_id=ALICE, title="group", user_ids=tuple(others)))
        listener = await node.listen(user_id=others[0])

        await node.typing.set(ALICE, GROUP, ON)
        await settle()

        assert len(listener.signals) == told


@pytest.mark.asyncio
async def test_a_conversation_has_so_many_signals_a_second_and_no_more() -> None:
    async with stage() as here:
        for number in range(3 * HEARD_BURST):
            here.one.signals.publish(
                Signal(conversation_id=GROUP, user_id=ALICE, kind=ReadMarker(message_number=number + 1))
            )
        await settle()
        assert len(here.heard) == HEARD_BURST

        here.cluster.clock.advance(1.0)
        for _ in range(3 * HEARD_BURST):
            here.one.signals.publish(Signal(conversation_id=GROUP, user_id=ALICE, kind=ON))
        await settle()

        assert len(here.heard) == HEARD_PER_S


@pytest.mark.asyncio
async def test_without_the_log_the_call_says_so_and_without_the_bus_nothing_happens() -> None:
    async with stage() as here:
        here.one.bus.is_lost = True
        await here.types()
        assert here.heard == []
        here.one.log.cut()
        with pytest.raises(LogUnavailable):
            await here.one.typing.set(ALICE, GROUP, OFF)


@pytest.mark.asyncio
async def test_a_node_listens_to_signals_of_conversations_that_it_has_streams_of() -> None:
    """A node without streams pays nothing."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        assert node.bus.keys == set()
        listener = await node.listen()
        await node.hub.subscribe(BOB, listener)
        assert node.bus.keys == {("conversation", GROUP)}

        node.hub.topic(GROUP).unsubscribe(listener)
        await until(lambda: node.bus.keys == set())


@pytest.mark.asyncio
async def test_what_was_told_is_forgotten_when_it_has_run_out() -> None:
    """Memory is bounded by who types now."""
    async with stage() as here:
        for number in range(TRIES_BURST):
            with pytest.raises(ConversationNotFound):
                await here.one.typing.set(ALICE, f"cnone{number}", ON, session_id=f"s{number}")
        here.cluster.clock.advance(TYPING_EXPIRES_S)
        await here.types(session_id="s1")
        here.cluster.clock.advance(TYPING_EXPIRES_S)
        await here.types(user_id=BOB, session_id="s2")

        assert remembered(here.one.typing) == (1, 1)


def remembered(typing: TypingSignals) -> tuple[int, int]:
    return len(typing._told), len(typing._by_session)  # memory shows nowhere else


steps = st.lists(
    st.tuples(
        st.sampled_from(["on", "on", "off", "send", "end"]),
        st.sampled_from([ALICE, CAROL]),
        st.sampled_from(["s1", "s2"]),
        st.sampled_from([0.0, 0.1, 1.0, 2.9, 3.0, 5.0, 8.0]),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(steps)
def test_in_any_order_what_receivers_show_is_true_and_told_seldom_enough(
    steps: list[tuple[str, UserId, str, float]],
) -> None:
    """Bob's client, by the rules of the contract, never shows somebody who stopped or sent; and starts are rare."""
    asyncio.run(play(steps))


async def play(steps: list[tuple[str, UserId, str, float]]) -> None:
    async with stage(others=(CAROL,)) as here:
        clock, serial = here.cluster.clock, 0
        shown_until_s: dict[UserId, float] = {}
        typing_by: dict[UserId, str | None] = {ALICE: None, CAROL: None}
        starts_s: dict[UserId, list[float]] = {ALICE: [], CAROL: []}
        for what, user_id, session_id, pause_s in steps:
            here.bob.signals.clear()
            match what:
                case "on":
                    await here.types(user_id=user_id, session_id=session_id)
                    typing_by[user_id] = session_id
                case "off":
                    await here.types(OFF, user_id=user_id, session_id=session_id)
                    typing_by[user_id] = None
                case "send":
                    serial += 1
                    here.one.typing.message_submitted(user_id, GROUP)
                    await here.one.send(send(user_id, serial))
                    await until(lambda: len(here.bob.positions) >= serial)  # noqa: B023  # waited for at once
                    shown_until_s.pop(user_id, None)
                    typing_by[user_id] = None
                case _:
                    here.one.typing.session_ended(session_id)
                    await settle()
                    typing_by = {each: None if by == session_id else by for each, by in typing_by.items()}
            for signal in here.bob.signals:
                assert isinstance(signal.kind, Typing)
                assert signal.user_id is not None
                if signal.kind.active:
                    starts_s[signal.user_id].append(clock.monotonic_s())
                    shown_until_s[signal.user_id] = clock.monotonic_s() + TYPING_EXPIRES_S
                else:
                    shown_until_s.pop(signal.user_id, None)
            for each, until_s in shown_until_s.items():
                assert until_s <= clock.monotonic_s() or typing_by[each] is not None
            clock.advance(pause_s)
        for times_s in starts_s.values():
            pauses_s = (later - earlier for earlier, later in pairwise(times_s))
            assert all(pause_s >= TYPING_INTERVAL_S - 1e-6 for pause_s in pauses_s)


@pytest.mark.asyncio
async def test_a_command_that_cannot_be_told_in_time_is_answered() -> None:
    """And those that wait behind it: the log is slow, the stream is not."""
    async with stage() as here, streams_of(here.one, here.cluster) as streams:
        stream = await open_stream(streams, ALICE)
        streams.command_timeout_s = 0.01
        here.cluster.server.turns = lambda: 1_000_000
        for request_id in ("1", "2"):
            stream.receive(StreamCommand(request_id=request_id, payload=SetTyping(conversation_id=GROUP, typing=ON)))
        answers: list[Outgoing] = []
        while len(answers) < 2:
            answers += await stream.next_frames()

        assert [type(answer) for answer in answers] == [Rejected, Rejected]
        assert all(isinstance(answer, Rejected) and isinstance(answer.error, LogUnavailable) for answer in answers)
        assert not stream.is_ended
        here.cluster.server.turns = lambda: 1
