"""Presence, receipts, counters, preferences and echoes, as people with the SDK see them: on two nodes, across cuts."""

import asyncio
import io
import json
import random
from collections.abc import Iterator
from contextlib import AsyncExitStack

import pytest

from hubbub_client import (
    Activity,
    ConversationSettings,
    ConversationSettingsChanged,
    CountersChanged,
    DeliveredMarkerMoved,
    EchoChanged,
    EchoState,
    HubbubClient,
    ManualPresence,
    ManualState,
    MessageReceived,
    NotPermitted,
    PresenceChanged,
    PresenceState,
    ReadFloorChanged,
    ReceiptChanged,
    ReceiptsMode,
    UserBlocked,
    mentions_of,
    presence_watch,
)
from hubbub_client.chat.json_lines import JsonLines
from hubbub_client.chat.room import Room
from tests.support.fault_proxy import Cut
from tests.support.waiting import until
from tests.support.world import Person, World

pytestmark = pytest.mark.asyncio

Shown = tuple[int, int, dict[str, tuple[int, int, bool]]]


def shown(client: HubbubClient) -> Shown:
    """What a device shows: badge, mentions, and of each conversation."""
    counters = client.counters
    return (
        counters.badge_count,
        counters.mention_count,
        {
            conversation_id: (one.unread_count, one.mention_count, one.is_marked_unread)
            for conversation_id, one in counters.of_conversations.items()
        },
    )


async def asked(client: HubbubClient) -> Shown:
    """What the server says."""
    counters = await client.markers.get_counters()
    of_conversations = {
        conversation_id: (one.unread_count, one.mention_count, one.is_marked_unread)
        for conversation_id, one in counters.of_conversations.items()
    }
    return counters.badge_count, counters.mention_count, of_conversations


async def until_equal(people: list[Person]) -> None:
    """Waits until each device shows, exactly, what the server says to it."""
    expected = await asked(people[0].client)
    assert all([await asked(person.client) == expected for person in people])
    for person in people:
        client = person.client
        await until(lambda client=client: client.counters.is_exact and shown(client) == expected, timeout_s=20.0)  # type: ignore[misc]


async def test_counters_follow_on_every_device_and_on_a_fresh_login(world: World) -> None:
    """G10: on two nodes; after each step what all devices show is what the server derives."""
    async with AsyncExitStack() as stack:
        alice = await stack.enter_async_context(await world.person("alice"))
        bob = await world.person("bob", keeps_counters=True)
        phone = await stack.enter_async_context(bob)
        laptop = await stack.enter_async_context(bob.another())
        laptop.move(world.nodes[1])
        group_id = (await alice.client.create_group("group", [bob.user_id])).conversation_id
        direct_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        devices = [phone, laptop]

        await alice.client.send(group_id, "one")
        text = "two @bob"
        await alice.client.send(group_id, text, entities=mentions_of(text, {"bob": bob.user_id}))
        await alice.client.send(direct_id, "three")
        await until_equal(devices)
        assert shown(phone.client) == (3, 1, {group_id: (2, 1, False), direct_id: (1, 0, False)})

        await phone.client.settings.mute(direct_id)
        await laptop.client.markers.mark_read(group_id, 1)
        await until_equal(devices)
        assert shown(phone.client)[:2] == (1, 1)

        await laptop.client.settings.block_user(alice.user_id)
        await until_equal(devices)
        assert shown(phone.client)[:2] == (1, 0)
        assert phone.of(UserBlocked)
        with pytest.raises(NotPermitted):
            await alice.client.send(direct_id, "four")
        await phone.client.settings.unblock_user(alice.user_id)
        await phone.client.send(group_id, "five")
        await phone.client.markers.mark_unread(group_id)
        await until_equal(devices)
        assert shown(laptop.client) == (1, 0, {group_id: (0, 0, True), direct_id: (1, 0, False)})

        fresh = await stack.enter_async_context(bob.another())
        await until_equal([*devices, fresh])
        last = fresh.of(CountersChanged)[-1].counters
        assert (last.badge_count, last.is_exact) == (1, True)
        await phone.client.markers.mark_read(group_id, 3)
        await until_equal([*devices, fresh])
        assert shown(fresh.client)[0] == 0


