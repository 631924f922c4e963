"""Where the clients play: an instance with a history of 10 MB, and a user with a conversation for each client."""

import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from hubbub_server.supervisor.ports import find_free
from tests.e2e.instance import Instance, Person, streams_of
from tests.foreign.clients import CLIENTS, PROTO, Client
from tests.foreign.steps import HISTORY_MESSAGES, Script, history_text
from tests.support.waiting import wait_until

DIRECT = "direct"
ENVOY = "envoy"
# Straight to the node come strangers, one client a connection: their bounds are tighter than those of a proxy.
SETTINGS = {DIRECT: {"HUBBUB_EDGE__PEERS": "strangers"}, ENVOY: {"HUBBUB_EDGE__PEERS": "proxy"}}
ROLES = [(client, path) for client in CLIENTS for path in SETTINGS if not (client.is_browser and path == DIRECT)]

Lines = list[dict[str, Any]]


@dataclass(frozen=True)
class Played:
    """What came of it."""

    lines: dict[tuple[str, str], Lines]
    """The lines of each client on each path."""
    missing: dict[str, str]
    """Why clients are not among them."""
    left: dict[str, float]
    """Streams that each node had when all clients were gone."""


class Stage:
    """The instance of a path; `with` starts and stops it."""

    def __init__(self, folder: Path, path: str, page_port: int, clients: Sequence[Client]) -> None:
        self._instance = Instance(folder, origin=f"http://127.0.0.1:{page_port}", settings=SETTINGS[path])
        self._is_direct = path == DIRECT
        self._page_port = page_port
        self._clients = clients
        self._stack = ExitStack()
        self.scripts: dict[str, Script] = {}
        """Of each client, after `furnish`."""

    def __enter__(self) -> Self:
        self._stack.enter_context(self._instance)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def furnish(self) -> None:
        """Makes the users, the history, and what each client is told."""
        url = self._instance.url
        peer = self._stack.enter_context(Person(url, "peer"))
        people = {
            client.name: self._stack.enter_context(Person(url, client.name.replace("-", "_")))
            for client in self._clients
        }
        history = make_history(peer, list(people.values()))
        streams, unary = self._addresses()
        for name, person in people.items():
            self.scripts[name] = Script(
                streams=streams,
                unary=unary,
                page_port=self._page_port,
                proto=str(PROTO),
                token=person.token,
                peer_token=peer.token,
                conversation=peer.talk_to(person),
                history=history,
            )

    def count_left(self) -> float:
        """Waits until the node has no streams any more; returns how many it has in the end."""
        try:
            wait_until(lambda: streams_of(self._instance, "node-1") == 0, 15.0)
        except AssertionError:
            return streams_of(self._instance, "node-1")
        return 0.0

    def _addresses(self) -> tuple[str, str]:
        node = self._instance.process_of("node-1")
        assert node is not None
        ports = (node["streams_port"], node["grpc_port"]) if self._is_direct else (self._instance.port,) * 2
        return f"127.0.0.1:{ports[0]}", f"127.0.0.1:{ports[1]}"


def make_history(writer: Person, readers: Sequence[Person]) -> str:
    """Makes a group with all messages of the history; returns its id."""
    group = {"title": "history", "userIds": [reader.user_id for reader in readers]}
    answer = writer.call("POST", "/v1/conversations", {"requestId": str(uuid.uuid4()), "group": group})
    assert answer.status_code == 200, answer.text
    conversation: str = answer.json()["view"]["conversation"]["conversationId"]
    for number in range(1, HISTORY_MESSAGES + 1):
        sent = writer.send(conversation, str(uuid.uuid4()), history_text(number))
        assert sent.status_code == 200, sent.text
    return conversation


def play_all(folder: Path) -> Played:
    """Builds all clients that can be had here and plays them, all at the same time.

    Everything is built before anybody signs in: an access token lives for ten minutes.
    """
    missing = {client.name: f"{client.name} needs {tools}" for client in CLIENTS if (tools := client.missing())}
    able = [client for client in CLIENTS if client.name not in missing]
    (page_port,) = find_free(1)
    with ThreadPoolExecutor(len(ROLES)) as threads, ExitStack() as stack:
        building = {client.name: threads.submit(client.prepare) for client in able}
        failed = {name: str(error) for name, future in building.items() if (error := future.exception())}
        stages = {
            path: stack.enter_context(
                Stage(folder / path, path, page_port, [client for client in able if (client, path) in ROLES])
            )
            for path in SETTINGS
        }
        for furnished in [threads.submit(stage.furnish) for stage in stages.values()]:
            furnished.result()
        playing = {
            (client.name, path): threads.submit(client.play, stages[path].scripts[client.name])
            for client, path in ROLES
            if client in able and client.name not in failed
        }
        lines = {role: future.result() for role, future in playing.items()}
        for name, why in failed.items():
            lines |= {
                (client.name, path): [{"step": "", "error": why}] for client, path in ROLES if client.name == name
            }
        return Played(lines, missing, {path: stage.count_left() for path, stage in stages.items()})
