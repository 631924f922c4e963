"""Who types, as people with the SDK see it: on two nodes, across cuts, and in the chat program."""

import asyncio
import io
import json
from collections.abc import Iterator

import pytest

from hubbub_client import MessageReceived, TypingChanged, TypingKind
from hubbub_client.chat.json_lines import JsonLines
from hubbub_client.chat.room import Room
from tests.support.fault_proxy import Cut
from tests.support.waiting import until
from tests.support.world import Person, World

pytestmark = pytest.mark.asyncio


def shown(person: Person) -> list[TypingKind | None]:
    """What the person saw of others' typing."""
    return [change.kind for change in person.of(TypingChanged)]


async def until_shown(person: Person, *kinds: TypingKind | None) -> None:
    await until(lambda: shown(person) == [*kinds], timeout_s=20.0)


async def test_typing_is_seen_and_ends_with_the_message(world: World) -> None:
    """C42: on another node, and nothing of it is in the log."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        bob.move(world.nodes[1])
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)
        rows = world.rows()

        alice.client.start_typing(conversation_id)
        await until_shown(bob, TypingKind.TEXT)
        assert world.rows() == rows
        await alice.client.send(conversation_id, "second")
        await bob.until_heard(conversation_id, 2)
        await until_shown(bob, TypingKind.TEXT, None)

        assert shown(alice) == []
        assert bob.of(TypingChanged)[0].user_id == alice.user_id
        assert bob.of(TypingChanged)[0].conversation_id == conversation_id


async def test_typing_stops_by_word_and_by_time(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)

        alice.client.start_typing(conversation_id, TypingKind.RECORDING)
        await until_shown(bob, TypingKind.RECORDING)
        alice.client.stop_typing(conversation_id)
        await until_shown(bob, TypingKind.RECORDING, None)
        world.cluster.clock.advance(3.0)
        alice.client.start_typing(conversation_id, for_s=0.1)

        await until_shown(bob, TypingKind.RECORDING, None, TypingKind.TEXT, None)


async def test_typing_of_who_is_cut_off_ends(world: World) -> None:
    """C41: nobody has to say so."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)
        alice.client.start_typing(conversation_id, for_s=1.0)
        await until_shown(bob, TypingKind.TEXT)

        alice.proxy.refuse()
        alice.proxy.cut(Cut.RST)

        await until_shown(bob, TypingKind.TEXT, None)


async def test_typing_does_not_outlive_a_cut_of_the_watcher(world: World) -> None:
    """C41: the watcher's own clock ends it, while there is no connection."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)
        alice.client.start_typing(conversation_id)
        await until_shown(bob, TypingKind.TEXT)

        bob.proxy.refuse()
        bob.proxy.cut(Cut.RST)
        await alice.client.send(conversation_id, "second")

        await until_shown(bob, TypingKind.TEXT, None)
        bob.proxy.flow()
        await bob.until_heard(conversation_id, 2)
        assert shown(bob) == [TypingKind.TEXT, None]


async def test_a_message_that_sync_brings_ends_typing_too(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)
        alice.client.start_typing(conversation_id)
        await until_shown(bob, TypingKind.TEXT)

        bob.proxy.refuse()
        bob.proxy.cut(Cut.RST)
        await alice.client.send(conversation_id, "second")
        bob.proxy.flow()
        await bob.until_heard(conversation_id, 2)
        await until_shown(bob, TypingKind.TEXT, None)


async def test_who_was_removed_is_not_shown_and_shows_nothing(world: World) -> None:
    """C42, G5."""
    async with (
        await world.person("alice") as alice,
        await world.person("bob") as bob,
        await world.person("carol") as carol,
    ):
        group = await alice.client.create_group("group", [bob.user_id, carol.user_id])
        group_id = group.conversation_id
        await alice.client.send(group_id, "first")
        await asyncio.gather(*(person.until_heard(group_id, 1) for person in (bob, carol)))
        carol.client.start_typing(group_id, for_s=60.0)
        await until_shown(bob, TypingKind.TEXT)

        await alice.client.remove_member(group_id, carol.user_id)
        await until_shown(bob, TypingKind.TEXT, None)
        world.cluster.clock.advance(10.0)
        alice.client.start_typing(group_id)
        await until_shown(bob, TypingKind.TEXT, None, TypingKind.TEXT)
        alice.client.stop_typing(group_id)
        await until_shown(bob, TypingKind.TEXT, None, TypingKind.TEXT, None)

        assert shown(carol) == []
        assert {change.user_id for change in bob.of(TypingChanged)[2:]} == {alice.user_id}


async def test_the_chat_program_shows_and_tells_it(world: World) -> None:
    async with await world.person("bob") as bob, await world.person("alice", reads=False) as alice:
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id
        await bob.client.send(conversation_id, "first")
        sink = io.StringIO()

        def said(kind: str) -> list[dict[str, object]]:
            return [line for line in map(json.loads, sink.getvalue().splitlines()) if line["type"] == kind]

        may_end = asyncio.Event()
        loop = asyncio.get_running_loop()

        def lines() -> Iterator[str]:
            yield '{"typing": true}'
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()
            yield '{"text": "second"}'

        room = Room(alice.client, conversation_id, history_messages=0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(JsonLines(alice.client, room, lines(), sink).run())
            await until_shown(bob, TypingKind.TEXT)
            bob.client.start_typing(conversation_id)
            await until(lambda: len(said("typing")) == 1)
            bob.client.stop_typing(conversation_id)
            await until(lambda: len(said("typing")) == 2)
            may_end.set()
        await bob.until_count(MessageReceived, 2)
        await until_shown(bob, TypingKind.TEXT, None)

    assert [(line["sender"], line["kind"]) for line in said("typing")] == [("bob", "text"), ("bob", None)]
