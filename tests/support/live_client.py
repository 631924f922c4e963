"""A client of Connect and Subscribe for tests: raw frames, one at a time, each wait bounded."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any

import grpc.aio
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status
from hubbub.chat.v1 import chat_service_pb2, event_pb2, frame_pb2
from hubbub.conversation.v1 import message_pb2

from tests.support.node import WITHIN_S, RpcClient


class LiveClient:
    """One stream. `events` and `signals` are all that came; controls are returned by `expect`."""

    def __init__(
        self, call: "grpc.aio.StreamStreamCall[chat_service_pb2.ConnectRequest, chat_service_pb2.ConnectResponse]"
    ) -> None:
        self.call = call
        self.events: list[event_pb2.Event] = []
        self.signals: list[frame_pb2.Signal] = []
        self.controls: list[frame_pb2.ServerFrame] = []

    @classmethod
    async def connect(cls, client: RpcClient, *, instance_id: str = "") -> "LiveClient":
        """Opens a stream and waits until all topics are covered."""
        live = cls.silent(client)
        await live.hello(instance_id=instance_id)
        await live.expect(lambda frame: frame.heads.complete)
        return live

    @classmethod
    def silent(cls, client: RpcClient) -> "LiveClient":
        """Opens a stream and says nothing."""
        return cls(client.chat.Connect(metadata=client.auth))

    async def hello(self, *, instance_id: str = "", resume_token: str = "", ack_window_events: int = 0) -> None:
        """Says Hello."""
        hello = chat_service_pb2.Hello(
            instance_id=instance_id or str(uuid.uuid4()), resume_token=resume_token, ack_window_events=ack_window_events
        )
        await self.call.write(chat_service_pb2.ConnectRequest(hello=hello))

    async def ack(self, processed_events: int) -> None:
        """Acknowledges."""
        await self.call.write(
            chat_service_pb2.ConnectRequest(ack=chat_service_pb2.Ack(processed_events=processed_events))
        )

    async def command(self, command: frame_pb2.Command) -> None:
        """Writes a command."""
        await self.call.write(chat_service_pb2.ConnectRequest(command=command))

    async def next_frame(self) -> frame_pb2.ServerFrame | None:
        """Reads a frame; None at the end."""
        async with asyncio.timeout(WITHIN_S):
            response = await self.call.read()
        if not isinstance(response, chat_service_pb2.ConnectResponse):
            return None
        self.events += response.frame.events
        self.signals += response.frame.signals
        if response.frame.WhichOneof("control"):
            self.controls.append(response.frame)
        return response.frame

    async def expect(self, is_wanted: Callable[[frame_pb2.ServerFrame], bool]) -> frame_pb2.ServerFrame:
        """Reads until a frame is wanted, and returns it."""
        while (frame := await self.next_frame()) is not None:
            if is_wanted(frame):
                return frame
        raise AssertionError(f"the stream ended with {await self.call.code()}: {await self.call.details()}")

    async def answer(self, request_id: str) -> frame_pb2.ServerFrame:
        """Reads until the answer to a command."""
        return await self.expect(
            lambda f: request_id in (f.reply.request_id, f.rejected.request_id) and request_id != ""
        )

    async def end(self) -> status_pb2.Status:
        """Reads to the end and returns the status; code 0 is OK."""
        try:
            while await self.next_frame() is not None:
                pass
        except grpc.aio.AioRpcError:
            pass
        async with asyncio.timeout(WITHIN_S):
            return await status_of(self.call)


async def end_of(call: "grpc.aio.UnaryStreamCall[Any, Any] | grpc.aio.StreamStreamCall[Any, Any]") -> status_pb2.Status:
    """Reads any stream to its end and returns its status."""
    async with asyncio.timeout(WITHIN_S):
        try:
            while await call.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError:
            pass
        return await status_of(call)


async def status_of(call: grpc.aio.Call) -> status_pb2.Status:
    """Returns the rich status of a finished call."""
    code = await call.code()
    if code is grpc.StatusCode.OK:
        return status_pb2.Status()
    for key, value in await call.trailing_metadata():
        if key == "grpc-status-details-bin" and isinstance(value, bytes):
            return status_pb2.Status.FromString(value)
    return status_pb2.Status(code=code.value[0], message=await call.details())


def status_of_error(error: grpc.aio.AioRpcError) -> status_pb2.Status:
    """Returns the rich status of a failed unary call."""
    status = rpc_status.from_call(error)  # type: ignore[arg-type]  # an AioRpcError has what it reads
    return status or status_pb2.Status(code=error.code().value[0], message=error.details() or "")


def reason_of(status: status_pb2.Status) -> str:
    """Returns the reason of the one ErrorInfo without its prefix; "" when there is none."""
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info):
            return info.reason.removeprefix("ERROR_REASON_")
    return ""


def text_message(
    conversation_id: str, text: str = "hello", *, client_message_id: str = ""
) -> frame_pb2.SendMessageRequest:
    """Returns a message to send."""
    return frame_pb2.SendMessageRequest(
        conversation_id=conversation_id,
        client_message_id=client_message_id or str(uuid.uuid4()),
        content=message_pb2.Content(text=message_pb2.TextContent(text=text)),
    )
