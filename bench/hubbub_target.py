"""hubbub as a target: an instance as `hubbub up` runs it with one node, a group of 20, and a sender on a stream."""

import asyncio
import base64
import tempfile
import uuid
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final, Literal

from hubbub.chat.v1 import chat_service_pb2, frame_pb2

from bench.crowd import create_group, message, register
from bench.h2_client import CallFailed, GrpcConnection, split
from bench.target import StreamOpening
from tests.soak.outbox import uuid7
from tests.support.cluster import Cluster

_CONNECT: Final = "/hubbub.chat.v1.ChatService/Connect"
_USERS: Final = 20
_ANSWER_WITHIN_S: Final = 60.0
"""grpcio with thousands of connections is slow."""

Transport = Literal["edge", "grpc.aio", "envoy"]
"""By which way clients get to the node; through Envoy it is the edge behind it."""


class HubbubTarget:
    """One transport of a running instance. Implements Target."""

    def __init__(self, cluster: Cluster, transport: Transport, topic: str, tokens: list[str]) -> None:
        """Made by `running`."""
        node = cluster.processes("node")[0]
        ports = {"edge": node.stream_port, "grpc.aio": node.grpc_port, "envoy": cluster.port}
        self._port = ports[transport]
        self._topic = topic
        self._tokens = tokens
        self._answers: dict[str, asyncio.Future[None]] = {}
        roles = ("node", "envoy") if transport == "envoy" else ("node",)
        self.delivering: Collection[int] = [each.pid for each in cluster.processes() if each.role in roles]
        self.others: Collection[int] = [each.pid for each in cluster.processes() if each.role not in roles]

    @property
    def opening(self) -> StreamOpening:
        """See Target."""
        hello = chat_service_pb2.Hello(instance_id=str(uuid.UUID(int=0)))
        return StreamOpening(
            port=self._port,
            path=_CONNECT,
            metadata=tuple((("authorization", f"Bearer {token}"),) for token in self._tokens),
            first_message=base64.b64encode(chat_service_pb2.ConnectRequest(hello=hello).SerializeToString()).decode(),
            has_one_request=False,
            wire="hubbub",
        )

    async def open(self) -> None:
        """Opens the sender's stream."""
        connection = await GrpcConnection.open(self._port)
        is_open = asyncio.Event()

        def take(data: bytes) -> None:
            for each in split(data):
                frame = chat_service_pb2.ConnectResponse.FromString(each).frame
                if frame.heads.complete:
                    is_open.set()
                self._note_answer(frame)

        self._connection = connection
        self._call = connection.start(_CONNECT, (("authorization", f"Bearer {self._tokens[0]}"),), take)
        self._write(chat_service_pb2.ConnectRequest(hello=chat_service_pb2.Hello(instance_id=uuid7())))
        async with asyncio.timeout(_ANSWER_WITHIN_S):
            await is_open.wait()

    def _write(self, request: chat_service_pb2.ConnectRequest) -> None:
        self._connection.send(self._call, request.SerializeToString())

    def _note_answer(self, frame: frame_pb2.ServerFrame) -> None:
        if (answer := self._answers.get(frame.reply.request_id)) is not None:
            answer.set_result(None)
        elif (answer := self._answers.get(frame.rejected.request_id)) is not None:
            answer.set_exception(CallFailed(frame.rejected.status.message))

    async def send(self, text: str) -> None:
        """See Target."""
        request_id = uuid7()
        answer = self._answers[request_id] = asyncio.get_running_loop().create_future()
        command = frame_pb2.Command(request_id=request_id, send_message=message(self._topic, text))
        self._write(chat_service_pb2.ConnectRequest(command=command))
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                await answer
        finally:
            del self._answers[request_id]

    def close(self) -> None:
        """Ends the sender's stream."""
        self._connection.close()


@asynccontextmanager
async def hubbub(transport: Transport) -> AsyncIterator[HubbubTarget]:
    """Runs an instance for one transport."""
    with tempfile.TemporaryDirectory(prefix="hubbub-bench-") as folder:
        # Connections of one stream each are those of clients; both sets of bounds cost the same.
        environment = {"HUBBUB_EDGE__PEERS": "proxy" if transport == "envoy" else "strangers"}
        async with Cluster(Path(folder), nodes=1, environment=environment) as cluster:
            users = await register(cluster.port, _USERS)
            topic = await create_group(cluster.port, users[0], users[1:])
            target = HubbubTarget(cluster, transport, topic, [user.token for user in users])
            await target.open()
            try:
                yield target
            finally:
                target.close()
