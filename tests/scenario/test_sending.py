"""Senders who are cut off lose nothing, double nothing and keep their order."""

import asyncio

import pytest

from hubbub_client import IdReused
from tests.support.fault_proxy import Cut, Direction
from tests.support.waiting import until
from tests.support.world import World, history


@pytest.mark.asyncio
async def test_500_sends_cut_after_half_of_the_acks_are_500_messages_with_the_numbers_that_were_acked(
    world: World,
) -> None:
    """C06, G1, G2, G3."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        acked: dict[int, int] = {}

        async def send(number: int) -> None:
            sent = await alice.client.send(conversation_id, f"text {number}")
            acked[number] = sent.message_number

        async with asyncio.TaskGroup() as tasks:
            for number in range(1, 501):
                tasks.create_task(send(number))
            await until(lambda: len(acked) >= 250)
            before = dict(acked)
            alice.move(world.nodes[1])

        await bob.until_heard(conversation_id, 500)
        messages = await history(alice.client, conversation_id)
        assert [(message.message_number, message.text) for message in messages] == [
            (number, f"text {number}") for number in range(1, 501)
        ]
        assert acked == {number: number for number in range(1, 501)}
        assert before.items() <= acked.items()
        assert len(before) < 500
        assert [message.text for message in bob.heard(conversation_id)] == [message.text for message in messages]


@pytest.mark.asyncio
async def test_a_send_whose_ack_was_lost_is_the_same_message_on_another_node_and_a_day_later(world: World) -> None:
    """C07, G3."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "before")
        rows = world.rows()
        alice.proxy.stall(Direction.FROM_TARGET)
        async with asyncio.TaskGroup() as tasks:
            sending = tasks.create_task(alice.client.send(conversation_id, "once"))
            await until(lambda: world.rows() == rows + 1)
            assert not sending.done()
            alice.move(world.nodes[1])
        sent = sending.result()

        world.cluster.clock.advance(25 * 3600)
        again = await alice.client.send(conversation_id, "once", client_message_id=sent.client_message_id)
        with pytest.raises(IdReused) as reused:
            await alice.client.send(conversation_id, "other", client_message_id=sent.client_message_id)

        assert again == sent
        assert reused.value.first_number == sent.message_number == 2
        assert world.rows() == rows + 1
        await bob.until_heard(conversation_id, 2)
        assert [message.text for message in bob.heard(conversation_id)] == ["before", "once"]


@pytest.mark.asyncio
async def test_a_restarted_application_may_send_again_what_it_does_not_know_the_outcome_of(world: World) -> None:
    """C07: the id was stored with the message, the answer was not."""
    alice = await world.person("alice")
    async with await world.person("bob") as bob:
        async with alice:
            conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
            sent = await alice.client.send(conversation_id, "text")
        async with alice:
            again = await alice.client.send(conversation_id, "text", client_message_id=sent.client_message_id)

        assert again.message_number == sent.message_number
        assert len(await history(bob.client, conversation_id)) == 1


@pytest.mark.asyncio
async def test_two_who_send_at_once_through_cuts_agree_on_one_order(world: World) -> None:
    """G2."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        async with asyncio.TaskGroup() as tasks:
            for number in range(100):
                for person in (alice, bob):
                    tasks.create_task(person.client.send(conversation_id, f"{person.user_id} {number}"))
            for count, node in ((50, 1), (100, 0), (150, 1)):
                await alice.until_heard(conversation_id, count)
                for person in (alice, bob):
                    person.move(world.nodes[node], Cut.FIN)

        for person in (alice, bob):
            await person.until_heard(conversation_id, 200)
            assert person.numbers(conversation_id) == list(range(1, 201))
        assert alice.heard(conversation_id) == bob.heard(conversation_id)
        for person in (alice, bob):
            own = [message.text for message in alice.heard(conversation_id) if message.sender_id == person.user_id]
            assert own == [f"{person.user_id} {number}" for number in range(100)]