@pytest.mark.parametrize("seed", range(3))
async def test_counters_are_equal_whatever_happens_and_whoever_was_away(world: World, seed: int) -> None:
    """G10: a random hour of three people, one with two devices that lose their connections."""
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        alice, carol = [await stack.enter_async_context(await world.person(name)) for name in ("alice", "carol")]
        bob = await world.person("bob", keeps_counters=True)
        devices = [await stack.enter_async_context(bob), await stack.enter_async_context(bob.another())]
        members = [bob.user_id, carol.user_id]
        rooms = [(await alice.client.create_group(f"room {n}", members)).conversation_id for n in range(2)]
        names = {"bob": bob.user_id, "carol": carol.user_id}
        numbers = dict.fromkeys(rooms, 0)
        for _ in range(40):
            room, device = chance.choice(rooms), chance.choice(devices)
            match chance.choice(["send", "send", "mention", "read", "unread", "mute", "block", "own", "move"]):
                case "send" | "mention" as what:
                    text = "hello @bob" if what == "mention" else "hello"
                    sender = chance.choice([alice, carol])
                    sent = await sender.client.send(room, text, entities=mentions_of(text, names))
                    numbers[room] = sent.message_number
                case "own":
                    numbers[room] = (await device.client.send(room, "mine")).message_number
                case "read" if numbers[room]:
                    await device.client.markers.mark_read(room, chance.randint(1, numbers[room]))
                case "unread":
                    await device.client.markers.mark_unread(room)
                case "mute":
                    change = device.client.settings.mute if chance.random() < 0.5 else device.client.settings.unmute
                    await change(room)
                case "block":
                    settings = device.client.settings
                    await (settings.block_user if chance.random() < 0.5 else settings.unblock_user)(carol.user_id)
                case "move":
                    device.move(chance.choice(world.nodes), chance.choice(list(Cut)))
        await until_equal(devices)


async def test_presence_is_seen_across_nodes_and_cuts(world: World) -> None:
    async with await world.person("alice") as alice:
        bob_person = await world.person("bob")
        async with bob_person as bob:
            bob.move(world.nodes[1])
            await alice.client.create_direct(bob.user_id)
            alice.client.presence.watch([bob.user_id])
            await until(lambda: state_of(alice, bob) is PresenceState.ONLINE, timeout_s=20.0)

            bob.client.presence.set_activity(Activity.INACTIVE)
            await until(lambda: state_of(alice, bob) is PresenceState.AWAY, timeout_s=20.0)
            own = ManualPresence(state=ManualState.DO_NOT_DISTURB, text="in a meeting", emoji="🙈")
            assert await bob.client.presence.set_own(own) == own
            await until(lambda: state_of(alice, bob) is PresenceState.DO_NOT_DISTURB, timeout_s=20.0)
            assert alice.client.presence.of(bob.user_id).status_text == "in a meeting"
            assert await bob.client.presence.get_own() == own

            alice.move(world.nodes[1])
            await bob.client.presence.set_own(ManualPresence())
            await until(lambda: state_of(alice, bob) is PresenceState.AWAY, timeout_s=20.0)
        await until(lambda: state_of(alice, bob_person) is PresenceState.OFFLINE, timeout_s=20.0)
        seen = [change.presence.state for change in alice.of(PresenceChanged)]
        assert PresenceState.UNKNOWN not in seen
        (once,) = await alice.client.presence.list_presence([bob_person.user_id])
        assert once.state is PresenceState.OFFLINE
        alice.client.presence.unwatch([bob_person.user_id])
        assert state_of(alice, bob_person) is PresenceState.UNKNOWN


