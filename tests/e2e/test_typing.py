"""Who types, on two nodes as they are run: over the real bus, with a node that is killed, and from a browser."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import pytest_asyncio
from hubbub.chat.v1 import frame_pb2

from hubbub_client import TypingChanged, TypingKind
from tests.e2e.instance import Instance
from tests.e2e.instance import Person as Guest
from tests.e2e.test_cases_of_a_cluster import PATIENCE_S, Person, room_of, say
from tests.e2e.test_grpc import framed, next_frame, subscribed
from tests.support.cluster import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.timeout(300)

_TIMEOUT_S = 20.0


@pytest_asyncio.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Two nodes on one NATS server."""
    async with Cluster(tmp_path, nodes=2) as running:
        yield running


def shown(person: Person) -> list[TypingKind | None]:
    return [event.kind for event in person.events if isinstance(event, TypingChanged)]


async def until_shown(person: Person, *kinds: TypingKind | None) -> None:
    await until(lambda: shown(person) == [*kinds], timeout_s=PATIENCE_S)


@pytest.mark.asyncio
async def test_typing_passes_between_nodes_and_ends_with_the_node_that_told_of_it(cluster: Cluster) -> None:
    """C41, C42: a message ends it, a link that is cut, and the death of a node, of which nobody tells."""
    first, second = cluster.processes("node")
    async with Person(first) as alice, Person(second) as bob:
        room = await room_of(alice, bob)
        await say(alice, room, 1, 1)
        await bob.until_heard(room, 1)

        alice.client.start_typing(room)
        await until_shown(bob, TypingKind.TEXT)
        await say(alice, room, 2, 2)
        await until_shown(bob, TypingKind.TEXT, None)
        bob.events.clear()

        alice.client.start_typing(room, for_s=PATIENCE_S)
        await until_shown(bob, TypingKind.TEXT)  # when the interval is over
        cluster.hold(first.name)
        assert cluster.kill(first)

        await until_shown(bob, TypingKind.TEXT, None)
        cluster.release(first.name)
        await until_shown(bob, TypingKind.TEXT, None, TypingKind.TEXT)  # she is back, and still types
        assert shown(alice) == []


def test_browsers_tell_by_unary_calls_and_hear_on_their_stream(instance: Instance, carol: Guest, dave: Guest) -> None:
    """G9: gRPC-Web and REST, through Envoy."""
    conversation_id = carol.talk_to(dave)
    request = frame_pb2.SetTypingRequest(conversation_id=conversation_id, active=True)
    headers = {
        "content-type": "application/grpc-web+proto",
        "x-grpc-web": "1",
        "authorization": f"Bearer {carol.token}",
    }
    with httpx.Client(base_url=instance.url, timeout=_TIMEOUT_S) as client, subscribed(client, dave) as frames:
        with httpx.Client(base_url=instance.url, timeout=_TIMEOUT_S) as other:
            answer = other.post("/hubbub.chat.v1.ChatService/SetTyping", content=framed(request), headers=headers)
        assert answer.status_code == 200
        assert b"grpc-status:0" in answer.content.replace(b" ", b"")
        assert carol.call("POST", f"/v1/conversations/{conversation_id}/typing", {"active": False}).json() == {}
        signals: list[frame_pb2.Signal] = []
        while len(signals) < 2:
            signals += next_frame(frames).signals

    assert [signal.typing.active for signal in signals] == [True, False]
