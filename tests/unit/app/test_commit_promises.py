"""What a commit promises on any number of nodes: G1 (durable), G2 (one order), G3 (once), G5 (access)."""

import asyncio
import random

import pytest

from hubbub_server.domain.errors import ConversationNotFound, IdReused, LogUnavailable, OutcomeUnknown
from hubbub_server.domain.events import MemberRemoved, changes_access
from tests.support.app_node import (
    ALICE,
    BOB,
    CAROL,
    GROUP,
    AppCluster,
    AppNode,
    add,
    create_group,
    message_id,
    remove,
    send,
    until,
)
from tests.support.fakes.topic_log import AppendFault, FakeLogServer, LiveFault

pytestmark = pytest.mark.asyncio


async def test_a_send_is_answered_only_when_its_record_is_in_the_log() -> None:
    """G1: the answer comes after the log's acknowledgement, not after the publish."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        cluster.server.turns = lambda: 20
        await node.send(send(ALICE, 1))
        assert cluster.messages() == [(1, ALICE, message_id(1))]


async def test_a_send_whose_append_has_no_answer_is_not_acknowledged() -> None:
    """G1: a time-out is not an acknowledgement; the sender hears "unknown", and the retry settles it."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        node.log.append_faults.append(AppendFault.NEVER)
        task = asyncio.create_task(node.send(send(ALICE, 1), timeout_s=0.1))
        await until(lambda: not node.log.append_faults)
        node.log.cut()
        with pytest.raises(OutcomeUnknown):
            await task
        assert cluster.messages() == []
        node.log.heal()
        assert (await node.send(send(ALICE, 1))).message_number == 1
        assert cluster.messages() == [(1, ALICE, message_id(1))]


async def test_a_send_that_never_left_is_refused_and_is_not_in_the_log() -> None:
    """G1: nothing half-done."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        node.log.append_faults.append(AppendFault.NOT_SENT)
        with pytest.raises(LogUnavailable):
            await node.send(send(ALICE, 1))
        assert cluster.messages() == []


@pytest.mark.parametrize("fault", [AppendFault.ACK_LOST, AppendFault.NEVER, AppendFault.LATE, AppendFault.IN_FLIGHT])
async def test_a_disturbed_append_becomes_one_message(fault: AppendFault) -> None:
    """G1, G3: whichever way an append goes wrong, the message is there once, under the number of the answer."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        node.log.append_faults.append(fault)
        answer = await node.send(send(ALICE, 1))
        cluster.server.release_late()
        assert answer.message_number == 1
        assert cluster.messages() == [(1, ALICE, message_id(1))]


async def test_nodes_that_contend_make_one_dense_order() -> None:
    """G2: three nodes send into one conversation at once; every answer is another number, none is missing."""
    chance = random.Random(7)
    cluster = AppCluster(server=FakeLogServer(turns=lambda: chance.randint(1, 4)))
    async with cluster.node() as one, cluster.node() as two, cluster.node() as three:
        await create_group(one, BOB)
        sends = [node.send(send(ALICE, serial)) for serial in range(1, 31) for node in (one,)]
        sends += [node.send(send(BOB, serial)) for serial in range(31, 61) for node in (two,)]
        sends += [three.send(send(ALICE, serial)) for serial in range(61, 91)]
        answers = await asyncio.gather(*sends)
    by_id = {identity: number for number, _, identity in cluster.messages()}
    assert sorted(answer.message_number for answer in answers) == list(range(1, 91))
    assert [number for number, _, _ in cluster.messages()] == list(range(1, 91))
    assert [event.position for event in cluster.events()] == list(range(1, len(cluster.events()) + 1))
    assert [by_id[message_id(serial)] for serial in range(1, 91)] == [a.message_number for a in answers]


async def test_a_retry_on_another_node_gets_the_first_answer() -> None:
    """G3, C07: same number, same position, same time, from any node; nothing is written."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        first = await one.send(send(ALICE, 1))
        cluster.clock.advance(3600)
        commits = cluster.server.commits
        assert await two.send(send(ALICE, 1)) == first
        assert cluster.server.commits == commits


async def test_a_retry_of_an_id_that_left_the_window_gets_the_first_answer() -> None:
    """G3: the window holds one id, the store knows the rest, also for a node that loads the conversation afterwards."""
    cluster = AppCluster()
    async with cluster.node(window_capacity=1) as node:
        await create_group(node, BOB)
        answers = [await node.send(send(ALICE, serial)) for serial in range(1, 6)]
        await cluster.project()
        late = await node.send(send(ALICE, 6))
        assert late.message_number == 6
        assert [await node.send(send(ALICE, serial)) for serial in range(1, 6)] == answers
    async with cluster.node() as other:
        assert [await other.send(send(ALICE, serial)) for serial in range(1, 6)] == answers
        with pytest.raises(IdReused):
            await other.send(send(ALICE, 1, "other words"))
    assert len(cluster.messages()) == 6


async def test_who_was_removed_cannot_post_through_a_node_that_did_not_hear_of_it() -> None:
    """G5: the removal was lost on its way to the node; the commit finds out."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await two.listen()
        await two.send(send(BOB, 1))
        two.log.live_faults.append(LiveFault.LOST)
        await one.submit(remove(BOB))
        with pytest.raises(ConversationNotFound):
            await two.send(send(BOB, 2))
    assert [sender for _, sender, _ in cluster.messages()] == [BOB]


async def test_a_refusal_is_decided_at_the_head() -> None:
    """G5: who was added elsewhere is not refused on an old state."""
    cluster = AppCluster()
    async with cluster.node() as one, cluster.node() as two:
        await create_group(one, BOB)
        await two.send(send(BOB, 1))
        two.log.live_faults.append(LiveFault.LOST)
        await one.submit(add(CAROL))
        assert (await two.send(send(CAROL, 2))).message_number == 2


async def _queue_a_removal_among_sends(node: AppNode, sends: int) -> None:
    """Sends and, in the middle, a removal, all queued while one commit is in flight."""
    half = sends // 2
    tasks = [node.submit(send(ALICE, serial)) for serial in range(1, half + 1)]
    tasks.append(node.submit(remove(BOB)))
    tasks += [node.submit(send(ALICE, serial)) for serial in range(half + 1, sends + 1)]
    await asyncio.gather(*tasks)


async def test_a_removal_is_alone_in_its_record() -> None:
    """G5, C43: a hundred sends and one removal queue behind one commit."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB, CAROL)
        await _queue_a_removal_among_sends(node, 100)
    records = cluster.server.by_topic[GROUP]
    with_removal = [r for r in records if MemberRemoved.__name__ in r.facts.kinds]
    assert [r.facts.last_position - r.facts.first_position for r in with_removal] == [0]
    assert len(records) < 20
    assert len(cluster.messages()) == 100


async def test_what_was_queued_behind_a_removal_is_decided_after_it() -> None:
    """G5: Bob's sends before the removal are there, those behind it are refused."""
    cluster = AppCluster()
    async with cluster.node() as node:
        await create_group(node, BOB)
        tasks = [node.submit(send(BOB, serial)) for serial in range(1, 6)]
        tasks.append(node.submit(remove(BOB)))
        tasks += [node.submit(send(BOB, serial)) for serial in range(6, 11)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(result, ConversationNotFound) for result in results] == [False] * 6 + [True] * 5
    removed = next(event.position for event in cluster.events() if isinstance(event.kind, MemberRemoved))
    assert removed == cluster.events()[-1].position
    assert sum(map(changes_access, cluster.events())) == 3
