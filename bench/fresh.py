"""A fresh machine: clone, `make run`, a second instance beside it, stop, start, the old messages; `make test`.

Everything runs with an empty environment: `env -i PATH=/usr/bin:/bin HOME=<new> PIP_NO_CACHE_DIR=1`.
"""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from hubbub.chat.v1 import chat_service_pb2_grpc
from hubbub.conversation.v1 import conversation_service_pb2, conversation_service_pb2_grpc
from hubbub.history.v1 import history_service_pb2, history_service_pb2_grpc

from bench.crowd import message
from bench.figure import ROOT, commit, write_figure
from hubbub_server.supervisor.ports import find_free
from tests.soak.api import Login, open_channel

READY_S = 900.0
STOP_S = 40.0
_CALL_S = 10.0


@dataclass(frozen=True)
class Running:
    """An instance that said ready."""

    port: int
    data: Path
    ready_s: float


@asynccontextmanager
async def make_run(clone: Path, environment: Mapping[str, str], port: int, data: str) -> AsyncIterator[Running]:
    """Runs `make run` until the end of the block, then Ctrl-C.

    Raises:
        RuntimeError: it did not get ready, or left a process behind.
    """
    begin = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *("make", "run", f"DATA={data}"),
        cwd=clone,
        env={**environment, "HUBBUB_PORT": str(port)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(READY_S):
            while (line := await process.stdout.readline()).strip() != b"ready":
                if not line:
                    raise RuntimeError("make run ended before it was ready")
        yield Running(port, clone / data, time.monotonic() - begin)
    finally:
        pids = _processes(clone / data)
        os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does: make and the supervisor hear it
        async with asyncio.timeout(STOP_S):
            await process.communicate()
    left = _still_running(pids)
    if left:
        raise RuntimeError(f"left behind: {left}")


def _processes(data: Path) -> list[int]:
    """Names every process of a running instance."""
    run = data / "run.json"
    return [each["pid"] for each in json.loads(run.read_text())["processes"]] if run.exists() else []


def _still_running(pids: list[int]) -> list[int]:
    return [pid for pid in pids if Path(f"/proc/{pid}").exists()]


async def say_something(running: Running, text: str) -> int:
    """Sends a message as one demo account to the other; returns its number."""
    login, topic = await _conversation(running)
    async with open_channel(running.port) as channel:
        chat = chat_service_pb2_grpc.ChatServiceStub(channel)
        sent = await chat.SendMessage(message(topic, text), metadata=login.metadata, timeout=_CALL_S)
    return sent.message_number


async def texts(running: Running) -> list[str]:
    """Lists what the demo accounts said to each other."""
    login, topic = await _conversation(running)
    request = history_service_pb2.ListMessagesRequest(conversation_id=topic)
    async with open_channel(running.port) as channel:
        history = history_service_pb2_grpc.HistoryServiceStub(channel)
        page = await history.ListMessages(request, metadata=login.metadata, timeout=_CALL_S)
    return [each.content.text.text for each in page.messages]


async def _conversation(running: Running) -> tuple[Login, str]:
    login = Login("alice", (running.data / "secrets" / "demo_password").read_text().strip())
    async with open_channel(running.port) as channel:
        await login.renew(channel)
        stub = conversation_service_pb2_grpc.ConversationServiceStub(channel)
        request = conversation_service_pb2.ListConversationsRequest()
        listed = await stub.ListConversations(request, metadata=login.metadata, timeout=_CALL_S)
    return login, listed.views[0].conversation.conversation_id


async def measure(clone: Path, environment: Mapping[str, str], *, with_tests: bool) -> None:
    """Measures and keeps the figure."""
    first_port, second_port = find_free(2)
    async with make_run(clone, environment, first_port, "var") as first:
        await say_something(first, "said before the stop")
        async with make_run(clone, environment, second_port, "var2") as second:
            second_texts = await texts(second)
            await say_something(first, "said beside the second instance")
    async with make_run(clone, environment, first_port, "var") as again:
        listed = await texts(again)
    kept = {"said before the stop", "said beside the second instance"} <= set(listed)
    figures: dict[str, object] = {
        "environment": "env -i PATH=/usr/bin:/bin HOME=<new> PIP_NO_CACHE_DIR=1",
        "clone_of": commit(),
        "make_run_first_s": round(first.ready_s, 1),
        "make_run_again_s": round(again.ready_s, 1),
        "second_instance_s": round(second.ready_s, 1),
        "second_instance_is_separate": "said before the stop" not in second_texts,
        "old_messages_listed_after_restart": kept,
    }
    tests_pass = True
    if with_tests:
        for target in ("test-fast", "test"):
            begin = time.monotonic()
            log = clone / f"{target}.log"
            with log.open("wb") as output:
                done = await asyncio.create_subprocess_exec(
                    "make", target, cwd=clone, env=environment, stdout=output, stderr=output
                )
                code = await done.wait()
            figures[f"make_{target.replace('-', '_')}_s"] = round(time.monotonic() - begin, 1)
            figures[f"make_{target.replace('-', '_')}"] = log.read_text().strip().splitlines()[-1]
            tests_pass = tests_pass and code == 0
    holds = kept and "said before the stop" not in second_texts and tests_pass
    write_figure("fresh", "python -m bench.fresh", figures, holds=holds)


async def main() -> None:
    """Clones the commit and measures."""
    parser = argparse.ArgumentParser(prog="python -m bench.fresh", description=__doc__)
    parser.add_argument("--no-tests", action="store_true", help="leave `make test` out")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubbub-fresh-") as folder:
        clone, home = Path(folder) / "hubbub", Path(folder) / "home"
        home.mkdir()
        cloning = await asyncio.create_subprocess_exec("git", "clone", "--quiet", str(ROOT), str(clone))
        if await cloning.wait():
            sys.exit("git clone failed")
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(home), "PIP_NO_CACHE_DIR": "1"}
        await measure(clone, environment, with_tests=not options.no_tests)


if __name__ == "__main__":
    asyncio.run(main())
