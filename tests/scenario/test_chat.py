"""The chat program on a real node."""

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hubbub_client.chat.json_lines import JsonLines
from hubbub_client.chat.room import Line, Ready, Room
from tests.support.fault_proxy import Cut
from tests.support.node import PASSWORD
from tests.support.waiting import until
from tests.support.world import Person, World


async def json_chat(person: Person, conversation_id: str, *lines: str, history: int = 20) -> list[dict[str, Any]]:
    """Runs `chat --json` with these lines as its input and returns what it said."""
    sink = io.StringIO()
    room = Room(person.client, conversation_id, history_messages=history)
    await JsonLines(person.client, room, iter(lines), sink).run()
    return [json.loads(line) for line in sink.getvalue().splitlines()]


def of(said: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    """The lines of one kind."""
    return [line for line in said if line["type"] == kind]


@pytest.mark.asyncio
async def test_json_lines_show_history_then_what_was_sent_and_what_was_refused(world: World) -> None:
    async with await world.person("bob") as bob, await world.person("alice", reads=False) as alice:
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id
        for number in (1, 2, 3):
            await bob.client.send(conversation_id, f"old {number}")
        message_id = "01890a5d-ac96-774b-bcce-b302099a8057"
        said = await json_chat(
            alice,
            conversation_id,
            json.dumps({"text": "new", "client_message_id": message_id}),
            "\n",
            "no json",
            "[1]",
            '{"send": "x"}',
            '{"text": 5}',
            '{"text": " "}',
            history=2,
        )

    assert [(line["text"], line["sender"]) for line in of(said, "received") if line["history"]] == [
        ("old 2", "bob"),
        ("old 3", "bob"),
    ]
    [ready] = of(said, "ready")
    assert (ready["conversation_id"], ready["last_message_number"]) == (conversation_id, 3)
    [acked] = of(said, "acked")
    assert (acked["client_message_id"], acked["message_number"]) == (message_id, 4)
    assert sorted(line["reason"] for line in of(said, "failed")) == ["BAD_LINE"] * 4 + ["INVALID_FIELD"]
    assert [line["message"] for line in of(said, "failed") if line["reason"] == "BAD_LINE"] == [
        "no JSON: Expecting value: line 1 column 1 (char 0)",
        "a line is an object with text, command or typing",
        "a line is an object with text, command or typing",
        "text is a string",
    ]


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("peer", "password", "error"),
    [
        (["bob"], "wrong", "InvalidCredentials"),
        (["nobody"], PASSWORD, "UserNotFound"),
        (["--conversation", "c1"], PASSWORD, "ConversationNotFound"),
    ],
)
async def test_a_script_hears_why_its_chat_cannot_go_on(
    world: World, peer: list[str], password: str, error: str
) -> None:
    """Whenever that happens: signing in, finding the other one, reading. Its last line says so, once; exit code 1."""
    for login_name in ("alice", "bob"):
        await world.cluster.sign_up(login_name)
    chat = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("hubbub")), "chat", "alice", *peer),
        *("--json", "--server", world.nodes[0].address),
        env={"HUBBUB_PASSWORD": password},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    async with asyncio.timeout(20.0):
        assert chat.stdout is not None
        lines = [json.loads(line) async for line in chat.stdout]
        code = await chat.wait()

    assert [line["error"] for line in of(lines, "stopped")] == [error]
    assert lines[-1]["type"] == "stopped"
    assert code == 1


@pytest.mark.asyncio
async def test_a_chat_that_missed_more_than_is_sent_again_shows_every_line_once(world: World) -> None:
    """C14: what a Gap leaves out is read by pages."""
    async with await world.person("bob") as bob, await world.person("alice", reads=False) as alice:
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id
        await bob.client.send(conversation_id, "text 1")
        room = Room(alice.client, conversation_id, history_messages=20)
        shown: list[int] = []
        is_ready = asyncio.Event()

        async def read() -> None:
            async for item in room.read():
                if isinstance(item, Ready):
                    is_ready.set()
                if isinstance(item, Line):
                    shown.append(item.message.message_number)

        async with asyncio.TaskGroup() as tasks:
            reading = tasks.create_task(read())
            await is_ready.wait()
            alice.proxy.refuse()
            alice.proxy.cut(Cut.RST)
            await asyncio.gather(*(bob.client.send(conversation_id, f"text {number}") for number in range(2, 1_301)))
            alice.proxy.flow()
            await until(lambda: shown[-1:] == [1_300], timeout_s=30.0)
            reading.cancel()

    assert shown == [*range(1, 1_301)]


@pytest.mark.asyncio
async def test_a_chat_whose_source_ends_waits_for_its_answers(world: World) -> None:
    async with await world.person("bob") as bob, await world.person("alice", reads=False) as alice:
        conversation_id = (await bob.client.create_direct(alice.user_id)).conversation_id

        def lines() -> Iterator[str]:
            for number in range(50):
                yield json.dumps({"text": f"text {number}"})
            alice.loop.call_soon_threadsafe(alice.move, world.nodes[1])

        sink = io.StringIO()
        room = Room(alice.client, conversation_id, history_messages=0)
        await JsonLines(alice.client, room, lines(), sink).run()

    said = [json.loads(line) for line in sink.getvalue().splitlines()]
    assert sorted(line["message_number"] for line in of(said, "acked")) == [*range(1, 51)]
