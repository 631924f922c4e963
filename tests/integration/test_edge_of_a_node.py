"""Which transport serves the streams of a real node: the edge, or grpcio on the same port."""

from collections.abc import Mapping
from pathlib import Path

import grpc.aio
import httpx
import pytest
from hubbub.chat.v1 import frame_pb2
from hubbub.conversation.v1 import conversation_service_pb2

from hubbub_server.supervisor.data_folder import DataFolder
from tests.support.live_client import LiveClient, text_message
from tests.support.node import RpcClient
from tests.support.real_worker import working
from tests.support.services import ready_nats_cluster
from tests.support.serving_node import serving, sign_up

pytestmark = pytest.mark.asyncio


@pytest.mark.parametrize("how", ["edge", "switched off", "ngh2 is not installed"])
async def test_streams_are_served_on_their_port_with_the_edge_and_without(tmp_path: Path, how: str) -> None:
    """Issue 5: a setting turns it off; without ngh2 the node says so once and grpcio serves the streams."""
    folder = DataFolder(tmp_path / "var")
    async with (
        ready_nats_cluster(1) as cluster,
        working(cluster, folder.store),
        serving(cluster, folder, more=_settings(how, tmp_path)) as (node, channel),
    ):
        (served,) = node.log_of("node serves")
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served['stream_port']}") as stream_channel:
            await _send_and_hear(channel, stream_channel)
            async with httpx.AsyncClient() as http:
                metrics = (await http.get(f"http://127.0.0.1:{served['metrics_port']}/metrics")).text
        warnings = node.log_of("grpcio serves the streams, for much more work: ngh2 is not installed")

    assert ("hubbub_edge_writes_total 0.0" in metrics) == (how != "edge")
    assert len(warnings) == (how == "ngh2 is not installed")


def _settings(how: str, folder: Path) -> Mapping[str, str]:
    if how == "switched off":
        return {"HUBBUB_EDGE__ENABLED": "false"}
    if how == "edge":
        return {}
    (folder / "ngh2.py").write_text("raise ModuleNotFoundError('no such module', name='ngh2')\n")
    return {"PYTHONPATH": str(folder)}


async def _send_and_hear(channel: grpc.aio.Channel, stream_channel: grpc.aio.Channel) -> None:
    alice, _ = await sign_up(channel, "alice")
    _, bob_id = await sign_up(channel, "bob")
    request = conversation_service_pb2.CreateConversationRequest(
        direct=conversation_service_pb2.DirectSpec(user_id=bob_id)
    )
    created = await alice.conversations.CreateConversation(request, metadata=alice.auth)
    alice.chat.Connect = RpcClient(stream_channel, None).chat.Connect
    live = await LiveClient.connect(alice)
    message = text_message(created.view.conversation.conversation_id)
    await live.command(frame_pb2.Command(request_id="1", send_message=message))
    await live.answer("1")
    live.call.cancel()
