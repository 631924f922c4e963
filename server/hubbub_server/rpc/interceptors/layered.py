"""Puts layers around every RPC, the same for all four kinds.

grpc.aio wants an interceptor to build a handler of the right kind; here one interceptor does that once a method and
runs plain coroutines, the layers, around the behaviour. Requests of our own methods arrive as bytes and are parsed
inside the layers, so that a bad one gets a proper answer; streams of ours read and write bytes (`Call.read`,
`Call.write`).
"""

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

import grpc
import grpc.aio

from hubbub_server.ports.clock import IdSource
from hubbub_server.rpc.call import Call, CallContext, Proceed, Pump, serve_as_current
from hubbub_server.rpc.interceptors.deadline import Deadline
from hubbub_server.rpc.interceptors.errors import tell
from hubbub_server.rpc.stream_pump import pump
from hubbub_server.wire.requests import read_request

_Behaviour = Callable[[Any, Any], Any]

OURS: Final = "/hubbub."
_REQUEST_ID_MAX_CHARACTERS: Final = 64

_MAKERS: Final[dict[tuple[bool, bool], Callable[..., "grpc.RpcMethodHandler[Any, Any]"]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class Layer(Protocol):
    """Something around every RPC: two functions and no coroutine, so that a stream that goes on costs nothing here."""

    def enter(self, call: Call) -> None:
        """The call begins. Inner layers raise what it is refused with."""

    def leave(self, call: Call) -> None:
        """A call that was let in is over; `call.error` says what it failed with."""


class Layers:
    """Puts layers around calls of any transport. The first layer is the outermost.

    Around all is an `outer` one, which hears of every call, and how it ended for the client. Inside of it a failure
    becomes the call's status, then come the `inner` ones, and innermost the deadline.
    """

    def __init__(self, *, outer: Sequence[Layer], inner: Sequence[Layer], deadline: Deadline, ids: IdSource) -> None:
        """`ids` names RPCs whose proxy did not."""
        self._outer = tuple(outer)
        self._inner = tuple(inner)
        self._deadline = deadline
        self._ids = ids

    def call(self, method: str, context: CallContext, *, is_stream: bool, pump: Pump) -> Call:
        """Returns the call that a transport begins to serve."""
        metadata = {key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)}
        request_id = metadata.get("x-request-id", "")
        is_usable = request_id.isascii() and request_id.isprintable() and len(request_id) <= _REQUEST_ID_MAX_CHARACTERS
        return Call(
            method=method,
            is_stream=is_stream,
            context=context,
            pump=pump,
            metadata=metadata,
            request_id=request_id if request_id and is_usable else self._ids.new_id("r"),
        )

    async def serve(self, call: Call, behave: Proceed) -> Any:
        """Serves a call by `behave` with all layers around it, as the current call of this task."""
        serve_as_current(call)
        for layer in self._outer:
            layer.enter(call)
        return await self._serve_part(call, partial(self._enter, call, behave))

    async def finish(self, call: Call, behave: Proceed) -> None:
        """Serves the rest of a call that went on after `serve`."""
        call.goes_on = False
        await self._serve_part(call, behave)

    async def _enter(self, call: Call, behave: Proceed) -> Any:
        for layer in self._inner:
            layer.enter(call)
            call.entered += 1
        return await self._deadline.bound(call, behave)

    async def _serve_part(self, call: Call, behave: Proceed) -> Any:
        try:
            return await behave()
        except (Exception, asyncio.CancelledError) as error:
            self._leave(call, self._inner[: call.entered])
            call.entered = 0
            await tell(call, error)
        finally:
            self._leave(call, (*self._outer, *self._inner[: call.entered]))

    def _leave(self, call: Call, layers: Sequence[Layer]) -> None:
        if not call.goes_on:
            for layer in reversed(layers):
                layer.leave(call)


class LayeredInterceptor(grpc.aio.ServerInterceptor):
    """The one interceptor of the server of grpc.aio."""

    def __init__(self, layers: Layers) -> None:
        """Takes what is around every RPC."""
        self._layers = layers
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["grpc.RpcMethodHandler[Any, Any] | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "grpc.RpcMethodHandler[Any, Any] | None":
        """Returns the handler of a method with the layers around it; None, as it came, for an unknown method."""
        method = handler_call_details.method
        if method not in self._handlers:
            handler = await continuation(handler_call_details)
            if handler is None:
                return handler
            self._handlers[method] = self._surround(method, handler)
        return self._handlers[method]

    def _surround(self, method: str, handler: "grpc.RpcMethodHandler[Any, Any]") -> "grpc.RpcMethodHandler[Any, Any]":
        behaviour: _Behaviour = next(
            b for b in (handler.unary_unary, handler.unary_stream, handler.stream_unary, handler.stream_stream) if b
        )
        is_ours = method.startswith(OURS)
        is_stream = bool(handler.request_streaming or handler.response_streaming)
        parse = handler.request_deserializer if is_ours and not handler.request_streaming else None

        async def serve(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            call = self._layers.call(method, context, is_stream=is_stream, pump=pump)
            return await self._layers.serve(call, partial(_behave, behaviour, parse, request, context))

        return _MAKERS[bool(handler.request_streaming), bool(handler.response_streaming)](
            serve,
            request_deserializer=None if is_ours else handler.request_deserializer,
            response_serializer=None if is_ours and handler.response_streaming else handler.response_serializer,
        )


async def _behave(
    behaviour: _Behaviour,
    parse: Callable[[bytes], Any] | None,
    request: Any,
    context: grpc.aio.ServicerContext[Any, Any],
) -> Any:
    parsed = request if parse is None else read_request(parse, request)
    if inspect.isasyncgenfunction(behaviour):
        async for response in behaviour(parsed, context):
            await context.write(response)
        return None
    return await behaviour(parsed, context)
