"""One RPC while it is served: what interceptors learn about it and servicers use."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, NoReturn, Protocol

import grpc
import grpc.aio
from google.rpc import status_pb2

from hubbub_server.app.authenticate import Caller
from hubbub_server.rpc.pumped import PumpedStream, ReadFrame
from hubbub_server.wire.frames import read_connect_request

DETAILS_KEY: Final = "grpc-status-details-bin"
Proceed = Callable[[], Awaitable[Any]]
"""Serves a call, or a part of it, and returns its answer (None for streams)."""
_CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
_CANCELLATION_WITHIN_S: Final = 5.0
_CANCELLATION_AFTER_S: Final = 0.05


class CallContext(Protocol):
    """What an RPC needs of its transport: the part of grpc.aio's ServicerContext that we use, and `edge/` has too."""

    def invocation_metadata(self) -> Any:
        """Returns pairs of the client's metadata; values of keys in "-bin" are bytes."""

    def time_remaining(self) -> Any:
        """Returns the seconds that the client's deadline leaves, None without one."""

    def code(self) -> Any:
        """Returns the code of an RPC that was ended with one, else None."""

    def trailing_metadata(self) -> Any:
        """Returns the metadata that goes with the status."""

    async def read(self) -> Any:
        """Returns the next message, grpc.aio.EOF after the last one."""

    async def write(self, message: Any) -> None:
        """Writes a message; raises grpc.aio.InternalError when the client is gone."""

    async def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the RPC with a status that is not OK, and raises grpc.aio.AbortError."""


class Pump(Protocol):
    """How a transport moves frames between an RPC and what is behind it."""

    async def __call__(
        self, call: "Call", live: PumpedStream, *, takes_frames: bool, read: ReadFrame = read_connect_request
    ) -> None:
        """Returns at the end of the stream or raises the error that it ends with; closes it in any case.

        A transport that needs no task for a stream returns at once instead, and says `goes_on`: so it must be the last
        thing that an RPC does.
        """


@dataclass(slots=True, kw_only=True)
class Call:
    """An RPC. `metadata` holds the text values; `caller` is None before authentication and on open services.

    One that `goes_on` is not over when its behaviour is: its transport finishes it (`Layers.finish`).
    """

    method: str
    is_stream: bool
    context: CallContext
    pump: Pump
    metadata: Mapping[str, str]
    request_id: str
    caller: Caller | None = None
    session_id: str = ""
    conversation_id: str = ""
    error: BaseException | None = None
    goes_on: bool = False
    began_s: float = 0.0
    """On the monotonic clock."""
    entered: int = 0
    """How many inner layers have let it in."""

    @property
    def authenticated(self) -> Caller:
        """The caller of an RPC that needs one; the auth interceptor has seen to it."""
        assert self.caller is not None  # noqa: S101  # a method that is not open came past the auth interceptor
        return self.caller

    def time_remaining_s(self) -> float | None:
        """Returns what the client's deadline leaves, None when it set none."""
        remaining: float | None = self.context.time_remaining()  # the stubs forget None
        return remaining

    async def read(self) -> bytes | None:
        """Reads the client's next message, None after the last one."""
        message = await self.context.read()
        if message is grpc.aio.EOF:
            # For grpc.aio a client that went, or a deadline that passed, looks like the last message for a moment. To
            # end with OK then would send a status to nobody, and it leaks the memory of that; so the cancellation gets
            # a moment to arrive first.
            await asyncio.sleep(_CANCELLATION_AFTER_S)
            return None
        assert isinstance(message, bytes)  # noqa: S101  # our methods are served without deserialiser
        return message

    async def write(self, message: bytes) -> None:
        """Writes a message of a stream; waits while the client does not read. One writer at a time."""
        try:
            await self.context.write(message)
        except grpc.aio.InternalError:
            # The client is gone, and the core is about to cancel this task; only that ends an RPC without a status.
            async with asyncio.timeout(_CANCELLATION_WITHIN_S):
                await asyncio.get_running_loop().create_future()

    async def abort(self, status: status_pb2.Status) -> NoReturn:
        """Ends the RPC with a status that is not OK. Always raises; waits until earlier messages are on their way."""
        details = ((DETAILS_KEY, status.SerializeToString(deterministic=True)),)
        await self.context.abort(_CODES[status.code], status.message, details)


_current: ContextVar[Call] = ContextVar("call")


def current_call() -> Call:
    """Returns the RPC that this task serves. Raises LookupError outside of one."""
    return _current.get()


def serve_as_current(call: Call) -> None:
    """Makes `call` the current one of this task: each RPC has a task of its own."""
    _current.set(call)