async def test_nobody_haunts_while_there_is_no_connection(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """C40: what is not known any more is not shown, and comes back with the connection."""
    monkeypatch.setattr(presence_watch, "LOST_S", 0.2)
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        await alice.client.create_direct(bob.user_id)
        alice.client.presence.watch([bob.user_id])
        await until(lambda: state_of(alice, bob) is PresenceState.ONLINE, timeout_s=20.0)
        alice.proxy.refuse()
        alice.proxy.cut(Cut.RST)
        await until(lambda: alice.of(PresenceChanged)[-1].presence.state is PresenceState.UNKNOWN, timeout_s=20.0)
        alice.proxy.flow()
        await until(lambda: alice.of(PresenceChanged)[-1].presence.state is PresenceState.ONLINE, timeout_s=40.0)


def state_of(watcher: Person, watched: Person) -> PresenceState:
    return watcher.client.presence.of(watched.user_id).state


async def test_reading_is_seen_as_a_receipt(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "one")
        await bob.until_heard(conversation_id, 1)
        await bob.client.markers.mark_read(conversation_id, 1)
        await until(lambda: any(one.read_number == 1 for one in alice.of(ReceiptChanged)), timeout_s=20.0)

        assert [one.user_id for one in alice.of(ReceiptChanged)] == [bob.user_id]
        await world.cluster.project()  # markers of others are read from the store
        (marker,) = await alice.client.markers.list_markers(conversation_id)
        assert (marker.user_id, marker.message_number) == (bob.user_id, 1)
        assert (await alice.client.markers.list_readers(conversation_id, 1)).user_ids == (bob.user_id,)


async def test_a_posted_message_is_shown_at_once_and_sent_once_across_a_cut(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "first")
        await bob.until_heard(conversation_id, 1)
        alice.proxy.refuse()
        alice.proxy.cut(Cut.RST)

        posted = [alice.client.post(conversation_id, text) for text in ("second", "third")]
        await until(lambda: len(alice.of(EchoChanged)) == 2)
        assert alice.client.echoes(conversation_id) == posted
        alice.proxy.flow()
        await bob.until_heard(conversation_id, 3)
        await alice.until_heard(conversation_id, 3)

        assert [message.text for message in bob.heard(conversation_id)] == ["first", "second", "third"]
        echoes = [change.echo for change in alice.of(EchoChanged)]
        assert [echo.state for echo in echoes] == [EchoState.PENDING] * 2 + [EchoState.SENT] * 2
        assert [echo.message_number for echo in echoes[2:]] == [2, 3]
        assert [echo.client_message_id for echo in echoes[2:]] == [echo.client_message_id for echo in posted]
        assert not alice.client.echoes(conversation_id)


async def test_a_refused_message_is_shown_and_sent_again_under_its_id(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await bob.client.settings.block_user(alice.user_id)
        await until(lambda: world.rows() > 0)

        echo = alice.client.post(conversation_id, "let me in")
        await until(lambda: [c.echo.state for c in alice.of(EchoChanged)] == [EchoState.PENDING, EchoState.FAILED])
        (failed,) = alice.client.echoes(conversation_id)
        assert isinstance(failed.error, NotPermitted)
        await bob.client.settings.unblock_user(alice.user_id)
        alice.client.retry(echo.client_message_id)
        await bob.until_heard(conversation_id, 1)
        await alice.until_heard(conversation_id, 1)

        (heard,) = bob.heard(conversation_id)
        assert heard.client_message_id == echo.client_message_id
        assert alice.of(EchoChanged)[-1].echo.state is EchoState.SENT
        with pytest.raises(KeyError):
            alice.client.retry(echo.client_message_id)


async def test_the_chat_program_shows_it_and_takes_commands(world: World) -> None:
    async with (
        await world.person("bob") as bob,
        await world.person("alice", reads=False, keeps_counters=True) as alice,
    ):
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id
        group_id = (await bob.client.create_group("tea", [alice.user_id])).conversation_id
        sink = io.StringIO()
        may_end = asyncio.Event()
        loop = asyncio.get_running_loop()

        def said(kind: str) -> list[dict[str, object]]:
            return [line for line in map(json.loads, sink.getvalue().splitlines()) if line["type"] == kind]

        def lines() -> Iterator[str]:
            yield '{"text": "hello @bob"}'
            for command in ("status dnd busy", "mute 10", "block bob", "unblock bob", "list", "who", "nonsense"):
                yield json.dumps({"command": command})
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result()

        room = Room(alice.client, conversation_id, history_messages=0)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(JsonLines(alice.client, room, lines(), sink).run())
            await bob.until_count(MessageReceived, 1)
            await bob.client.markers.mark_read(conversation_id, 1)
            await bob.client.send(group_id, "elsewhere")
            await until(lambda: bool(said("receipt")) and len(said("done")) == 6, timeout_s=20.0)
            await until(lambda: bool(said("counters")) and said("counters")[-1]["badge_count"] == 1, timeout_s=20.0)
            await until(lambda: any(line["state"] == "online" for line in said("presence")), timeout_s=20.0)
            may_end.set()
        own = await alice.client.presence.get_own()

    assert bob.of(MessageReceived)[0].message.entities
    assert (own.state, own.text) == (ManualState.DO_NOT_DISTURB, "busy")
    assert [line["text"] for line in said("pending")] == ["hello @bob"]
    assert said("receipt")[-1]["read_number"] == 1
    assert [line["reason"] for line in said("failed")] == ["BAD_LINE"]
    assert {line["command"]: line["lines"] for line in said("done")}["mute 10"] == ["muted for 10 minutes"]


async def test_a_sender_sees_a_message_delivered_and_then_read(world: World) -> None:
    """By the SDK itself: bob's application takes the message, and only then reads it. Own messages move nothing."""
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
        await alice.client.send(conversation_id, "one")
        await until(lambda: bool(alice.of(ReceiptChanged)), timeout_s=20.0)
        await until(lambda: bool(bob.of(DeliveredMarkerMoved)), timeout_s=20.0)
        await bob.client.markers.mark_read(conversation_id, 1)
        await until(lambda: len(alice.of(ReceiptChanged)) == 2, timeout_s=20.0)

        seen = [(one.user_id, one.delivered_number, one.read_number) for one in alice.of(ReceiptChanged)]
        assert seen == [(bob.user_id, 1, 0), (bob.user_id, 1, 1)]
        assert [one.message_number for one in bob.of(DeliveredMarkerMoved)] == [1]
        assert not alice.of(DeliveredMarkerMoved)
        assert not bob.of(ReceiptChanged)


async def test_what_was_received_just_before_leaving_is_delivered(world: World) -> None:
    async with await world.person("alice") as alice:
        async with await world.person("bob") as bob:
            conversation_id = (await alice.client.create_direct(bob.user_id)).conversation_id
            await alice.client.send(conversation_id, "one")
            await bob.until_heard(conversation_id, 1)
        await until(lambda: bool(alice.of(ReceiptChanged)), timeout_s=20.0)
        (seen,) = alice.of(ReceiptChanged)
        assert (seen.delivered_number, seen.read_number) == (1, 0)
        await world.cluster.project()
        (marker,) = await alice.client.markers.list_markers(conversation_id)
        assert (marker.message_number, marker.delivered_number) == (0, 1)


async def test_a_group_that_only_counts_tells_how_far_all_have_read(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        group_id = (await alice.client.create_group("group", [bob.user_id])).conversation_id
        settings = await alice.client.update_conversation(group_id, receipts_limit=ReceiptsMode.COUNT_ONLY)
        assert settings == ConversationSettings(receipts_limit=ReceiptsMode.COUNT_ONLY)
        assert (await bob.client.get_conversation(group_id)).settings == settings
        with pytest.raises(NotPermitted):
            await bob.client.update_conversation(group_id, receipts_limit=ReceiptsMode.FULL)
        await bob.until_count(ConversationSettingsChanged, 1)
        (changed,) = bob.of(ConversationSettingsChanged)
        assert (changed.actor_id, changed.settings) == (alice.user_id, settings)

        text = "one @bob"
        await alice.client.send(group_id, text, entities=mentions_of(text, {"bob": bob.user_id}))
        await bob.until_heard(group_id, 1)
        await bob.client.markers.mark_read(group_id, 1)
        await until(lambda: bool(alice.of(ReadFloorChanged)), timeout_s=30.0)

        assert alice.of(ReadFloorChanged)[-1] == ReadFloorChanged(conversation_id=group_id, message_number=1)
        await world.cluster.project()
        assert (await alice.client.markers.list_readers(group_id, 1)).read_floor_number == 1
        assert not alice.of(ReceiptChanged)
        mentions, next_page_token = await bob.client.markers.list_my_mentions()
        assert [(one.conversation_id, one.text) for one in mentions] == [(group_id, text)]
        assert next_page_token == ""


async def test_who_blocks_the_founder_of_a_group_is_named(world: World) -> None:
    async with await world.person("alice") as alice, await world.person("bob") as bob:
        carol = await world.person("carol")
        await bob.client.settings.block_user(alice.user_id)
        with pytest.raises(NotPermitted) as refusal:
            await alice.client.create_group("group", [bob.user_id, carol.user_id])
        assert refusal.value.user_ids == (bob.user_id,)
